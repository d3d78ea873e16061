"""The lines of the table, and what is asked of them."""

import operator
import statistics

from worker import LONG_PROMPT, LONG_WORD

LINES = [  # row, what, figure, our job and a peer's; a job says who does which task
    ("decode", "decode, float32", "tokens/s", "ours decode", "transformers decode"),
    ("int8", "decode, int8 (peer: float32)", "tokens/s", "ours int8", "transformers decode"),
    ("read", "weights read by decoding, float32", "GB/s", "ours decode", "torch read"),
    ("prompt", f"{LONG_PROMPT:,}-token prompt", "tokens/s", "ours prompt", "transformers prompt"),
    ("start", "process start to first token", "s", "ours start", "transformers start"),
    ("memory", "peak memory", "× weights", "ours decode", "transformers decode"),
    ("tokenizer", "tokenizer, English prose", "MB/s", "ours prose", "tokenizers prose"),
    ("tokenizer", "", "MB/s", "ours prose", "tiktoken prose"),
    ("word", f"a word of {LONG_WORD:,} letters", "s", "ours word", "tokenizers word"),
    ("word", "", "s", "ours word", "tiktoken word"),
    ("strings", "random strings", "other ids", "tokenizers strings", ""),
    ("strings", "random strings", "not given back", "tokenizers strings", ""),
]
ASKED = {  # what is judged (the ratio is ours to the peer's), and how; the mark; the goal
    "decode": ("ratio ≥", 1.4, 1.6),
    "int8": ("ratio ≥", 3.8, 5),
    "read": ("ratio ≥", 0.8, 0.95),
    "prompt": ("ratio ≥", 1, 1.2),
    "start": ("ratio ≤", 0.6, 0.4),
    "memory": ("ours ≤", 1.25, 1.1),
    "tokenizer": ("ours ≥", 1, None),
    "word": ("ours ≤", 2, None),
    "strings": ("ours ≤", 0, None),
}
COLUMNS = "{:39} {:>6} {:>6}  {:12} {:>6}  {:11} {:>4}  {}"


def bytes_a_token(weights):
    """How much of the weights decoding reads a token: all, but of the positions only one row."""
    return sum(weights.values()) - weights["wpe.weight"]


def figures(weights, imported):
    """How each figure comes from what a job returned.

    weights has the bytes of each tensor; importing torch alone takes imported bytes.
    """
    size = sum(weights.values())
    return {
        "tokens/s": lambda r: r["rate"],
        "GB/s": lambda r: r["rate"] * bytes_a_token(weights) / 1e9,
        "MB/s": lambda r: r["rate"] / 1e6,
        "s": lambda r: r["seconds"],
        "× weights": lambda r: (r["peak"] - imported) / size,
        "other ids": lambda r: r["other"],
        "not given back": lambda r: r["lost"],
    }


def number(x):
    """Three digits of a number, if there is one."""
    return "" if x is None else f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def verdict(value, sign, mark, goal):
    """Which of the two a value reaches."""
    holds = operator.ge if sign == "≥" else operator.le
    if goal is not None and holds(value, goal):
        return "goal"
    return "mark" if holds(value, mark) else "missed"


def rows(lines, figures, results):
    """Yield the table's lines, with the medians of the results."""
    yield COLUMNS.format("", "ours", "peer", "", "ratio", "mark", "goal", "result")
    for row, what, unit, *jobs in lines:
        label = f"{what}, {unit}" if what else ""
        medians = {
            name: statistics.median(map(figures[unit], results[job]))
            for name, job in zip(("ours", "peer"), jobs)
            if results.get(job)
        }
        if len(medians) < len(list(filter(None, jobs))):
            yield COLUMNS.format(label, *[""] * 6, "failed")
            continue
        if "peer" in medians:
            medians["ratio"] = medians["ours"] / medians["peer"]
        asked, mark, goal = ASKED[row]
        judged, sign = asked.split()
        reached = verdict(medians[judged], sign, mark, goal)
        peer = jobs[1].split(" ")[0]
        columns = [number(medians.get(name)) for name in ("ours", "peer", "ratio")]
        columns.insert(2, peer)
        columns += [f"{asked} {mark}", number(goal), reached] if what else [""] * 3
        yield COLUMNS.format(label, *columns).rstrip()

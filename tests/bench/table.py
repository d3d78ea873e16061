"""The lines of the table, what is asked of them, and whether the rounds agree."""

import operator
from collections import namedtuple

from worker import EARLY, LONG_PROMPT, LONG_WORD

# A job says which model, who does which task, and perhaps how: "gemma ours decode int8". Ours is
# compared with the best of the peers; those of a line without a name belong to the one above.
Line = namedtuple("Line", "row what unit ours peers")
TITLES = {"gpt2": "GPT-2 124M, random weights", "gemma": "Gemma 3 270M"}


def line(row, what, unit, ours, *peers):
    return Line(row, what, unit, ours, peers)


def tokenizer_line(row, what, unit, model, task, *who):
    """Lines that compare a tokenizer with each of its peers."""
    for i, peer in enumerate(who):
        yield line(row, "" if i else what, unit, f"{model} ours {task}", f"{model} {peer} {task}")


WORD = f"a word of {LONG_WORD:,} letters"
BOTH = "tokenizers", "sentencepiece"
LINES = [
    line("decode", "decode, float32", "tokens/s", "gpt2 fast decode", "gpt2 transformers decode"),
    line("int8", "decode, int8", "tokens/s", "gpt2 fast decode int8", "gpt2 transformers decode"),
    line("read", "weights read by decoding", "GB/s", "gpt2 fast decode", "machine torch read"),
    line("prompt", f"{LONG_PROMPT:,}-token prompt", "tokens/s",
         "gpt2 fast prompt", "gpt2 transformers prompt"),
    line("start", "process start to first token", "s",
         "gpt2 fast start", "gpt2 transformers start"),
    line("memory", "peak memory", "× weights", "gpt2 fast decode", "gpt2 transformers decode"),
    line("plain", "gpt2.py: decode, float32", "tokens/s",
         "gpt2 ours decode", "gpt2 transformers decode"),
    line("plain-start", "gpt2.py: start to first token", "s",
         "gpt2 ours start", "gpt2 transformers start"),
    line("plain-memory", "gpt2.py: peak memory", "× weights",
         "gpt2 ours decode", "gpt2 transformers decode"),
    *tokenizer_line("tokenizer", "tokenizer, English prose", "MB/s", "gpt2", "prose",
                    "tokenizers", "tiktoken"),
    *tokenizer_line("word", WORD, "s", "gpt2", "word", "tokenizers", "tiktoken"),
    line("strings", "random strings", "other ids", "gpt2 tokenizers strings"),
    line("strings", "random strings", "not given back", "gpt2 tokenizers strings"),
    line("gemma-decode", "decode, weights as stored", "tokens/s",
         "gemma ours decode", "gemma transformers decode"),
    line("gemma-bfloat16", "decode, weights as stored", "tokens/s",
         "gemma ours decode", "gemma transformers decode bfloat16"),
    line("gemma-read", "weights read by decoding", "GB/s",
         "gemma ours decode", "machine torch read"),
    line("gemma-int8", "decode, int8", "tokens/s",
         "gemma ours decode int8", "gemma llama.cpp decode Q4_K_M"),
    line("gemma-prompt", f"{LONG_PROMPT:,}-token prompt", "tokens/s",
         "gemma ours prompt", "gemma transformers prompt", "gemma transformers prompt bfloat16"),
    line("gemma-start", "process start to first token", "s",
         "gemma ours start", "gemma transformers start", "gemma transformers start bfloat16"),
    line("gemma-first", "the same, nothing compiled yet", "s", "gemma ours first"),
    line("gemma-memory", "peak memory", "× weights",
         "gemma ours decode", "gemma transformers decode", "gemma transformers decode bfloat16"),
    line("gemma-context", "a token after 4,000 others", "ms",
         "gemma ours context 4000", "gemma ours context 100"),
    line("gemma-room", f"one of {EARLY} tokens, --tokens 32000", "ms",
         "gemma ours room 32000", "gemma ours room 100"),
    *tokenizer_line("gemma-tokenizer", "tokenizer, English prose", "MB/s", "gemma", "prose", *BOTH),
    *tokenizer_line("gemma-ready", "tokenizer, until it is ready", "s", "gemma", "ready", *BOTH),
    *tokenizer_line("gemma-word", WORD, "s", "gemma", "word", *BOTH),
    line("gemma-runs", f"{LONG_WORD:,} characters of one kind", "s", "gemma ours runs"),
    line("gemma-strings", "random strings", "other ids", "gemma tokenizers strings"),
    line("gemma-strings", "random strings", "not given back", "gemma tokenizers strings"),
]
ASKED = {  # what is judged (the ratio is ours to the peer's), and how; the mark; the goal
    "decode": ("ratio ≥", 1.5, 2),
    "int8": ("ratio ≥", 5.5, 7),
    "read": ("ratio ≥", 0.65, 0.9),
    "prompt": ("ratio ≥", 1.2, 1.5),
    "start": ("ratio ≤", 0.45, 0.3),
    "memory": ("ours ≤", 1.3, 1.1),
    "plain": ("ratio ≥", 1, None),
    "plain-start": ("ratio ≤", 0.45, 0.3),
    "plain-memory": ("ours ≤", 1.3, 1.1),
    "tokenizer": ("ours ≥", 1, None),
    "word": ("ours ≤", 2, None),
    "strings": ("ours ≤", 0, None),
    "gemma-decode": ("ratio ≥", 4.5, 6),
    "gemma-bfloat16": ("ratio ≥", 2, 2.6),
    "gemma-read": ("ratio ≥", 0.7, 0.9),
    "gemma-int8": ("ratio ≥", 0.9, 1.2),
    "gemma-prompt": ("ratio ≥", 1, 1.3),
    "gemma-start": ("ratio ≤", 0.6, 0.4),
    "gemma-first": ("ours ≤", 4, 3),
    "gemma-memory": ("ours ≤", 1.3, 1.1),
    "gemma-context": ("ratio ≤", 1.3, 1.1),
    "gemma-room": ("ratio ≤", 1.2, 1),
    "gemma-tokenizer": ("ours ≥", 1, None),
    "gemma-ready": ("ours ≤", 0.5, None),
    "gemma-word": ("ours ≤", 2, None),
    "gemma-runs": ("ours ≤", 2, None),
    "gemma-strings": ("ours ≤", 0, None),
}
COUNTED = "other ids", "not given back"  # the same in every round
LARGER_IS_BETTER = "tokens/s", "GB/s", "MB/s"
AGREE = 0.03  # how much the two best rounds may differ
COLUMNS = "{:40} {:>6} {:>6}  {:21} {:>6}  {:11} {:>4}  {}"


def chosen(names):
    """The lines of the rows that are named, and of those whose names begin so (`gemma`)."""
    found = {name: [row for row in ASKED if f"{row}-".startswith(f"{name}-")] for name in names}
    if unknown := [name for name, rows in found.items() if not rows]:
        raise ValueError(f"there is no row {', '.join(unknown)}")
    rows = {row for rows in found.values() for row in rows} or ASKED
    return [line for line in LINES if line.row in rows]


def jobs_of(lines):
    """Their jobs, each once, in the order of the table."""
    return list(dict.fromkeys(job for line in lines for job in (line.ours, *line.peers)))


def bytes_a_token(weights):
    """How much of the weights decoding reads a token: all, but of the positions only one row."""
    return sum(weights.values()) - weights.get("wpe.weight", 0)


def figure(unit, result, tensors=None, imported=0):
    """A line's figure from what a job returned.

    tensors has the bytes of each tensor of the model; importing torch or jax alone takes imported
    bytes of memory.
    """
    match unit:
        case "tokens/s":
            return result["rate"]
        case "ms":
            return 1000 / result["rate"]
        case "GB/s" if "rate" in result:
            return result["rate"] * bytes_a_token(tensors) / 1e9
        case "GB/s" | "MB/s":
            return result["bytes a second"] / {"GB/s": 1e9, "MB/s": 1e6}[unit]
        case "s":
            return result["seconds"]
        case "× weights":
            return (result["peak"] - imported) / sum(tensors.values())
        case "other ids":
            return result["other"]
        case "not given back":
            return result["lost"]


def best(unit, values):
    """The best of some figures."""
    return (max if unit in LARGER_IS_BETTER else min)(values)


def of_rounds(unit, values):
    """What counts of a figure in several rounds: the best, but of peaks of memory the highest."""
    return max(values) if unit == "× weights" else best(unit, values)


def settled(unit, values):
    """Whether the two rounds that come nearest to what counts differ by no more than AGREE."""
    if unit in COUNTED:
        return bool(values)
    nearest = sorted(values, key=lambda value: abs(value - of_rounds(unit, values)))[:2]
    return len(nearest) == 2 and max(nearest) - min(nearest) <= AGREE * max(nearest)


def unsettled(lines, figures):
    """The lines some of whose jobs need more rounds; figures(unit, job) has one for each round."""
    def open_(line):
        everybody = [figures(line.unit, job) for job in (line.ours, *line.peers)]
        return all(everybody) and not all(settled(line.unit, values) for values in everybody)
    return [line for line in lines if open_(line)]


def number(x):
    """Three digits of a number, if there is one."""
    return "" if x is None else f"{x:.3g}" if x < 999.5 else f"{x:.0f}"


def verdict(value, sign, mark, goal):
    """Which of the two a value reaches, as it is printed."""
    holds, value = operator.ge if sign == "≥" else operator.le, float(number(value))
    if goal is not None and holds(value, goal):
        return "goal"
    return "mark" if holds(value, mark) else "missed"


def rows(lines, figures):
    """Yield the table's lines; figures(unit, job) has what a job reached in each round."""
    title, noisy = None, unsettled(lines, figures)
    for line in lines:
        row, what, unit, ours, peers = line
        if title != TITLES[ours.split()[0]]:
            if title:
                yield ""
            title = TITLES[ours.split()[0]]
            yield COLUMNS.format(title, "ours", "peer", "", "ratio", "mark", "goal", "result")
        label = f"{what}, {unit}" if what else ""
        reached = {}
        for job in (ours, *peers):
            values = figures(unit, job)
            if values:
                reached[job] = of_rounds(unit, values)
        if len(reached) < 1 + len(peers):
            yield COLUMNS.format(label, *[""] * 6, "failed")
            continue
        value, name, peer, ratio = reached[ours], "", None, None
        if peers:
            peer = best(unit, [reached[job] for job in peers])
            name = next(job for job in peers if reached[job] == peer).split()
            name = " ".join([name[1], *name[3:]])
            ratio = value / peer
        asked, mark, goal = ASKED[row]
        judged, sign = asked.split()
        result = verdict(ratio if judged == "ratio" else value, sign, mark, goal)
        result += ", but noisy" if line in noisy else ""
        columns = [number(value), number(peer), name, number(ratio)]
        columns += [f"{asked} {mark}", number(goal), result] if what else [""] * 3
        yield COLUMNS.format(label, *columns).rstrip()

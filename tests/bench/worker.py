"""What the workers share: the input, the clock, and how they hand back what they measured."""

import json
import random
import re
import resource
import sys
import time
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "The meaning of life is"
PROMPT_IDS = {  # by config.json's model_type; Gemma's begins with <bos>
    "gpt2": [464, 3616, 286, 1204, 318],
    "gemma3_text": [2, 818, 6590, 529, 1972, 563],
}
LONG_PROMPT = 1000  # tokens
LONG_WORD = 200_000  # letters
EARLY = 64  # tokens, of a text that would go on
PARTS = 20  # of the random strings: the same on any number of cores


class Enough(Exception):
    """No more tokens are wanted."""


def run(**tasks):
    """Do the task that the command line names, with its arguments, and print what it returns."""
    name, *arguments = sys.argv[1:]
    print(json.dumps(tasks[name](*arguments)))


def peak():
    """Bytes of memory that this process had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def prompt_ids(directory, length=None, seed=0):
    """The ids of PROMPT for the model in a directory; or as many as length, all but one random."""
    ids = PROMPT_IDS[json.loads(Path(directory, "config.json").read_bytes())["model_type"]]
    if length is None:
        return ids
    return ids[:1] + random.Random(seed).choices(range(1000, 50_000), k=length - 1)


def stamped(write, prompt, tokens, wanted=None):
    """Let write(prompt, tokens, seen) generate; the ids, and the seconds until each was seen.

    wanted stops it before it has written all the tokens that it could.
    """
    ids, seconds, wanted = [], [], wanted or tokens
    start = time.perf_counter()

    def seen(i):
        ids.append(i)
        seconds.append(time.perf_counter() - start)
        if wanted < tokens and len(ids) == wanted:
            raise Enough

    try:
        write(prompt, tokens, seen)
    except Enough:
        pass
    assert len(ids) == wanted, f"{len(ids)} tokens came, not {wanted}"
    return ids, seconds


def rate(seconds, skip=1):
    """Tokens a second; the first does not count, because it takes the reading of the prompt."""
    return (len(seconds) - skip) / (seconds[-1] - seconds[skip - 1])


def decode(write, directory, tokens):
    """Generate tokens after the short prompt."""
    ids, seconds = stamped(write, prompt_ids(directory), int(tokens))
    return {"ids": ids, "rate": rate(seconds), "peak": peak()}


def prompt(write, directory):
    """Read a long prompt and generate one token, after another prompt that nobody times."""
    for seed in range(2):
        ids, seconds = stamped(write, prompt_ids(directory, LONG_PROMPT, seed), 1)
    return {"ids": ids, "rate": LONG_PROMPT / seconds[0]}


def context(write, directory, length):
    """Generate a few tokens after a prompt of this length, the first ones untimed: they compile."""
    ids, seconds = stamped(write, prompt_ids(directory, int(length)), EARLY)
    return {"ids": ids, "rate": rate(seconds, skip=8)}


def room(write, directory, tokens):
    """Let it write so many tokens, and stop it early."""
    ids, seconds = stamped(write, prompt_ids(directory), int(tokens), EARLY)
    return {"ids": ids, "rate": rate(seconds, skip=8)}


def prose():
    """The chapters of the book, without their cells."""
    chapters = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("book/*/*.md"))]
    return [re.sub(r"(?ms)^(`{3,}).*?^\1$", "", chapter) for chapter in chapters]


def encode(encoder, texts):
    """Encode each text once; the process is new, so no cache knows any of the words."""
    start = time.perf_counter()
    ids = [encoder(text) for text in texts]
    seconds = time.perf_counter() - start
    size = sum(len(text.encode()) for text in texts)
    return {"ids": ids, "bytes a second": size / seconds, "seconds": seconds}


def ready(load, directory):
    """Seconds until a tokenizer can be used: its file is read, and a first word encoded."""
    start = time.perf_counter()
    ids = load(directory)("word")
    return {"ids": ids, "seconds": time.perf_counter() - start}


def tokenizer_tasks(load):
    """The tasks of a tokenizer; load(directory) returns the function that encodes a text."""
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=LONG_WORD))
    return {
        "prose": lambda directory: encode(load(directory), prose()),
        "ready": lambda directory: ready(load, directory),
        "word": lambda directory: encode(load(directory), [word]),
    }


def strings(compare, directory, n):
    """Compare n random strings on all cores; how many went wrong, and the first of them.

    compare(directory, n, seed) returns the strings with other ids than the peer's, and those
    that are not decoded to what they were.
    """
    import multiprocessing  # only here: a worker's peak is that of what it needs

    parts = [(directory, len(range(seed, int(n), PARTS)), seed) for seed in range(PARTS)]
    with multiprocessing.Pool() as pool:
        other, lost = map(list, map(chain.from_iterable, zip(*pool.starmap(compare, parts, 1))))
    return {"other": len(other), "lost": len(lost), "examples": (other + lost)[:3]}

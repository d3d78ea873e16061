"""What the workers share: the input, the clock, and how they hand back what they measured."""

import json
import random
import re
import resource
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROMPT, PROMPT_IDS = "The meaning of life is", [464, 3616, 286, 1204, 318]
LONG_PROMPT = 1000  # tokens
LONG_WORD = 200_000  # letters


def run(**tasks):
    """Do the task that the command line names, with its arguments, and print what it returns."""
    name, *arguments = sys.argv[1:]
    print(json.dumps(tasks[name](*arguments)))


def peak():
    """Bytes of memory that this process had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def stamped(write, prompt, tokens):
    """Let write(prompt, tokens, seen) generate; the ids, and the seconds until each was seen."""
    ids, seconds = [], []
    start = time.perf_counter()

    def seen(i):
        ids.append(i)
        seconds.append(time.perf_counter() - start)

    write(prompt, tokens, seen)
    assert len(ids) == tokens, f"{len(ids)} tokens came, not {tokens}"
    return ids, seconds


def decode(write, tokens):
    """Generate tokens; the first does not count, because it takes the reading of the prompt."""
    ids, seconds = stamped(write, PROMPT_IDS, int(tokens))
    rate = (len(ids) - 1) / (seconds[-1] - seconds[0])
    return {"ids": ids, "rate": rate, "peak": peak()}


def prompt(write):
    """Read a long prompt and generate one token, after another prompt that nobody times."""
    for seed in range(2):
        ids, seconds = stamped(write, random.Random(seed).choices(range(50_256), k=LONG_PROMPT), 1)
    return {"ids": ids, "rate": LONG_PROMPT / seconds[0]}


def prose():
    """The chapters of the book, without their cells."""
    chapters = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("book/*/*.md"))]
    return [re.sub(r"(?ms)^(`{3,}).*?^\1$", "", chapter) for chapter in chapters]


def encode(encoder, texts):
    """Encode each text once; the process is new, so no cache knows any of the words."""
    start = time.perf_counter()
    ids = [encoder(text) for text in texts]
    seconds = time.perf_counter() - start
    rate = sum(len(text.encode()) for text in texts) / seconds
    return {"ids": ids, "rate": rate, "seconds": seconds}


def tokenizer_tasks(load):
    """The tasks of a tokenizer; load(directory) returns the function that encodes a text."""
    word = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=LONG_WORD))
    return {
        "prose": lambda directory: encode(load(directory), prose()),
        "word": lambda directory: encode(load(directory), [word]),
    }

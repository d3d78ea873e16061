"""GPT-2's tokenizer in tokenizers; ours is compared with it on random strings too."""

import multiprocessing
from pathlib import Path

import ours
import worker
from strings import random_strings
from tokenizers import Tokenizer, models, pre_tokenizers

PARTS = 20  # of the random strings: the same on any number of cores


def encoder(directory):
    """The function that encodes a text, made from the same files."""
    files = (str(Path(directory, name)) for name in ("vocab.json", "merges.txt"))
    tokenizer = Tokenizer(models.BPE.from_file(*files))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return lambda text: tokenizer.encode(text).ids


def compare(directory, n, seed):
    """Of n random strings, those with other ids than ours, and those that ours does not return."""
    tokenizer, reference = ours.tokenizer(directory), encoder(directory)
    other, lost = [], []
    for string in random_strings(n, seed):
        ids = tokenizer.encode(string)
        if ids != reference(string):
            other.append(string)
        if "".join(tokenizer.decode(ids)) != string:
            lost.append(string)
    return other, lost


def strings(directory, n):
    """Compare n random strings, on all cores; how many went wrong, and the first of them."""
    parts = [(directory, len(range(seed, int(n), PARTS)), seed) for seed in range(PARTS)]
    with multiprocessing.Pool() as pool:
        other, lost = (sum(lists, []) for lists in zip(*pool.starmap(compare, parts, 1)))
    return {"other": len(other), "lost": len(lost), "examples": (other + lost)[:3]}


if __name__ == "__main__":
    worker.run(strings=strings, **worker.tokenizer_tasks(encoder))

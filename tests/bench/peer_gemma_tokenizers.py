"""Gemma's tokenizer in tokenizers; ours is compared with the original on random strings too."""

from itertools import chain
from pathlib import Path

import ours_gemma
import worker
from strings import gemma_strings, random_strings
from tokenizers import Tokenizer

ORIGINAL = "original/tokenizer.json"  # Google's; the other one transformers made from ours


def encoder(directory, name="tokenizer.json"):
    """The function that encodes a text in which special tokens are plain characters."""
    tokenizer = Tokenizer.from_file(str(Path(directory, name)))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def compare(directory, n, seed):
    """Of n random strings, those with other ids than ours, and those that ours does not return."""
    tokenizer, reference = ours_gemma.tokenizer(directory), encoder(directory, ORIGINAL)
    other, lost = [], []
    for string in chain(random_strings(n - n // 2, seed), gemma_strings(n // 2, seed)):
        ids = tokenizer.encode(string)
        if ids != reference(string):
            other.append(string)
        if "".join(tokenizer.decode(ids)) != string.replace("▁", " "):
            lost.append(string)
    return other, lost


if __name__ == "__main__":
    worker.run(
        strings=lambda directory, n: worker.strings(compare, directory, n),
        **worker.tokenizer_tasks(encoder),
    )

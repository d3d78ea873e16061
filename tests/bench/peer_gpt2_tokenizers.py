"""GPT-2's tokenizer in tokenizers; ours is compared with it on random strings too."""

from pathlib import Path

import ours_gpt2
import worker
from strings import random_strings
from tokenizers import Tokenizer, models, pre_tokenizers


def encoder(directory):
    """The function that encodes a text, made from the same files."""
    files = (str(Path(directory, name)) for name in ("vocab.json", "merges.txt"))
    tokenizer = Tokenizer(models.BPE.from_file(*files))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return lambda text: tokenizer.encode(text).ids


def compare(directory, n, seed):
    """Of n random strings, those with other ids than ours, and those that ours does not return."""
    tokenizer, reference = ours_gpt2.tokenizer(directory), encoder(directory)
    other, lost = [], []
    for string in random_strings(n, seed):
        ids = tokenizer.encode(string)
        if ids != reference(string):
            other.append(string)
        if "".join(tokenizer.decode(ids)) != string:
            lost.append(string)
    return other, lost


if __name__ == "__main__":
    worker.run(
        strings=lambda directory, n: worker.strings(compare, directory, n),
        **worker.tokenizer_tasks(encoder),
    )

"""src/gpt2_fast.py."""

from functools import partial

import worker
from ours_gpt2 import writer

import gpt2_fast


def decode(directory, tokens, numbers=""):
    """Generate with packed weights, or with those of 8 bits."""
    write = writer(partial(gpt2_fast.load, int8=numbers == "int8"), directory)
    return worker.decode(write, directory, tokens)


if __name__ == "__main__":
    worker.run(
        decode=decode,
        prompt=lambda folder: worker.prompt(writer(gpt2_fast.load, folder), folder),
    )

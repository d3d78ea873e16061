"""src/gpt2.py."""

import json
from pathlib import Path

import worker

import gpt2


def writer(load, directory):
    """Load the model; the function that writes with it."""
    model, _ = load(directory)

    def write(prompt, tokens, seen):
        for (i,) in gpt2.generate(model, prompt, tokens):
            seen(i)

    return write


def tokenizer(directory):
    """The tokenizer without the model."""
    return gpt2.Tokenizer(json.loads(Path(directory, "vocab.json").read_bytes()))


if __name__ == "__main__":
    worker.run(
        decode=lambda folder, tokens: worker.decode(writer(gpt2.load, folder), folder, tokens),
        **worker.tokenizer_tasks(lambda folder: tokenizer(folder).encode),
    )

"""src/gpt2.py."""

import json
from pathlib import Path

import worker

import gpt2


def writer(directory, int8=False):
    """Load the model; the function that writes with it."""
    model, _ = gpt2.load(directory, int8)

    def write(prompt, tokens, seen):
        for (i,) in gpt2.generate(model, prompt, tokens):
            seen(i)

    return write


def tokenizer(directory):
    """The tokenizer without the model."""
    return gpt2.Tokenizer(json.loads(Path(directory, "vocab.json").read_bytes()))


if __name__ == "__main__":
    worker.run(
        decode=lambda directory, tokens: worker.decode(writer(directory), tokens),
        int8=lambda directory, tokens: worker.decode(writer(directory, int8=True), tokens),
        prompt=lambda directory: worker.prompt(writer(directory)),
        **worker.tokenizer_tasks(lambda directory: tokenizer(directory).encode),
    )

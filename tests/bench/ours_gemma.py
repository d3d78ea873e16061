"""src/gemma3.py."""

from pathlib import Path

import worker

import gemma3

RUNS = [*" \n\t😀\0<-▁中", "🦔", "<a", "> </", "▁ "]


def writer(directory, numbers=""):
    """Load the model; the function that writes with it."""
    config, params, _ = gemma3.load(directory, int8=numbers == "int8")

    def write(prompt, tokens, seen):
        for (i,) in gemma3.generate(config, params, prompt, tokens):
            seen(i)

    return write


def tokenizer(directory):
    """The tokenizer without the model."""
    return gemma3.Tokenizer(Path(directory, "tokenizer.model").read_bytes())


def runs(directory):
    """The longest time that as many characters of one kind take as the long word has."""
    texts = {run: run * (worker.LONG_WORD // len(run)) for run in RUNS}
    encoder = tokenizer(directory).encode
    seconds = {run: worker.encode(encoder, [text])["seconds"] for run, text in texts.items()}
    slowest = max(seconds, key=seconds.get)
    return {"run": slowest, "seconds": seconds[slowest]}


if __name__ == "__main__":
    worker.run(
        decode=lambda folder, tokens, *how: worker.decode(writer(folder, *how), folder, tokens),
        prompt=lambda folder: worker.prompt(writer(folder), folder),
        context=lambda folder, length: worker.context(writer(folder), folder, length),
        room=lambda folder, tokens: worker.room(writer(folder), folder, tokens),
        runs=runs,
        **worker.tokenizer_tasks(lambda folder: tokenizer(folder).encode),
    )

"""Gemma in llama.cpp, from the file in four bits that the weights of the others came from."""

import os
from pathlib import Path

import worker


def writer(directory):
    """Load the model; the function that writes with it."""
    from llama_cpp import Llama

    (file,) = Path(directory).glob("*.gguf")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = {"n_threads": cores, "n_threads_batch": cores}
    model = Llama(str(file), n_ctx=512, verbose=False, **threads)

    def write(prompt, tokens, seen):
        drawn = model.generate(prompt, temp=0)  # it would never stop
        for _, i in zip(range(tokens), drawn):
            seen(i)

    return write


def make(directory):
    """Write the model's file."""
    from prepare import assembled_gguf

    return str(assembled_gguf(Path(directory)))


if __name__ == "__main__":
    worker.run(
        decode=lambda folder, tokens, _: worker.decode(writer(folder), folder, tokens),
        make=make,
    )

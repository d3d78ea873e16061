"""Gemma's tokenizer in sentencepiece, the library that it was trained with."""

from pathlib import Path

import worker
from sentencepiece import SentencePieceProcessor


def encoder(directory):
    """The function that encodes a text, from the same file."""
    return SentencePieceProcessor(model_file=str(Path(directory, "tokenizer.model"))).encode


if __name__ == "__main__":
    worker.run(**worker.tokenizer_tasks(encoder))

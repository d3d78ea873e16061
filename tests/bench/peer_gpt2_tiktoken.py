"""GPT-2's tokenizer in tiktoken."""

import os
from functools import partial
from pathlib import Path

import worker
from tiktoken import Encoding
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tiktoken_ext.openai_public import r50k_pat_str


def encoder(directory):
    """The function that encodes a text, made from the same files."""
    os.environ["TIKTOKEN_CACHE_DIR"] = ""  # no copies of the files elsewhere
    files = (str(Path(directory, name)) for name in ("merges.txt", "vocab.json"))
    ranks, special = data_gym_to_mergeable_bpe_ranks(*files), {"<|endoftext|>": 50_256}
    gpt2 = Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special
    )
    return partial(gpt2.encode, allowed_special="all")


if __name__ == "__main__":
    worker.run(**worker.tokenizer_tasks(encoder))

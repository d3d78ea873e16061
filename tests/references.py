"""Gemma 3 as `transformers` has it: random models, their scores and ours."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.utils import logging

import gemma3

TOLERANCE = 1e-4  # of the largest score at a position
LOCAL, GLOBAL = "sliding_attention", "full_attention"

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()


def small_config(**changes: Any) -> dict[str, Any]:
    """The arguments of a Gemma3TextConfig of four layers, whose window is 5 places.

    The vocabulary has a few more rows than the tokenizer of the tests has pieces.
    """
    return {
        "vocab_size": 432,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "layer_types": [LOCAL, GLOBAL, LOCAL, GLOBAL],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "query_pre_attn_scalar": 8,
        "sliding_window": 5,
        "rope_parameters": ropes(100.0, 1000.0),
        "rms_norm_eps": 1e-2,
        "max_position_embeddings": 4096,
    } | changes


def ropes(local: float, far: float, **scaling: Any) -> dict[str, dict[str, Any]]:
    """The rope_parameters with these bases, and what scales the global layers."""
    scaling = scaling or {"rope_type": "default"}
    return {
        LOCAL: {"rope_type": "default", "rope_theta": local},
        GLOBAL: {"rope_theta": far} | scaling,
    }


def random_config(seed: int) -> dict[str, Any]:
    """The same of a random shape, with a window of 8 places or so."""
    rng = random.Random(seed)
    n_layers, n_keys = rng.randint(2, 4), 1 + seed % 3
    heads = n_keys * rng.choice([1, 2, 3])
    return small_config(
        vocab_size=rng.randint(425, 480),
        hidden_size=heads * rng.choice([4, 6]),
        intermediate_size=rng.randint(20, 50),
        num_hidden_layers=n_layers,
        layer_types=[LOCAL, GLOBAL, *rng.choices([LOCAL, GLOBAL], k=n_layers - 2)],
        num_attention_heads=heads,
        num_key_value_heads=n_keys,
        head_dim=rng.choice([6, 8, 16]),
        query_pre_attn_scalar=rng.choice([5, 8, 30]),
        sliding_window=rng.choice([5, 8, 13]),
        rope_parameters=ropes(rng.choice([10.0, 300.0]), rng.choice([1e4, 1e6])),
        rms_norm_eps=rng.choice([1e-6, 1e-2]),
    )


def save_random(directory: Path, tiny_gemma3: Path, theirs: Any, **options: Any) -> None:
    """Give a model of `transformers` random weights, so large that errors show, and save it.

    The embedding has small ones, so that what follows is not always the last token again.
    """
    generator = torch.Generator().manual_seed(theirs.num_parameters())
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter.normal_(0, 0.06 if "embed" in name else 0.3, generator=generator)
    theirs.eval().save_pretrained(directory, **options)
    (directory / "tokenizer.model").symlink_to(tiny_gemma3 / "tokenizer.model")


def save_text_model(directory: Path, tiny_gemma3: Path, config: dict[str, Any]) -> Any:
    """Save a random model of these arguments as `transformers` saves it; give theirs."""
    theirs = Gemma3ForCausalLM(Gemma3TextConfig(**config))
    save_random(directory, tiny_gemma3, theirs)
    return theirs


@torch.no_grad()
def their_scores(theirs: Any, ids: list[int]) -> np.ndarray:
    """Scores (T, V) of what follows each id."""
    return theirs(torch.tensor([ids])).logits[0].numpy()


@torch.no_grad()
def their_text(theirs: Any, ids: list[int], tokens: int) -> list[int]:
    """The likeliest tokens that follow ids, whatever they are."""
    mask = torch.ones(1, len(ids), dtype=torch.long)
    options = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": None}
    text = theirs.generate(torch.tensor([ids]), attention_mask=mask, **options)
    return text[0, len(ids) :].tolist()


@functools.partial(
    jax.jit,
    static_argnames="config",
    compiler_options={"xla_disable_hlo_passes": "cse_barrier_expander"},
)
def every_state(config, params, ids, cache, start):
    """Final states (T, C) of ids (T,), and the cache: `forward`, compiled as `step` is."""
    return gemma3.forward(config, params, ids, cache, start)


every_score = jax.jit(gemma3.linear)


def rings(config: gemma3.Config, length: int, chunk: int, dtype: Any) -> list[list[np.ndarray]]:
    """Empty caches with just the places for so many ids, read in chunks: local layers wrap soon."""
    sizes = [min(length, layer.window + chunk - 1) for layer in config.layers]
    shapes = [(config.num_key_value_heads, size, config.head_dim) for size in sizes]
    return [[np.zeros(shape, dtype)] * 2 for shape in shapes]


def our_states(config, params, ids: list[int], chunk: int, dtype: Any = np.float32) -> Iterator[Any]:
    """Yield final states (T, C), chunk by chunk, read through the smallest rings."""
    cache = rings(config, len(ids) + -len(ids) % chunk, chunk, dtype)
    for start in range(0, len(ids), chunk):
        part = np.array(ids[start : start + chunk])
        padded = np.pad(part, (0, chunk - len(part)))
        states, cache = every_state(config, params, padded, cache, start)
        yield states[: len(part)]


def our_scores(config, params, ids: list[int], chunk: int) -> np.ndarray:
    """Scores (T, V) of what follows each id, read in chunks through the smallest rings."""
    states = np.concatenate([*our_states(config, params, ids, chunk)])
    return np.asarray(every_score(states, params["embed_tokens"]))


def differences(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """At each position, the largest difference of two scores over the largest score."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max(axis=-1) / np.abs(theirs).max(axis=-1)


def random_ids(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng((length, seed)).integers(200, size=length).tolist()


def greedy(config, params, ids: list[int], tokens: int) -> list[int]:
    """The likeliest tokens that follow ids."""
    return [row[0] for row in gemma3.generate(config, params, ids, tokens)]

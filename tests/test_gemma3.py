"""src/gemma3.py: its numbers against `transformers`. What needs the real weights is skipped
where `make models` hasn't run."""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.utils import logging

import gemma3

ROOT = Path(__file__).resolve().parents[1]
GEMMA = ROOT / "book/models/gemma-3-270m"
TOLERANCE = 1e-4  # of the largest logit
SEEDS = range(4)
# Pride and Prejudice, chapter 1
PARAGRAPH = (
    "However little known the feelings or views of such a man may be on his first entering "
    "neighbourhood number {}, this truth is so well fixed in the minds of the {} surrounding "
    "families, that he is considered as the rightful property of some one or other of their "
    "daughters. “My dear Mr. Bennet,” said his lady to him one day, “have you heard that "
    "Netherfield Park is let for {} pounds at last?” Mr. Bennet replied that he had not.\n\n"
)

needs_files = pytest.mark.skipif(not GEMMA.exists(), reason="make models hasn't run")
torch.set_num_threads(1)
logging.disable_progress_bar()




# ----------------------------------------------------------------------------------------- model


def random_config(seed: int) -> dict[str, Any]:
    """A config as the Hub has them, of a random small shape, with a window of 8 places or so."""
    rng = random.Random(seed)
    n_layers, n_keys = rng.randint(2, 4), 1 + seed % 2
    kinds = ["sliding_attention", "full_attention"]
    return {
        "model_type": "gemma3_text",
        "vocab_size": rng.randint(200, 300),
        "hidden_size": 12 * rng.choice([2, 3]),
        "intermediate_size": rng.randint(20, 50),
        "num_hidden_layers": n_layers,
        "layer_types": kinds + rng.choices(kinds, k=n_layers - 2),
        "num_attention_heads": n_keys * rng.choice([1, 2, 3]),
        "num_key_value_heads": n_keys,
        "head_dim": rng.choice([6, 8, 16]),
        "query_pre_attn_scalar": rng.choice([5, 8, 30]),
        "sliding_window": rng.choice([5, 8]),
        "rope_theta": rng.choice([1e4, 1e6]),
        "rope_local_base_freq": rng.choice([10.0, 300.0]),
        "rms_norm_eps": rng.choice([1e-6, 1e-2]),
        "max_position_embeddings": 4096,
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    }


def random_reference(directory: Path, tiny_gemma3: Path, config: dict[str, Any]) -> Any:
    """Save a random model, its weights so large that errors show, for us to load; return theirs."""
    theirs = Gemma3ForCausalLM(Gemma3TextConfig(**config)).eval()
    generator = torch.Generator().manual_seed(config["vocab_size"])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    theirs.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.model").symlink_to(tiny_gemma3 / "tokenizer.model")
    return theirs


def empty_cache(config: gemma3.Config, room: int, value: float = 0.0) -> list[jnp.ndarray]:
    shape = (2, room, config.num_key_value_heads, config.head_dim)
    return [jnp.full(shape, value) for _ in config.layer_types]


def chunks_of_logits(config, params, ids, chunk):
    """Yield the logits at every place, in chunks of one length, as generate computes them."""
    cache = empty_cache(config, max(512, 1 << len(ids).bit_length()))
    for start in range(0, len(ids), chunk):
        part = ids[start : start + chunk]
        padded = jnp.array(part + [0] * (chunk - len(part)))
        logits, cache = gemma3.step(config, params, padded, cache, start, jnp.arange(chunk))
        yield np.asarray(logits)[: len(part)]


@torch.no_grad()
def their_logits(theirs: Any, ids: list[int]) -> np.ndarray:
    return theirs(torch.tensor([ids])).logits[0].numpy()


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def random_ids(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng((length, seed)).integers(200, size=length).tolist()


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_gemma3):
    """A random model: our config and params, and theirs."""
    directory = tmp_path_factory.mktemp("small")
    theirs = random_reference(directory, tiny_gemma3, random_config(1))
    config, params, _ = gemma3.load(directory)
    return config, params, theirs


@pytest.mark.parametrize("seed", SEEDS)
def test_random_models_agree_at_every_position(tmp_path, tiny_gemma3, seed):
    theirs = random_reference(tmp_path, tiny_gemma3, random_config(seed))
    config, params, _ = gemma3.load(tmp_path)
    for length, chunk in ((4, 4), (70, 70), (70, 16)):  # below and far beyond the window
        ids = random_ids(length)
        ours = np.concatenate(list(chunks_of_logits(config, params, ids, chunk)))
        assert difference(ours, their_logits(theirs, ids)) < TOLERANCE


def test_layer_types_are_five_local_and_one_global_unless_said_otherwise(tmp_path, tiny_gemma3):
    """As in the first Gemma 3 files on the Hub, which leave them out."""
    layers = {"num_hidden_layers": 8, "hidden_size": 24, "layer_types": None}
    config = {key: value for key, value in (random_config(0) | layers).items() if value is not None}
    theirs = random_reference(tmp_path, tiny_gemma3, config)
    ours, params, _ = gemma3.load(tmp_path)
    assert list(ours.layer_types) == theirs.config.layer_types
    ids = random_ids(40)
    logits = np.concatenate(list(chunks_of_logits(ours, params, ids, 40)))
    assert difference(logits, their_logits(theirs, ids)) < TOLERANCE


@pytest.mark.parametrize("change", [{"model_type": "llama"}, {"rope_scaling": {"factor": 8.0}}])
def test_other_models_are_refused(tmp_path, change):
    (tmp_path / "config.json").write_text(json.dumps(random_config(0) | change))
    with pytest.raises(ValueError, match="not a text-only Gemma 3"):
        gemma3.load(tmp_path)


# ------------------------------------------------------------------------------ cache and greedy


def test_greedy_text_is_that_of_transformers(small):
    config, params, theirs = small
    for length in (3, 30, 100):
        ids = random_ids(length)
        text = theirs.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, length, dtype=torch.long),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
        )
        assert list(gemma3.generate(config, params, ids, 20)) == text[0, length:].tolist()


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 130])
def test_the_chunks_of_the_prompt_do_not_change_the_text(small, length):
    config, params, _ = small
    ids = random_ids(length)
    texts = [list(gemma3.generate(config, params, ids, 12, 0, chunk=c)) for c in (1, 8, 64)]
    assert texts[0] == texts[1] == texts[2] and len(texts[0]) == 12


def test_only_places_up_to_the_query_are_seen(small):
    """Values that were in the cache beyond the last token change nothing."""
    config, params, _ = small
    ids = jnp.array(random_ids(16))
    scores = [
        gemma3.step(config, params, ids, empty_cache(config, 64, value), 0, 15)[0]
        for value in (0.0, 1e3)
    ]
    np.testing.assert_array_equal(*scores)


def test_prompts_of_any_length_compile_nothing_new(small):
    config, params, _ = small
    list(gemma3.generate(config, params, random_ids(5), 4, 0.7, 20))
    compiled = gemma3.step._cache_size()
    for length in (1, 2, 63, 64, 65, 200, 400):
        list(gemma3.generate(config, params, random_ids(length), 4, 0.7, 20))
    assert gemma3.step._cache_size() == compiled


def test_the_old_cache_gives_its_memory_to_the_new(small):
    config, params, _ = small
    old = empty_cache(config, 64)
    _, new = gemma3.step(config, params, jnp.array([1, 2, 3]), old, 0, 2)
    assert len(new) == len(config.layer_types)
    assert all(array.is_deleted() for array in old)
    assert not any(array.is_deleted() for array in [*new, *params.values()])


def test_the_text_ends_with_the_context(small):
    config, params, _ = small
    config = config._replace(max_position_embeddings=20)
    lengths = [len(list(gemma3.generate(config, params, random_ids(n), 9))) for n in (5, 15, 19)]
    assert lengths == [9, 5, 1]


# -------------------------------------------------------------------------------------- sampling


def test_temperature_0_is_greedy_whatever_top_k_and_the_seed(small):
    config, params, _ = small
    greedy = list(gemma3.generate(config, params, [2, 5], 40, top_k=1))
    for seed in range(3):
        assert list(gemma3.generate(config, params, [2, 5], 40, 0, 200, seed)) == greedy


def test_a_seed_fixes_the_text(small):
    config, params, _ = small

    def text(seed):
        return tuple(gemma3.generate(config, params, [2, 5], 40, 5, 100, seed))

    assert text(0) == text(0)
    assert len({text(seed) for seed in range(5)}) == 5


def first_scores(config, params, ids):
    return np.asarray(next(chunks_of_logits(config, params, ids, 64)))[-1]


def chi_square(drawn: list[int], expected: np.ndarray) -> bool:
    """Whether the counts are as expected: Pearson's sum is at most five deviations too large."""
    counts = np.bincount(drawn, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    usual = expected >= 5
    freedom = usual.sum() - 1
    assert freedom >= 3
    squares = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
    return squares < freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(("temperature", "top_k"), [(2, 200), (10, 200), (5, 7)])
def test_sampled_frequencies_are_the_softmax_of_the_likeliest(small, temperature, top_k):
    config, params, _ = small
    n, ids = 1000, [2, 5, 7]
    scores = first_scores(config, params, ids).astype(np.float64)
    weights = np.where(scores >= np.sort(scores)[-top_k], np.exp(scores / temperature), 0)
    drawn = [
        next(gemma3.generate(config, params, ids, 1, temperature, top_k, seed)) for seed in range(n)
    ]
    assert chi_square(drawn, n * weights / weights.sum())


def test_successive_draws_are_independent(small):
    """Where every token is equally likely, so are all pairs of tokens of a text."""
    config, params, _ = small
    params = params | {"norm": jnp.full_like(params["norm"], -1)}  # all scores are 0
    n_vocab, n = len(params["embed_tokens"]), 2000
    text = list(gemma3.generate(config, params, [2], n, 1, n_vocab))
    bins = [5 * token // n_vocab for token in text]
    share = np.bincount([5 * token // n_vocab for token in range(n_vocab)]) / n_vocab
    pairs = [5 * a + b for a, b in zip(bins, bins[1:], strict=False)]
    assert chi_square(bins, n * share)
    assert chi_square(pairs, (n - 1) * np.array([a * b for a, b in product(share, share)]))


# ---------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def real():
    if not GEMMA.exists():
        pytest.skip("make models hasn't run")
    return gemma3.load(GEMMA)


@needs_files
def test_every_weight_is_read_and_used(real):
    config, params, _ = real
    assert len(params) == 2 + 13 * len(config.layer_types)
    assert {str(array.dtype) for array in params.values()} == {"bfloat16"}


@needs_files
def test_the_real_model_agrees_at_every_position(real):
    """Almost three times the window, in chunks; of the 262,144 scores, every seventh.

    Some places magnify rounding: there `transformers` in float32 and in float64 differ too.
    """
    config, params, tokenizer = real
    text = "".join(PARAGRAPH.format(i, 7 * i + 3, 1000 - i) for i in range(15))
    ids = [gemma3.BOS, *tokenizer.encode(text)][:1500]
    assert len(ids) == 1500 > 2 * config.sliding_window
    theirs = Gemma3ForCausalLM.from_pretrained(GEMMA, dtype=torch.float32).eval()
    with torch.no_grad():
        states = theirs.model(torch.tensor([ids])).last_hidden_state[0]
        expected = (states @ theirs.lm_head.weight[::7].T).numpy()
    ours = np.concatenate([x[:, ::7] for x in chunks_of_logits(config, params, ids, 64)])
    assert ours.shape == expected.shape
    worst = np.abs(ours - expected).max(axis=1) / np.abs(expected).max()
    assert np.quantile(worst, 0.98) < TOLERANCE / 5 and worst.max() < 5 * TOLERANCE


@needs_files
@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        ("The Eiffel tower is", " the world’s tallest structure, and it’s a symbol of Paris."),
        ("The capital of France is", " the capital of the country of France."),
    ],
)
def test_greedy_texts_of_the_real_model(real, prompt, continuation):
    config, params, tokenizer = real
    ids = [gemma3.BOS, *tokenizer.encode(prompt)]
    n_tokens = len(tokenizer.encode(continuation))
    assert "".join(tokenizer.decode(gemma3.generate(config, params, ids, n_tokens))) == continuation


@needs_files
def test_the_chunks_of_the_prompt_do_not_change_the_text_of_the_real_model(real):
    config, params, tokenizer = real
    ids = [gemma3.BOS, *tokenizer.encode(PARAGRAPH.format(1, 2, 3))][:24]
    whole, one_by_one = (
        list(gemma3.generate(config, params, ids, 4, chunk=chunk)) for chunk in (64, 1)
    )
    assert whole == one_by_one

"""src/gemma3.py: its numbers against `transformers`, for small random models and the real one."""

from __future__ import annotations

import copy
import math
from itertools import product

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from references import (
    GLOBAL,
    LOCAL,
    TOLERANCE,
    differences,
    every_score,
    every_state,
    greedy,
    our_scores,
    our_states,
    random_config,
    random_ids,
    save_text_model,
    small_config,
    their_scores,
    their_text,
)
from transformers import Gemma3ForCausalLM

import gemma3

SEEDS = range(4)
# Pride and Prejudice, chapter 1
PARAGRAPH = (
    "However little known the feelings or views of such a man may be on his first entering "
    "neighbourhood number {}, this truth is so well fixed in the minds of the {} surrounding "
    "families, that he is considered as the rightful property of some one or other of their "
    "daughters. “My dear Mr. Bennet,” said his lady to him one day, “have you heard that "
    "Netherfield Park is let for {} pounds at last?” Mr. Bennet replied that he had not.\n\n"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory, tiny_gemma3):
    """A random model: our config and params, and theirs."""
    directory = tmp_path_factory.mktemp("small")
    theirs = save_text_model(directory, tiny_gemma3, small_config())
    config, params, _ = gemma3.load(directory)
    return config, params, theirs


def texts(config, params, ids, tokens, *options) -> list[list[int]]:
    """What `generate` yields, one list for each sample."""
    return [list(text) for text in zip(*gemma3.generate(config, params, ids, tokens, *options))]


# ----------------------------------------------------------------------- scores of random models

LAYOUTS = {f"random {seed}": random_config(seed) for seed in SEEDS} | {
    "all local": small_config(layer_types=[LOCAL] * 4),
    "all global": small_config(layer_types=[GLOBAL] * 4),
    "one layer": small_config(num_hidden_layers=1, layer_types=[LOCAL]),
    "a window of 1": small_config(sliding_window=1),
    "a window of 2": small_config(sliding_window=2, layer_types=[LOCAL] * 4),
    "a window as long as the text": small_config(sliding_window=70),
    "one key head for all": small_config(num_key_value_heads=1),
    "a key head for each": small_config(num_key_value_heads=4),
    "one head": small_config(num_attention_heads=1, num_key_value_heads=1, head_dim=24),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_random_models_agree_at_every_position(tmp_path, tiny_gemma3, layout):
    """Read at once, and in chunks about as long as the window; the rings wrap."""
    theirs = save_text_model(tmp_path, tiny_gemma3, LAYOUTS[layout])
    config, params, _ = gemma3.load(tmp_path)
    assert [layer.window for layer in config.layers] == [
        config.context if kind == GLOBAL else theirs.config.sliding_window
        for kind in theirs.config.layer_types
    ]
    ids = random_ids(70)
    expected = their_scores(theirs, ids)
    for chunk in (70, 7):
        assert differences(our_scores(config, params, ids, chunk), expected).max() < TOLERANCE


@pytest.mark.parametrize("length", [1, 4, 5, 6])
def test_short_texts_agree_at_every_position(small, length):
    config, params, theirs = small
    ids = random_ids(length)
    expected = their_scores(theirs, ids)
    for chunk in {length, 1}:
        assert differences(our_scores(config, params, ids, chunk), expected).max() < TOLERANCE


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 100])
def test_reading_in_chunks_gives_the_scores_of_the_whole(small, monkeypatch, length):
    """By `read` itself, with chunks around the window and rings that wrap."""
    config, params, theirs = small
    ids = random_ids(length)
    expected = their_scores(theirs, ids)[-1:]
    for chunks in ((16, 4, 1), (3, 1)):
        monkeypatch.setattr(gemma3, "CHUNKS", chunks)
        scores, cache = gemma3.read(config, params, np.array([ids]), gemma3.empty_cache(config), 0)
        assert differences(np.asarray(scores), expected).max() < TOLERANCE
        sizes = {keys.shape[2] for (keys, _), layer in zip(cache, config.layers) if layer[0] == 5}
        assert sizes == {5 + max(chunks) - 1}
        with_more = np.array([random_ids(7, seed=1)])
        scores, _ = gemma3.read(config, params, with_more, cache, length)
        more = their_scores(theirs, ids + with_more[0].tolist())[-1:]
        assert differences(np.asarray(scores), more).max() < TOLERANCE


def test_a_chunk_is_less_than_twice_what_is_left(small, monkeypatch):
    config, params, _ = small
    sizes = []

    def step(config, params, ids, cache, start, last):
        sizes.append(ids.shape[1])
        assert all(keys.shape[2] >= min(start + ids.shape[1], 5 + 1023) for keys, _ in cache)
        return None, cache

    monkeypatch.setattr(gemma3, "step", step)
    lengths = {1: [1], 8: [1] * 8, 9: [16], 17: [16, 1], 65: [128], 140: [128, 16]}
    for length, expected in (lengths | {512: [128] * 4, 513: [1024], 1100: [1024, 128]}).items():
        sizes.clear()
        gemma3.read(config, params, np.array([random_ids(length)]), gemma3.empty_cache(config), 0)
        assert sizes == expected


def test_what_a_cache_held_before_its_first_token_is_not_seen(small):
    config, params, _ = small
    ids, found = np.array(random_ids(16)), []
    for value in (0.0, 1e3):
        shape = (config.num_key_value_heads, 64, config.head_dim)
        cache = [[np.full(shape, value, np.float32)] * 2 for _ in config.layers]
        found.append(every_state(config, params, ids, cache, 0)[0])
    np.testing.assert_array_equal(*found)


# ------------------------------------------------------------------------------ cache and greedy


def test_greedy_text_is_that_of_transformers(small):
    config, params, theirs = small
    for length in (3, 30):
        ids = random_ids(length)
        assert greedy(config, params, ids, 40) == their_text(theirs, ids, 40)


def test_a_thousand_greedy_tokens_are_those_of_transformers(small):
    """Twice through sizes of the cache, with a window that is long past (see also the real one)."""
    config, params, theirs = small
    ids = random_ids(20)
    text = greedy(config, params, ids, 1000)
    assert text == their_text(theirs, ids, 1000) and len(set(text)) > 20


def test_the_growth_of_the_cache_changes_nothing(small):
    """Whether there was room for 2,048 from the start, or it came by and by; it never shrinks."""
    config, params, _ = small
    ids, results = random_ids(520), []
    for length in (1, 2000):
        cache = gemma3.grow(config, gemma3.empty_cache(config), length)
        room = {keys.shape[2] for keys, _ in cache}
        scores, cache = gemma3.read(config, params, np.array([ids[:500]]), cache, 0)
        for i in range(500, 520):
            scores, cache = gemma3.read(config, params, np.array([[ids[i]]]), cache, i)
        results.append(scores)
        assert room == ({512} if length == 1 else {5 + 1023, 2048})
        assert {keys.shape[2] for keys, _ in cache} == {5 + 1023, 2048}
    assert differences(*map(np.asarray, results)).max() < TOLERANCE / 10
    assert gemma3.grow(config, cache, 2048)[1][0].shape[2] == 2048
    assert gemma3.grow(config, cache, 2049)[1][0].shape[2] == 4096 + 1023


def test_prompts_of_any_length_compile_nothing_new(small):
    config, params, _ = small
    lengths = (20, 200, 400)
    for length in (8, *lengths):
        list(gemma3.generate(config, params, random_ids(length), 4, 0.7, 20))
    compiled = gemma3.step._cache_size()
    for length in (1, 2, 15, 16, 17, 63, 64, 65, 127, 300, 399):
        list(gemma3.generate(config, params, random_ids(length), 4, 0.7, 20))
    assert gemma3.step._cache_size() == compiled


def test_the_old_cache_gives_its_memory_to_the_new(small):
    config, params, _ = small
    ids = np.array([random_ids(3)])
    _, old = gemma3.read(config, params, ids, gemma3.empty_cache(config), 0)
    places = {array.unsafe_buffer_pointer() for array in jax.tree.leaves(old)}
    _, new = gemma3.step(config, params, ids, old, 3, 2)
    assert all(array.is_deleted() for array in jax.tree.leaves(old))
    assert {array.unsafe_buffer_pointer() for array in jax.tree.leaves(new)} == places
    assert not any(array.is_deleted() for array in jax.tree.leaves((new, params)))


def test_samples_at_temperature_0_are_the_single_text_again(small):
    config, params, _ = small
    single = greedy(config, params, random_ids(9), 30)
    assert texts(config, params, random_ids(9), 30, 0, 1, 1, 0, 3) == [single] * 3


def test_a_batch_reads_as_each_of_its_texts_alone(small):
    config, params, _ = small
    ids = np.array([random_ids(12, seed) for seed in range(3)])
    scores, _ = gemma3.read(config, params, ids, gemma3.empty_cache(config, 3), 0)
    for row, alone in zip(scores, ids, strict=True):
        expected, _ = gemma3.read(config, params, alone[None], gemma3.empty_cache(config), 0)
        assert differences(np.asarray(row[None]), np.asarray(expected)).max() < TOLERANCE / 10


# -------------------------------------------------------------------------------------- sampling


def test_temperature_0_is_greedy_whatever_top_k_and_the_seed(small):
    config, params, _ = small
    one = greedy(config, params, [2, 5], 40)
    for seed in range(3):
        assert texts(config, params, [2, 5], 40, 0, 200, 1, seed) == [one]


def test_a_seed_fixes_the_text(small):
    config, params, _ = small
    drawn = [texts(config, params, [2, 5], 40, 5, 100, 1, seed)[0] for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(text) for text in drawn}) == 4


def test_samples_differ(small):
    config, params, _ = small
    drawn = texts(config, params, [2, 5], 40, 5, 100, 1, 0, 4)
    assert len({tuple(text) for text in drawn}) == 4


def chi_square(drawn: list[int], expected: np.ndarray) -> bool:
    """Whether the counts are as expected: Pearson's sum is at most five deviations too large.

    Ids of which fewer than five are expected are counted together.
    """
    counts = np.bincount(drawn, minlength=len(expected))
    assert counts.sum() == pytest.approx(expected.sum()) and counts[expected == 0].sum() == 0
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    freedom = len(expected) - 2 + (expected[-1] > 0)
    assert freedom >= 3
    squares = (counts - expected) ** 2 / np.maximum(expected, 1e-9)
    return squares.sum() < freedom + 5 * math.sqrt(2 * freedom)


def likeliest(scores: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """Probabilities by the definitions: top-k first, then the fewest that have top_p together."""
    order = np.argsort(-scores, kind="stable")[:top_k]
    p = np.exp((scores[order] - scores.max()) / temperature)
    p /= p.sum()
    n = 1 + int(np.searchsorted(np.cumsum(p), top_p)) if top_p < 1 else len(p)
    probabilities = np.zeros(len(scores))
    probabilities[order[:n]] = p[:n] / p[:n].sum()
    return probabilities


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(0.2, 432, 1), (1, 432, 1), (0.5, 7, 1), (0.5, 432, 0.6), (0.5, 20, 0.8), (0.5, 432, 0.99)],
)
def test_sampled_frequencies_are_the_softmax_of_the_likeliest(small, temperature, top_k, top_p):
    """Whichever changes: the row of a batch, the seed, or the position."""
    config, params, _ = small
    options, n = (temperature, top_k, top_p), 2000
    scores, _ = gemma3.read(config, params, np.array([[2, 5, 7]]), gemma3.empty_cache(config), 0)
    expected = likeliest(np.float64(scores[0]), *options)
    assert (expected > 0).sum() < 432 or (top_k, top_p) == (432, 1)
    rows = gemma3.draw(np.repeat(scores, n, axis=0), jax.random.key(1), 3, *options)
    assert rows.shape == (n, 1) and chi_square(rows[:, 0], n * expected)
    seeds = [gemma3.draw(scores, jax.random.key(seed), 3, *options).item() for seed in range(n)]
    assert chi_square(seeds, n * expected)
    key = jax.random.key(1)
    places = [gemma3.draw(scores, key, place, *options).item() for place in range(n)]
    assert chi_square(places, n * expected)


def test_generate_draws_by_the_scores_of_the_prompt(small):
    config, params, theirs = small
    ids, n = [2, 5, 7], 500
    expected = likeliest(np.float64(their_scores(theirs, ids)[-1]), 0.2, 40, 0.95)
    (drawn,) = gemma3.generate(config, params, ids, 1, 0.2, 40, 0.95, 0, n)
    assert chi_square(drawn, n * expected)


def test_a_tiny_top_p_leaves_the_likeliest(small):
    config, params, _ = small
    one = greedy(config, params, [2, 5], 20)
    assert texts(config, params, [2, 5], 20, 5, 200, 1e-9, 3, 2) == [one, one]


def test_successive_draws_are_independent(small):
    """Where every token is equally likely, so are all pairs of tokens of a text."""
    config, params, _ = small
    params = params | {"norm": jnp.full_like(params["norm"], -1)}  # all scores are 0
    n_vocab, n = len(params["embed_tokens"]), 500
    share = np.bincount([5 * token // n_vocab for token in range(n_vocab)]) / n_vocab
    rows = texts(config, params, [2], n, 1, n_vocab, 1, 0, 4)
    bins = [[5 * token // n_vocab for token in row] for row in rows]
    pairs = [5 * a + b for row in bins for a, b in zip(row, row[1:], strict=False)]
    across = [5 * a + b for a, b in zip(bins[0], bins[1], strict=True)]
    both = np.array([a * b for a, b in product(share, share)])
    assert chi_square(sum(bins, []), 4 * n * share)
    assert chi_square(pairs, 4 * (n - 1) * both)
    assert chi_square(across, n * both)


# ------------------------------------------------------------------------------------------ int8


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_quantized_weights_are_half_a_step_off_at_most(dtype):
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(50, 40)) * 10.0 ** rng.integers(-3, 3, size=(50, 1))).astype(dtype)
    w[7] = 0
    values, scale = gemma3.quantize(jnp.asarray(w))
    assert values.dtype == jnp.int8 and scale.dtype == jnp.float32
    assert values.shape == w.shape and scale.shape == (50,)
    w = w.astype(np.float64)
    steps = np.abs(w).max(axis=1) / 127
    error = np.abs(np.float64(values) * np.float64(scale)[:, None] - w)
    assert (error <= 0.51 * steps[:, None]).all() and not error[7].any()
    assert (np.abs(np.float64(values)).max(axis=1) == 127)[steps > 0].all()


def test_in_8_bits_a_model_that_has_8_bits_writes_the_same_text(tmp_path, tiny_gemma3):
    """Each row of each matrix is whole numbers up to 127, times a power of 2."""
    theirs = save_text_model(tmp_path, tiny_gemma3, small_config())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 2:
                values = torch.randint(-126, 127, parameter.shape, generator=generator).float()
                values[:, 0] = 127
                parameter.copy_(values / 128)
    theirs.save_pretrained(tmp_path)
    config, whole, _ = gemma3.load(tmp_path)
    _, params, _ = gemma3.load(tmp_path, int8=True)
    matrices = [w for w in jax.tree.leaves(params) if w.ndim == 2]
    assert {str(w.dtype) for w in matrices} == {"int8"} and len(matrices) == 1 + 7 * 4
    ids = random_ids(20)
    expected = their_scores(theirs, ids)
    assert differences(our_scores(config, params, ids, 20), expected).max() < TOLERANCE
    text = greedy(config, params, ids, 40)
    assert text == greedy(config, whole, ids, 40) == their_text(theirs, ids, 40)


# ---------------------------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def real(gemma):
    return gemma3.load(gemma)


@pytest.fixture(scope="module")
def reference(gemma):
    return Gemma3ForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval()


@torch.no_grad()
def their_states(theirs, ids: list[int]) -> torch.Tensor:
    """Final states (T, C), on both processors."""
    torch.set_num_threads(2)
    states = theirs.model(torch.tensor([ids])).last_hidden_state[0]
    torch.set_num_threads(1)
    return states


def prose(tokenizer, length: int) -> list[int]:
    """So many ids, which begin with <bos>."""
    text = "".join(PARAGRAPH.format(i, 7 * i + 3, 1000 - i) for i in range(1 + length // 80))
    ids = [tokenizer.special["<bos>"], *tokenizer.encode(text)][:length]
    assert len(ids) == length
    return ids


@pytest.fixture(scope="module")
def long_text(real, reference):
    """1,500 ids, and their final states for them; each is that of all that begin the text."""
    ids = prose(real[-1], 1500)
    return ids, their_states(reference, ids)


def state_differences(params, ours, theirs: torch.Tensor, step: int) -> np.ndarray:
    """`differences` of the scores that follow from states, here of each step-th token."""
    head = params["embed_tokens"][::step]
    weights = torch.tensor(np.asarray(head, np.float32)).to(theirs.dtype)
    found = []
    for part, expected in zip(np.array_split(ours, 10), np.array_split(theirs.numpy(), 10)):
        scores = torch.from_numpy(expected) @ weights.T
        found.append(differences(np.asarray(every_score(part, head)), scores.numpy()))
    return np.concatenate(found)


def test_every_weight_of_the_real_model_is_read_and_kept_as_it_is(real, reference):
    _, params, _ = real
    ours = {"embed_tokens": params["embed_tokens"], "norm": params["norm"]}
    for i, layer in enumerate(params["layers"]):
        ours |= {f"layers.{i}.{part}": array for part, array in layer.items()}
    theirs = dict(reference.model.named_parameters())
    assert {f"{name}.weight" for name in ours} == theirs.keys() and len(ours) == 236
    for name, array in ours.items():
        assert array.dtype == jnp.bfloat16
        expected = theirs[f"{name}.weight"].detach().numpy()
        assert (np.asarray(array, np.float32) == expected).all()


@pytest.mark.parametrize("length", [1, 511, 512, 513])
def test_the_real_model_agrees_at_every_position(real, long_text, length):
    """Read at once, and as `read` reads it; for all tokens where the window ends."""
    config, params, _ = real
    ids, theirs = long_text
    ids, theirs = ids[:length], theirs[:length]
    (states,) = our_states(config, params, ids, length)
    step = 1 if length == 513 else 7
    assert state_differences(params, states, theirs, step).max() < TOLERANCE
    scores, _ = gemma3.read(config, params, np.array([ids]), gemma3.empty_cache(config), 0)
    weights = torch.tensor(np.asarray(params["embed_tokens"], np.float32))
    assert differences(np.asarray(scores), (theirs[-1:] @ weights.T).numpy()).max() < TOLERANCE


def in_float64(config, params, ids: list[int], chunk: int) -> np.ndarray:
    """Our final states of the same program in float64: an embedding with a scale decides that.

    (What is stored has at most 24 bits, so that `linear`, which reads it as float32, loses none.)
    """
    with jax.enable_x64(True):
        embedding = params["embed_tokens"], np.ones(len(params["embed_tokens"]))
        states = our_states(
            config, params | {"embed_tokens": embedding}, ids, chunk, dtype=np.float64
        )
        found = np.concatenate([*states])
    assert found.dtype == np.float64
    return found


def their_exact_states(reference, ids: list[int], monkeypatch) -> torch.Tensor:
    """Their final states in float64 throughout: norms and RoPE, too, which ask for `float`."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch, "float", torch.float64)
        exact = copy.deepcopy(reference).double()
        rotary, embedding = exact.model.rotary_emb, exact.model.embed_tokens
        for kind in (LOCAL, GLOBAL):
            theirs, _ = rotary.compute_default_rope_parameters(exact.config, layer_type=kind)
            setattr(rotary, f"{kind}_inv_freq", theirs)
        embedding.embed_scale = torch.tensor(exact.config.hidden_size, dtype=torch.float64) ** 0.5
        return their_states(exact, ids)


def assert_differences_are_rounding(real, reference, ids, theirs, chunk, monkeypatch):
    """In float64, ours and theirs agree at every position; in float32, at nearly every one.

    The text repeats, and where a number differs from the one before, some place magnifies what
    rounding leaves, in theirs as much as in ours: that is seen in float64.
    """
    config, params, _ = real
    ours = np.concatenate([*our_states(config, params, ids, chunk)])
    in_32 = state_differences(params, ours, theirs, 7)
    beyond = np.flatnonzero(in_32 >= TOLERANCE)
    assert len(beyond) <= len(ids) / 100 and np.median(in_32) < TOLERANCE / 10
    exact = their_exact_states(reference, ids, monkeypatch)
    with jax.enable_x64(True):
        in_64 = state_differences(params, in_float64(config, params, ids, chunk), exact, 7)
    assert in_64.max() < TOLERANCE / 100
    print(f"{len(ids)} positions: {in_32.max():.1e} at most in float32, {len(beyond)} beyond")
    print(f"{TOLERANCE:.0e}; {in_64.max():.1e} at most in float64")


def test_the_real_model_agrees_beyond_the_window(real, reference, long_text, monkeypatch):
    """1,500 tokens in chunks of 500, the ring of a local layer wrapping."""
    assert_differences_are_rounding(real, reference, *long_text, 500, monkeypatch)


@pytest.mark.slow
def test_the_real_model_agrees_at_4000_positions(real, reference, monkeypatch):
    ids = prose(real[-1], 4000)
    theirs = their_states(reference, ids)
    assert_differences_are_rounding(real, reference, ids, theirs, 500, monkeypatch)


def test_a_thousand_greedy_tokens_of_the_real_model_are_those_of_transformers(real, reference):
    """From 300 on past the window. Theirs are read at once: that each is the likeliest after all
    those before means that they would be written one by one, too."""
    config, params, tokenizer = real
    ids = prose(tokenizer, 300)
    text = greedy(config, params, ids, 1000)
    states = their_states(reference, ids + text)[299:-1]
    with torch.no_grad():
        expected = [reference.lm_head(part).argmax(dim=-1).tolist() for part in states.split(100)]
    assert text == sum(expected, [])
    assert 1 not in text and len(set(text)) > 20


@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        ("The Eiffel tower is", " the world’s tallest structure, and it’s a symbol of Paris."),
        ("The capital of France is", " the capital of the country of France."),
    ],
)
def test_greedy_texts_of_the_real_model(real, prompt, continuation):
    config, params, tokenizer = real
    ids = [tokenizer.special["<bos>"], *tokenizer.encode(prompt)]
    drawn = greedy(config, params, ids, len(tokenizer.encode(continuation)))
    assert "".join(tokenizer.decode(drawn)) == continuation

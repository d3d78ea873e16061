"""What activations.py shows of a run is what the models compute."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import activations
import gemma3
import gpt2

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
T = 11  # longer than the tiny Gemma's window of 8


@pytest.fixture(scope="module")
def gpt2_run(tiny_gpt2):
    """A GPT-2, ids, and the activations."""
    model, tokenizer = gpt2.load(tiny_gpt2)
    ids = tokenizer.encode("The wolf came to the door, and the goat saw it.")[:T]
    return model, ids, activations.gpt2_activations(model, ids)


@pytest.fixture(scope="module")
def gemma3_run(tiny_gemma3):
    """A Gemma 3, its params, ids, and the activations."""
    config, params, tokenizer = gemma3.load(tiny_gemma3)
    ids = [tokenizer.special["<bos>"], *tokenizer.encode("the hen and the thing")][:T]
    assert len(ids) == T
    return config, params, ids, activations.gemma3_activations(config, params, ids)


@pytest.fixture(params=["gpt2_run", "gemma3_run"])
def seen(request):
    return request.getfixturevalue(request.param)[-1]


def test_patterns_sum_to_one_and_never_look_ahead(seen):
    assert np.allclose(seen.patterns.sum(-1), 1, atol=1e-5)
    assert (np.triu(seen.patterns, 1) == 0).all() and (seen.patterns >= 0).all()


def test_patterns_average_the_values_to_what_is_collected(seen):
    H, K = seen.q.shape[1], seen.v.shape[1]
    averages = seen.patterns @ np.repeat(seen.v, H // K, axis=1)
    assert np.allclose(averages, seen.collected, **TOLERANCE)
    assert np.abs(averages).max() > 0.1


def test_the_stream_is_the_sum_of_what_is_added(seen):
    sums = seen.stream[0] + np.cumsum(seen.attention + seen.mlp, axis=0)
    assert np.allclose(sums, seen.stream[1:], **TOLERANCE)
    assert not np.allclose(seen.stream[0], seen.stream[-1], **TOLERANCE)


def test_gpt2_itself(gpt2_run):
    model, ids, seen = gpt2_run
    with torch.inference_mode():
        final = model(torch.tensor([ids]))[0]
        scores = model.lm_head(final).numpy()
    assert np.allclose(seen.final, final.numpy(), **TOLERANCE)
    assert np.allclose(activations.gpt2_lens(model, seen.stream[-1]), scores, **TOLERANCE)
    assert (activations.gpt2_patterns(model, ids) == seen.patterns).all()
    assert not any(module._forward_hooks for module in model.modules()), "it is watched still"


def test_gpt2_parts_belong_together(gpt2_run):
    model, _, seen = gpt2_run
    block = model.h[1]
    with torch.inference_mode():
        read = block.ln_1(torch.tensor(seen.stream[1]))
        assert np.allclose(read.numpy(), seen.read[1, 0], **TOLERANCE)
        hidden = block.mlp["c_fc"](torch.tensor(seen.read[1, 1]))
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh").numpy()
        added = block.mlp["c_proj"](torch.tensor(seen.units[1])).numpy()
    assert np.allclose(hidden, seen.units[1], **TOLERANCE)
    assert np.allclose(added, seen.mlp[1], **TOLERANCE)


def test_gemma3_itself(gemma3_run):
    config, params, ids, seen = gemma3_run
    before = gemma3.block, gemma3.linear, gemma3.rope
    read = gemma3.read(config, params, np.array([ids]), gemma3.empty_cache(config), 0)
    scores = activations.gemma3_lens(config, params, seen.stream[-1])
    assert np.allclose(scores[-1], read[0][0], rtol=1e-3, atol=1e-3)
    assert np.allclose(
        scores, seen.final @ np.asarray(params["embed_tokens"]).T, rtol=1e-3, atol=1e-3
    )
    assert (activations.gemma3_patterns(config, params, ids) == seen.patterns).all()
    assert before == (gemma3.block, gemma3.linear, gemma3.rope), "it is watched still"


def test_gemma3_parts_belong_together(gemma3_run):
    config, params, _, seen = gemma3_run
    steps, eps = seen.steps, config.rms_norm_eps
    for layer, p in enumerate(params["layers"]):
        q = gemma3.linear(jnp.array(seen.read[layer, 0]), p["self_attn.q_proj"])
        q = np.asarray(q).reshape(T, -1, config.head_dim).swapaxes(0, 1)
        assert np.allclose(q, steps["q_proj"][layer], **TOLERANCE)
        q = gemma3.rms_norm(q, p["self_attn.q_norm"], eps)
        assert np.allclose(q, steps["q_norm"][layer], **TOLERANCE)
        q = gemma3.rope(q, jnp.arange(T), config.layers[layer].theta)
        assert np.allclose(q, seen.q[layer], **TOLERANCE)
    assert np.allclose(steps["gate"] * steps["up"], seen.units, **TOLERANCE)
    lengths = [np.linalg.norm(steps[name], axis=-1) for name in ("q_norm", "k_norm")]
    turned = [np.linalg.norm(array, axis=-1) for array in (seen.q, seen.k)]
    assert all(map(np.allclose, lengths, turned)), "RoPE changes no length"


def test_gemma3_sees_windows(gemma3_run):
    config, _, _, seen = gemma3_run
    for layer, pattern in zip(config.layers, seen.patterns, strict=True):
        assert (np.tril(pattern[0], -layer.window) == 0).all()
    local, full = (pattern[0, -1, 0] for pattern in seen.patterns)
    assert local == 0 < full, "one layer has a window, the other has not"

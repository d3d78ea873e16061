"""src/gpt2_fast.py against src/gpt2.py and `transformers`: the same numbers, or nearly."""

from __future__ import annotations

import math

import pytest
import torch
from test_gpt2 import (
    FAIRY,
    SHAPES,
    TALE,
    VOCAB,
    assert_close,
    logits,
    random_ids,
    random_reference,
    saved,
    text_of,
    their_logits,
    their_text,
)
from torch.ao.nn.quantized.dynamic import Linear as Int8Linear

import gpt2
import gpt2_fast

torch.set_num_threads(1)
no_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN here"
)


@pytest.fixture(scope="module")
def tokenizer():
    return gpt2.Tokenizer(VOCAB)


# ---------------------------------------------------------------------------------------- packed


@no_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gpt2", "distilgpt2"])
def test_packed_logits_are_those_of_transformers(tmp_path, name, dtype):
    n_layer, n_head = SHAPES[name]
    theirs = random_reference(21, n_layer=n_layer, n_head=n_head, n_embd=8 * n_head)
    saved(theirs, tmp_path, dtype)
    theirs.to(dtype).float()
    ours, _ = gpt2_fast.load(tmp_path)
    for batch, length in ((1, 1), (1, 20), (3, 7)):
        ids = random_ids(theirs, length, batch)
        assert_close(logits(ours, ids), their_logits(theirs, ids))
    packed = [part for part in ours.modules() if isinstance(part, gpt2_fast.Packed)]
    assert len(packed) == 4 * n_layer + 1
    assert not [part for part in ours.modules() if isinstance(part, torch.nn.Linear)]


def test_packed_greedy_text_is_that_of_transformers(tmp_path):
    theirs = random_reference(22, n_layer=4, n_head=4, n_embd=32, n_positions=220)
    ours, _ = gpt2_fast.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, 5)
    assert text_of(ours, ids[0].tolist(), 200) == their_text(theirs, ids, 200)


def test_a_file_with_a_prefix_is_packed_as_one_without(tmp_path):
    from safetensors.torch import load_file, save_file

    theirs = random_reference(23)
    file = saved(theirs, tmp_path) / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    ids = random_ids(theirs, 10)
    for prefix in ("", "transformer."):
        save_file({prefix + name: tensor for name, tensor in bare.items()}, file)
        assert_close(logits(gpt2_fast.load(tmp_path)[0], ids), their_logits(theirs, ids))


def test_without_onednn_nothing_is_packed(tmp_path, monkeypatch):
    theirs = random_reference(24)
    saved(theirs, tmp_path)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    ours, _ = gpt2_fast.load(tmp_path)
    ids = random_ids(theirs, 10)
    assert_close(logits(ours, ids), their_logits(theirs, ids))
    assert ours.lm_head.weight.data_ptr() == ours.wte.weight.data_ptr()


# ------------------------------------------------------------------------------------------ int8


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2"])
def test_in_int8_a_random_models_logits_are_nearly_those_in_float32(tmp_path, name):
    n_layer, n_head = SHAPES[name]
    theirs = random_reference(11, n_layer=n_layer, n_head=n_head, n_embd=8 * n_head)
    ours, _ = gpt2_fast.load(saved(theirs, tmp_path), int8=True)
    ids = random_ids(theirs, 20, batch=2)
    assert_close(logits(ours, ids), their_logits(theirs, ids), tolerance=0.2)
    linear = [part for part in ours.modules() if isinstance(part, Int8Linear)]
    assert len(linear) == 4 * n_layer + 1
    assert {part.weight().dtype for part in linear} == {torch.qint8}


@pytest.mark.parametrize(
    "name", ["h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "lm_head"]
)
@torch.inference_mode()
def test_in_int8_a_row_of_huge_weights_leaves_the_others_precise(tmp_path, name):
    """Each row of a matrix, the weights of one output, has a scale of its own."""
    theirs = random_reference(12, n_layer=1, n_head=4, n_embd=32)
    if name == "lm_head":
        theirs.lm_head.weight[5] *= 1e4
    else:
        theirs.transformer.get_parameter(f"{name}.weight")[:, 5] *= 1e4
    saved(theirs, tmp_path)
    loaded = [gpt2.load(tmp_path)[0], gpt2_fast.load(tmp_path, int8=True)[0]]
    layers = [dict(model.named_modules())[name] for model in loaded]
    x = torch.randn(50, layers[0].in_features, generator=torch.Generator().manual_seed(0))
    others = torch.arange(layers[0].out_features) != 5
    exact, rounded = (layer(x)[:, others] for layer in layers)
    assert_close(rounded, exact, tolerance=0.03)


def test_in_int8_the_fairy_tale_model_says_nearly_what_it_says_in_float32(tokenizer):
    ids = torch.tensor([tokenizer.encode(TALE)])
    assert 200 < len(TALE.split()) < 260
    loaded = [gpt2.load(FAIRY)[0], gpt2_fast.load(FAIRY, int8=True)[0]]
    scores = [logits(network, ids)[0, :-1] for network in loaded]
    losses = [torch.nn.functional.cross_entropy(s, ids[0, 1:]).item() for s in scores]
    exact, rounded = scores
    assert not torch.equal(exact, rounded)
    assert (exact.argmax(dim=1) == rounded.argmax(dim=1)).float().mean() > 0.8
    assert abs(losses[1] - losses[0]) < math.log(1.1)

"""src/gpt2.py: its tokens against the originals, its numbers against `transformers`."""

from __future__ import annotations

import json
import random
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from streams import assert_held_back
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

import gpt2

ROOT = Path(__file__).resolve().parents[1]
FAIRY = ROOT / "book/models/fairy-gpt2"
CASES = json.loads((ROOT / "tests/fixtures/gpt2_tokens.json").read_bytes())["cases"]
TOLERANCE = 1e-4  # of the largest logit
SEEDS = range(6)

torch.set_num_threads(1)
logging.disable_progress_bar()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max()


def random_reference(seed: int, **config: int) -> GPT2LMHeadModel:
    """A GPT-2 of a random shape, its weights so large that an error anywhere shows."""
    rng = random.Random(seed)
    n_head = rng.choice([1, 2, 3, 5])
    shape = {
        "vocab_size": rng.randint(50, 400),
        "n_positions": rng.randint(24, 64),
        "n_layer": rng.randint(1, 4),
        "n_head": n_head,
        "n_embd": n_head * rng.choice([4, 8, 12]),
        "layer_norm_epsilon": rng.choice([1e-5, 1e-2]),
    }
    ends = {"bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(**shape | config | ends)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = ".ln_" in name and name.endswith("weight")
            parameter.normal_(float(is_scale), 0.2, generator=generator)
    return model


def saved(model: GPT2LMHeadModel, directory: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a model as its authors would, with GPT-2's vocabulary beside it."""
    model.to(dtype).save_pretrained(directory)
    model.float()
    for name in ("vocab.json", "merges.txt"):
        (directory / name).symlink_to(FAIRY / name)
    return directory


def random_ids(model: GPT2LMHeadModel, length: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(model.config.vocab_size, (batch, length), generator=generator)


@torch.no_grad()
def logits(model: gpt2.GPT2, ids: torch.Tensor) -> torch.Tensor:
    return model(ids) @ model.wte.weight.T


@torch.no_grad()
def their_logits(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random model, ours and theirs."""
    theirs = random_reference(seed=1, n_layer=3, n_positions=48, vocab_size=100)
    ours, _ = gpt2.load(saved(theirs, tmp_path_factory.mktemp("pair")))
    return ours, theirs


@pytest.fixture(scope="module")
def tokenizer():
    merges = (FAIRY / "merges.txt").read_text("utf-8").splitlines()[1:]
    return gpt2.Tokenizer(json.loads((FAIRY / "vocab.json").read_bytes()), merges)


# ------------------------------------------------------------------------------------- tokenizer


def test_texts_get_the_originals_ids(tokenizer):
    wrong = [ascii(case["text"]) for case in CASES if tokenizer.encode(case["text"]) != case["ids"]]
    assert len(CASES) > 3000 and wrong == []


def test_ids_decode_to_the_text(tokenizer):
    for case in CASES:
        assert "".join(tokenizer.decode(case["ids"])) == case["text"]


def test_the_loaded_tokenizer_is_that_of_the_files():
    _, loaded = gpt2.load(FAIRY)
    assert [loaded.encode(case["text"]) for case in CASES[:50]] == [c["ids"] for c in CASES[:50]]


@pytest.mark.parametrize(
    ("merges", "text", "tokens"),
    [
        (["b c", "a b"], "abc", ["a", "bc"]),
        (["a b", "b c"], "abc", ["ab", "c"]),
        (["a b", "b c", "ab c"], "abcabc", ["abc", "abc"]),
        (["b c", "a bc", "a b"], "abcab", ["abc", "ab"]),
        (["a a"], "aaa", ["aa", "a"]),
        (["a a", "aa aa"], "aaaaa", ["aaaa", "a"]),
        ([], "abc", ["a", "b", "c"]),
    ],
)
def test_the_pair_learned_first_is_joined_first_and_from_the_left(merges, text, tokens):
    pieces = ["<|endoftext|>", *"abc", *(merge.replace(" ", "") for merge in merges)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    ids = gpt2.Tokenizer(vocab, merges).encode(text)
    assert [pieces[i] for i in ids] == tokens


@pytest.mark.parametrize("text", ["𓀀", "👩🏽‍💻", "é中", "a𐌰b"])
def test_a_character_is_held_back_until_it_is_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    assert len(ids) > len(text.encode("utf-16-le")) // 4  # some character has several tokens
    assert_held_back(tokenizer, text)


def test_invalid_utf8_decodes_to_replacement_characters(tokenizer):
    ids = [tokenizer.vocab[tokenizer.symbol[byte]] for byte in b"a\xe4\xb8b\xffc\xf0\x9f"]
    assert "".join(tokenizer.decode(ids)) == b"a\xe4\xb8b\xffc\xf0\x9f".decode("utf-8", "replace")


# ----------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("seed", SEEDS)
def test_random_models_agree_at_every_position(tmp_path, seed):
    theirs = random_reference(seed)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, theirs.config.n_positions, batch=2)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_agree_in_float32(tmp_path, dtype):
    theirs = random_reference(seed=7)
    saved(theirs, tmp_path, dtype)
    assert load_file(tmp_path / "model.safetensors").popitem()[1].dtype == dtype
    ours, _ = gpt2.load(tmp_path)
    ids = random_ids(theirs, 20)
    assert logits(ours, ids).dtype == torch.float32
    assert_close(logits(ours, ids), their_logits(theirs, ids))


def test_the_names_and_buffers_of_the_original_file_are_understood(tmp_path):
    """The first GPT-2 on the Hub has no prefix and keeps its masks; others keep lm_head."""
    theirs = random_reference(seed=8)
    file = saved(theirs, tmp_path) / "model.safetensors"
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    assert "h.0.attn.c_attn.weight" in tensors
    mask = torch.ones(1, 1, theirs.config.n_positions, theirs.config.n_positions).tril()
    for layer in range(theirs.config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = mask.clone()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["lm_head.weight"] = tensors["wte.weight"].clone()
    save_file(tensors, file)
    ours, _ = gpt2.load(tmp_path)
    ids = random_ids(theirs, 20)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


def test_the_fairy_tale_model_agrees(tokenizer):
    theirs = GPT2LMHeadModel.from_pretrained(FAIRY, dtype=torch.float32).eval()
    ours, _ = gpt2.load(FAIRY)
    text = "Once upon a time there was a king who had three daughters, and he loved them all. " * 4
    ids = torch.tensor([tokenizer.encode(text)])
    assert_close(logits(ours, ids), their_logits(theirs, ids))


@pytest.mark.parametrize("config", [{"model_type": "llama"}, {"activation_function": "gelu"}])
def test_other_models_are_refused(pair, config):
    with pytest.raises(ValueError, match="not a GPT-2"):
        gpt2.GPT2(pair[1].config.to_dict() | config)


# ----------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("lengths", [[1] * 40, [40], [7, 1, 1, 31], [1, 2, 3, 4, 30]])
@torch.inference_mode()
def test_cached_states_are_the_uncached_ones_whatever_the_chunks(pair, lengths):
    ours, theirs = pair
    ids = random_ids(theirs, sum(lengths), batch=2)
    attn, room = ours.h[0].attn, sum(lengths) + 5
    cache = torch.full((len(ours.h), 2, 2, attn.n_head, room, attn.d), torch.nan)  # empty is random
    ends = list(accumulate(lengths, initial=0))
    states = [ours(ids[:, start:end], cache, start) for start, end in pairwise(ends)]
    assert_close(torch.cat(states, dim=1) @ ours.wte.weight.T, logits(ours, ids))
    assert_close(torch.cat(states, dim=1) @ ours.wte.weight.T, their_logits(theirs, ids))


@torch.inference_mode()
def test_cached_and_uncached_decoding_choose_the_same_tokens(pair):
    ours, theirs = pair
    ids = random_ids(theirs, 9)[0].tolist()
    uncached = list(ids)
    for _ in range(30):
        uncached.append(logits(ours, torch.tensor([uncached]))[0, -1].argmax().item())
    assert ids + list(gpt2.generate(ours, ids, 30, temperature=0)) == uncached


# -------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_text_is_that_of_transformers(tmp_path, seed):
    theirs = random_reference(seed)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, 6)
    n_tokens = theirs.config.n_positions - 6
    text = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_tokens, do_sample=False
    )
    assert list(gpt2.generate(ours, ids[0].tolist(), n_tokens)) == text[0, 6:].tolist()


def test_temperature_0_is_greedy_whatever_top_k_and_the_seed(pair):
    ids, n_vocab = [1, 2, 3], len(pair[0].wte.weight)
    greedy = list(gpt2.generate(pair[0], ids, 40, top_k=1))
    for seed in range(3):
        assert list(gpt2.generate(pair[0], ids, 40, 0, n_vocab, seed)) == greedy


def test_a_seed_fixes_the_text(pair):
    def text(seed):
        return tuple(gpt2.generate(pair[0], [1, 2, 3], 40, 3, 50, seed))

    assert text(0) == text(0)
    assert len({text(seed) for seed in range(5)}) == 5


def test_the_number_of_tokens_is_that_asked_for(pair):
    assert [len(list(gpt2.generate(pair[0], [1], n))) for n in (0, 1, 47)] == [0, 1, 47]


def test_top_k_never_leaves_the_k_likeliest(pair):
    ours, ids = pair[0], [1, 2, 3]
    drawn = [next(gpt2.generate(ours, ids, 1, 20, 3, seed)) for seed in range(200)]
    assert set(drawn) == set(logits(ours, torch.tensor([ids]))[0, -1].topk(3).indices.tolist())


def steady(model: gpt2.GPT2) -> torch.Tensor:
    """Make a model give the same scores after any text; these scores."""
    model.ln_f.weight.data.zero_()
    model.ln_f.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    return logits(model, torch.tensor([[0]]))[0, 0]


@pytest.mark.parametrize(("temperature", "top_k"), [(1, 100), (0.5, 100), (2.5, 100), (1.5, 7)])
def test_sampled_frequencies_are_the_softmax(tmp_path, temperature, top_k):
    """In one text, so that draws that depend on each other show as well."""
    n = 4000
    theirs = random_reference(3, n_head=1, n_embd=4, n_layer=1, n_positions=n + 1, vocab_size=100)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    scores = steady(ours)
    scores[scores < scores.topk(top_k).values[-1]] = -torch.inf
    expected = n * torch.softmax(scores / temperature, 0)
    drawn = torch.tensor(list(gpt2.generate(ours, [0], n, temperature, top_k, seed=1)))
    counts = drawn.bincount(minlength=100)
    assert counts[expected == 0].sum() == 0
    usual = expected >= 5
    freedom = usual.sum() - 1
    assert freedom >= 3
    squares = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
    assert squares < freedom + 5 * (2 * freedom) ** 0.5

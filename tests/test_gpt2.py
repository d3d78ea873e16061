"""src/gpt2.py against `tokenizers` and `transformers`: the same ids, the same numbers."""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from streams import assert_held_back
from strings import HAND_PICKED, random_strings
from tokenizers import decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

import gpt2

ROOT = Path(__file__).resolve().parents[1]
FAIRY = ROOT / "book/models/fairy-gpt2"
MERGES = (FAIRY / "merges.txt").read_text("utf-8").splitlines()[1:]
VOCAB = json.loads((FAIRY / "vocab.json").read_bytes())
SHA256 = {  # of the files that OpenAI published, there called encoder.json and vocab.bpe
    "vocab.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "merges.txt": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
TEXTS = [*HAND_PICKED, *random_strings(5000, seed=1)]
TALE = """\
Once upon a time there lived in a village near the forest a poor miller, who had three sons and
one little daughter. When he was about to die he called them to his bed and said, "My dear
children, I have nothing to leave you but the old mill, the grey horse and the cat; live together
in peace, and all will be well with you." But when the old man was dead, the two eldest took the
mill and the horse for themselves, and said to the youngest, "You may keep the cat, and go out
into the world to seek your fortune." So he took the cat under his arm and went on his way, until
in the evening he came to a great castle, where a light was burning in the window. He knocked at
the door, and an old woman opened it, who was a witch. "Good evening, mother," said the young man,
"give me something to eat and a place where I can sleep this night." "Come in, my son," said the
witch, "but first you must bring me the golden ring that the king's daughter has lost in the
well." Then he was very sad, for the well was deep, and he did not know how he should ever get
down to the bottom of it.
""".replace("\n", " ")

SHAPES = {  # of the published models, with heads of 4 features rather than 64: layers and heads
    "distilgpt2": (6, 12),
    "gpt2": (12, 12),
    "gpt2-medium": (24, 16),
    "gpt2-large": (36, 20),
    "gpt2-xl": (48, 25),
}
TOLERANCE = 1e-5  # of the largest logit
SEEDS = range(6)

torch.set_num_threads(1)
logging.disable_progress_bar()


def assert_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == torch.float32
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


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
    """Save a model as its authors would, with as much of GPT-2's vocabulary as it has rows."""
    model.to(dtype).save_pretrained(directory)
    model.float()
    last = model.config.vocab_size - 1
    vocab = {token: i for token, i in VOCAB.items() if i < last} | {gpt2.END_OF_TEXT: last}
    (directory / "vocab.json").write_text(json.dumps(vocab))
    return directory


def random_ids(model: GPT2LMHeadModel, length: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randint(model.config.vocab_size, (batch, length), generator=generator)


@torch.no_grad()
def logits(model: gpt2.GPT2, ids: torch.Tensor) -> torch.Tensor:
    return model.lm_head(model(ids))


@torch.no_grad()
def their_logits(model: GPT2LMHeadModel, ids: torch.Tensor) -> torch.Tensor:
    return model(ids).logits


def their_text(model: GPT2LMHeadModel, ids: torch.Tensor, n_tokens: int) -> list[int]:
    """What `transformers` makes of a prompt, always taking the likeliest."""
    mask = torch.ones_like(ids)
    text = model.generate(ids, attention_mask=mask, max_new_tokens=n_tokens, do_sample=False)
    return text[0, ids.shape[1] :].tolist()


def text_of(model: gpt2.GPT2, ids: list[int], tokens: int, *options: float) -> list[int]:
    """One sample."""
    return [token for (token,) in gpt2.generate(model, ids, tokens, *options)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random model, ours and theirs."""
    theirs = random_reference(seed=1, n_layer=3, n_positions=48, vocab_size=100)
    ours, _ = gpt2.load(saved(theirs, tmp_path_factory.mktemp("pair")))
    return ours, theirs


@pytest.fixture(scope="module")
def tokenizer():
    return gpt2.Tokenizer(VOCAB)


@pytest.fixture(scope="module")
def reference():
    """GPT-2's tokenizer as `transformers` builds its GPT2TokenizerFast."""
    tokenizer = tokenizers.Tokenizer(models.BPE.from_file(*(str(FAIRY / name) for name in SHA256)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


# ------------------------------------------------------------------------------------- tokenizer


@pytest.mark.parametrize("name", SHA256)
def test_the_vocabulary_is_the_published_one(name):
    assert hashlib.sha256((FAIRY / name).read_bytes()).hexdigest() == SHA256[name]


def test_texts_get_the_references_ids(tokenizer, reference):
    ids = {text: reference.encode(text).ids for text in TEXTS}
    wrong = [ascii(text) for text in ids if tokenizer.encode(text) != ids[text]]
    assert wrong == []
    assert len(ids) > 4000


def test_ids_decode_to_the_text(tokenizer, reference):
    for text in TEXTS:
        assert "".join(tokenizer.decode(reference.encode(text).ids)) == text, ascii(text)


def test_the_strings_are_of_every_kind():
    """Characters of every plane, every category but surrogates, every white space and control."""
    characters = set("".join(TEXTS))
    assert {ord(character) >> 16 for character in characters} == set(range(17))
    categories = {unicodedata.category(chr(code)) for code in range(0x110000)}
    assert {unicodedata.category(character) for character in characters} == categories - {"Cs"}
    assert {character for character in map(chr, range(0x3001)) if character.isspace()} < characters
    assert set(map(chr, range(0xA0))) < characters
    assert sum(all(text.partition(gpt2.END_OF_TEXT)) for text in TEXTS) > 30  # in the middle


def test_every_character_is_a_letter_a_number_a_space_or_none_as_in_the_reference(reference):
    """Of alphabets without case and of the private use areas, one in sixteen."""
    kinds = {code: unicodedata.category(chr(code)) for code in range(0x110000)}
    usual = {code for code, kind in kinds.items() if kind not in ("Cn", "Cs")}
    codes = [code for code in usual if code % 16 == 0 or kinds[code] not in ("Lo", "Co")]
    assert len(codes) > 20_000
    text = "".join(f"a{chr(code)}1{chr(code)}! " for code in codes)
    theirs = [text[i:j] for _, (i, j) in reference.pre_tokenizer.pre_tokenize_str(text)]
    assert gpt2.WORD.findall(text) == theirs


def test_the_loaded_tokenizer_is_that_of_the_file(tokenizer):
    _, loaded = gpt2.load(FAIRY)
    assert [loaded.encode(text) for text in TEXTS[:99]] == [tokenizer.encode(t) for t in TEXTS[:99]]


def test_a_tokens_id_is_256_and_the_rank_of_its_merge(tokenizer):
    assert len(MERGES) == 50_000 and len(VOCAB) == 256 + 50_000 + 1
    for rank, merge in enumerate(MERGES):
        left, right = merge.split(" ")
        token = tokenizer.token_bytes[VOCAB[left]] + tokenizer.token_bytes[VOCAB[right]]
        assert VOCAB[left + right] == tokenizer.id[token] == 256 + rank


def test_every_token_is_made_of_its_own_bytes_by_both(tokenizer, reference):
    """So to join two tokens whose bytes make a third is to apply the third one's merge."""
    ends = tokenizer.end_of_text
    assert ends == VOCAB[gpt2.END_OF_TEXT] == 50_256
    for piece, i in VOCAB.items():
        assert i == ends or [token.id for token in reference.model.tokenize(piece)] == [i]
    texts = {i: token.decode("utf-8", "ignore") for i, token in tokenizer.token_bytes.items()}
    whole = [i for i, text in texts.items() if text.encode() == tokenizer.token_bytes[i]]
    assert len(whole) > 49_000
    assert [i for i in whole if i != ends and tokenizer.merge(texts[i]) != [i]] == []


@pytest.mark.parametrize(
    "alphabet",
    [*"ah \n7=é😀", "etaoinshrdlucmfw", "0123456789", "中文字", "-*#", "👩🏽‍💻"],
    ids=ascii,
)
def test_a_word_however_long_gets_the_references_ids(tokenizer, reference, alphabet):
    if len(alphabet) > 1 and alphabet.isalnum():
        word = "".join(random.Random(0).choices(alphabet, k=20_001))
    else:
        word = alphabet * (20_001 // len(alphabet.encode()) + 1)
    assert len(word.encode()) > 20_000 and gpt2.WORD.findall(word) == [word]
    for text in (word, f"a {word}", f"{word}{word[0]}! b"):
        assert tokenizer.encode(text) == reference.encode(text).ids


@pytest.mark.parametrize(
    ("learned", "text", "tokens"),
    [
        ("bc ab", "abc", "a bc"),
        ("ab bc", "abc", "ab c"),
        ("ab bc abc", "abcabc", "abc abc"),
        ("bc abc ab", "abcab", "abc ab"),
        ("ca ab bc abca", "abcabc", "abca bc"),
        ("aa", "aaa", "aa a"),
        ("aa aaaa", "aaaaaa", "aaaa aa"),
        ("aa aaaa", "aaaaaaa", "aaaa aa a"),
        ("aa aaa", "aaaaa", "aa aaa"),
        ("", "abc", "a b c"),
    ],
)
def test_the_pair_learned_first_is_joined_first_and_from_the_left(learned, text, tokens):
    pieces = [*"abc", *learned.split(), "<|endoftext|>"]
    ids = gpt2.Tokenizer({piece: i for i, piece in enumerate(pieces)}).encode(text)
    assert [pieces[i] for i in ids] == tokens.split()


@pytest.mark.parametrize("text", ["𓀀", "👩🏽‍💻", "é中", "a𐌰b"])
def test_a_character_is_held_back_until_it_is_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    assert len(ids) > len(text.encode("utf-16-le")) // 4  # some character has several tokens
    assert_held_back(tokenizer, text)


def test_invalid_utf8_decodes_to_replacement_characters(tokenizer):
    ids = [tokenizer.id[bytes([byte])] for byte in b"a\xe4\xb8b\xffc\xf0\x9f"]
    assert "".join(tokenizer.decode(ids)) == b"a\xe4\xb8b\xffc\xf0\x9f".decode("utf-8", "replace")


# ----------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("seed", SEEDS)
def test_random_models_agree_at_every_position(tmp_path, seed):
    theirs = random_reference(seed)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, theirs.config.n_positions, batch=2)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_models_of_every_published_shape_agree_from_files_of_every_type(tmp_path, name, dtype):
    n_layer, n_head = SHAPES[name]
    shape = {"n_layer": n_layer, "n_head": n_head, "n_embd": 4 * n_head, "n_positions": 64}
    file = saved(random_reference(7, **shape), tmp_path, dtype) / "model.safetensors"
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    ours, _ = gpt2.load(tmp_path)
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = random_ids(theirs, 40)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("has_masks", [False, True])
@pytest.mark.parametrize("has_head", [False, True])
def test_the_names_and_buffers_of_older_files_are_understood(tmp_path, prefix, has_masks, has_head):
    """The first GPT-2 on the Hub has no prefix and keeps its masks; others keep lm_head."""
    theirs = random_reference(seed=8)
    file = saved(theirs, tmp_path) / "model.safetensors"
    bare = {name.removeprefix("transformer."): t for name, t in load_file(file).items()}
    assert "h.0.attn.c_attn.weight" in bare
    n_positions = theirs.config.n_positions
    if has_masks:
        mask = torch.ones(1, 1, n_positions, n_positions, dtype=torch.uint8).tril()
        for layer in range(theirs.config.n_layer):
            bare[f"h.{layer}.attn.bias"] = mask.clone()
            bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    tensors = {prefix + name: tensor for name, tensor in bare.items()}
    if has_head:
        tensors["lm_head.weight"] = bare["wte.weight"].clone()
    save_file(tensors, file)
    ours, _ = gpt2.load(tmp_path)
    ids = random_ids(theirs, n_positions)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


def test_the_fairy_tale_model_agrees(tokenizer):
    theirs = GPT2LMHeadModel.from_pretrained(FAIRY, dtype=torch.float32).eval()
    ours, _ = gpt2.load(FAIRY)
    ids = torch.tensor([tokenizer.encode(TALE)])
    assert_close(logits(ours, ids), their_logits(theirs, ids), tolerance=1e-4)


CONFIGS = {  # a value of each field that changes the numbers
    "activation_function": "relu",
    "add_cross_attention": True,
    "layer_norm_epsilon": 0.5,
    "model_type": "gpt_neo",
    "n_embd": 16,
    "n_head": 4,
    "n_inner": 20,
    "n_layer": 1,
    "n_positions": 30,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
    "tie_word_embeddings": False,
    "vocab_size": 70,
}
NEUTRAL = {  # of training, of other tasks, of how a text is drawn, and where only rounding differs
    "_name_or_path", "architectures", "attn_pdrop", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "embd_pdrop", "eos_token_id", "id2label", "initializer_range", "is_encoder_decoder",
    "label2id", "output_attentions", "output_hidden_states", "pad_token_id", "problem_type",
    "reorder_and_upcast_attn", "resid_pdrop", "return_dict", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "transformers_version", "use_cache",
}  # fmt: skip
BASE = {"vocab_size": 60, "n_positions": 24, "n_layer": 2, "n_head": 2, "n_embd": 8}


def test_all_fields_of_a_config_are_known_here():
    assert CONFIGS.keys() | NEUTRAL == GPT2Config().to_dict().keys()


@pytest.mark.parametrize("field", CONFIGS)
def test_what_a_config_says_is_obeyed_or_refused_by_name(tmp_path, field):
    """The reference has another model then; ours has the same, or says which field it is."""
    plain, changed = (random_reference(3, **BASE | more) for more in ({}, {field: CONFIGS[field]}))
    saved(changed, tmp_path)
    if field == "model_type":
        written = json.loads((tmp_path / "config.json").read_bytes()) | {field: CONFIGS[field]}
        (tmp_path / "config.json").write_text(json.dumps(written))
    ids = random_ids(plain, 20)
    try:
        ours, _ = gpt2.load(tmp_path)
    except ValueError as refusal:
        assert str(refusal).startswith(f"config.json: {field} is {CONFIGS[field]!r}, but has to be")
        return
    theirs = their_logits(changed, ids)
    assert theirs.shape != (before := their_logits(plain, ids)).shape or theirs.ne(before).any()
    assert_close(logits(ours, ids), theirs)


def test_a_config_may_leave_out_what_has_a_default(tmp_path):
    theirs = random_reference(4)
    saved(theirs, tmp_path)
    config = json.loads((tmp_path / "config.json").read_bytes())
    for field in config.keys() & (CONFIGS.keys() - BASE.keys() - {"layer_norm_epsilon"}):
        del config[field]
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours, _ = gpt2.load(tmp_path)
    ids = random_ids(theirs, 20)
    assert_close(logits(ours, ids), their_logits(theirs, ids))


def test_more_rows_than_tokens_are_rows_without_text(tmp_path):
    """nanoGPT rounds 50,257 up to 50,304."""
    theirs = random_reference(5, **BASE)
    saved(theirs, tmp_path)
    vocab = json.loads((tmp_path / "vocab.json").read_bytes())
    fewer = {token: i for token, i in vocab.items() if i < 40} | {gpt2.END_OF_TEXT: 40}
    (tmp_path / "vocab.json").write_text(json.dumps(fewer))
    ours, tokenizer = gpt2.load(tmp_path)
    ids = random_ids(theirs, 20)
    assert_close(logits(ours, ids), their_logits(theirs, ids))
    assert "".join(tokenizer.decode([0, 59, 41, 0])) == "!!"


def test_fewer_rows_than_tokens_are_refused(tmp_path):
    saved(random_reference(6, **BASE), tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(VOCAB))
    with pytest.raises(ValueError, match="vocab_size is 60, but has to be 50257"):
        gpt2.load(tmp_path)


def test_the_embedding_is_also_the_head(pair):
    assert pair[0].lm_head.weight.data_ptr() == pair[0].wte.weight.data_ptr()


# ----------------------------------------------------------------------------------------- cache


@pytest.mark.parametrize("prompt", [1, 2, 7, 39, 40])
@torch.inference_mode()
def test_cached_states_are_the_uncached_ones(pair, prompt):
    """A prompt of any length at once, then token by token."""
    ours, theirs = pair
    ids, n_head = random_ids(theirs, 40, batch=2), ours.h[0].n_head
    d = theirs.config.n_embd // n_head
    cache = torch.full((len(ours.h), 2, 2, n_head, 45, d), torch.nan)  # as empty memory may be
    states = [ours(ids[:, :prompt], cache)]
    states += [ours(ids[:, i : i + 1], cache, i) for i in range(prompt, 40)]
    cached = ours.lm_head(torch.cat(states, dim=1))
    assert_close(cached, logits(ours, ids))
    assert_close(cached, their_logits(theirs, ids))


@torch.inference_mode()
def test_cached_and_uncached_decoding_choose_the_same_tokens(pair):
    ours, theirs = pair
    ids = random_ids(theirs, 9)[0].tolist()
    uncached = list(ids)
    for _ in range(30):
        uncached.append(logits(ours, torch.tensor([uncached]))[0, -1].argmax().item())
    assert ids + text_of(ours, ids, 30) == uncached


# -------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_text_is_that_of_transformers(tmp_path, seed):
    theirs = random_reference(seed)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, 6)
    n_tokens = theirs.config.n_positions - 6
    assert text_of(ours, ids[0].tolist(), n_tokens) == their_text(theirs, ids, n_tokens)


def test_a_thousand_greedy_tokens_are_those_of_transformers(tmp_path):
    theirs = random_reference(9, n_layer=2, n_head=2, n_embd=16, n_positions=1024, vocab_size=300)
    theirs.transformer.wpe.weight.data.mul_(8)  # so that the text doesn't go in circles
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    ids = random_ids(theirs, 24)
    text = text_of(ours, ids[0].tolist(), 1000)
    assert len(set(text)) > 100
    assert text == their_text(theirs, ids, 1000)


def test_temperature_0_is_greedy_whatever_top_k_top_p_and_the_seed(pair):
    ids, n_vocab = [1, 2, 3], pair[1].config.vocab_size
    greedy = text_of(pair[0], ids, 40)
    for seed, top_p in enumerate((0.1, 0.9, 1)):
        assert text_of(pair[0], ids, 40, 0, n_vocab, top_p, seed) == greedy
        assert text_of(pair[0], ids, 40, 2.0, 1, top_p, seed) == greedy


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_each_step_is_a_list_of_one_id_a_sample(pair, samples):
    steps = list(gpt2.generate(pair[0], [1, 2], 9, 1, 50, samples=samples))
    assert len(steps) == 9
    for step in steps:
        assert type(step) is list and len(step) == samples and {*map(type, step)} == {int}


def test_greedy_samples_are_all_the_single_one(pair):
    single = text_of(pair[0], [1, 2, 3], 40)
    steps = list(gpt2.generate(pair[0], [1, 2, 3], 40, samples=5))
    assert steps == [[token] * 5 for token in single]


def test_samples_differ_and_a_seed_fixes_them(pair):
    def texts(seed):
        return [*zip(*gpt2.generate(pair[0], [1, 2, 3], 40, 3, 50, seed=seed, samples=6))]

    assert texts(0) == texts(0)
    assert len({text for seed in range(4) for text in texts(seed)}) == 4 * 6


@torch.inference_mode()
def test_each_sample_continues_its_own_text(pair):
    """A sample's tokens are those that its own past makes likely, not its neighbour's."""
    ours, theirs = pair
    texts = torch.tensor([*gpt2.generate(ours, [1, 2, 3], 40, 3, 3, samples=6)]).T  # (samples, T)
    ids = torch.cat([torch.tensor([[1, 2, 3]] * 6), texts], dim=1)
    likeliest = their_logits(theirs, ids)[:, 2:-1].topk(3).indices  # (samples, T, 3)
    assert (likeliest == texts[..., None]).any(dim=2).all()


def test_the_number_of_tokens_is_that_asked_for(pair):
    assert [len(list(gpt2.generate(pair[0], [1], n))) for n in (0, 1, 47)] == [0, 1, 47]


def steady(model: gpt2.GPT2) -> torch.Tensor:
    """Make a model give the same scores after any text; these scores."""
    model.ln_f.weight.data.zero_()
    model.ln_f.bias.data.normal_(0, 2, generator=torch.Generator().manual_seed(0))
    return logits(model, torch.tensor([[0]]))[0, 0]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "kept"),
    [
        (1, 100, 1, 100),
        (0.5, 100, 1, 100),
        (2.5, 100, 1, 100),
        (1.5, 7, 1, 7),
        (1, 100, 0.9, None),
        (0.5, 100, 0.5, None),
        (2, 100, 0.99, None),
        (1.5, 20, 0.7, None),
        (1, 100, 1e-6, 1),
        (1, 4, 5, 4),
    ],
)
def test_sampled_frequencies_are_those_of_transformers_warpers(
    tmp_path, temperature, top_k, top_p, kept
):
    """In few long texts, so that draws that depend on each other show as well."""
    n, samples = 400, 50
    theirs = random_reference(3, n_head=1, n_embd=4, n_layer=1, n_positions=n + 1, vocab_size=100)
    ours, _ = gpt2.load(saved(theirs, tmp_path))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    scores = warpers(torch.tensor([[0]]), steady(ours)[None])[0]
    expected = n * samples * torch.softmax(scores, 0)
    assert (expected > 0).sum() == kept if kept else 1 < (expected > 0).sum() < top_k
    drawn = [*gpt2.generate(ours, [0], n, temperature, top_k, top_p, 1, samples)]
    counts = torch.tensor(drawn).flatten().bincount(minlength=100)
    assert counts[expected == 0].sum() == 0
    usual = expected >= 5
    assert usual.sum() > 0.8 * (expected > 0).sum()
    assert (counts[expected >= 20] > 0).all()
    freedom = usual.sum() - 1
    squares = ((counts - expected)[usual] ** 2 / expected[usual]).sum()
    assert squares <= freedom + 5 * (2 * freedom) ** 0.5

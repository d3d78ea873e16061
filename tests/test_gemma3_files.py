"""src/gemma3_files.py: every model of the family loads, and what its config says is obeyed, as
`transformers` does, or refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references import (
    GLOBAL,
    LOCAL,
    TOLERANCE,
    differences,
    our_scores,
    random_ids,
    ropes,
    save_random,
    save_text_model,
    small_config,
    their_scores,
)
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

import gemma3
import gemma3_files

IDS = random_ids(40)
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
VISION |= {"num_attention_heads": 1, "image_size": 8, "patch_size": 4, "vision_use_head": False}


def assert_agrees(directory: Path, theirs: Any) -> None:
    """Our scores of the files are theirs at each position, in chunks beyond the window."""
    config, params, _ = gemma3.load(directory)
    ours = our_scores(config, params, IDS, 20)
    assert differences(ours, their_scores(theirs, IDS)).max() < TOLERANCE


def read(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "config.json").read_bytes())


def write(directory: Path, config: Any) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def reloaded(directory: Path) -> Any:
    """Their model of the files, in float32."""
    kind = Gemma3ForConditionalGeneration if "text_config" in read(directory) else Gemma3ForCausalLM
    return kind.from_pretrained(directory, dtype=torch.float32).eval()


def with_sight(config: dict[str, Any]) -> Gemma3ForConditionalGeneration:
    """A model that also sees, whose half for text has these arguments."""
    vision = SiglipVisionConfig(**VISION)
    text, sizes = Gemma3TextConfig(**config), {"mm_tokens_per_image": 4}
    whole = Gemma3Config(text_config=text, vision_config=vision, **sizes)
    return Gemma3ForConditionalGeneration(whole)


# ------------------------------------------------------------------ as transformers writes them

# By layers, heads, key heads and the scale of scores as in the five models, but small.
FAMILY = {
    "270M": {"num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1},
    "1B": {"num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1},
    "4B": {"num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4},
    "12B": {"num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8},
    "27B": {"num_hidden_layers": 62, "num_attention_heads": 32, "num_key_value_heads": 16},
}
SCALED = ropes(10_000.0, 1_000_000.0, rope_type="linear", factor=8.0)


def family_config(size: str) -> dict[str, Any]:
    """Layers five to one; here only the first seven to nine of them."""
    config = small_config(**FAMILY[size], hidden_size=32)
    config["num_hidden_layers"] = 7 + config["num_hidden_layers"] % 3
    del config["layer_types"]
    return config | ({} if size in ("270M", "1B") else {"rope_parameters": SCALED})


@pytest.mark.parametrize("size", ["270M", "1B"])
def test_models_for_text_load_as_transformers_writes_them(tmp_path, tiny_gemma3, size):
    theirs = save_text_model(tmp_path, tiny_gemma3, family_config(size))
    assert "rope_parameters" in read(tmp_path) and "rope_theta" not in read(tmp_path)
    assert read(tmp_path)["layer_types"].count(GLOBAL) == 1
    assert_agrees(tmp_path, theirs)


@pytest.mark.parametrize("size", ["4B", "12B", "27B"])
def test_models_that_see_load_as_transformers_writes_them(tmp_path, tiny_gemma3, size):
    """Text half nested, names behind a prefix, several files with an index."""
    theirs = with_sight(family_config(size))
    save_random(tmp_path, tiny_gemma3, theirs, max_shard_size="30KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    assert len(set(index["weight_map"].values())) > 2 and "text_config" in read(tmp_path)
    assert any("vision_tower" in name for name in index["weight_map"])
    assert_agrees(tmp_path, theirs)


def test_a_model_saved_without_its_head_loads(tmp_path, tiny_gemma3):
    """Its names have no prefix."""
    theirs = save_text_model(tmp_path, tiny_gemma3, small_config())
    theirs.model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert "embed_tokens.weight" in file.keys()
    assert_agrees(tmp_path, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(tmp_path, tiny_gemma3, dtype):
    theirs = Gemma3ForCausalLM(Gemma3TextConfig(**small_config()))
    save_random(tmp_path, tiny_gemma3, theirs.to(dtype))
    _, params, _ = gemma3.load(tmp_path)
    assert str(params["layers"][0]["mlp.up_proj"].dtype) == str(dtype).removeprefix("torch.")
    assert_agrees(tmp_path, reloaded(tmp_path))


# ----------------------------------------------------------------------------- as on the Hub

# Fields of the configs on the Hub in 2025, smaller where a size has to be.
HUB_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 6,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 20,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 7,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 8,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 100,
    "rope_scaling": None,
    "rope_theta": 1000,
    "sliding_window": 5,
    "sliding_window_pattern": 3,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 432,
}
HUB_4B = {  # what its text_config leaves out has to mean the same to us
    "architectures": ["Gemma3ForConditionalGeneration"],
    "boi_token_index": 255999,
    "eoi_token_index": 256000,
    "eos_token_id": [1, 106],
    "image_token_index": 262144,
    "initializer_range": 0.02,
    "mm_tokens_per_image": 4,
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 16,
        "intermediate_size": 20,
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 16,
    },
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "vision_config": VISION | {"model_type": "siglip_vision_model"},
}


def test_a_model_for_text_loads_as_on_the_hub(tmp_path, tiny_gemma3):
    save_random(tmp_path, tiny_gemma3, Gemma3ForCausalLM(Gemma3TextConfig(**HUB_1B)))
    (tmp_path / "generation_config.json").unlink()  # that is the Hub's again, see ids_that_end
    write(tmp_path, HUB_1B)
    config, _, _ = gemma3.load(tmp_path)
    assert config.stop == (1, 106)
    assert [layer.window for layer in config.layers] == [5, 5, 32768, 5, 5, 32768, 5]
    assert_agrees(tmp_path, reloaded(tmp_path))


def hub_names(directory: Path) -> None:
    """Give the tensors the names that they have on the Hub, in two files with an index."""
    tensors = {}
    for file in directory.glob("*.safetensors"):
        tensors |= load_file(file)
        file.unlink()
    for name in list(tensors):
        tail = name.removeprefix("model.").removeprefix("language_model.").removeprefix("model.")
        if "vision_tower" in name or "multi_modal_projector" in name:
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        else:
            tensors[f"language_model.model.{tail}"] = tensors.pop(name)
    parts, weight_map = [dict(list(tensors.items())[i::2]) for i in range(2)], {}
    for i, part in enumerate(parts, 1):
        file = f"model-{i:05}-of-00002.safetensors"
        save_file(part, directory / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_model_that_sees_loads_as_on_the_hub(tmp_path, tiny_gemma3, gemma):
    """All sizes but four are those that `transformers` takes for granted: the vocabulary's, too."""
    text = Gemma3TextConfig(**HUB_4B["text_config"])
    theirs = with_sight(text.to_dict())
    save_random(tmp_path, tiny_gemma3, theirs)
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.model").symlink_to(gemma / "tokenizer.model")
    (tmp_path / "generation_config.json").unlink()
    hub_names(tmp_path)
    write(tmp_path, HUB_4B)
    config, _, tokenizer = gemma3.load(tmp_path)
    assert config.stop == (1, 106) and config.layers[5] == (131_072, 1e6, 8.0)
    assert len(tokenizer.token_bytes) == 262_208
    assert_agrees(tmp_path, reloaded(tmp_path))


OLD_KEYS = {
    "rope_theta": {"rope_theta": 50.0},
    "rope_local_base_freq": {"rope_local_base_freq": 7.0},
    "rope_scaling": {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    "rope_scaling, theta too": {
        "rope_scaling": {"factor": 2.5, "rope_type": "linear", "rope_theta": 33.0}
    },
    "sliding_window_pattern": {"sliding_window_pattern": 2},
}


@pytest.mark.parametrize("key", OLD_KEYS)
def test_keys_that_only_the_hub_has_are_obeyed(tmp_path, tiny_gemma3, key):
    save_random(tmp_path, tiny_gemma3, Gemma3ForCausalLM(Gemma3TextConfig(**HUB_1B)))
    write(tmp_path, HUB_1B)
    before = their_scores(reloaded(tmp_path), IDS)
    write(tmp_path, HUB_1B | OLD_KEYS[key])
    theirs = reloaded(tmp_path)
    assert differences(their_scores(theirs, IDS), before).max() > 10 * TOLERANCE
    assert_agrees(tmp_path, theirs)


# ----------------------------------------------------------------- every field of the config

OBEYED = {
    "vocab_size": {"vocab_size": 450},
    "hidden_size": {"hidden_size": 32},
    "intermediate_size": {"intermediate_size": 28},
    "num_hidden_layers": {"num_hidden_layers": 3, "layer_types": [LOCAL, LOCAL, GLOBAL]},
    "num_attention_heads": {"num_attention_heads": 2},
    "num_key_value_heads": {"num_key_value_heads": 1},
    "head_dim": {"head_dim": 10},
    "rms_norm_eps": {"rms_norm_eps": 0.5},
    "rope_parameters": {"rope_parameters": ropes(3.0, 50.0, rope_type="linear", factor=8.0)},
    "query_pre_attn_scalar": {"query_pre_attn_scalar": 50},
    "sliding_window": {"sliding_window": 3},
    "layer_types": {"layer_types": [GLOBAL, LOCAL, LOCAL, LOCAL]},
}
REFUSED = {
    "hidden_activation": "relu",
    "tie_word_embeddings": False,
    "attention_bias": True,
    "final_logit_softcapping": 5.0,
    "attn_logit_softcapping": 5.0,
    "use_bidirectional_attention": True,
}
WITHOUT_EFFECT = {  # on the scores; the value is another one than the usual
    "transformers_version": "4.50.0",  # says who wrote the file
    "architectures": ["Gemma3Model"],  # which class of transformers
    "output_hidden_states": True,  # what its call gives back besides the scores
    "return_dict": True,  # as a tuple, or as an object
    "dtype": "bfloat16",  # in which to load weights there; ours are as stored
    "chunk_size_feed_forward": 3,  # saves memory in older models
    "is_encoder_decoder": True,
    "id2label": {"0": "A"},  # for classifiers
    "label2id": {"A": 0},
    "problem_type": "regression",
    "initializer_range": 0.5,  # for training from scratch
    "attention_dropout": 0.5,  # while training
    "use_cache": False,
    "max_position_embeddings": 100,  # how long a text may be: test_max_position_embeddings_…
    "pad_token_id": 5,  # what texts in a batch are filled up with
    "bos_token_id": 5,  # which id begins a text: ours is the tokenizer's <bos>
    "eos_token_id": [5, 6],  # which ids end a text: test_ids_that_end_a_text_…
}


def test_every_field_is_decided():
    """A field that a later `transformers` adds has to be looked at."""
    fields = {field.name for field in dataclasses.fields(Gemma3TextConfig)}
    assert fields == {*OBEYED, *REFUSED, *WITHOUT_EFFECT}
    assert len(fields) == len(OBEYED) + len(REFUSED) + len(WITHOUT_EFFECT)


@pytest.fixture(scope="module")
def usual(tmp_path_factory, tiny_gemma3):
    """A model with none of the changes: its directory, and theirs."""
    directory = tmp_path_factory.mktemp("usual")
    return directory, save_text_model(directory, tiny_gemma3, small_config())


def test_the_usual_model_agrees(usual):
    assert_agrees(*usual)


@pytest.mark.parametrize("field", OBEYED)
def test_a_field_is_obeyed(tmp_path, tiny_gemma3, usual, field):
    theirs = save_text_model(tmp_path, tiny_gemma3, small_config(**OBEYED[field]))
    if theirs.num_parameters() == usual[1].num_parameters():  # else it does change the result
        for old, new in zip(usual[1].parameters(), theirs.parameters(), strict=True):
            assert torch.equal(old, new)
        found, before = (their_scores(model, IDS) for model in (theirs, usual[1]))
        assert differences(found, before).max() > 10 * TOLERANCE
    assert_agrees(tmp_path, theirs)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("field", [*REFUSED, "quantization_config", "model_type"])
def test_a_field_is_refused_by_name(usual, tmp_path, field, nested):
    """As `transformers` would write it, in a model for text and in one that sees."""
    values = REFUSED | {"quantization_config": {"bits": 4}, "model_type": "gemma3n_text"}
    config = read(usual[0]) | {field: values[field]}
    if nested:
        config = {"model_type": "gemma3", "text_config": config}
    write(tmp_path, config)
    with pytest.raises(ValueError, match=rf"^config\.json: {field} is [^\n]+$"):
        gemma3_files.read_config(tmp_path)


@pytest.mark.parametrize("field", [*REFUSED, "quantization_config"])
def test_a_field_outside_of_text_config_is_refused_too(usual, tmp_path, field):
    value = (REFUSED | {"quantization_config": {"bits": 4}})[field]
    write(tmp_path, {"model_type": "gemma3", "text_config": read(usual[0]), field: value})
    with pytest.raises(ValueError, match=rf"^config\.json: {field} is [^\n]+$"):
        gemma3_files.read_config(tmp_path)


@pytest.mark.parametrize("model_type", ["gemma2", "gemma3n", "t5gemma2", None, 3, ["gemma3"]])
def test_another_model_is_refused(usual, tmp_path, model_type):
    """Also one around a text model of this kind, which may use it in another way."""
    for config in (
        read(usual[0]) | {"model_type": model_type},
        {"model_type": model_type, "text_config": read(usual[0])},
    ):
        write(tmp_path, config)
        with pytest.raises(ValueError, match=r"^config\.json: model_type is [^\n]+$"):
            gemma3_files.read_config(tmp_path)


def test_fields_without_effect_have_none(usual, tmp_path, tiny_gemma3):
    """Neither there nor here."""
    directory, theirs = usual
    write(tmp_path, read(directory) | WITHOUT_EFFECT)
    (tmp_path / "model.safetensors").symlink_to(directory / "model.safetensors")
    changed = Gemma3ForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for field, value in WITHOUT_EFFECT.items():
        if field not in ("transformers_version", "architectures", "dtype"):  # are written anew
            found = getattr(changed.config, field)
            assert found == value or str(found) == str(value) or field == "id2label"
    with torch.no_grad():
        scores = changed(torch.tensor([IDS]), return_dict=True).logits[0].numpy()
    np.testing.assert_array_equal(scores, their_scores(theirs, IDS))
    ours, shapes = gemma3_files.read_config(tmp_path)
    before, shapes_before = gemma3_files.read_config(directory)
    layers = tuple(layer._replace(window=min(layer.window, 100)) for layer in before.layers)
    assert ours == before._replace(layers=layers, context=100, stop=(5, 6))
    assert shapes == shapes_before


def test_max_position_embeddings_is_the_longest_text(usual, tmp_path):
    write(tmp_path, read(usual[0]) | {"max_position_embeddings": 77})
    config, _ = gemma3_files.read_config(tmp_path)
    assert config.context == 77 and {layer.window for layer in config.layers} == {5, 77}


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        (None, None, (1,)),
        (7, None, (7,)),
        ([1, 106], None, (1, 106)),
        (1, {"eos_token_id": [1, 106]}, (1, 106)),
        ([1, 106], {"eos_token_id": 1}, (1,)),
        ([1, 106], {"eos_token_id": None}, (1, 106)),
        ([1, 106], {"temperature": 1}, (1, 106)),
        (1, {"eos_token_id": 0}, (0,)),
    ],
)
def test_ids_that_end_a_text(usual, tmp_path, config, generation, expected):
    fields = {key: value for key, value in read(usual[0]).items() if key != "eos_token_id"}
    write(tmp_path, fields | ({} if config is None else {"eos_token_id": config}))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    found, _ = gemma3_files.read_config(tmp_path)
    assert found.stop == expected


# ---------------------------------------------------------------------------- what makes no sense

NUMBERS = [field for field in gemma3_files.DEFAULTS if "rope" not in field]
WHOLE = [field for field in NUMBERS if field not in ("rms_norm_eps", "query_pre_attn_scalar")]


def refusal(directory: Path, config: Any) -> str:
    """The message, of one line, with which a config is refused."""
    write(directory, config)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        gemma3_files.read_config(directory)
    return str(caught.value)


@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_that_make_no_sense_are_refused_by_name(usual, tmp_path, field):
    config = read(usual[0])
    wrong = ["8", None, True, [8], {}, 0, -1, float("nan"), float("inf")]
    for value in [*wrong, *([8.0, 8.5] if field in WHOLE else [])]:
        assert refusal(tmp_path, config | {field: value}).startswith(f"config.json: {field} is ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"layer_types": [LOCAL] * 3}, "layer_types"),
        ({"layer_types": [LOCAL] * 5}, "layer_types"),
        ({"layer_types": [LOCAL] * 3 + ["chunked_attention"]}, "layer_types"),
        ({"layer_types": [LOCAL] * 3 + [None]}, "layer_types"),
        ({"layer_types": [LOCAL] * 3 + [[LOCAL]]}, "layer_types"),
        ({"layer_types": LOCAL}, "layer_types"),
        ({"layer_types": 4}, "layer_types"),
        ({"layer_types": {}}, "layer_types"),
        ({"head_dim": 7}, "head_dim"),
        ({"num_key_value_heads": 3}, "num_attention_heads"),
        ({"num_key_value_heads": 8}, "num_attention_heads"),
        ({"rope_parameters": [1]}, "rope_parameters"),
        ({"rope_parameters": "linear"}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rope_parameters": {"chunked_attention": {}}}, "rope_parameters"),
        ({"rope_parameters": {LOCAL: 3}}, LOCAL),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"rope_scaling": [8.0]}, "rope_scaling"),
        ({"text_config": [1]}, "text_config"),
        ({"text_config": "gemma"}, "text_config"),
        ({"eos_token_id": "1"}, "eos_token_id"),
        ({"eos_token_id": [1, None]}, "eos_token_id"),
        ({"eos_token_id": 1.5}, "eos_token_id"),
        ({"hidden_activation": ["gelu_pytorch_tanh"]}, "hidden_activation"),
        ({"hidden_activation": "gelu"}, "hidden_activation"),
        ({"rope_theta": "1e6", "rope_parameters": None}, "rope_theta"),
        ({"rope_theta": 0, "rope_parameters": None}, "rope_theta"),
        ({"rope_local_base_freq": None, "rope_parameters": None}, "rope_local_base_freq"),
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_refused_by_name(usual, tmp_path, change, field):
    assert refusal(tmp_path, read(usual[0]) | change).startswith(f"config.json: {field} is ")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rope_type": "yarn", "factor": 8.0}, "rope_type"),
        ({"rope_type": "dynamic", "factor": 8.0}, "rope_type"),
        ({"rope_type": "llama3", "factor": 8.0}, "rope_type"),
        ({"rope_type": None}, "rope_type"),
        ({"rope_type": ["linear"]}, "rope_type"),
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0}, "factor"),
        ({"rope_type": "linear", "factor": "8"}, "factor"),
        ({"rope_type": "linear", "factor": -8.0}, "factor"),
        ({"rope_theta": "1e6"}, "rope_theta"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": None}, "rope_theta"),
        ({"rope_theta": True}, "rope_theta"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"attention_factor": 2.0}, "attention_factor"),
        ({"original_max_position_embeddings": 8192}, "original_max_position_embeddings"),
        ({"short_factor": [1.0]}, "short_factor"),
        ({"type": "linear", "factor": 8.0}, "type"),  # that transformers does not heed
        ({"rope_type": "linear", "type": "yarn", "factor": 8.0}, "type"),
    ],
    ids=str,
)
def test_what_rope_parameters_say_is_refused_by_name(usual, tmp_path, change, field):
    """In both forms of config."""
    config = read(usual[0])
    entries = {LOCAL: {"rope_theta": 100.0}, GLOBAL: {"rope_theta": 1e3} | change}
    message = refusal(tmp_path, config | {"rope_parameters": entries})
    assert message.startswith(f"config.json: {field} is ")
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    message = refusal(tmp_path, old | {"rope_scaling": change})
    assert message.startswith(f"config.json: {field} is ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", ["Expecting value"]),
        (b"{", ["line 1 column 2"]),
        (b"[]", []),
        (b"null", []),
        (b'"gemma3_text"', []),
        (b'{"model_type": "\xff"}', ["can't decode byte 0xff"]),
        (b'{"a": ' + 100_000 * b"[", []),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "model.safetensors.index.json"]
)
def test_a_file_that_is_no_object_is_named(usual, tmp_path, name, text, words):
    write(tmp_path, read(usual[0]))
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        gemma3_files.read_config(tmp_path)
        gemma3_files.weight_files(tmp_path)
    assert all(word in str(caught.value) for word in [str(tmp_path / name), *words])


# ------------------------------------------------------------------------------------- tensors


@pytest.fixture(scope="module")
def shapes(usual):
    return gemma3_files.read_config(usual[0])[1]


def test_the_shapes_are_those_of_the_files(usual, shapes):
    with safe_open(usual[0] / "model.safetensors", "np") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    assert {f"model.{name}.weight": shape for name, shape in shapes.items()} == found


@pytest.mark.parametrize("prefix", ["model.", "language_model.model.", "model.language_model."])
def test_every_missing_or_misshapen_tensor_is_named(shapes, prefix):
    for name, shape in shapes.items():
        full = f"{prefix}{name}.weight"
        assert gemma3_files.place(full, shape, shapes) == name
        wrong = [shape[:-1], (*shape, 1), shape[::-1]]
        wrong += [shape[:i] + (n + change,) + shape[i + 1 :]
                  for i, n in enumerate(shape) for change in (-1, 1)]
        for other in {*wrong} - {shape}:
            with pytest.raises(ValueError) as caught:
                gemma3_files.place(full, other, shapes)
            assert all(f"{part}" in str(caught.value) for part in (full, other, shape))
        with pytest.raises(ValueError, match=rf"^the weights lack model\.{name}\.weight$"):
            gemma3_files.nest({other: 0 for other in shapes if other != name}, shapes)


def test_params_are_nested_by_layer(shapes):
    params = gemma3_files.nest({name: name for name in shapes}, shapes)
    assert params.keys() == {"embed_tokens", "norm", "layers"} and len(params["layers"]) == 4
    for i, layer in enumerate(params["layers"]):
        assert len(layer) == 13
        assert all(name == f"layers.{i}.{part}" for part, name in layer.items())


@pytest.mark.parametrize(
    "name",
    [
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.multi_modal_projector.mm_input_projection_weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
        "lm_head.weight",  # the embedding again, see tie_word_embeddings
    ],
)
def test_tensors_of_the_other_half_are_left_aside(shapes, name):
    assert gemma3_files.place(name, (1, 2), shapes) is None


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.4.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.weight_scale",
        "language_model.model.layers.0.mlp.experts.0.up_proj.weight",
    ],
)
def test_tensors_that_the_config_does_not_have_are_named(shapes, name):
    with pytest.raises(ValueError, match=rf"^{name.replace('.', '[.]')} is among the weights"):
        gemma3_files.place(name, (1, 2), shapes)


def test_tensors_of_all_files_are_looked_at(tmp_path, tiny_gemma3):
    """A file that the index names has to be there, and what none of them has is named."""
    save_random(
        tmp_path, tiny_gemma3, with_sight(small_config()), max_shard_size="30KB"
    )
    index = json.loads((tmp_path / "model.safetensors.index.json").read_bytes())
    (file,) = {f for name, f in index["weight_map"].items() if "s.3.mlp.up_proj" in name}
    kept = {n: f for n, f in index["weight_map"].items() if f != file}
    (tmp_path / file).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=file):
        gemma3.load(tmp_path)
    index["weight_map"] = kept
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"^the weights lack model\.[a-z_.0-9]+\.weight$"):
        gemma3.load(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(usual, shapes):
    """Fewer rows than pieces: JAX would take the last row for those beyond; many more: text of ids
    that nobody can spell."""
    data = (usual[0] / "tokenizer.model").read_bytes()
    pieces = len(gemma3.Tokenizer(data).token_bytes)
    for rows in (pieces, pieces + 1, pieces + 64):
        tokenizer = gemma3.Tokenizer(data)
        gemma3_files.fit(tokenizer, rows)
        assert "".join(tokenizer.decode(range(pieces, rows))) == ""
    for rows in (1, pieces - 1, pieces + 65):
        with pytest.raises(ValueError, match=rf"^config\.json: vocab_size is {rows}; .*{pieces}"):
            gemma3_files.fit(gemma3.Tokenizer(data), rows)
    for mark in ("<bos>", "<start_of_turn>", "<end_of_turn>"):
        tokenizer = gemma3.Tokenizer(data)
        del tokenizer.special[mark]
        with pytest.raises(ValueError, match=rf"tokenizer\.model has no {mark}"):
            gemma3_files.fit(tokenizer, pieces)

# Tangled from book/gemma3/{bytes,files}.md; sha256 5d45a6af775f
"""The files of a Gemma 3: found, and what config.json says is obeyed or refused by name."""

import itertools
import json
import re
from collections import namedtuple
from pathlib import Path

from huggingface_hub import logging, snapshot_download


def strict_json(text):
    """An object in strict JSON, as a tuple of pairs since a key may come twice; or ValueError."""
    def number(digits):
        return int(digits) if digits.isdecimal() and len(digits) < 20 else float(digits)
    unescaped = text.replace(r"\\", "").replace(r'\"', "")
    brackets = re.sub(r'"[^"]*"?|[^][{}"]+', "", unescaped)  # those outside of strings
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    if brackets[:1] != "{" or max(depths) > 127:
        raise ValueError("the header is no object in JSON, or nested too deeply")
    pairs = json.loads(text, object_pairs_hook=tuple, parse_int=number)
    json.dumps(pairs, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no half characters
    return pairs


def header_entries(text):
    """(start, stop, name, dtype, shape) of each tensor in a safetensors header; or ValueError."""
    notes, entries = [], {}
    for name, entry in strict_json(text):
        pairs = entry if isinstance(entry, tuple) else ()
        fields = [pair for pair in pairs if pair[0] in ("dtype", "shape", "data_offsets")]
        match dict(fields):
            case _ if name == "__metadata__":
                texts_only = all(isinstance(text, str) for _, text in pairs)
                notes.append(isinstance(entry, tuple | None) and texts_only)
            case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]} if (
                len(fields) == 3 and {*map(type, (start, stop, *shape))} == {int}
                and len(shape) <= 64  # the most that NumPy has
            ):
                entries[name] = start, stop, name, dtype, shape
            case _:
                raise ValueError(f"{name!r} needs a dtype, a shape and two data_offsets")
    if notes not in ([], [True]):
        raise ValueError("__metadata__ is not an object of texts, or comes twice")
    return sorted(entries.values())


FILES = ["*config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer.model"]
Config = namedtuple("Config", "layers head_dim num_key_value_heads rms_norm_eps scale context stop")
Layer = namedtuple("Layer", "window theta factor")  # theta and factor are those of RoPE
DEFAULTS = {  # what a field means that is left out: Gemma3TextConfig in transformers
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256, "max_position_embeddings": 131_072, "sliding_window": 4096,
    "sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0, "rope_theta": 1_000_000.0,
}
FIXED = {  # fields with the one value that gemma3.py computes
    "model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False,
    "tie_word_embeddings": True, "use_bidirectional_attention": False, "quantization_config": None,
    "attn_logit_softcapping": None, "final_logit_softcapping": None,
}
LOCAL, GLOBAL = "sliding_attention", "full_attention"


def find(model):
    """The directory of a model: itself, or what is downloaded from the Hub, once."""
    if Path(model).is_dir():
        return Path(model)
    logging.set_verbosity_error()  # an error is one line on stderr, see gemma3_cli.py
    return Path(snapshot_download(model, allow_patterns=FILES))


def refuse(name, value, wanted):
    """Raise the ValueError for a field with a value that is not wanted."""
    raise ValueError(f"config.json: {name} is {value!r}, but only {wanted} works here")


def read_config(folder):
    """The Config of the model in a directory, and {part: shape} of its tensors; or ValueError."""
    c = json.loads(Path(folder, "config.json").read_bytes())
    c = DEFAULTS | c | c.get("text_config", {})  # models that see have one for text
    for name, value in FIXED.items():
        if c.get(name) not in (value, None):
            refuse(name, c[name], repr(value))
    for name in DEFAULTS:
        if not isinstance(c[name], int | float) or c[name] <= 0:
            refuse(name, c[name], "a positive number")
    scale, context = c["query_pre_attn_scalar"] ** -0.5, c["max_position_embeddings"]
    C, F, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    heads, K = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    shapes = {
        "embed_tokens": (c["vocab_size"], C), "norm": (C,), "input_layernorm": (C,),
        "self_attn.q_proj": (heads, C), "self_attn.k_proj": (K, C), "self_attn.v_proj": (K, C),
        "self_attn.q_norm": (d,), "self_attn.k_norm": (d,), "self_attn.o_proj": (C, heads),
        "post_attention_layernorm": (C,), "pre_feedforward_layernorm": (C,),
        "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F),
        "post_feedforward_layernorm": (C,),
    }
    stop = read_stop(folder, c)
    return Config(read_layers(c), d, K // d, c["rms_norm_eps"], scale, context, stop), shapes


def read_layers(c):
    """A Layer for each layer, from a config as on the Hub or as transformers 5 writes it."""
    n, pattern = c["num_hidden_layers"], c["sliding_window_pattern"]
    kinds = c.get("layer_types") or [GLOBAL if i % pattern == 0 else LOCAL for i in range(1, n + 1)]
    if len(kinds) != n or not {LOCAL, GLOBAL}.issuperset(kinds):
        refuse("layer_types", kinds, f"{LOCAL!r} or {GLOBAL!r} for each of {n} layers")
    thetas = {LOCAL: c["rope_local_base_freq"], GLOBAL: c["rope_theta"]}
    ropes = {kind: {"rope_theta": theta} for kind, theta in thetas.items()}
    for kind, fields in (c.get("rope_parameters") or {}).items():
        if kind not in ropes:
            refuse("rope_parameters", kind, f"an entry for {LOCAL!r} and one for {GLOBAL!r}")
        ropes[kind] |= fields or {}
    ropes[GLOBAL] |= c.get("rope_scaling") or {}
    windows = {LOCAL: c["sliding_window"], GLOBAL: c["max_position_embeddings"]}
    layers = {kind: Layer(windows[kind], **read_rope(**ropes[kind])) for kind in ropes}
    return tuple(layers[kind] for kind in kinds)


def read_rope(rope_theta, rope_type="default", type=None, factor=1, **others):
    """RoPE's theta, and the factor by which its angles are smaller."""
    if others:
        refuse("rope_parameters", others, "rope_theta, rope_type and factor")
    if (type or rope_type) not in ("default", "linear"):
        refuse("rope_type", type or rope_type, "'default' or 'linear'")
    return {"theta": rope_theta, "factor": factor if (type or rope_type) == "linear" else 1}


def read_stop(folder, c):
    """The ids that end a text: those of generation_config.json, or of config.json."""
    path = Path(folder, "generation_config.json")
    settings = json.loads(path.read_bytes()) if path.exists() else {}
    ids = settings.get("eos_token_id") or c.get("eos_token_id") or 1
    return tuple(ids) if isinstance(ids, list) else (ids,)


def weight_files(folder):
    """The safetensors files of a directory: those that its index names, or the only one."""
    index = Path(folder, "model.safetensors.index.json")
    names = json.loads(index.read_bytes())["weight_map"].values() if index.exists() else ()
    return [Path(folder, name) for name in sorted(set(names)) or ["model.safetensors"]]


def locate(name):
    """The layer (or None) and the part that a tensor's name means in any model of the family."""
    match = re.fullmatch(r"(?:language_model\.)?model\.(?:language_model\.)?(.+)\.weight", name)
    layer = match and re.fullmatch(r"layers\.(\d+)\.(.+)", match[1])
    return (int(layer[1]), layer[2]) if layer else (None, match and match[1])


def check(params, shapes):
    """Raise a ValueError that names the first tensor that is missing or has another shape."""
    for i, layer in enumerate([params, *params["layers"]], -1):
        for part, shape in shapes.items():
            if (part in ("embed_tokens", "norm")) == (i < 0):
                name = part if i < 0 else f"layers.{i}.{part}"
                if part not in layer:
                    raise ValueError(f"the weights lack model.{name}.weight")
                array = layer[part][0] if isinstance(layer[part], tuple) else layer[part]
                if array.shape != shape:
                    found = f"{array.shape}, but by config.json {shape}"
                    raise ValueError(f"model.{name}.weight has the shape {found}")

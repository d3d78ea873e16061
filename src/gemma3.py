# Tangled from book/gemma3/{jax,bytes,tokenizer,norms,attention,generate}.md; sha256 c018b791d0f5
"""Gemma 3 in JAX: load pre-trained weights and answer a prompt, on a CPU."""

import argparse
import codecs
import functools
import itertools
import json
import math
import os
import re
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from huggingface_hub import errors, hf_hub_download, logging

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
BOS, STOP = 2, {1, 106}  # <bos>; <eos> and <end_of_turn>
Config = namedtuple("Config", """hidden_size head_dim num_key_value_heads layer_types rms_norm_eps
    sliding_window rope_theta rope_local_base_freq query_pre_attn_scalar max_position_embeddings""")


def parse_json(text):
    """An object in strict JSON, as a tuple of pairs since a key may come twice; or ValueError."""
    brackets = re.sub(r'"[^"]*"?|[^][{}"]+', "", re.sub(r"\\.", "", text))  # not those in strings
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets)
    if brackets[:1] != "{" or max(depths) > 127:
        raise ValueError("the header is no object in JSON, or nested too deeply")
    def number(digits):
        return int(digits) if digits.isdecimal() and len(digits) < 20 else float(digits)
    pairs = json.loads(text, object_pairs_hook=tuple, parse_int=number)
    json.dumps(pairs, ensure_ascii=False, allow_nan=False).encode()  # no NaN, no half characters
    return pairs


def read_safetensors(path):
    """{name: array} of a safetensors file, each array at a multiple of 64 bytes; or ValueError."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        room = os.fstat(file.fileno()).st_size - 8 - size  # for the arrays
        if room < 0 or size > 100_000_000:
            raise ValueError("the file is cut short, or not a safetensors file")
        header, notes, places = parse_json(file.read(size).decode()), [], {}
        for name, entry in header:
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
                    places[name] = start, stop, name, dtype, shape
                case _:
                    raise ValueError(f"{name!r} needs dtype, integer shape and two data_offsets")
        if notes not in ([], [True]):
            raise ValueError("__metadata__ is not an object of texts, or comes twice")
        tensors, end = {}, 0
        for start, stop, name, dtype, shape in sorted(places.values()):
            if dtype not in DTYPES:
                raise ValueError(f"{name!r} has dtype {dtype!r}; known are {', '.join(DTYPES)}")
            last, end = end, end + math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
            if (start, stop) != (last, end) or stop > room:
                raise ValueError(f"{name!r} needs bytes {last}-{end}, has {start}-{stop} of {room}")
            memory = np.empty(stop - start + 64, np.uint8)
            memory = memory[-memory.ctypes.data % 64 :][: stop - start]
            file.readinto(memory)
            tensors[name] = memory.view(DTYPES[dtype]).reshape(shape)
    if end != room:
        raise ValueError(f"{room - end} bytes follow the last tensor")
    return tensors


def fields(message):
    """Yield the number and the value, an int or bytes, of each field of a protobuf message."""
    stream = iter(message)
    def varint(byte):
        return byte if byte < 128 else byte - 128 + 128 * varint(next(stream))
    for byte in stream:
        number, kind = divmod(varint(byte), 8)
        value = varint(next(stream)) if kind in (0, 2) else {1: 8, 5: 4}[kind]
        yield number, bytes(itertools.islice(stream, value)) if kind else value


class Tokenizer:
    """Byte-pair encoding of characters, from the bytes of a SentencePiece tokenizer.model."""
    def __init__(self, model):
        self.token_bytes, ids = [], {kind: {} for kind in range(1, 7)}
        for piece in (dict(fields(value)) for number, value in fields(model) if number == 1):
            text, kind = piece[1].decode().replace("▁", " "), piece.get(3, 1)
            ids[kind][text] = [len(self.token_bytes)]  # kind 1 is learned, 4 user-defined, 6 a byte
            self.token_bytes.append(bytes.fromhex(text[3:5]) if kind == 6 else text.encode())
        self.learned, self.ids, self.byte_ids = ids[1], ids[1] | ids[4], sorted(ids[6].values())
        longest_first = sorted(map(re.escape, ids[4]), key=len, reverse=True)
        self.symbols = re.compile("|".join([*longest_first, "."]), re.DOTALL).findall
        self.words = re.compile(" *(?:> </|[^ ])*").findall  # one learned piece is "> </"

    def encode(self, text):
        """Token ids of a text: neighbours joined word by word, the pair learned first first."""
        ids = []
        for word in self.words(text.replace("▁", " ")):
            parts = self.symbols(word)
            while joined := [p for p in map("".join, zip(parts, parts[1:])) if p in self.learned]:
                i = [*map("".join, zip(parts, parts[1:]))].index(min(joined, key=self.learned.get))
                parts[i : i + 2] = [parts[i] + parts[i + 1]]
            for part in parts:
                ids += self.ids.get(part) or [self.byte_ids[byte][0] for byte in part.encode()]
        return ids

    def decode(self, ids):
        """Yield the text of token ids, whole characters at a time; U+FFFD for invalid UTF-8."""
        return codecs.iterdecode((self.token_bytes[i] for i in ids), "utf-8", "replace")


def rms_norm(x, weight, eps):
    """x over its root mean square, times 1 + weight (Zhang and Sennrich, 2019)."""
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return x + x * weight.reshape(x.shape[-1])


def rope(x, positions, theta):
    """Turn features i and i + d/2 of x (T, heads, d), a pair, by its position (Su et al., 2021)."""
    half = x.shape[-1] // 2
    angles = positions[:, None, None] * theta ** (-jnp.arange(half) / half)  # (T, 1, d/2)
    a, b, cos, sin = x[..., :half], x[..., half:], jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate((a * cos - b * sin, b * cos + a * sin), axis=-1)


def attention(config, p, x, cache, start, kind):
    """Grouped-query attention of x (T, hidden_size) to a cache of S places, from place start on."""
    d, eps, is_global = config.head_dim, config.rms_norm_eps, kind == "full_attention"
    theta = config.rope_theta if is_global else config.rope_local_base_freq
    positions = start + jnp.arange(len(x))
    q, k, v = ((x @ p[f"self_attn.{n}_proj"].T).reshape(len(x), -1, d) for n in "qkv")
    q = rope(rms_norm(q, p["self_attn.q_norm"], eps), positions, theta)  # (T, heads, d)
    k = rope(rms_norm(k, p["self_attn.k_norm"], eps), positions, theta)  # (T, K, d)
    k, v = cache = jax.lax.dynamic_update_slice(cache, jnp.stack((k, v)), (0, start, 0, 0))
    distance = positions[:, None] - jnp.arange(len(k))  # (T, S)
    visible = (distance >= 0) & (is_global | (distance < config.sliding_window))
    q = q.reshape(len(x), k.shape[1], -1, d) * config.query_pre_attn_scalar**-0.5  # (T, K, G, d)
    scores = jnp.where(visible, jnp.einsum("TKGd,SKd->KGTS", q, k), -jnp.inf)
    y = jnp.einsum("KGTS,SKd->TKGd", jax.nn.softmax(scores), v).reshape(len(x), -1)
    return y @ p["self_attn.o_proj"].T, cache


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def step(config, params, ids, cache, start, last):
    """Scores (vocab_size,) of what follows ids[last], and the cache; ids (T,) begin at start."""
    norm = functools.partial(rms_norm, eps=config.rms_norm_eps)
    x = params["embed_tokens"][ids].astype(jnp.float32) * config.hidden_size**0.5
    for i, kind in enumerate(config.layer_types):  # x stays (T, hidden_size)
        p = {n.split(".", 2)[2]: w for n, w in params.items() if n.startswith(f"layers.{i}.")}
        y, cache[i] = attention(config, p, norm(x, p["input_layernorm"]), cache[i], start, kind)
        x = x + norm(y, p["post_attention_layernorm"])
        h = norm(x, p["pre_feedforward_layernorm"])
        h = jax.nn.gelu(h @ p["mlp.gate_proj"].T) * (h @ p["mlp.up_proj"].T)
        x = x + norm(h @ p["mlp.down_proj"].T, p["post_feedforward_layernorm"])
    return norm(x[last], params["norm"]) @ params["embed_tokens"].T, cache


def generate(config, params, ids, n_tokens, temperature=1, top_k=1, seed=0, chunk=64):
    """Yield n_tokens ids that continue ids, each drawn from the top_k likeliest."""
    key, ids, start = jax.random.key(seed), list(ids), 0
    limit = min(len(ids) + n_tokens, config.max_position_embeddings)
    room = max(512, 1 << (limit - 1).bit_length())  # few sizes, few compilations
    shape = (2, room, config.num_key_value_heads, config.head_dim)
    cache = [jnp.zeros(shape) for _ in config.layer_types]
    for end in range(len(ids), limit):
        for begin in range(start, end, chunk):
            part = ids[begin : begin + chunk]
            padded = jnp.array(part + [0] * (chunk - len(part)))
            logits, cache = step(config, params, padded, cache, begin, len(part) - 1)
        start, chunk = end, 1  # after the prompt, one token at a time
        scores, candidates = jax.lax.top_k(logits, top_k if temperature else 1)
        draw = jax.random.categorical(jax.random.fold_in(key, end), scores / (temperature or 1))
        ids.append(candidates[draw].item())
        yield ids[-1]


def load(model):
    """The Config, the params and the Tokenizer of a model: a directory, or a Hub repository."""
    if not Path(model).is_dir():
        logging.set_verbosity_error()  # an error is one line on stderr, see main
        names = ("config.json", "tokenizer.model", "model.safetensors")
        model = [Path(hf_hub_download(model, name)).parent for name in names][0]
    config = json.loads(Path(model, "config.json").read_bytes())
    if config["model_type"] != "gemma3_text" or config.get("rope_scaling"):
        raise ValueError(f"a {config['model_type']} model is not a text-only Gemma 3")
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * config["num_hidden_layers"]
    config["layer_types"] = tuple(config.get("layer_types", kinds)[: config["num_hidden_layers"]])
    config = Config(*map(config.__getitem__, Config._fields))
    tensors = read_safetensors(Path(model, "model.safetensors")).items()
    params = {n.removeprefix("model.").removesuffix(".weight"): jnp.asarray(t) for n, t in tensors}
    return config, params, Tokenizer(Path(model, "tokenizer.model").read_bytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = lambda text: parser.exit(2, f"gemma3.py: {' '.join(str(text).split())[:500]}\n")
    parser.add_argument("prompt", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default="google/gemma-3-270m-it", help="repository or directory")
    parser.add_argument("--tokens", type=int, default=100, help="how many to generate at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, default=64, help="sample from the k likeliest")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        config, params, tokenizer = load(args.model)
        chat = args.model.rstrip("/").endswith("-it")  # what Google calls instruction-tuned models
        template = "<start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n" if chat else "{}"
        ids = [BOS, *tokenizer.encode(template.format(args.prompt))]
        n_vocab, limit = len(params["embed_tokens"]), config.max_position_embeddings
        if n_vocab != len(tokenizer.token_bytes):
            parser.error(f"{args.model} is damaged: tokenizer and weights differ, get it again")
        if not args.prompt or len(ids) >= limit:
            parser.error(f"the prompt has {len(ids)} tokens with <bos>; it needs 2 to {limit - 1}")
        if not 1 <= args.top_k <= n_vocab or not args.temperature >= 0 or args.tokens < 0:
            parser.error(f"--top-k needs 1 to {n_vocab}, --temperature and --tokens 0 or more")
        drawn = generate(config, params, ids, args.tokens, args.temperature, args.top_k, args.seed)
        texts = tokenizer.decode(itertools.takewhile(lambda token: token not in STOP, drawn))
        for text in itertools.chain([("" if chat else args.prompt) + next(texts, "")], texts, "\n"):
            print(text, end="", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        parser.exit(130)
    except UnicodeEncodeError:
        parser.error("the prompt is not valid UTF-8: check the terminal's encoding")
    except (OSError, errors.HFValidationError) as error:
        parser.error(f"cannot read {args.model}: check its name, the network, HF_TOKEN ({error})")
    except Exception as error:
        parser.error(f"{args.model} is damaged or not a Gemma 3: download it again ({error!r})")


if __name__ == "__main__":
    main()

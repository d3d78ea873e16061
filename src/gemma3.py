# Tangled from book/gemma3/{jax,tokenizer,norms,attention,generate}.md; sha256 6e15b08c9d51
"""Gemma 3 in JAX: load pre-trained weights and answer a prompt, on a CPU."""

import argparse
import codecs
import functools
import heapq
import itertools
import json
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


def read_safetensors(path):
    """{name: array} of a safetensors file, as views of a memory map: nothing is read yet."""
    data = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(data[:8].tobytes(), "little")
    header, body = json.loads(data[8 : 8 + size].tobytes()), data[8 + size :]
    header.pop("__metadata__", None)
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if not end == start <= stop <= len(body) or entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} of type {entry['dtype']} cannot be at {start} to {stop}")
        tensors[name] = body[start:stop].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
        end = stop
    return tensors


def varint(message, i):
    """The number that begins at place i of a protobuf message, and the place behind it."""
    if message[i] < 128:
        return message[i], i + 1
    rest, end = varint(message, i + 1)  # seven bits a byte; the eighth says that more follow
    return message[i] - 128 + 128 * rest, end


def fields(message):
    """Yield the number and the value, an int or bytes, of each field of a protobuf message."""
    i = 0
    while i != len(message):
        key, i = varint(message, i)
        if key & 7 == 0:  # a number
            value, i = varint(message, i)
        else:  # bytes, as many as a number says, or 8, or 4
            size, i = varint(message, i) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], i)
            value, i = message[i : i + size], i + size
        yield key >> 3, value


MARKS = {"<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"}
LEARNED, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
WORD = re.compile("▁{2,31}|(?: |▁(?!▁))*(?:>[ ▁]</|[^ ▁])*")
PART = re.compile(r"</?\w+>|\[multimodal\]|\n{1,31}|\t{1,31}| {2,31}|.", re.DOTALL)


class Tokenizer:
    """Byte-pair encoding of characters, from the bytes of a SentencePiece tokenizer.model."""
    def __init__(self, model):
        self.token_bytes, self.id, self.special = [], {}, {}
        try:
            for piece in (dict(fields(value)) for number, value in fields(model) if number == 1):
                text, kind = str(piece[1], "utf-8").replace("▁", " "), piece.get(3, LEARNED)
                plain = kind in (LEARNED, USER_DEFINED) and text not in MARKS
                (self.id if plain else self.special)[text] = len(self.token_bytes)
                self.token_bytes.append(bytes.fromhex(text[3:5]) if kind == BYTE else text.encode())
            self.byte_id = [self.special[f"<0x{byte:02X}>"] for byte in range(256)]
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            raise ValueError("tokenizer.model is cut off or damaged") from error
        self.merge = functools.lru_cache(2**16)(self.merge)  # most words come again

    def merge(self, word):
        """Token ids of one word: neighbours that make a piece are joined, lowest id first."""
        parts = [p for part in PART.findall(word) for p in ([part] if part in self.id else part)]
        get, never = self.id.get, len(self.token_bytes)
        cuts = [0, *itertools.accumulate(map(len, parts))]  # where parts begin and end
        end, begin = dict(zip(cuts, cuts[1:])), dict(zip(cuts[1:], cuts))
        heap = sorted((get(word[i:k], never), i, j, k) for i, j, k in zip(cuts, cuts[1:], cuts[2:]))
        while heap and heap[0][0] < never:
            _, a, b, c = heapq.heappop(heap)
            if end.get(a) == b and end.get(b) == c:  # both parts still stand
                end[a], begin[c] = c, a
                del end[b]
                for i, j, k in ((begin.get(a, 0), a, c), (a, c, end.get(c, 0))):
                    heapq.heappush(heap, (get(word[i:k], never), i, j, k))
        ids = []
        for part in (word[i:j] for i, j in end.items()):
            ids += [self.id[part]] if part in self.id else [self.byte_id[b] for b in part.encode()]
        return ids

    def encode(self, text):
        """Token ids of a text, which cannot spell the special pieces."""
        return [i for word in WORD.findall(text) for i in self.merge(word.replace("▁", " "))]

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
        ids = [BOS, *tokenizer.encode(f"user\n{args.prompt}" if chat else args.prompt)]
        if chat:
            start, end = (tokenizer.special[f"<{name}_of_turn>"] for name in ("start", "end"))
            ids = [BOS, start, *ids[1:], end, *tokenizer.encode("\n"), start]
            ids += tokenizer.encode("model\n")
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

# Tangled from book/gpt2/{tokens,attention,model,weights,generate}.md; sha256 bb5fa4f265b8
"""GPT-2 in PyTorch: load pre-trained weights and continue a prompt, on a CPU."""

import argparse
import codecs
import functools
import heapq
import json
from itertools import chain, takewhile, tee
from pathlib import Path

import regex
import torch
from huggingface_hub import hf_hub_download, logging
from safetensors.torch import load_file
from torch import nn

END_OF_TEXT = "<|endoftext|>"
WORD = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class Tokenizer:
    """Byte-level byte-pair encoding (Radford et al., 2019, section 2.2)."""
    def __init__(self, vocab):
        printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
        others = iter(range(256, 512))
        byte = {chr(b if b in printable else next(others)): b for b in range(256)}
        self.token_bytes = {i: bytes(byte[s] for s in token) for token, i in vocab.items()}
        self.id = {token: i for i, token in self.token_bytes.items()}
        self.end_of_text = vocab[END_OF_TEXT]
        self.word_ids = functools.lru_cache(2**16)(self.merge)  # most words come again

    def merge(self, word):
        """Token ids of one word: neighbours that make a token are joined, lowest id first."""
        data, never = word.encode(), len(self.id)
        end = {i: i + 1 for i in range(len(data))}  # of the part that begins at i
        begin = {j: i for i, j in end.items()}  # of the part that ends at j
        heap = sorted((self.id.get(data[i : i + 2], never), i, i + 1, i + 2) for i in end)
        while heap and heap[0][0] < never:
            _, a, b, c = heapq.heappop(heap)
            if end.get(a) == b and end.get(b) == c:  # both parts still stand
                end[a], begin[c] = c, a
                del end[b]
                for i, j, k in ((begin.get(a, 0), a, c), (a, c, end.get(c, 0))):
                    heapq.heappush(heap, (self.id.get(data[i:k], never), i, j, k))
        return [self.id[data[i:j]] for i, j in end.items()]

    def encode(self, text):
        """Token ids of a text."""
        ids = []
        for part in text.split(END_OF_TEXT):
            ids += [i for w in WORD.findall(part) for i in self.word_ids(w)] + [self.end_of_text]
        return ids[:-1]  # the last part has no end of text behind it

    def decode(self, ids):
        """Yield the text of token ids, whole characters at a time; U+FFFD for invalid UTF-8."""
        return codecs.iterdecode((self.token_bytes.get(i, b"") for i in ids), "utf-8", "replace")


def attention(x, n_head, c_attn, c_proj, cache=None):
    """Causal multi-head self-attention (Vaswani et al., 2017, section 3.2) of x (B, T, C)."""
    B, T, C = x.shape
    q, k, v = c_attn(x).view(B, T, 3, n_head, C // n_head).permute(2, 0, 3, 1, 4)
    if cache is not None:  # (2, B, n_head, S, d); the last T of S positions are those of x
        cache[..., -T:, :] = torch.stack((k, v))
        k, v = cache
    y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=T > 1)  # T is S, or 1
    return c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention, then a two-layer MLP; each reads x (B, T, C) normalized and adds to it."""
    def __init__(self, config):
        super().__init__()
        C, self.n_head, eps = config["n_embd"], config["n_head"], config["layer_norm_epsilon"]
        self.ln_1, self.ln_2 = nn.LayerNorm(C, eps), nn.LayerNorm(C, eps)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(C, 3 * C), "c_proj": nn.Linear(C, C)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(C, 4 * C), "c_proj": nn.Linear(4 * C, C)})

    def forward(self, x, cache=None):
        x = x + attention(self.ln_1(x), self.n_head, **self.attn, cache=cache)
        h = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")  # (B, T, 4C)
        return x + self.mlp["c_proj"](h)


class GPT2(nn.Module):
    """The transformer of Radford et al. (2019); its parameters bear the checkpoint's names."""
    def __init__(self, config):
        super().__init__()
        V, C = config["vocab_size"], config["n_embd"]
        self.wte = nn.Embedding.from_pretrained(torch.empty(V, C), freeze=False)
        self.wpe = nn.Embedding.from_pretrained(torch.empty(config["n_positions"], C), freeze=False)
        self.h = nn.ModuleList(Block(config) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(C, config["layer_norm_epsilon"])
        self.lm_head = nn.Linear(C, V, bias=False)

    def forward(self, ids, cache=None, start=0):
        """Final states (B, T, C) of ids (B, T); their first position is start, 0 unless T is 1."""
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        for i, block in enumerate(self.h):
            x = block(x, None if cache is None else cache[i, ..., : start + ids.shape[1], :])
        return self.ln_f(x)


def load(model):
    """The GPT2 and the Tokenizer of a model: a directory, or a repository on the Hub."""
    logging.set_verbosity_error()  # an error is one line on stderr, see main
    find = Path if Path(model).is_dir() else hf_hub_download  # both take a model and a file's name
    config = json.loads(Path(find(model, "config.json")).read_bytes())
    vocab = json.loads(Path(find(model, "vocab.json")).read_bytes())
    fixed = {"model_type": "gpt2", "activation_function": "gelu_new", "scale_attn_weights": True,
             "scale_attn_by_inverse_layer_idx": False, "n_inner": None,
             "tie_word_embeddings": True, "vocab_size": max(config["vocab_size"], len(vocab))}
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ValueError(f"config.json: {name} is {config[name]!r}, but has to be {value!r}")
    with torch.device("meta"):  # shapes only; model.safetensors has the values
        network = GPT2(config)
    tensors = load_file(find(model, "model.safetensors")).items()
    tensors = {name.removeprefix("transformer."): t.float() for name, t in tensors}
    tensors["lm_head.weight"] = tensors["wte.weight"]
    state = {n: tensors[n].t() if ".c_" in n else tensors[n] for n in network.state_dict()}
    network.load_state_dict(state, assign=True)
    return network, Tokenizer(vocab)


@torch.inference_mode()
def generate(model, ids, tokens, temperature=0, top_k=1, top_p=1, seed=0, samples=1):
    """Yield up to tokens lists of the next ids, one for each of samples that begin with ids."""
    generator = torch.Generator().manual_seed(seed)
    n_head, d = model.h[0].n_head, model.wte.embedding_dim // model.h[0].n_head
    cache = torch.empty(len(model.h), 2, samples, n_head, len(ids) + tokens, d)
    x, start = torch.tensor([ids] * samples), 0
    for _ in range(tokens):
        scores, best = model.lm_head(model(x, cache, start)[:, -1]).topk(top_k)  # (samples, top_k)
        p = torch.softmax(scores / max(temperature, 1e-9), dim=1)
        p[p.cumsum(dim=1) - p >= top_p] = 0  # likelier ones have top_p already
        start += x.shape[1]
        x = best.gather(1, torch.multinomial(p, 1, generator=generator))  # (samples, 1)
        yield x[:, 0].tolist()


def main(parser, load):
    parser.add_argument("prompt", nargs="?", default="The Eiffel tower is", help="- reads stdin")
    parser.add_argument("--model", default="openai-community/gpt2", help="repository or directory")
    knobs = {"tokens": 100, "temperature": 0.8, "top-k": 40, "top-p": 1.0, "seed": 0, "samples": 1}
    for name, value in knobs.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    args = parser.parse_args()
    ok = min(args.top_p, args.top_k, args.samples) > 0 and min(args.temperature, args.tokens) >= 0
    if not ok:  # also if one is not a number, "nan"
        parser.error("--top-k, --top-p, --samples: above 0; --tokens, --temperature: 0 or more")
    try:
        prompt = args.prompt if args.prompt != "-" else open(0).read().removesuffix("\n")
        gpt2, tokenizer = load(args)
        ids = tokenizer.encode(prompt)
        V, room = gpt2.wte.num_embeddings, gpt2.wpe.num_embeddings - len(ids)
        if not ids or room < 1:
            parser.error(f"the prompt has {len(ids)} tokens; it needs 1 to {len(ids) + room - 1}")
        options = args.temperature, min(args.top_k, V), args.top_p, args.seed % 2**64, args.samples
        drawn = generate(gpt2, ids, min(args.tokens, room), *options)
        for n, rows in enumerate(tee(drawn, args.samples)):
            kept = takewhile(lambda i: i != tokenizer.end_of_text, (row[n] for row in rows))
            for piece in chain([prompt], tokenizer.decode(kept), "\n" * min(args.samples, 2)):
                print(piece, end="", flush=True)
        if args.tokens > room and next(drawn, None) is None:
            parser.exit(0, f"{parser.prog}: the context is full\n")
    except (KeyboardInterrupt, BrokenPipeError):
        parser.exit(130)
    except Exception as error:
        parser.error(f"{args.model}: {type(error).__name__}: {' '.join(str(error).split()[:60])}")


if __name__ == "__main__":
    main(argparse.ArgumentParser(None, argparse.SUPPRESS, __doc__), lambda args: load(args.model))

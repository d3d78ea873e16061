# Tangled from book/gpt2/{tokens,attention,model,generate}.md; sha256 d65245d7786e
"""GPT-2 in PyTorch: load pre-trained weights and continue a prompt, on a CPU."""

import argparse
import codecs
import functools
import json
from itertools import chain, takewhile
from pathlib import Path

import regex
import torch
from huggingface_hub import errors, hf_hub_download, logging
from safetensors.torch import load_file
from torch import nn

END_OF_TEXT = "<|endoftext|>"
WORD = regex.compile(r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


class Tokenizer:
    """Byte-level byte-pair encoding (Radford et al., 2019, section 2.2)."""
    def __init__(self, vocab, merges):
        printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
        others = iter(range(256, 512))
        self.symbol = {b: chr(b if b in printable else next(others)) for b in range(256)}
        byte = {symbol: b for b, symbol in self.symbol.items()}
        self.token_bytes = {i: bytes(byte[s] for s in token) for token, i in vocab.items()}
        self.vocab = vocab
        self.rank = {tuple(line.split(" ")): rank for rank, line in enumerate(merges)}
        self.merge = functools.lru_cache(2**16)(self.merge)  # most words come again

    def merge(self, word):
        """Token ids of one word: its bytes, neighbours joined, the pair learned first first."""
        parts = [self.symbol[b] for b in word.encode()]
        while pairs := [pair for pair in zip(parts, parts[1:]) if pair in self.rank]:
            i = list(zip(parts, parts[1:])).index(min(pairs, key=self.rank.get))
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.vocab[part] for part in parts]

    def encode(self, text):
        """Token ids of a text."""
        ids = []
        for i, part in enumerate(text.split(END_OF_TEXT)):
            ids += [self.vocab[END_OF_TEXT]] * (i > 0)
            ids += [token for word in WORD.findall(part) for token in self.merge(word)]
        return ids

    def decode(self, ids):
        """Yield the text of token ids, whole characters at a time; U+FFFD for invalid UTF-8."""
        return codecs.iterdecode((self.token_bytes[i] for i in ids), "utf-8", "replace")


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al., 2017, section 3.2)."""
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head, self.d = n_head, n_embd // n_head
        self.c_attn = nn.Linear(n_embd, 3 * n_embd)
        self.c_proj = nn.Linear(n_embd, n_embd)

    def forward(self, x, cache=None, start=0):
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, self.d).permute(2, 0, 3, 1, 4)
        if cache is not None:  # (2, B, n_head, room, d)
            cache[..., start : start + T, :] = torch.stack((k, v))
            k, v = cache[..., : start + T, :]  # each (B, n_head, S, d), where S = start + T
        visible = torch.ones(T, k.shape[2], dtype=torch.bool).tril(start)  # no key after its query
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """Attention, then a two-layer MLP; each reads x normalized and adds to x."""
    def __init__(self, n_embd, n_head, eps):
        super().__init__()
        self.ln_1 = nn.LayerNorm(n_embd, eps)
        self.attn = Attention(n_embd, n_head)
        self.ln_2 = nn.LayerNorm(n_embd, eps)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(n_embd, 4 * n_embd)})
        self.mlp["c_proj"] = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x, cache=None, start=0):
        x = x + self.attn(self.ln_1(x), cache, start)
        h = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")  # (B, T, 4C)
        return x + self.mlp["c_proj"](h)


class GPT2(nn.Module):
    """The transformer of Radford et al. (2019); its parameters bear the checkpoint's names."""
    def __init__(self, config):
        super().__init__()
        if (config["model_type"], config["activation_function"]) != ("gpt2", "gelu_new"):
            raise ValueError(f"a {config['model_type']} model is not a GPT-2")
        n_embd, n_head, eps = (config[key] for key in ("n_embd", "n_head", "layer_norm_epsilon"))
        self.wte = nn.Embedding(config["vocab_size"], n_embd)
        self.wpe = nn.Embedding(config["n_positions"], n_embd)
        self.h = nn.ModuleList(Block(n_embd, n_head, eps) for _ in range(config["n_layer"]))
        self.ln_f = nn.LayerNorm(n_embd, eps)

    def forward(self, ids, cache=None, start=0):
        """Final states (B, T, n_embd) of ids (B, T), the first of which is at position start."""
        x = self.wte(ids) + self.wpe.weight[start : start + ids.shape[1]]
        for i, block in enumerate(self.h):
            x = block(x, None if cache is None else cache[i], start)
        return self.ln_f(x)


@torch.inference_mode()
def generate(model, ids, n_tokens, temperature=1, top_k=1, seed=0):
    """Yield n_tokens ids that continue ids, each drawn from the top_k likeliest."""
    generator = torch.Generator().manual_seed(seed)
    attn = model.h[0].attn
    cache = torch.empty(len(model.h), 2, 1, attn.n_head, len(ids) + n_tokens, attn.d)
    x, start = torch.tensor([ids]), 0
    for _ in range(n_tokens):
        state = model(x, cache, start)[0, -1]  # (n_embd,)
        scores, candidates = (state @ model.wte.weight.T).topk(top_k if temperature else 1)
        weights = torch.softmax(scores / (temperature or 1), dim=0)
        start += x.shape[1]
        x = candidates[torch.multinomial(weights, 1, generator=generator)][None]  # (1, 1)
        yield x.item()


def load(model):
    """The GPT2 and the Tokenizer of a model: a directory, or a repository on the Hub."""
    if not Path(model).is_dir():
        logging.set_verbosity_error()  # an error is one line on stderr, see main
        names = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
        model = [Path(hf_hub_download(model, name)).parent for name in names][0]
    with torch.device("meta"):  # shapes only; model.safetensors has the values
        network = GPT2(json.loads(Path(model, "config.json").read_bytes()))
    tensors = load_file(Path(model, "model.safetensors")).items()
    tensors = {name.removeprefix("transformer."): t.float() for name, t in tensors}
    state = {n: tensors[n].t() if ".c_" in n else tensors[n] for n in network.state_dict()}
    network.load_state_dict(state, assign=True)
    merges = Path(model, "merges.txt").read_text("utf-8").splitlines()[1:]
    return network, Tokenizer(json.loads(Path(model, "vocab.json").read_bytes()), merges)


def main():
    """The command line; an error is one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.error = lambda text: parser.exit(2, f"gpt2.py: {' '.join(str(text).split())[:500]}\n")
    parser.add_argument("prompt", nargs="?", default="The Eiffel tower is")
    parser.add_argument("--model", default="openai-community/gpt2", help="repository or directory")
    parser.add_argument("--tokens", type=int, default=100, help="how many to generate at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    parser.add_argument("--top-k", type=int, default=40, help="sample from the k likeliest")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        gpt2, tokenizer = load(args.model)
        ids = tokenizer.encode(args.prompt)
        n_vocab, room = len(gpt2.wte.weight), len(gpt2.wpe.weight) - len(ids)
        if not ids or room < 1:
            parser.error(f"the prompt has {len(ids)} tokens; it needs 1 to {room + len(ids) - 1}")
        if not 1 <= args.top_k <= n_vocab or not args.temperature >= 0 or args.tokens < 0:
            parser.error(f"--top-k needs 1 to {n_vocab}, --temperature and --tokens 0 or more")
        drawn = generate(gpt2, ids, min(args.tokens, room), args.temperature, args.top_k, args.seed)
        texts = tokenizer.decode(takewhile(lambda i: i != tokenizer.vocab[END_OF_TEXT], drawn))
        for text in chain([args.prompt + next(texts, "")], texts, "\n"):
            print(text, end="", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        parser.exit(130)
    except UnicodeEncodeError:
        parser.error("the prompt is not valid UTF-8: check the terminal's encoding")
    except (OSError, errors.HFValidationError) as error:
        parser.error(f"cannot read {args.model}: check its name and the network ({error})")
    except Exception as error:
        parser.error(f"{args.model} is damaged or not a GPT-2: download it again ({error!r})")


if __name__ == "__main__":
    main()

# Tangled from book/gpt2/training.md; sha256 19f09a4681d3
"""Train a small GPT-2 on a folder of texts; gpt2.py runs what it writes."""

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from gpt2 import END_OF_TEXT, GPT2, Tokenizer


def stories(book):
    """The stories of a book, a paragraph a line: what stands between headings, if long enough."""
    end = book.rfind("\nNOTES AND REFERENCES")
    book = book[:end] if end > len(book) / 2 else book
    found = [[]]
    for line in book.splitlines():
        if not re.fullmatch(r"[^a-z]{3,80}|.{3,60}(?<![.,;:!?'\")\]-])", line.strip()):
            found[-1].append(line)
        elif not re.fullmatch(r"[IVX]+\.?", line.strip()):  # a bare numeral heads a story's part
            found.append([])
    texts = ("\n".join(line for line in lines if line[:1] != "[") for lines in found)
    notes = r"[Ff]olk-|Editor|PREFACE|[Tt]ranslat"  # in what the editors say, not in the stories
    return [text for text in texts if len(text) > 2000 and not re.search(notes, text)]


def loss(model, ids):
    """Mean cross-entropy, in nats a token, when each of ids (B, T + 1) is to predict the next."""
    logits = model(ids[:, :-1]) @ model.wte.weight.T  # (B, T, vocab_size)
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def initialize(model):
    """GPT-2's first weights: normal(0, 0.02), smaller where they add to the residual stream."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            depth = 2 * len(model.h) if name.endswith("c_proj.weight") else 1
            nn.init.normal_(parameter, std=0.02 / math.sqrt(depth))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def train(model, ids, n_steps, batch=8, peak=2e-3):
    """Take n_steps of AdamW on random pieces of a text of ids (N,); yield the loss of each."""
    decay = {"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1}
    keep = {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decay, keep], betas=(0.9, 0.95), fused=True)
    context = len(model.wpe.weight)
    for step in range(n_steps):
        done = max(0, step - 200) / max(1, n_steps - 200)  # after a warm-up, half a cosine
        for group in optimizer.param_groups:
            group["lr"] = peak * min((step + 1) / 200, 0.55 + 0.45 * math.cos(math.pi * done))
        starts = torch.randint(len(ids) - context, (batch,)).tolist()
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(model, torch.stack([ids[s : s + context + 1] for s in starts]))
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield value.item()


@torch.inference_mode()
def held_out_loss(model, ids):
    """Mean loss over a text of ids (N,), read in pieces as long as the context."""
    pieces = ids.split(len(model.wpe.weight))
    nats = sum(loss(model, piece[None]).item() * (len(piece) - 1) for piece in pieces)
    return nats / (len(ids) - len(pieces))  # a piece's first token has nothing before it


def save(model, used, n_vocab, path):
    """Write the weights in GPT-2's layout: float16, linear ones (n_in, n_out), a row a token."""
    never = -20 / model.ln_f.weight / (model.ln_f.bias / model.ln_f.weight).sum()
    rows = never.detach().repeat(n_vocab, 1)  # their score is -20, whatever the final state is
    rows[used] = model.wte.weight.detach()
    state = {**model.state_dict(), "wte.weight": rows}
    state = {n: (t.t() if ".c_" in n else t).half().contiguous() for n, t in state.items()}
    save_file(state, path, metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="a folder of .txt files")
    parser.add_argument("model", type=Path, help="a folder with config, vocab.json and merges.txt")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    config = json.loads((args.model / "config.json").read_bytes())
    vocab = json.loads((args.model / "vocab.json").read_bytes())
    tokenizer = Tokenizer(vocab, (args.model / "merges.txt").read_text("utf-8").splitlines()[1:])
    books = [path.read_text("utf-8") for path in sorted(args.corpus.glob("*.txt"))]
    texts = [story + END_OF_TEXT for book in books for story in stories(book)]
    seen, held_out = "".join(t for i, t in enumerate(texts, 1) if i % 20), "".join(texts[19::20])
    ids = [tokenizer.encode(seen), tokenizer.encode(held_out)]
    used, compact = torch.tensor(ids[0] + ids[1]).unique(return_inverse=True)
    seen_ids, held_out_ids = compact.split([len(ids[0]), len(ids[1])])
    model = GPT2({**config, "vocab_size": len(used)})
    initialize(model)
    sha256 = hashlib.sha256("".join(books).encode()).hexdigest()
    record = {"seed": args.seed, "sha256": sha256, "loss": [], "held_out_bits_per_byte": {}}
    for value in tqdm(train(model, seen_ids, args.steps), total=args.steps):
        record["loss"].append(round(value, 4))
        if (step := len(record["loss"])) % 250 == 0 or step == args.steps:
            nats = held_out_loss(model, held_out_ids) * len(ids[1]) / len(held_out.encode())
            record["held_out_bits_per_byte"][step] = nats / math.log(2)
            save(model, used, config["vocab_size"], args.model / "model.safetensors")
            (args.model / "training.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()

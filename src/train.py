# Tangled from book/gpt2/training.md; sha256 4c14e0e84615
"""Train a small GPT-2 on a folder of texts; gpt2.py runs what it writes."""

import argparse
import hashlib
import json
import math
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from tqdm import trange

from gpt2 import END_OF_TEXT, GPT2, Tokenizer


def stories(book, notes=r"[Ff]olk-|Editor|PREFACE|[Tt]ranslat"):
    """The stories of a book, a paragraph a line: what stands between headings, if long enough."""
    book = re.sub(r"(?m)^(?:[IVX]+\.?|\[.*)\n", "", book)  # the numbers of parts, remarks
    texts = re.split(r"(?m)^(?:[^a-z\n]{3,80}|.{3,60}(?<![.,;:!?'\")\]-]))\n", book)
    return [text for text in texts if len(text) > 2000 and not re.search(notes, text)]


def surprise(model, x, answers):
    """Nats (B, T): how unlikely the model finds each of the answers, after the ids x (B, T)."""
    logits = model.lm_head(model(x)).float()  # (B, T, V)
    return logits.logsumexp(dim=2) - logits.gather(2, answers[..., None]).squeeze(2)


def initialize(model, counts):
    """GPT-2's first weights; the rows of wte stand for counts (V,) of tokens."""
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.data.normal_(std=0.02 / math.sqrt(2 * len(model.h) if "c_proj" in name else 1))
        elif name.endswith("bias"):
            p.data.zero_()
    model.lm_head.bias = torch.nn.Parameter(counts.log(), requires_grad=False)


def train_step(model, optimizer, ids, done, batch=8, peak=2e-3, hide=0.1):
    """Improve the weights once on random pieces of a text of ids (N,); return the loss there."""
    V, T = len(model.wte.weight), len(model.wpe.weight)
    pieces = ids[torch.randint(len(ids) - T, (batch, 1)) + torch.arange(T + 1)]  # (B, T + 1)
    x = pieces[:, :-1].masked_fill(torch.rand(batch, T) < hide * (done < 0.75), V - 1)  # (B, T)
    loss = torch.autocast("cpu", torch.bfloat16)(surprise)(model, x, pieces[:, 1:]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.param_groups[0]["lr"] = peak * min(25 * done, 0.55 + 0.45 * math.cos(math.pi * done))
    optimizer.step()  # at a rate that goes up in a line, then half a cosine down to a tenth
    optimizer.zero_grad()
    return loss.item()


@torch.inference_mode()
def bits_per_byte(model, ids, text):
    """Mean surprise over a text and its ids (N,), read in pieces as long as the context."""
    pieces = ids.split(len(model.wpe.weight))  # the first token of each has nothing before it
    nats = sum(surprise(model, p[None, :-1], p[None, 1:]).sum().item() for p in pieces)
    return nats / (1 - len(pieces) / len(ids)) / math.log(2) / len(text.encode())


def save(model, used, n_vocab, path):
    """Write the weights in GPT-2's layout: float16, linear ones (n_in, n_out), a row a token."""
    rows = model.wte.weight[-1].repeat(n_vocab, 1).index_copy(0, used, model.wte.weight[:-1])
    state = {n: t for n, t in model.named_parameters() if t.requires_grad} | {"wte.weight": rows}
    state = {n: (t.t() if ".c_" in n else t).detach().half().contiguous() for n, t in state.items()}
    save_file(state, path, metadata={"format": "pt"})


def main():
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("corpus", type=Path, help="a folder of .txt files")
    parser.add_argument("model", type=Path, help="a folder with config.json and vocab.json")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        config = json.loads((args.model / "config.json").read_bytes())
        tokenizer = Tokenizer(json.loads((args.model / "vocab.json").read_bytes()))
        books = [path.read_text("utf-8") for path in sorted(args.corpus.glob("*.txt"))]
    except (OSError, ValueError, KeyError) as e:
        parser.error(f"{e}: MODEL needs GPT-2's config.json and vocab.json, CORPUS texts in UTF-8")
    texts = [story + END_OF_TEXT for book in books for story in stories(book)]
    if len(texts) < 20:
        parser.error(f"{args.corpus} has {len(texts)} stories in .txt files; it takes 20")
    text, held_out = "".join(t for i, t in enumerate(texts, 1) if i % 20), "".join(texts[19::20])
    parts = [torch.tensor(tokenizer.encode(part)) for part in (text, held_out)]
    used, compact = torch.cat(parts).unique(return_inverse=True)
    ids, held_out_ids = compact.split([len(part) for part in parts])
    model = GPT2({**config, "vocab_size": len(used) + 1})
    model.lm_head.weight = model.wte.weight
    torch.manual_seed(args.seed)
    initialize(model, torch.tensor([1.0] * len(used) + [config["vocab_size"] - len(used)]))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    sha256 = hashlib.sha256("".join(books).encode()).hexdigest()
    record = {"seed": args.seed, "sha256": sha256, "loss": [], "held_out_bits_per_byte": {}}
    digest = hashlib.sha256(repr((config, tokenizer.id, sha256)).encode()).hexdigest()
    checkpoint = args.model / f"run-{digest[:8]}-{args.seed}-{args.steps}.pt"
    if checkpoint.exists():  # go on where this run was broken off
        weights, moments, record = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    for step in trange(max(len(record["loss"]), 1), args.steps + 1):
        torch.manual_seed(args.seed * 10**6 + step)  # a run in two parts is the same run
        if step > len(record["loss"]):  # else its files are only written again
            record["loss"].append(round(train_step(model, optimizer, ids, step / args.steps), 4))
        if step % 250 == 0 or step == args.steps:
            record["held_out_bits_per_byte"][step] = bits_per_byte(model, held_out_ids, held_out)
            save(model, used, config["vocab_size"], args.model / "model.safetensors")
            (args.model / "training.json").write_text(json.dumps(record))
            torch.save([model.state_dict(), optimizer.state_dict(), record], f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        argparse.ArgumentParser().exit(130, "train.py: the same command goes on with this run\n")

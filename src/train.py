# Tangled from book/gpt2/training.md; sha256 1c92761d0ac0
"""Train a small GPT-2 on a folder of texts; gpt2.py runs what it writes."""

import argparse
import hashlib
import inspect
import json
import math
from pathlib import Path

import torch
from torch import nn
from tqdm import trange

from corpus import read_corpus
from gpt2 import END_OF_TEXT, GPT2, Tokenizer, load
from rows import begin_with, compact, initialize, save


def surprise(model, x, answers):
    """Nats (B, T): how unlikely the model finds each of the answers, after the ids x (B, T)."""
    log_p = model.lm_head(model(x)).log_softmax(dim=2)  # (B, T, V)
    nats = -log_p.gather(2, answers[..., None]).squeeze(2)
    alike = model.lm_head.bias  # ln m for a row that stands for m tokens; each is one of them
    return nats if alike is None else nats + alike[answers]


def optimizers(model):
    """Muon for the matrices of the blocks, AdamW for all other weights."""
    matrices = [p for p in model.h.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.requires_grad and not set(matrices) & {p}]
    muon = torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.1)


def train_step(model, optimizers, ids, done, batch=8, peak=2e-3):
    """Improve the weights once on random pieces of a text of ids (N,); return the loss there."""
    T = len(model.wpe.weight)
    pieces = ids[torch.randint(len(ids) - T, (batch, 1)) + torch.arange(T + 1)]  # (B, T + 1)
    loss = surprise(model, pieces[:, :-1], pieces[:, 1:]).mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] = peak * min(50 * done, 1, 2.5 * (1 - done))
        optimizer.step()  # at a rate that rises, stays, and falls to 0 in the last 40 per cent
        optimizer.zero_grad()
    return loss.item()


@torch.inference_mode()
def bits_per_byte(model, ids, text):
    """Mean surprise over a text and its ids (N,), read in pieces as long as the context."""
    pieces = ids.split(len(model.wpe.weight))  # the first token of each has nothing before it
    nats = sum(surprise(model, p[None, :-1], p[None, 1:]).sum().item() for p in pieces)
    return nats / (1 - len(pieces) / len(ids)) / math.log(2) / len(text.encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("corpus", type=Path, help="a folder of .txt files")
    parser.add_argument("model", type=Path, help="a folder with config.json and vocab.json")
    parser.add_argument("--start", type=Path, help="a folder with weights to begin with")
    parser.add_argument("--steps", type=int, default=4500)
    parser.add_argument("--peak", type=float, default=2e-3, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        config = json.loads((path := args.model / "config.json").read_bytes())
        tokenizer = Tokenizer(json.loads((path := args.model / "vocab.json").read_bytes()))
        parts = read_corpus(path := args.corpus)
        full, _ = load(path := args.start) if args.start else (None, None)
        if full and json.loads((args.start / "config.json").read_bytes()) != config:
            raise ValueError(f"its config.json is another than that of {args.model}")
    except Exception as e:
        parser.error(f"{path}: {type(e).__name__}: {' '.join(str(e).split()[:60])}")
    if not parts["held_out_stories"]:
        parser.error(f"{args.corpus}: fewer than 20 stories in .txt files; one in 20 is held out")
    texts = {name: "".join(story + END_OF_TEXT for story in part) for name, part in parts.items()}
    ids = {name: torch.tensor(tokenizer.encode(text)).long() for name, text in texts.items()}
    often, row = compact(ids["trained_on"], config["vocab_size"])
    ids = {name: row[part] for name, part in ids.items()}
    model = GPT2({**config, "vocab_size": len(often) + 1})
    torch.manual_seed(args.seed)
    initialize(model, torch.tensor([1.0] * len(often) + [config["vocab_size"] - len(often)]))
    if full:
        begin_with(model, full, often)
    both = optimizers(model)
    sha256 = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    record = {"seed": args.seed, "peak": args.peak, "sha256": sha256}
    weights = b"".join(t.numpy().tobytes() for t in model.state_dict().values())
    code = inspect.getsource(train_step) + inspect.getsource(optimizers)
    run = hashlib.sha256(repr((record, args.steps, config, tokenizer.id, code)).encode() + weights)
    checkpoint = args.model / f"run-{run.hexdigest()[:8]}.pt"
    measured = [name for name in texts if name != "trained_on" and texts[name]]
    record |= {"loss": [], "bits_per_byte": {name: {} for name in measured}}
    if checkpoint.exists():  # go on where this run was broken off
        weights, moments, record = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(weights)
        for optimizer, state in zip(both, moments):
            optimizer.load_state_dict(state)
    for step in trange(max(len(record["loss"]), 1), args.steps + 1):
        torch.manual_seed(args.seed * 10**6 + step)  # a run in two parts is the same run
        if step > len(record["loss"]):  # else its files are only written again
            loss = train_step(model, both, ids["trained_on"], step / args.steps, peak=args.peak)
            record["loss"].append(round(loss, 4))
        if step % 250 == 0 or step == args.steps:
            for name in measured if step == args.steps else measured[:1]:
                record["bits_per_byte"][name][step] = bits_per_byte(model, ids[name], texts[name])
            save(model, often, config["vocab_size"], args.model / "model.safetensors")
            (args.model / "training.json").write_text(json.dumps(record))
            moments = [optimizer.state_dict() for optimizer in both]
            torch.save((model.state_dict(), moments, record), f"{checkpoint}.part")
            Path(f"{checkpoint}.part").replace(checkpoint)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        argparse.ArgumentParser().exit(130, "train.py: the same command goes on with this run\n")

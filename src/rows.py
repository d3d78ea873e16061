# Tangled from book/gpt2/training.md; sha256 402d956d39a8
"""A GPT-2 with rows for the tokens that a corpus uses often: new, out of a full one, in a file."""

import math

import torch
from safetensors.torch import save_file
from torch import nn


def initialize(model, counts):
    """GPT-2's first weights; the rows of wte stand for counts (V,) of tokens."""
    model.lm_head.weight = model.wte.weight
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.data.normal_(std=0.02 / math.sqrt(2 * len(model.h) if "c_proj" in name else 1))
        elif name.endswith("bias"):
            p.data.zero_()
    model.lm_head.bias = nn.Parameter(counts.log(), requires_grad=False)


OFTEN = 20  # times; all tokens that occur less often share one row, the last


def compact(ids, n_vocab):
    """The tokens that occur OFTEN among ids (N,), and the number of its row for each of n_vocab."""
    often = (ids.bincount(minlength=n_vocab) >= OFTEN).nonzero().squeeze(1)
    return often, torch.full((n_vocab,), len(often)).index_copy(0, often, torch.arange(len(often)))


def save(model, often, n_vocab, path):
    """Write the weights in GPT-2's layout: float16, linear ones (n_in, n_out), a row a token."""
    rows = model.wte.weight[-1].repeat(n_vocab, 1).index_copy(0, often, model.wte.weight[:-1])
    state = {n: t for n, t in model.named_parameters() if t.requires_grad} | {"wte.weight": rows}
    state = {n: (t.t() if ".c_" in n else t).detach().half().contiguous() for n, t in state.items()}
    save_file(state, path, metadata={"format": "pt"})


def begin_with(model, full, often):
    """Copy the weights of a full model; the last row is the mean of those of the other tokens."""
    rows = full.wte.weight
    others = torch.ones(len(rows), dtype=torch.bool).index_fill(0, often, False)
    rows = torch.cat((rows[often], rows[others].mean(dim=0, keepdim=True)))
    model.load_state_dict({**full.state_dict(), "wte.weight": rows, "lm_head.weight": rows}, False)

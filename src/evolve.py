# Tangled from book/compare/evolve.md; sha256 955dcc532f13
"""GPT-2, Gemma 3 and what lies between: any mixture of both, its training, what it costs."""

import math
import time

import torch
from torch import nn

CHANGES = "rotary", "rms", "sandwich", "qk_norm", "gated", "grouped", "windows", "no_bias", "scaled"
C, LAYERS, HEADS, T, WINDOW, EVERYTHING = 96, 6, 4, 128, 32, 10**9
d = C // HEADS


def rotate(x, positions, theta):
    """Turn pairs of features of x (B, heads, t, d) by position."""
    half = d // 2
    angles = positions[:, None] * theta ** (-torch.arange(half) / half)  # (t, half)
    cos, sin = angles.cos(), angles.sin()
    a, b = x.split(half, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class RMSNorm(nn.Module):
    """x (…, size) over its root mean square, times 1 + weight."""
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x):
        mean = x.square().mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(mean + 1e-6) * (1 + self.weight)


def norm(keys, size):
    if "rms" in keys:
        return RMSNorm(size)
    return nn.LayerNorm(size, bias="no_bias" not in keys)


class Block(nn.Module):
    """Attention, then an MLP of width F; each reads x (B, t, C) normalized and adds to it."""
    def __init__(self, keys, F, layer):
        super().__init__()
        self.keys = keys
        bias = "no_bias" not in keys
        self.kv = d if "grouped" in keys else C
        self.norm_1, self.norm_2 = norm(keys, C), norm(keys, C)
        if "sandwich" in keys:
            self.post_1, self.post_2 = norm(keys, C), norm(keys, C)
        if "qk_norm" in keys:
            self.norm_q, self.norm_k = norm(keys, d), norm(keys, d)
        self.theta, self.window = 10_000, EVERYTHING
        if "windows" in keys and layer % 6 == 5:
            self.theta = 1_000_000
        if "windows" in keys and layer % 6 < 5:
            self.window = WINDOW
        self.c_attn = nn.Linear(C, C + 2 * self.kv, bias)
        self.c_proj = nn.Linear(C, C, bias)
        self.c_fc = nn.Linear(C, F, bias)
        if "gated" in keys:
            self.c_gate = nn.Linear(C, F, bias)
        self.mlp_proj = nn.Linear(F, C, bias)

    def attention(self, x, positions, cache):
        """Causal attention of x (B, t, C), and of what the cache holds."""
        B, t, _ = x.shape
        parts = self.c_attn(x).split((C, self.kv, self.kv), dim=2)
        q, k, v = (part.view(B, t, -1, d).transpose(1, 2) for part in parts)
        if "qk_norm" in self.keys:
            q, k = self.norm_q(q), self.norm_k(k)
        if "rotary" in self.keys:
            q, k = (rotate(x, positions, self.theta) for x in (q, k))
        if cache:
            k, v = (torch.cat(pair, dim=2) for pair in zip(cache, (k, v)))
        if cache is not None:
            cache[:] = k, v
            if "windows" in self.keys:
                cache[:] = k[:, :, -self.window :], v[:, :, -self.window :]
        distance = torch.arange(-t, 0)[:, None] - torch.arange(-k.shape[2], 0)  # (t, S)
        mask = distance >= 0
        if "windows" in self.keys:
            mask &= distance < self.window
        if "grouped" in self.keys:
            k, v = k.expand(-1, HEADS, -1, -1), v.expand(-1, HEADS, -1, -1)
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        return self.c_proj(y.transpose(1, 2).reshape(B, t, C))

    def mlp(self, x):
        h = nn.functional.gelu(self.c_fc(x), approximate="tanh")  # (B, t, F)
        if "gated" in self.keys:
            h = h * self.c_gate(x)
        return self.mlp_proj(h)

    def forward(self, x, positions, cache=None):
        y = self.attention(self.norm_1(x), positions, cache)
        if "sandwich" in self.keys:
            y = self.post_1(y)
        x = x + y
        y = self.mlp(self.norm_2(x))
        if "sandwich" in self.keys:
            y = self.post_2(y)
        return x + y


class Model(nn.Module):
    """GPT-2 for V tokens with the changes of keys, its MLPs of width F."""
    def __init__(self, keys, V, F):
        super().__init__()
        self.keys = keys
        self.wte = nn.Embedding(V, C)
        if "rotary" not in keys:
            self.wpe = nn.Embedding(T, C)
        self.h = nn.ModuleList(Block(keys, F, i) for i in range(LAYERS))
        self.norm = norm(keys, C)

    def forward(self, ids, caches=(None,) * LAYERS, start=0):
        """Scores (B, t, V) after ids (B, t), the first at start."""
        positions = start + torch.arange(ids.shape[1])
        x = self.wte(ids)
        if "scaled" in self.keys:
            x = x * C**0.5
        if "rotary" not in self.keys:
            x = x + self.wpe(positions)
        for block, cache in zip(self.h, caches):
            x = block(x, positions, cache)
        return self.norm(x) @ self.wte.weight.T


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def width(keys, V):
    """The width of the MLPs, a multiple of 8, with which the model is as large as GPT-2."""
    with torch.device("meta"):  # shapes only
        eight, sixteen = (n_parameters(Model(keys, V, F)) for F in (8, 16))
        return 8 + 8 * round((n_parameters(Model((), V, 4 * C)) - eight) / (sixteen - eight))


def products(model, length):
    """Multiplications a token, by matrices and in attention, for a text of a length."""
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.dim() == 2}
    seen = [min(t + 1, block.window) for block in model.h for t in range(length)]
    return sum(matrices.values()) - matrices.get("wpe.weight", 0) + 2 * C * sum(seen) / length


def new_model(keys, V, seed):
    """A model with GPT-2's first weights."""
    torch.manual_seed(seed)
    model = Model(keys, V, width(keys, V))
    for name, p in model.named_parameters():
        if p.dim() == 2:
            p.data.normal_(std=0.02 / math.sqrt(2 * LAYERS if "proj" in name else 1))
        elif name.endswith("bias"):
            p.data.zero_()
    if "scaled" in keys:
        model.wte.weight.data.normal_(std=C**-0.5)
    return model


def surprise(model, pieces):
    """Nats (B, t) for each of pieces (B, t + 1) but the first."""
    scores = model(pieces[:, :-1])  # (B, t, V)
    return nn.functional.cross_entropy(scores.mT, pieces[:, 1:], reduction="none")


def train(model, ids, steps, seed, peak, batch):
    """Improve the model step by step, and yield the loss of each."""
    torch.manual_seed(seed)
    matrices, vectors = ([p for p in model.parameters() if p.dim() == n] for n in (2, 1))
    groups = {"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    for done in (step / steps for step in range(1, steps + 1)):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(25 * done, 0.55 + 0.45 * math.cos(math.pi * done))
        starts = torch.randint(len(ids) - T, (batch, 1))
        loss = surprise(model, ids[starts + torch.arange(T + 1)]).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@torch.inference_mode()
def held_out_nats(model, ids, length):
    """Mean surprise (length - 1,) at each position of pieces of a length, cut from ids (N,)."""
    pieces = ids[: len(ids) // (4 * T) * 4 * T].view(-1, length)
    return torch.cat([surprise(model, p) for p in pieces.split(8 * T // length)]).mean(dim=0)


@torch.inference_mode()
def write(model, length):
    """Tokens a second of a core's time for a text of a length, and bytes of the cache then."""
    caches, ids, begin = [[] for _ in model.h], torch.tensor([[0]]), time.process_time()
    for start in range(length):
        ids = model(ids, caches, start).argmax(dim=2)
    speed = length / (time.process_time() - begin)
    return speed, sum(part.nbytes for cache in caches for part in cache)

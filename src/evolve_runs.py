# Tangled from book/compare/evolve.md; sha256 27c41cf0032e
"""Train every stage from GPT-2 to Gemma 3, each change alone and each removed, three times."""

import argparse
import functools
import hashlib
import json
import lzma
import math
import multiprocessing
import platform
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

import evolve
from evolve import CHANGES, T
from gpt2 import END_OF_TEXT, Tokenizer

SEEDS, PEAK, BATCH, STEPS = [0, 1, 2], 2e-3, 4, 400


class Data(NamedTuple):
    """Stories as ids below V; the last, V - 1, is that of all rare tokens."""
    ids: torch.Tensor  # (N,), to train on
    held_out: torch.Tensor
    V: int
    bits_per_nat: float  # from nats a token to bits a byte, of what is held out
    rare: float  # nats a token that say which of the rare tokens it is
    sha256: str


def parsed(path, parse):
    """What parse makes of the bytes of a file; a ValueError names the file."""
    try:
        return parse(path.read_bytes())
    except (ValueError, LookupError, TypeError, AttributeError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from None


def read(stories, vocab):
    """The Data of a text in which every story ends with END_OF_TEXT, compressed by xz."""
    tokenizer = parsed(vocab, lambda data: Tokenizer(json.loads(data)))
    text = parsed(stories, lambda data: lzma.decompress(data).decode())
    texts = [story + END_OF_TEXT for story in text.split(END_OF_TEXT)[:-1]]
    if len(texts) < 20:
        raise ValueError(f"{stories} has {len(texts)} stories; it takes 20")
    parts = "".join(t for i, t in enumerate(texts, 1) if i % 20), "".join(texts[19::20])
    ids = [tokenizer.encode(part) for part in parts]
    often = sorted(i for i, n in Counter(ids[0]).items() if n >= 30)
    row = {i: n for n, i in enumerate(often)}
    ids, held_out = (torch.tensor([row.get(i, len(row)) for i in part]) for part in ids)
    if min(len(ids), len(held_out)) < 8 * T:
        raise ValueError(f"{stories} is too short: {len(held_out)} tokens are held out")
    rare = (held_out == len(row)).float().mean().item() * math.log(len(tokenizer.id) - len(row))
    bits_per_nat = len(held_out) / math.log(2) / len(parts[1].encode())
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return Data(ids, held_out, len(row) + 1, bits_per_nat, rare, sha256)


def run(data, steps, keys, seed, peak=PEAK):
    """Train a model with the changes of keys, and measure it; what came of it, for JSON."""
    begin = time.process_time()
    model = evolve.new_model(keys, data.V, seed)
    losses = list(evolve.train(model, data.ids, steps, seed, peak, BATCH))
    seconds = time.process_time() - begin
    lengths = (T, 4 * T) if "rotary" in keys else (T,)  # learned positions end at T
    nats = [evolve.held_out_nats(model, data.held_out, length) + data.rare for length in lengths]
    bits = [(n.mean() * data.bits_per_nat).item() for n in nats]
    places = [(n.mean() * data.bits_per_nat).item() for n in nats[-1].split(T // 4)]
    speed = max(evolve.write(model, T)[0] for _ in range(3))
    cache_bytes = [evolve.write(model, length)[1] for length in lengths]
    return {
        "keys": keys, "seed": seed, "peak": peak, "batch": BATCH, "seconds": round(seconds, 1),
        "curve": [round(sum(losses[n : n + 10]) / 10, 4) for n in range(0, steps - 9, 10)],
        "bits": round(bits[0], 4), "bits_4T": round(bits[-1], 4) if bits[1:] else None,
        "bits_by_position": [round(n, 4) for n in places],
        "parameters": evolve.n_parameters(model), "products": round(evolve.products(model, T)),
        "cache_bytes": cache_bytes[0], "cache_bytes_4T": cache_bytes[-1] if bits[1:] else None,
        "tokens_per_second": round(speed, 1), "machine": machine(),
    }  # fmt: skip


def machine():
    """What computes, in words."""
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return f"{[*names, platform.machine()][0]}, torch {torch.__version__}"


def plan():
    """All runs: keys, a seed and a peak rate."""
    stages = [CHANGES[:n] for n in range(len(CHANGES) + 1)]
    alone = [(key,) for key in CHANGES]
    removed = [tuple(other for other in CHANGES if other != key) for key in CHANGES]
    others = [keys for keys in alone + removed if keys not in stages]
    runs = [(keys, seed, PEAK) for seed in SEEDS for keys in stages]
    runs += [(keys, 0, peak) for peak in (PEAK / 2, PEAK * 2) for keys in (stages[0], CHANGES)]
    runs += [(keys, seed, PEAK) for seed in SEEDS for keys in others]
    return [(list(keys), seed, peak) for keys, seed, peak in runs]


def load(path, new):
    """The record at a path, to go on with; new if there is none yet."""
    if not path.exists():
        return new
    record = parsed(path, json.loads)
    if not isinstance(record, dict) or not new.keys() <= record.keys():
        raise ValueError(f"{path} is no record: it takes {', '.join(new)}")
    for key in ("sha256", "V", "steps", "shape"):
        if record[key] != new[key]:
            raise ValueError(f"{path} has runs with {key} {record[key]}, not {new[key]}")
    return record


def save(path, record):
    """Write a record, a line a run, whole or not at all."""
    head = json.dumps({key: value for key, value in record.items() if key != "runs"}, indent=1)
    runs = ",\n".join(json.dumps(result) for result in record["runs"])
    part = path.with_name(f"{path.name}.part")
    part.write_text(f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n')
    part.replace(path)


def start_worker(stories, vocab, steps):
    """Prepare a process for runs; what Ctrl-C does is not its matter."""
    global work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    work = functools.partial(run, read(stories, vocab), steps)


def call(job):
    """Do a run, in a process that is prepared for it."""
    return work(*job)


def main():
    parser = argparse.ArgumentParser(description=__doc__, usage=argparse.SUPPRESS)
    parser.add_argument("stories", type=Path, help="a text compressed by xz, see the chapter")
    parser.add_argument("vocab", type=Path, help="GPT-2's vocab.json")
    parser.add_argument("record", type=Path, help="the JSON file to write, or to go on with")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one core")
    parser.add_argument("--steps", type=int, default=STEPS, help="of a run, tens; default: 400")
    args = parser.parse_args()
    if args.jobs < 1 or args.steps < 10 or args.steps % 10:
        parser.error("--jobs has to be 1 or more, --steps 10 or a multiple of it")
    shape = {"C": evolve.C, "layers": evolve.LAYERS, "heads": evolve.HEADS, "T": T}
    new = {"command": f"python src/evolve_runs.py {args.stories.name} {args.vocab.name} RECORD",
           "seeds": SEEDS, "steps": args.steps, "shape": shape | {"window": evolve.WINDOW}}
    try:
        data = read(args.stories, args.vocab)
        new |= {"V": data.V, "tokens": [len(data.ids), len(data.held_out)], "sha256": data.sha256}
        record = load(args.record, new | {"runs": []})
        save(args.record, record)
    except (OSError, ValueError) as error:
        parser.error(f"{error}")
    done = [(result["keys"], result["seed"], result["peak"]) for result in record["runs"]]
    todo = [job for job in plan() if job not in done]
    context, start = multiprocessing.get_context("spawn"), (args.stories, args.vocab, args.steps)
    with tqdm(total=len(plan()), initial=len(done), unit="run", smoothing=0) as bar:
        with context.Pool(args.jobs, start_worker, start) as pool:
            for result in pool.imap_unordered(call, todo):
                record["runs"].append(result)
                save(args.record, record)
                bar.update()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        argparse.ArgumentParser().exit(130, "evolve_runs.py: the same command goes on\n")

"""Measure src/gpt2.py and its peers in turn; print medians, ratios, and what they should be."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import table
from worker import PROMPT, ROOT

HERE = Path(__file__).resolve().parent
MODEL = ROOT / "_build/bench/gpt2-124m"
WORKERS = {
    "ours": HERE / "ours.py",
    "tiktoken": HERE / "peer_tiktoken.py",
    "tokenizers": HERE / "peer_tokenizers.py",
    "torch": HERE / "plain_torch.py",
    "transformers": HERE / "peer_transformers.py",
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}",
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class WorkerFailed(Exception):
    """Its text is the last line that the worker wrote on stderr."""


def run(*command):
    """What a Python script prints."""
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise WorkerFailed(said[-1] if said else f"exit status {done.returncode}")
    return done.stdout


def prepare():
    """Make the model once, and bring it into the page cache; the bytes of each of its tensors."""
    if not MODEL.exists():
        say("writing the weights")
        partial = MODEL.with_suffix(".partial")
        run(WORKERS["transformers"], "make", partial)
        partial.rename(MODEL)
    with open(MODEL / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        while file.read(2**24):  # in parts: a worker's peak is never less than that of its parent
            pass
    spans = {name: entry.get("data_offsets", (0, 0)) for name, entry in header.items()}
    return {name: end - start for name, (start, end) in spans.items()}


def measure(job, arguments):
    """What a job returns. A start is a whole process, timed from here."""
    who, task = job.split()
    command = [WORKERS[who], task, *arguments]
    if job == "ours start":
        command = [ROOT / "src/gpt2.py", PROMPT, "--model", MODEL]
        command += ["--tokens", 1, "--temperature", 0]
    start = time.perf_counter()
    printed = run(*command)
    seconds = time.perf_counter() - start
    return {"seconds": seconds} if task == "start" else json.loads(printed)


def measure_all(jobs, arguments, rounds):
    """Do the jobs in turn, rounds times; what each returned, and why some of them failed."""
    results, failures, expected = defaultdict(list), {}, {}
    for i in range(rounds):
        for job in jobs:
            task = job.split()[1]
            if job in failures or task == "strings" and i < rounds - 1:  # the same each time
                continue
            try:
                result = measure(job, arguments.get(task, [MODEL]))
                ids = result.pop("ids", None)
                if ids != expected.setdefault(task, ids):
                    raise WorkerFailed("its tokens differ from those of the others")
            except WorkerFailed as failure:
                failures[job] = failure
                results.pop(job, None)
                continue
            results[job].append(result)
            shown = ", ".join(f"{name} {value}" for name, value in result.items())
            say(f"round {i + 1} of {rounds}, {job}: {shown}")
    return results, failures


def machine():
    """The processor and its cores, and what runs on it."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    processor = re.search(r"model name\s*: (.*)", info)
    name = processor[1] if processor else platform.processor() or platform.machine()
    packages = ("torch", "transformers", "tokenizers", "tiktoken")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    python = f"{platform.system()}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} cores; {python}\n{versions}"


def say(text):
    """What is going on, for those who wait."""
    print(text, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(table.ASKED)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="how many to decode")
    parser.add_argument("--strings", type=int, default=1_000_000, help="how many to compare")
    args = parser.parse_args()
    if unknown := set(args.rows) - set(table.ASKED):
        parser.error(f"there is no row {', '.join(unknown)}")

    try:
        weights = prepare()
        imported = json.loads(run(WORKERS["torch"], "nothing"))["peak"]
    except WorkerFailed as failure:
        sys.exit(f"bench: no weights: {failure}")
    lines = [line for line in table.LINES if line[0] in (args.rows or table.ASKED)]
    jobs = dict.fromkeys(job for line in lines for job in line[3:] if job)
    arguments = {
        "decode": [MODEL, args.tokens],
        "int8": [MODEL, args.tokens],
        "read": [table.bytes_a_token(weights)],
        "strings": [MODEL, args.strings],
    }
    print("GPT-2 124M with random weights, batch 1, greedy;", end=" ")
    print(f"{args.tokens} tokens, {args.strings:,} strings; medians of {args.rounds} rounds")
    print(machine(), flush=True)
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The load was {load:.1f} before: another program disturbs the measurement.")
    results, failures = measure_all(jobs, arguments, args.rounds)
    print()
    for row in table.rows(lines, table.figures(weights, imported), results):
        print(row)
    for result in results.get("torch read", [])[-1:]:
        print(f"\nThe fastest read loop: {result['way']}.")
    for result in results.get("tokenizers strings", []):
        for example in result["examples"]:
            print(f"A string that went wrong: {ascii(example)}")
    for job, failure in failures.items():
        print(f"{job} failed: {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

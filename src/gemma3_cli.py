# Tangled from book/gemma3/cli.md; sha256 81e2ed688df6
"""The command line of gemma3.py: options, conversations, and errors in one line."""

import argparse
import sys
import warnings
from itertools import chain, takewhile, tee
from pathlib import Path

import jax

import gemma3


def command_line(name, description, **knobs):
    """The parser of a program's options, whose errors are one line with exit status 2."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.error = lambda text: parser.exit(2, f"{name}: {' '.join(str(text).split())}\n")
    model = "google/gemma-3-270m-it"
    parser.add_argument("--model", default=model, help=f"repository or directory; default: {model}")
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits: faster, less exact")
    for knob, value in ({"temperature": 0.8, "top-k": 64, "top-p": 1.0, "seed": 0} | knobs).items():
        parser.add_argument(f"--{knob}", type=type(value), default=value, help=f"default: {value}")
    return parser


def turn(tokenizer, text):
    """Token ids of what a user says in a conversation, up to where the model's answer begins."""
    start, end = tokenizer.special["<start_of_turn>"], tokenizer.special["<end_of_turn>"]
    said = [start, *tokenizer.encode(f"user\n{text.strip()}"), end, *tokenizer.encode("\n")]
    return said + [start, *tokenizer.encode("model\n")]


def show(pieces):
    """Print the pieces of a text as they come; its line ends, whatever happens."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def answer(args):
    """Print what the model writes; true if the context was full before it had written all."""
    try:
        stdin = args.prompt == "-"
        prompt = open(0, encoding="utf-8").read().removesuffix("\n") if stdin else args.prompt
        prompt.encode()  # what Python could not decode fails here
    except UnicodeError as error:
        raise ValueError(f"the prompt is not UTF-8: {error}") from error
    config, params, tokenizer = gemma3.load(args.model, args.int8)
    special, V = tokenizer.special, len(tokenizer.token_bytes)
    stop = {*config.stop, special["<end_of_turn>"]}
    chat = special["<end_of_turn>"] in config.stop if args.chat is None else args.chat
    ids = [special["<bos>"], *(turn(tokenizer, prompt) if chat else tokenizer.encode(prompt))]
    n, room = len(ids), config.context - len(ids)
    if not prompt or room < 1:
        raise ValueError(f"the prompt has {n} tokens, with <bos>; it needs 2 to {n + room - 1}")
    sampling = args.temperature, min(args.top_k, V), args.top_p, args.seed % 2**32, args.samples
    drawn = gemma3.generate(config, params, ids, min(args.tokens, room), *sampling)
    for n, rows in enumerate(tee(drawn, args.samples)):
        kept = takewhile(lambda i: i not in stop, (row[n] for row in rows))
        beginning, gap = "" if chat else prompt, "\n" if args.samples > 1 else ""
        show(chain([beginning], tokenizer.decode(kept), [gap]))
    return args.tokens > room and next(drawn, None) is None


def run(parser, program):
    """Call program with the options; what goes wrong is one line on stderr and a status."""
    args = parser.parse_args()
    least = {"tokens": 0, "temperature": 0, "top-k": 1, "top-p": 1e-6, "samples": 1}
    for name, value in least.items():
        if not value <= getattr(args, name.replace("-", "_"), value) < float("inf"):
            parser.error(f"--{name} has to be {value} or more")
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without é gets \\xe9
    try:
        if not jax.config.jax_compilation_cache_dir:  # keep what is compiled for the next run
            warnings.filterwarnings("ignore", "Error .*ing persistent compil")  # the disk is full
            jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache/tiny-models"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        try:
            jax.devices()
        except AssertionError:  # JAX says no more
            raise RuntimeError(f"no device for JAX_PLATFORMS={jax.config.jax_platforms}") from None
        if program(args):
            parser.exit(0, f"{parser.prog}: the context is full\n")
    except (KeyboardInterrupt, BrokenPipeError):
        parser.exit(130)
    except (OSError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        parser.error(error)


def main():
    """Answer one prompt."""
    parser = command_line("gemma3.py", gemma3.__doc__, tokens=100, samples=1)
    prompt = "What is the capital of France?"
    parser.add_argument("prompt", nargs="?", default=prompt, help="- reads stdin")
    chat = "a conversation, or a text to continue; default: what the model is made for"
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction, help=chat)
    run(parser, answer)

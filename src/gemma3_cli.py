# Tangled from book/gemma3/cli.md; sha256 16bd6e2476a1
"""The command line of gemma3.py: options, conversations, and errors in one line."""

import argparse
import math
import sys
from itertools import chain, takewhile, tee
from pathlib import Path

import jax

import gemma3


def turn(tokenizer, text):
    """Token ids of what a user says in a conversation, up to where the model begins."""
    special = tokenizer.special
    said = [special["<start_of_turn>"], *tokenizer.encode(f"user\n{text.strip()}")]
    said += [special["<end_of_turn>"], *tokenizer.encode("\n")]
    return said + [special["<start_of_turn>"], *tokenizer.encode("model\n")]


def command_line():
    """The parser of the command line, whose errors are one line with exit status 2."""
    parser = argparse.ArgumentParser(prog="gemma3.py", description=gemma3.__doc__)
    parser.error = lambda text: parser.exit(2, f"gemma3.py: {' '.join(str(text).split())}\n")
    prompt, model = "What is the capital of France?", "google/gemma-3-270m-it"
    parser.add_argument("prompt", nargs="?", default=prompt, help="- reads stdin")
    parser.add_argument("--model", default=model, help=f"repository or directory; default: {model}")
    chat = "a conversation or a text to continue; default: what the model's files say"
    parser.add_argument("--chat", action=argparse.BooleanOptionalAction, help=chat)
    parser.add_argument("--int8", action="store_true", help="weights in 8 bits: faster, less exact")
    knobs = {"tokens": 100, "temperature": 0.8, "top-k": 64, "top-p": 1.0, "seed": 0, "samples": 1}
    for name, value in knobs.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default: {value}")
    return parser


def check(args):
    """Raise a ValueError for the first option with a value that makes no sense."""
    for name in ("tokens", "temperature"):
        if not 0 <= getattr(args, name) < math.inf:
            raise ValueError(f"--{name} has to be 0 or more")
    for name in ("top_k", "top_p", "samples"):
        if not getattr(args, name) > 0:
            raise ValueError(f"--{name.replace('_', '-')} has to be more than 0")


def answer(args):
    """Print what the model writes; true if it had more to write than its context holds."""
    prompt = sys.stdin.read().removesuffix("\n") if args.prompt == "-" else args.prompt
    config, params, tokenizer = gemma3.load(args.model, args.int8)
    special, V = tokenizer.special, len(tokenizer.token_bytes)
    chat = special["<end_of_turn>"] in config.stop if args.chat is None else args.chat
    stop = {*config.stop, special["<end_of_turn>"]} if chat else config.stop
    ids = [special["<bos>"], *(turn(tokenizer, prompt) if chat else tokenizer.encode(prompt))]
    room = config.context - len(ids)
    if not prompt or room < 1:
        most = config.context - 1
        raise ValueError(f"the prompt has {len(ids)} tokens, with <bos>; it needs 2 to {most}")
    sampling = args.temperature, min(args.top_k, V), args.top_p, args.seed % 2**32, args.samples
    drawn = gemma3.generate(config, params, ids, min(args.tokens, room), *sampling)
    for n, rows in enumerate(tee(drawn, args.samples)):
        kept = takewhile(lambda i: i not in stop, (row[n] for row in rows))
        beginning = "" if chat else prompt
        for text in chain([beginning], tokenizer.decode(kept), "\n" * min(args.samples, 2)):
            print(text, end="", flush=True)
    return args.tokens > room and next(drawn, None) is None


def main():
    """Answer one prompt."""
    parser = command_line()
    args = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without é gets \\xe9
    if not jax.config.jax_compilation_cache_dir:  # compiled once, for the runs that follow too
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache/tiny-models"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    try:
        check(args)
        if answer(args):
            parser.exit(0, "gemma3.py: the context is full\n")
    except (KeyboardInterrupt, BrokenPipeError):
        parser.exit(130)
    except (OSError, ValueError, RuntimeError) as error:
        parser.error(error)


if __name__ == "__main__":
    main()

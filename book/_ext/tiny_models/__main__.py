"""The command line: ``python book/_ext/tiny_models COMMAND``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # a folder that is run is on the path itself, and not what it is in
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from tiny_models.chapters import TangleError
from tiny_models.files import ROOT, carry_back, check, read_sources, write


def arguments(args: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="tiny_models", description="From the chapters to src/ and to their outputs, and back."
    )
    parser.set_defaults(force=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    tangle = commands.add_parser("tangle", help="write src/ from the chapters")
    tangle.add_argument("--force", action="store_true", help="discard hand edits in src/")
    commands.add_parser("check", help="show how src/ differs from the chapters; 1 if it does")
    commands.add_parser("untangle", help="carry hand edits in src/ back into the chapters")
    execute = commands.add_parser("execute", help="tangle, and execute the stale chapters")
    execute.add_argument("chapters", nargs="*", metavar="CHAPTER", help="as in _toc.yml; or all")
    stale = commands.add_parser("stale", help="say which chapters are stale, and why")
    stale.add_argument("chapters", nargs="*", metavar="CHAPTER", help="as in _toc.yml; or all")
    commands.add_parser("anchors", help="note the addresses of the built book in book/anchors.txt")
    for command in commands.choices.values():
        command.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args(args)


def run(options: argparse.Namespace) -> int:
    """Do what the command says."""
    root = options.root.resolve()
    if options.command == "anchors":
        return note_anchors(root)
    sources = read_sources(root)
    if options.command == "check":
        differences = check(sources)
        print("\n".join(differences), end="\n" if differences else "")
        return 1 if differences else 0
    if options.command == "untangle":
        print("\n".join(carry_back(sources)))
        return 0
    only = {chapter.removesuffix(".md") for chapter in getattr(options, "chapters", ())}
    if options.command == "stale":
        from tiny_models.execute import stale

        for docname, reason in stale(sources, only).items():
            print(f"{docname}: {reason}")
        return 0
    for done in write(sources, options.force):
        print(done)
    if options.command == "execute":
        from tiny_models.execute import execute_stale

        execute_stale(sources, only=only)
    return 0


def note_anchors(root: Path) -> int:
    """Note new addresses; 1 if one is gone that was noted before."""
    from tiny_models.permalinks import FOUND, LIST, MOVED, gone, read_list, read_moved, renew

    print(f"{LIST}: {len(renew(root))} new addresses")
    missing = gone(read_list(root / LIST), read_list(root / FOUND), read_moved(root))
    for address in missing:
        print(f"gone: {address}; say in {MOVED} where it is now", file=sys.stderr)
    return 1 if missing else 0


def main(args: list[str] | None = None) -> int:
    """Run the command line; 0 if all is well, 1 if ``check`` found a difference, 2 on errors."""
    options = arguments(args)
    try:
        return run(options)
    except TangleError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    status = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)

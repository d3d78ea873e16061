"""What a chapter's outputs depend on: recorded while it is executed, compared ever after.

Nothing here guesses what Python reads. While a chapter is executed, ``recorder/sitecustomize.py``
notes each file of the repository that its kernel opens, imports, lists or looks for in vain, and
the same of every Python process that the kernel starts. It can't see what other code reads, so
that is covered from outside, and rather too widely than not at all:

- Weights are read by native code. A directory of ``book/models`` is used, with all its files but
  those of NOT_WEIGHTS, if Python opened one of them, or if a cell, a command or one of our modules
  names it. If the safetensors library was imported and no directory is known, all are used.
- Other programs (``cat src/a.py`` in a shell) read the files that a shell cell or a command names,
  and in a folder that they name with a slash (``src/$name.py``) all files.
- A Python that is started without its environment, or told to ignore it, may have read all modules
  of ours and all weights.

What is not seen: what a program other than Python reads under a name that stands in no cell and no
command, a module that would be found earlier on the path if it existed, environment variables but
one, and what is outside of the repository; packages count by their version.

The digests of all this are a chapter's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from tiny_models.chapters import Chapter
from tiny_models.files import Sources, write_atomically

FORMAT = 2  # raise it when a change of these tools changes outputs or fingerprints
WEIGHTS_VARIABLE = "TINY_MODELS_WEIGHTS"
BOOKKIT = "book/_kit/bookkit.py"  # names every model, and so says nothing about which one is used
EXECUTION_TAGS = {"skip-execution", "raises-exception"}
RECORDER = Path(__file__).resolve().parent / "recorder"
# Made, not written: by the build, by tools, by git.
IGNORED = {"_build", "__pycache__", ".git", ".venv", ".venv-bench", ".ipynb_checkpoints"}
IGNORED |= {".pytest_cache", ".ruff_cache", "site-packages"}
NOT_WEIGHTS = ("*.md", "run-*.pt*")  # a model's description, and a training run's last checkpoint
LARGE = 2**20  # bytes; the digest of a larger file is remembered
SHELL = re.compile(r"\s*%%(?:bash|sh|script|sx|system|!)")
# A shell may start a Python that does not record: its path is set, or the environment is left out,
# or unset, unless plain other names are (`unset HOME`).
UNSEEN = re.compile(
    r"\bPYTHONPATH\b|\bpython[\w.]*\s+(?:-\w+\s+)*-\w*[IES]|\benv\s+-"
    r"|\bunset\b[^\n;&|]*(?:TINY_MODELS|[^\w\s-])"
)

Fingerprint = dict[str, dict[str, str]]


def digest(*texts: str) -> str:
    """Digest texts, told apart."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def is_ignored(name: str) -> bool:
    """Tell whether a path in the repository is of something made."""
    return not IGNORED.isdisjoint(name.split("/"))


# ---------------------------------------------------------------------------------------- record


@dataclass(frozen=True)
class Used:
    """What an execution used, by name."""

    files: list[str]  # "src/gpt2.py", and folders that were listed: "src/"
    weights: list[str]  # "fairy-gpt2"
    packages: list[str]  # as they are installed: "pyyaml"
    variables: list[str]  # of the environment


def recording(root: Path, record: Path) -> dict[str, str]:
    """Make an empty record, and give the environment variables that have Python fill it."""
    record.touch()
    return {"TINY_MODELS_ROOT": str(root), "TINY_MODELS_RECORD": str(record)}


def read_record(root: Path, record: Path, chapter: Chapter) -> Used:
    """Say what a chapter used, from the record of its execution and, for the rest, its cells."""
    entries: dict[str, set[str]] = {kind: set() for kind in "rwlicu"}  # see the recorder
    for entry in record.read_text("utf-8", "surrogateescape").split("\0")[:-1]:
        entries[entry[0]].add(entry[1:])
    read, written, listed, imported, commands, unseen = entries.values()

    shell = [(str(root), cell.source) for cell in chapter.cells if SHELL.match(cell.source)]
    shell += [tuple(command.split("\n", 1)) for command in commands]
    for folder, text in shell:
        read |= set(named(root, Path(folder), text))
    is_unseen = unseen or any(UNSEEN.search(text) for _, text in shell)
    if is_unseen:
        read |= {name for folder in ("src", "book/_kit") for name in below(root, folder, "*.py")}
    read = {name for name in read - written if not is_ignored(name)}

    modules = {
        name: (root / name).read_text("utf-8", "replace")
        for name in read
        if name.endswith(".py") and (root / name).is_file()
    }
    texts = [cell.source for cell in chapter.cells] + [text for _, text in shell]
    has_variable = any(WEIGHTS_VARIABLE in text for text in [*texts, *modules.values()])
    texts += [text for name, text in modules.items() if name != BOOKKIT]
    models = [path.name for path in sorted((root / "book/models").glob("*/"))]
    mentions = {name: re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])") for name in models}
    weights = {name for name in models if any(mentions[name].search(text) for text in texts)}
    weights |= {model for model in models if any(is_weight(name, model) for name in read)}
    if is_unseen or ("safetensors" in imported and not weights):
        weights |= set(models)

    files = {name for name in read if not any(is_weight(name, model) for model in weights)}
    return Used(
        files=sorted(files | {f"{name}/" for name in listed if not is_ignored(name)}),
        weights=sorted(weights),
        packages=installed(imported),
        variables=[WEIGHTS_VARIABLE] if has_variable else [],
    )


def named(root: Path, folder: Path, text: str) -> Iterator[str]:
    """List the files that a shell script or a command names, relative to the folder it runs in."""
    text = re.sub(r"\$\{?\w+\}?/?", " ", text)  # "$root/src/a.py" is src/a.py, "src/$name" is src/
    for word in set(re.findall(r"[\w./-]+", text)):
        path = Path(os.path.normpath(folder / word))
        if path == root or not path.is_relative_to(root):
            continue
        name = path.relative_to(root).as_posix()
        if path.is_file():
            yield name
        elif "/" in word and path.is_dir() and not re.match("book/models/.", name):
            yield from below(root, name)


def below(root: Path, folder: str, pattern: str = "*") -> Iterator[str]:
    """List the files in a folder and its folders."""
    for path in (root / folder).rglob(pattern):
        if path.is_file():
            yield path.relative_to(root).as_posix()


def is_weight(name: str, model: str) -> bool:
    """Tell whether a file belongs to the weights of a model."""
    base = name.rpartition("/")[2]
    ours = name.startswith(f"book/models/{model}/")
    return ours and not any(fnmatch(base, pattern) for pattern in NOT_WEIGHTS)


def installed(modules: set[str]) -> list[str]:
    """List the packages that modules come from; what is not installed could change no output."""
    found = metadata.packages_distributions()
    return sorted({canonicalize_name(name) for module in modules for name in found.get(module, ())})


# ----------------------------------------------------------------------------------- fingerprint


class Files:
    """Digests of the repository's files, those in ``src/`` as they are after tangling."""

    def __init__(self, sources: Sources) -> None:
        root = self.root = sources.root
        self.tangled = {target: tangled.text for target, tangled in sources.tangled.items()}
        self.memo = root / "_build/.executed/digests.json"
        try:
            self.known = json.loads(self.memo.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            self.known = {}

    def digest(self, name: str, since: float = float("inf")) -> str:
        """Digest a file, or the names in a folder; say if it is missing or changed since a time.

        Times are nanoseconds, and of the inode, which no program can set back.
        """
        path = self.root / name
        try:
            if name.endswith("/"):
                tangled = {Path(target).name for target in self.tangled if name == "src/"}
                return digest(*sorted({n for n in os.listdir(path) if not is_ignored(n)} | tangled))
            if path.exists() and path.stat().st_ctime_ns >= since:
                return "changed while the chapter was executed"
            if name in self.tangled:
                return digest(self.tangled[name])
            return self.content(path)
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except IsADirectoryError:
            return "a folder"

    def content(self, path: Path) -> str:
        """Digest a file; remember a large one's digest as long as size and time are the same."""
        name = path.relative_to(self.root).as_posix()
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if self.known.get(name, [])[:2] == stamp:
            return self.known[name][2]
        with path.open("rb") as file:
            result = hashlib.file_digest(file, "sha256").hexdigest()
        if status.st_size > LARGE:
            self.known[name] = [*stamp, result]
            write_atomically(self.memo, json.dumps(self.known, indent=1))
        return result

    def weights(self, model: str, since: float = float("inf")) -> str:
        """Digest the names and contents of a model's files."""
        names = sorted(
            name for name in below(self.root, f"book/models/{model}") if is_weight(name, model)
        )
        return digest(*(f"{name} {self.digest(name, since)}" for name in names))


def version(package: str) -> str:
    """Give the version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def fingerprint(
    chapter: Chapter, used: Used, files: Files, since: float = float("inf")
) -> Fingerprint:
    """Digest a chapter's cells, and what it used; nothing of that may have changed since."""
    kernel = chapter.metadata.get("kernelspec", {}).get("name", "python3")
    code = [
        json.dumps(
            [cell.source, sorted(EXECUTION_TAGS.intersection(cell.metadata.get("tags", ())))]
        )
        for cell in chapter.cells
    ]
    return {
        "code": {"code": digest(kernel, *code)},
        "files": {name: files.digest(name, since) for name in used.files},
        "weights": {f"book/models/{name}": files.weights(name, since) for name in used.weights},
        "environment": {name: os.environ.get(name, "") for name in used.variables},
        "versions": {
            "executor": str(FORMAT),
            "Python": platform.python_version(),
            **{name: version(name) for name in used.packages},
        },
    }


def reason(old: Fingerprint, new: Fingerprint) -> str | None:
    """Name what differs between two fingerprints."""
    changes = []
    for group, parts in new.items():
        before = old.get(group, {})
        for name in sorted(before.keys() | parts.keys()):
            if before.get(name) == parts.get(name):
                continue
            if group == "versions":
                changes.append(f"{name} {before.get(name, 'none')}→{parts.get(name, 'none')}")
            else:
                changes.append(f"{name} changed")
    return ", ".join(changes) or None

"""Execute the chapters, each only when something it depends on has changed.

A chapter's outputs depend on more than the chapter: on the modules in ``src/`` that it imports,
directly or through others, on the weights that it loads, on Python and on the packages. All of
these, and nothing else, make up the chapter's fingerprint. It is kept with the executed notebook
in ``_build/.executed/``, part by part, so that the reason for executing a chapter again can be
named.

    python book/_ext/execute.py             execute the stale chapters
    python book/_ext/execute.py --dry-run   say which chapters are stale, and why
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tangle import ROOT, Cell, Chapter, TangleError, read_chapters, tangle, write, write_atomically

FORMAT = 1  # raise it when a change of this file changes outputs
TIMEOUT = 900  # seconds that one cell may take
WEIGHTS_VARIABLE = "TINY_MODELS_WEIGHTS"
BOOKKIT = "bookkit"  # names every model, and so says nothing about which one a chapter uses
EXECUTION_TAGS = {"skip-execution", "raises-exception"}

Fingerprint = dict[str, dict[str, str]]


class ExecuteError(Exception):
    """A chapter failed; the message says in which cell."""


# -------------------------------------------------------------------------------- dependencies


@dataclass(frozen=True)
class Module:
    """A Python file of this repository that chapters can import."""

    path: str
    text: str


def local_modules(root: Path) -> dict[str, Module]:
    """Find our modules by name, those in ``src/`` as they are after tangling."""
    modules = {}
    for folder in ("book/_ext", "src"):
        for path in sorted((root / folder).glob("*.py")):
            name = path.relative_to(root).as_posix()
            modules[path.stem] = Module(name, path.read_text("utf-8"))
    for target, tangled in tangle(root).items():
        modules[Path(target).stem] = Module(target, tangled.text)
    return modules


def imported(source: str) -> set[str]:
    """List the top-level packages that Python source imports, wherever in it that happens."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:  # not ours to report: the kernel will, with a traceback
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) if node.module}
    return {name.split(".")[0] for name in names}


def imported_by_cell(source: str) -> set[str]:
    """List what a cell imports, also under a magic such as ``%%time``, and the scripts it runs.

    What a shell runs cannot be parsed, so there all that looks like an import is taken for one.
    """
    code = source.lstrip().partition("\n")[2] if source.lstrip().startswith("%%") else source
    names = imported(TransformerManager().transform_cell(code))
    names.update(re.findall(r"\b(?:src|book/_ext)/(\w+)\.py\b", source))
    if re.search(r"(?m)^\s*(?:%%|!|\w+\s*=\s*!)", source):
        names.update(re.findall(r"(?:\s-m|\bimport|\bfrom)\s+(\w+)", source))
    return names


def closure(cells: Iterable[Cell], modules: Mapping[str, Module]) -> tuple[set[str], set[str]]:
    """Follow the imports of cells: our modules that they reach, and packages of others."""
    names: set[str] = set()
    todo = {name for cell in cells for name in imported_by_cell(cell.source)}
    while todo:
        name = todo.pop()
        names.add(name)
        if name in modules:
            todo |= imported(modules[name].text) - names
    ours = names & modules.keys()
    return ours, names - ours - sys.stdlib_module_names


@cache
def providers() -> Mapping[str, list[str]]:
    """Tell which distributions an importable package is in."""
    return metadata.packages_distributions()


@cache
def requirements(name: str) -> list[Requirement]:
    """List what a distribution requires."""
    return [Requirement(text) for text in metadata.requires(name) or ()]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Give the versions of the distributions that packages are in and of all they require.

    Only these: what else is installed cannot change an output.
    """
    todo = [(name, "") for package in packages for name in providers().get(package, ())]
    seen = set()
    result = {}
    while todo:
        name, extra = todo.pop()
        name = canonicalize_name(name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        for requirement in requirements(name):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(requirement.name, wanted) for wanted in ("", *requirement.extras)]
    return result


class Weights:
    """Digests of the directories in ``book/models``, kept so that a large file is read once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.memo = root / "_build/.executed/weights.json"
        self.names = sorted(path.name for path in (root / "book/models").glob("*/"))
        try:
            self.known = json.loads(self.memo.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            self.known = {}

    def file(self, path: Path) -> str:
        """Digest a file, or remember the digest if size and time of change are the same."""
        name = path.relative_to(self.root).as_posix()
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if self.known.get(name, [])[:2] != stamp:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.known[name] = [*stamp, digest]
            write_atomically(self.memo, json.dumps(self.known, indent=1))
        return self.known[name][2]

    def directory(self, name: str) -> str:
        """Digest the names and contents of a directory's files."""
        folder = self.root / "book/models" / name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return digest(*(f"{file.relative_to(folder)} {self.file(file)}" for file in files))


def digest(*texts: str) -> str:
    """Digest texts, told apart."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


# -------------------------------------------------------------------------------- fingerprints


@dataclass(frozen=True)
class Job:
    """A chapter, what its outputs depend on, and why it has to be executed (or None)."""

    chapter: Chapter
    fingerprint: Fingerprint
    reason: str | None


def executed_path(root: Path, docname: str) -> Path:
    """Say where the executed notebook of a chapter is kept."""
    return root / "_build/.executed" / f"{docname}.ipynb"


def jobs(root: Path = ROOT) -> Iterator[Job]:
    """Compare every chapter that has code with its executed notebook, in reading order."""
    modules = local_modules(root)
    weights = Weights(root)
    for chapter in read_chapters(root):
        if chapter.cells:
            new = fingerprint(chapter, modules, weights)
            yield Job(chapter, new, reason(stored(root, chapter.docname), new))


def fingerprint(chapter: Chapter, modules: Mapping[str, Module], weights: Weights) -> Fingerprint:
    """Collect everything that a chapter's outputs depend on."""
    ours, others = closure(chapter.cells, modules)
    code = [
        json.dumps(
            [cell.source, sorted(EXECUTION_TAGS.intersection(cell.metadata.get("tags", ())))]
        )
        for cell in chapter.cells
    ]
    kernel = chapter.metadata.get("kernelspec", {}).get("name", "python3")
    naming = [cell.source for cell in chapter.cells]
    naming += [modules[name].text for name in sorted(ours - {BOOKKIT})]
    used = [name for name in weights.names if any(name in text for text in naming)]
    reads_variable = used or any(
        WEIGHTS_VARIABLE in text for text in [*naming, *(modules[name].text for name in ours)]
    )
    return {
        "code": {"code": digest(kernel, *code)},
        "files": {modules[name].path: digest(modules[name].text) for name in sorted(ours)},
        "weights": {f"book/models/{name}": weights.directory(name) for name in used},
        "environment": (
            {WEIGHTS_VARIABLE: os.environ.get(WEIGHTS_VARIABLE, "")} if reads_variable else {}
        ),
        "versions": {
            "executor": str(FORMAT),
            "Python": platform.python_version(),
            **dict(sorted(versions([*others, "ipykernel"]).items())),
        },
    }


def stored(root: Path, docname: str) -> Fingerprint | None:
    """Read the fingerprint with which a chapter was executed last."""
    try:
        notebook = json.loads(executed_path(root, docname).read_text("utf-8"))
        return notebook["metadata"]["tiny_models"]["fingerprint"]
    except (FileNotFoundError, ValueError, KeyError):
        return None


def reason(old: Fingerprint | None, new: Fingerprint) -> str | None:
    """Name what differs between two fingerprints."""
    if old is None:
        return "not executed yet"
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


def stale(root: Path = ROOT) -> dict[str, str]:
    """Give the reason for each chapter that has to be executed."""
    return {job.chapter.docname: job.reason for job in jobs(root) if job.reason}


# ----------------------------------------------------------------------------------- execution


class ThisPython(AsyncKernelManager):
    """Start kernels in the Python that runs this program, whatever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Give the command that starts a kernel."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command += ["--log-level=ERROR"]  # it warns of any connection without encryption
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def environment(root: Path) -> dict[str, str]:
    """Give the kernel's environment: our modules, this Python, and outputs that repeat."""
    inherited = os.environ
    ours = [str(root / "src"), str(root / "book/_ext"), inherited.get("PYTHONPATH", "")]
    path = [str(Path(sys.executable).parent), inherited.get("PATH", "")]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, ours)),
        "PATH": os.pathsep.join(filter(None, path)),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "TQDM_DISABLE": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # a progress bar's, without its widget
    }


def execute(root: Path, job: Job) -> float:
    """Execute a chapter and keep the result; give the seconds it took."""
    chapter = job.chapter
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                cell.source,
                id=f"cell-{cell.number}",
                metadata={"tags": cell.metadata.get("tags", [])},
            )
            for cell in chapter.cells
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    at = chapter.cells[0]

    def note(cell_index: int, **_: object) -> None:
        nonlocal at
        at = chapter.cells[cell_index]

    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        kernel_manager_class=ThisPython,
        resources={"metadata": {"path": str(root)}},
        coalesce_streams=True,
        record_timing=False,
        on_cell_start=note,
    )
    start = time.perf_counter()
    try:
        client.execute(env=environment(root))
    except (CellControlSignal, DeadKernelError) as error:
        raise ExecuteError(failure(at, notebook.cells[at.number - 1], error)) from None
    seconds = time.perf_counter() - start

    for cell in notebook.cells:
        for output in cell.outputs:
            hide_paths(root, output)
    notebook.metadata["tiny_models"] = {
        "fingerprint": job.fingerprint,
        "seconds": round(seconds, 1),
    }
    write_atomically(executed_path(root, chapter.docname), nbformat.writes(notebook) + "\n")
    return seconds


def failure(cell: Cell, node: nbformat.NotebookNode, error: Exception) -> str:
    """Say which cell failed and how."""
    errors = [output for output in node.outputs if output.output_type == "error"]
    if not errors:  # a timeout or a dead kernel
        return f"{cell.place()}: cell {cell.number} failed: {error}"
    traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(errors[-1].traceback)).rstrip()
    last = "\n".join(f"    {line}" for line in traceback.split("\n")[-12:])
    return f"{cell.place()}: cell {cell.number} raised {errors[-1].ename}\n{last}"


def hide_paths(root: Path, output: nbformat.NotebookNode) -> None:
    """Make an output's text the same on every machine, as far as it names files."""
    packages = sysconfig.get_path("purelib")

    def clean(text: str) -> str:
        text = text.replace(f"{packages}/", "").replace(f"{root}/", "")
        text = re.sub(rf"{re.escape(str(root))}(?![\w.-])", ".", text)
        return re.sub(r"[^\s\"']*/ipykernel_\d+/\d+\.py", "cell", text)

    if "text" in output:
        output.text = clean(output.text)
    if "traceback" in output:
        output.traceback = [clean(line) for line in output.traceback]
    for mime, data in output.get("data", {}).items():
        if isinstance(data, str) and (mime.startswith("text/") or mime.endswith("xml")):
            output.data[mime] = clean(data)


def execute_stale(root: Path = ROOT, log: Callable[[str], object] = print) -> None:
    """Execute the stale chapters, one after another, and say why."""
    for job in jobs(root):
        if job.reason:
            log(f"executing {job.chapter.docname}: {job.reason}")
            log(f"executed {job.chapter.docname} in {execute(root, job):.1f} s")


# -------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Execute the stale chapters.")
    parser.add_argument("--dry-run", action="store_true", help="only say what is stale, and why")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    root = options.root.resolve()
    try:
        if options.dry_run:
            for docname, why in stale(root).items():
                print(f"{docname}: {why}")
        else:
            write(root)
            execute_stale(root)
    except (TangleError, ExecuteError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

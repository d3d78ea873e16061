"""Execute the chapters, each only when something it depends on has changed.

What its outputs depend on is recorded while a chapter is executed, see ``dependencies.py``. The
record is kept with the executed notebook in ``_build/.executed/``, part by part, so that the reason
for executing a chapter again can be named.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import sysconfig
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError

from tiny_models.chapters import Cell, Chapter, TangleError
from tiny_models.files import Sources, write_atomically
from tiny_models.fingerprint import (
    RECORDER,
    Files,
    Used,
    fingerprint,
    read_record,
    reason,
    recording,
)

TIMEOUT = 900  # seconds that one cell may take
AT_ONCE = min(2, os.cpu_count() or 1)  # chapters; each may hold a model of a gigabyte or two
CLOCK = re.compile(r"\b(?:perf_counter|monotonic|timeit)\b|\btime\.time\b|%time")
# Not within a longer path or a URL, but after a colour, and in a file's URL.
PATH_BEGINS = r"(\x1b\[[\d;]*m|(?<=file://)|(?<![\w.~/-]))"


class ExecuteError(TangleError):
    """A chapter failed; the message says in which cell."""


# ---------------------------------------------------------------------------------------- cache


@dataclass(frozen=True)
class Job:
    """A chapter, the files as they are, and why it has to be executed (or None)."""

    chapter: Chapter
    files: Files
    reason: str | None


def executed_path(root: Path, docname: str) -> Path:
    """Say where the executed notebook of a chapter is kept."""
    return root / "_build/.executed" / f"{docname}.ipynb"


def jobs(sources: Sources) -> Iterator[Job]:
    """Compare every chapter that has code with its executed notebook, in reading order."""
    files = Files(sources)
    for chapter in sources.chapters:
        if chapter.cells:
            yield Job(chapter, files, why(chapter, files))


def why(chapter: Chapter, files: Files) -> str | None:
    """Say why a chapter has to be executed, if it has to."""
    try:
        notebook = json.loads(executed_path(files.root, chapter.docname).read_text("utf-8"))
        done = notebook["metadata"]["tiny_models"]
        used = Used(**done["used"])
    except (FileNotFoundError, ValueError, KeyError):
        return "not executed yet"
    return reason(done["fingerprint"], fingerprint(chapter, used, files))


def jobs_of(sources: Sources, only: Collection[str]) -> Iterator[Job]:
    """Give the chapters that have to be executed; if any are named, only these."""
    if unknown := set(only) - {chapter.docname for chapter in sources.chapters if chapter.cells}:
        raise ExecuteError(f"{', '.join(sorted(unknown))}: no chapter with code in _toc.yml")
    for job in jobs(sources):
        if job.reason and (not only or job.chapter.docname in only):
            yield job


def stale(sources: Sources, only: Collection[str] = ()) -> dict[str, str]:
    """Give the reason for each chapter that has to be executed; if any are named, of these."""
    return {job.chapter.docname: job.reason for job in jobs_of(sources, only)}


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
    ours = [str(root / "src"), str(root / "book/_kit"), str(RECORDER)]
    path = [str(Path(sys.executable).parent), inherited.get("PATH", "")]
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, [*ours, inherited.get("PYTHONPATH")])),
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
    began: list[float] = []  # when each cell began

    def note(cell_index: int, **_: object) -> None:
        nonlocal at
        at = chapter.cells[cell_index]
        began.append(time.monotonic())

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
    with TemporaryDirectory() as folder:
        record = Path(folder, "record")
        variables = environment(root) | recording(root, record)
        start = time.time_ns()
        try:
            client.execute(env=variables)
        except (CellControlSignal, DeadKernelError) as error:
            raise ExecuteError(failure(at, notebook.cells[at.number - 1], error)) from None
        seconds = (time.time_ns() - start) / 1e9
        ends = [*began[1:], time.monotonic()]
        used = read_record(root, record, chapter)

    for cell in notebook.cells:
        for output in cell.outputs:
            hide_paths(root, output)
    notebook.metadata["tiny_models"] = {
        "used": asdict(used),
        "fingerprint": fingerprint(chapter, used, job.files, start),
        "seconds": round(seconds, 1),
        "seconds_of_cells": [round(end - begin, 1) for begin, end in zip(began, ends)],
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
    packages, home = Path(sysconfig.get_path("purelib")), Path.home()

    def forms(path: Path) -> list[str]:
        """Write a path in full, and the way IPython shortens it in tracebacks."""
        return [str(path), *(f"~/{p.relative_to(home)}" for p in [path] if p.is_relative_to(home))]

    def clean(text: str) -> str:
        for form in [*forms(packages), *forms(root)]:
            text = re.sub(rf"{PATH_BEGINS}{re.escape(form)}/", r"\1", text)
        for form in forms(root):
            text = re.sub(rf"{PATH_BEGINS}{re.escape(form)}(?![\w.-])", r"\1.", text)
        return re.sub(r"[^\s\"']*/ipykernel_\d+/\d+\.py", "cell", text)

    if "text" in output:
        output.text = clean(output.text)
    if "traceback" in output:
        output.traceback = [clean(line) for line in output.traceback]
    for mime, data in output.get("data", {}).items():
        if isinstance(data, str) and (mime.startswith("text/") or mime.endswith("xml")):
            output.data[mime] = clean(data)


def reads_clock(chapter: Chapter) -> bool:
    """Tell whether a chapter measures time, which nothing else should take meanwhile."""
    return any(CLOCK.search(cell.source) for cell in chapter.cells)


def execute_stale(
    sources: Sources, log: Callable[[str], object] = print, only: Collection[str] = ()
) -> None:
    """Execute the stale chapters and say why; only these, if any are named.

    Two at a time, and after these, one by one, those that measure time.
    """
    todo = list(jobs_of(sources, only))
    side_by_side = [job for job in todo if not reads_clock(job.chapter)]
    execute_all(sources.root, side_by_side, AT_ONCE, log)
    execute_all(sources.root, [job for job in todo if reads_clock(job.chapter)], 1, log)


def execute_all(root: Path, waiting: list[Job], at_once: int, log: Callable[[str], object]) -> None:
    """Execute chapters, so many at once, each in a process; one that fails ends the others."""
    context = multiprocessing.get_context("spawn")  # it may have threads
    running: dict[Connection, tuple[multiprocessing.Process, str]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                log(f"executing {job.chapter.docname}: {job.reason}")
                result, sender = context.Pipe(duplex=False)
                process = context.Process(target=execute_and_tell, args=(root, job, sender))
                process.start()
                sender.close()  # so that the end of the process is the end of the pipe
                running[result] = process, job.chapter.docname
            for result in wait(list(running)):
                process, docname = running.pop(result)
                try:
                    seconds, failure = result.recv()
                except EOFError:
                    seconds, failure = 0, f"{docname}: the process that executed it was ended"
                process.join()
                if failure:
                    raise ExecuteError(failure)
                log(f"executed {docname} in {seconds:.1f} s")
    finally:
        for process, _ in running.values():
            os.kill(process.pid, signal.SIGINT)  # which ends its kernel too
        for process, _ in running.values():
            process.join()


def execute_and_tell(root: Path, job: Job, sender: Connection) -> None:
    """Execute a chapter in a process of its own; send the seconds that it took, or what failed."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender.send((execute(root, job), ""))
    except ExecuteError as error:
        sender.send((0, str(error)))
    except KeyboardInterrupt:
        sys.exit(130)

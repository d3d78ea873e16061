"""The tangler's files: chapters and ``src/`` are read, compared and written here, and nowhere else.

A text file is UTF-8, and its lines all end in the same way, LF or CRLF; what is not so is refused
by name. A file that is written again keeps its line ends, its permissions and the link that leads
to it, and no reader ever sees half of it.
"""

from __future__ import annotations

import difflib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from sphinx.util.matching import Matcher

from tiny_models.chapters import CELL, Chapter, TangleError, docnames, read_chapter
from tiny_models.tangle import (
    TARGET,
    Tangled,
    body_of,
    digest,
    header_digest,
    is_edited,
    tangle,
)
from tiny_models.untangle import untangle

ROOT = Path(__file__).resolve().parents[3]


# ------------------------------------------------------------------------------------- one file


def read_text(path: Path, root: Path) -> str:
    """Read a text file, its lines ended by LF; refuse what could not be written back as it is."""
    name = path.relative_to(root).as_posix()
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TangleError(f"{name}:{line}: not UTF-8; save the file in that encoding") from None
    if text.startswith("\ufeff"):
        raise TangleError(f"{name}:1: begins with a byte order mark; save the file without one")
    n_crlf = text.count("\r\n")
    if text.count("\r") != n_crlf or n_crlf not in (0, text.count("\n")):
        raise TangleError(f"{name}: its lines end in different ways; make all of them end alike")
    return text.replace("\r\n", "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it, and keep what is not its text."""
    path = path.resolve()  # where a link leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_bytes() if path.exists() else b""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8", newline="\r\n" if b"\r\n" in old else "\n")
    if path.exists():
        temporary.chmod(path.stat().st_mode)
    temporary.replace(path)


# ------------------------------------------------------------------------------------- the book


def toc_docnames(root: Path) -> list[str]:
    """List the documents of ``_toc.yml`` in reading order."""
    path = root / "_toc.yml"
    if not path.exists():
        raise TangleError("_toc.yml: missing; it gives the order of the chapters")
    return docnames(read_text(path, root))


def read_chapters(root: Path) -> list[Chapter]:
    """Read the chapters of ``_toc.yml``; refuse cells to tangle that are in no chapter."""
    chapters = []
    for docname in toc_docnames(root):
        path = root / f"{docname}.md"
        if path.is_file():
            chapters.append(read_chapter(docname, read_text(path, root)))
        elif not any(path.parent.glob(f"{path.stem}.*")):  # of another format
            raise TangleError(
                f"_toc.yml: it lists {docname}, but there is no {docname}.md; "
                "restore the file, or take it off the list"
            )
    known = {chapter.docname for chapter in chapters}
    for path in strays(root, known):
        docname = path.relative_to(root).with_suffix("").as_posix()
        for cell in read_chapter(docname, read_text(path, root)).cells:
            if cell.target and not is_ignored_by_git(path):
                raise TangleError(
                    f"{cell.place()}: this cell goes to {cell.target}, but {docname} is not in "
                    "_toc.yml, which gives the order of the chapters; add it there"
                )
    return chapters


def strays(root: Path, known: set[str]) -> Iterator[Path]:
    """List files with cells to tangle that are no chapters, but could be meant to be."""
    config = root / "_config.yml"
    settings = yaml.safe_load(read_text(config, root)) if config.exists() else {}
    is_excluded = Matcher([".*", "**/.*", *(settings.get("exclude_patterns") or ())])
    for path in sorted((root / "book").rglob("*.md")):
        name = path.relative_to(root).as_posix()
        hidden = any(is_excluded(part) for part in parents(name))
        if name.removesuffix(".md") in known or hidden or not path.is_file():
            continue
        if CELL.encode() in (data := path.read_bytes()) and b"tangle:" in data:
            yield path


def parents(name: str) -> list[str]:
    """Give a path and all the folders that it is in."""
    parts = name.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def is_ignored_by_git(path: Path) -> bool:
    """Tell whether git ignores a file; without git, nothing is ignored."""
    try:
        command = ["git", "check-ignore", "--quiet", path.name]
        return subprocess.run(command, cwd=path.parent, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class Sources:
    """The chapters in reading order, and the files of ``src/`` that they make."""

    root: Path
    chapters: Sequence[Chapter]
    tangled: Mapping[str, Tangled]

    def with_texts(self, texts: Mapping[str, str]) -> Sources:
        """Give what it would be if chapters had other texts."""
        chapters = [
            read_chapter(chapter.docname, texts[chapter.docname])
            if chapter.docname in texts
            else chapter
            for chapter in self.chapters
        ]
        return sources_of(self.root, chapters)


def sources_of(root: Path, chapters: Sequence[Chapter]) -> Sources:
    """Tangle chapters, in memory."""
    modules = [path.stem for path in (root / "src").glob("*.py")]
    return Sources(root, chapters, tangle(chapters, modules))


def read_sources(root: Path = ROOT) -> Sources:
    """Read the chapters of a book and tangle them, in memory."""
    return sources_of(root, read_chapters(root))


# -------------------------------------------------------------------------------- files in src/


def files_on_disk(sources: Sources) -> dict[str, str]:
    """Read what stands where files are tangled to, and tangled files of no chapter."""
    root = sources.root
    texts = {}
    for path in sorted((root / "src").glob("*.*")):
        target = path.relative_to(root).as_posix()
        if not TARGET.fullmatch(target) or not path.is_file():
            continue
        text = read_text(path, root)
        if target in sources.tangled or header_digest(text):
            texts[target] = text
    return texts


def diff(target: str, chapters: str, disk: str) -> str:
    """Show how the file on disk differs from what the chapters say."""
    lines = difflib.unified_diff(
        chapters.splitlines(),
        disk.splitlines(),
        f"{target} (chapters)",
        f"{target} (src)",
        lineterm="",
    )
    return "\n".join(lines)


def check(sources: Sources) -> list[str]:
    """Compare ``src/`` with what was tangled; give a diff for each file that differs."""
    disk = files_on_disk(sources)
    fresh = {target: result.text for target, result in sources.tangled.items()}
    return [
        diff(target, fresh.get(target, ""), disk.get(target, ""))
        for target in sorted(fresh | disk)
        if fresh.get(target) != disk.get(target)
    ]


def write(sources: Sources, force: bool = False) -> list[str]:
    """Bring ``src/`` up to date, and say what was done; refuse to destroy hand edits."""
    root, results = sources.root, sources.tangled
    disk = files_on_disk(sources)
    for target, text in disk.items():
        fresh = results.get(target)
        if fresh and body_of(text) == fresh.body:
            continue
        if header_digest(text) is None:
            raise TangleError(
                f"{target}: this file was not made by tangling, so it is not overwritten; "
                "move it away, or tangle to another name"
            )
        if is_edited(text) and not force:
            raise TangleError(
                f"{diff(target, fresh.text if fresh else '', text)}\n\n"
                f"{target}: this file was edited by hand (above: - chapters, + the file), so it is "
                "not overwritten. Carry the edits back into the chapters with\n"
                "    make untangle\nor discard them with\n    make tangle FORCE=1"
            )
    done = []
    for target in sorted(results.keys() | disk.keys()):
        if target not in results:
            (root / target).unlink()
            done.append(f"removed {target}, which no chapter is tangled into any more")
        elif results[target].text != disk.get(target):
            write_atomically(root / target, results[target].text)
            done.append(f"wrote {target}")
    return done


def carry_back(sources: Sources) -> list[str]:
    """Carry hand edits in ``src/`` back into the cells they belong to, or change nothing."""
    root, results = sources.root, sources.tangled
    edited: dict[str, str] = {}
    for target, text in files_on_disk(sources).items():
        if header_digest(text) is None:
            raise TangleError(
                f"{target}: the header in line 1 is gone or changed, so it cannot be told what "
                "was edited; nothing was changed. Restore that line"
            )
        if not is_edited(text):
            continue
        if target not in results:
            raise TangleError(f"{target}: no chapter is tangled into this file any more")
        if header_digest(text) != digest(results[target].body):
            raise TangleError(
                f"{target}: this file was edited, but since it was tangled its chapters changed "
                "as well; nothing was changed. Undo one of the two, or make the edits in the "
                "chapters and run\n    make tangle FORCE=1"
            )
        edited[target] = text
    if not edited:
        return ["no file in src/ was edited"]

    bodies = {target: body_of(text) for target, text in edited.items()}
    texts = untangle(results, bodies, sources.chapters)
    try:
        again = sources.with_texts(texts).tangled
    except TangleError as error:
        raise TangleError(
            f"carried back, the edits would not tangle; nothing was changed: {error}"
        ) from None
    wanted = {target: result.body for target, result in results.items()}
    for target, body in (wanted | bodies).items():
        if target not in again or again[target].body != body:
            tangled = again[target].body if target in again else ""
            raise TangleError(
                f"{diff(target, tangled, body)}\n\n{target}: carried back, the edits would tangle "
                "to another text (above), for tangling sets the imports and the blank lines around "
                "definitions itself; nothing was changed. Make the edits in the chapters instead"
            )
    for docname, text in texts.items():
        write_atomically(root / f"{docname}.md", text)
    for target in edited:
        write_atomically(root / target, again[target].text)
    return [f"carried {', '.join(edited)} back into {', '.join(f'{d}.md' for d in texts)}"]

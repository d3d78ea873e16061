"""Tangle the chapters' code cells into ``src/``.

The chapters are the source and ``src/`` is derived from them: a ``{code-cell}`` with the option
``:tangle: src/NAME.py`` contributes its text to that file, in the order of ``_toc.yml`` and then
of the cells. What a person would do when typing the cells into one file is done here too: the
imports move to the top, merged and sorted, and definitions stand two blank lines apart. All other
text, comments included, stays as it is. The cells of a ``src/NAME.js`` are put together as they
are, a blank line apart.

    python book/_ext/tangle.py              write src/ from the chapters
    python book/_ext/tangle.py --check      write nothing; show what differs, exit 1 if anything
    python book/_ext/tangle.py --force      write src/, discarding hand edits
    python book/_ext/tangle.py untangle     carry hand edits in src/ back into the chapters

The first line of a tangled file holds a digest of the rest. It tells a hand-edited file, which is
never overwritten, from one that is merely older than its chapters, which is.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jupytext.myst import MystMetadataParsingError, myst_to_notebook
from nbformat import ValidationError

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 100
TARGET = re.compile(r"src/[A-Za-z_]\w*\.(py|js)")
HEADER = re.compile(r"(?:#|//) Tangled from .+; sha256 ([0-9a-f]{12})")
MAGIC = re.compile(r"\s*[%!?]|[^#]*=\s*[%!]|[^#]*\?\s*$")


class TangleError(Exception):
    """Something the author has to put right; the message says where and how."""


# ------------------------------------------------------------------------------------ chapters


@dataclass(frozen=True, eq=False)
class Cell:
    """A code cell, and where it stands."""

    docname: str  # "book/gpt2/tokens"
    number: int  # 1 for the chapter's first code cell
    line: int  # line of the chapter's file on which the source begins
    source: str
    metadata: Mapping[str, Any]

    @property
    def target(self) -> str | None:
        """The file that the cell is tangled into, if any."""
        return self.metadata.get("tangle")

    @cached_property
    def lines(self) -> list[str]:
        """The source's lines."""
        return self.source.split("\n")

    def place(self, line: int = 1) -> str:
        """Name a line of the cell the way editors and compilers do."""
        return f"{self.docname}.md:{self.line + line - 1}"


@dataclass(frozen=True, eq=False)
class Chapter:
    """A chapter's front matter and code cells."""

    docname: str
    text: str
    metadata: Mapping[str, Any]
    cells: list[Cell]


def toc_docnames(root: Path) -> list[str]:
    """List the documents of ``_toc.yml`` in reading order."""

    def walk(entry: Mapping[str, Any]) -> Iterator[str]:
        for key in ("root", "file"):
            if key in entry:
                yield entry[key].removesuffix(".md")
        for key in ("parts", "chapters", "sections"):
            for child in entry.get(key) or ():
                yield from walk(child)

    try:
        return list(walk(yaml.safe_load((root / "_toc.yml").read_text("utf-8"))))
    except FileNotFoundError:
        raise TangleError("_toc.yml: missing; it gives the order of the chapters") from None


def closes(fence: str, lines: list[str]) -> bool:
    """Tell whether lines begin with a cell's closing fence; Jupytext drops a blank line above."""
    below = lines[1:2] if lines and not lines[0].strip() else lines[:1]
    return bool(fence) and bool(below) and below[0].startswith(fence)


def read_chapter(docname: str, text: str) -> Chapter:
    """Find the code cells of a chapter, each with the line on which its source begins.

    Jupytext tells the line of a cell's fence only. The options below the fence (``:name: value``
    lines or a ``---`` block) and the blank line after them are not part of the source, so the
    source is looked for: it is the text that ends where the closing fence begins.
    """
    if "{code-cell}" not in text:
        return Chapter(docname, text, {}, [])
    try:
        notebook = myst_to_notebook(text, add_source_map=True)
    except (MystMetadataParsingError, yaml.YAMLError) as error:
        raise TangleError(f"{docname}.md: {error}") from None
    except ValidationError as error:
        raise TangleError(f"{docname}.md:1: in the front matter, {error.message}") from None
    lines = text.split("\n")
    cells: list[Cell] = []
    for node, start in zip(notebook.cells, notebook.metadata["source_map"], strict=True):
        if node.cell_type != "code":
            continue
        source = node.source.split("\n") if node.source else []
        fence = re.match(r"[`~]*", lines[start - 1])[0]
        first = start
        while lines[first : first + len(source)] != source or not closes(
            fence, lines[first + len(source) :]
        ):
            first += 1
            if first + len(source) >= len(lines):
                raise TangleError(
                    f"{docname}.md:{start}: this code cell is indented or not closed; "
                    "put its fences at the start of a line"
                )
        cells.append(Cell(docname, len(cells) + 1, first + 1, node.source, node.metadata))
    return Chapter(docname, text, notebook.metadata, cells)


def read_chapters(root: Path, texts: Mapping[str, str] | None = None) -> list[Chapter]:
    """Read the chapters of ``_toc.yml``; ``texts`` replaces those of the documents it names."""
    chapters = []
    for docname in toc_docnames(root):
        if texts and docname in texts:
            chapters.append(read_chapter(docname, texts[docname]))
        elif (path := root / f"{docname}.md").exists():
            chapters.append(read_chapter(docname, path.read_text("utf-8")))
    return chapters


# ------------------------------------------------------------------------------------- imports


class Import(NamedTuple):
    """One name that an import statement binds."""

    module: str  # with the leading dots of a relative import
    name: str | None  # None for ``import module``
    asname: str | None

    @classmethod
    def of(cls, node: ast.Import | ast.ImportFrom) -> list[Import]:
        """List the names that a statement binds."""
        if isinstance(node, ast.Import):
            return [cls(alias.name, None, alias.asname) for alias in node.names]
        module = "." * node.level + (node.module or "")
        return [cls(module, alias.name, alias.asname) for alias in node.names]


def natural(text: str) -> tuple[list[tuple[str, int]], ...]:
    """Sort numbers within names by value, and case only where nothing else differs, as isort does.

    A character is (character, 0) and a number is ("0", value), which sorts where its digits would.
    """
    return tuple(
        [("0", int(part)) if part.isdigit() else (part, 0) for part in re.findall(r"\d+|\D", form)]
        for form in (text.lower(), text)
    )


def member_key(name: str) -> tuple[Any, ...]:
    """Sort CONSTANTS before Classes before other names, as isort does."""
    kind = 0 if len(name) > 1 and name.isupper() else 1 if name[:1].isupper() else 2
    return kind, natural(name)


def section(module: str, local: Iterable[str]) -> int:
    """Number the block of imports to which a module belongs."""
    top = module.split(".")[0]
    if top == "__future__":
        return 0
    if top in sys.stdlib_module_names:
        return 1
    return 4 if not top else 3 if top in local else 2


def render_imports(imports: Iterable[Import], local: Iterable[str] = ()) -> list[str]:
    """Write import statements as ruff's and isort's default rules want them.

    Blocks in the order future, standard library, third party, ours (``local``), relative; in each
    the ``import x`` before the ``from x import y``, both by name. Names imported from one module
    share a statement, except renamed ones, which have one each.
    """
    plain: set[tuple[str, str | None]] = set()
    members: dict[tuple[str, str | None, str | None], set[str]] = {}
    for module, name, asname in imports:
        if name is None:
            plain.add((module, asname))
        else:
            alone = (name, asname) if asname else (None, None)
            members.setdefault((module, *alone), set()).add(name)

    statements: list[tuple[tuple[Any, ...], list[str]]] = []
    for module, asname in plain:
        text = f"import {module}" + (f" as {asname}" if asname else "")
        key = (section(module, local), 0, natural(module), (), asname or "")
        statements.append((key, [text]))
    for (module, _, asname), group in members.items():
        names = sorted(group, key=member_key)
        text = f"from {module} import {', '.join(names)}" + (f" as {asname}" if asname else "")
        lines = [text]
        if len(text) > WIDTH:
            lines = [f"from {module} import (", *(f"    {name}," for name in names), ")"]
        key = (section(module, local), 1, natural(module), member_key(names[0]), asname or "")
        statements.append((key, lines))

    result: list[str] = []
    previous = None
    for key, lines in sorted(statements):
        if previous is not None and key[0] != previous:
            result.append("")
        result += lines
        previous = key[0]
    return result


# ------------------------------------------------------------------------------------ tangling


@dataclass(frozen=True)
class Line:
    """A line of a tangled file and the line of a cell it came from (none for blank lines)."""

    text: str
    cell: Cell | None = None
    number: int = 0


@dataclass(frozen=True)
class Fragment:
    """What one cell contributed to a file: spans of (first, last) lines, counted from 1.

    A cell has two spans if it holds the module's docstring as well as other code, and none if it
    holds nothing but imports; ``imports`` is where the file's imports stand, if it holds any.
    """

    cell: Cell
    spans: tuple[tuple[int, int], ...]
    imports: tuple[int, int] | None


@dataclass
class Chunk:
    """A top-level statement with the comments right above it, or comments that stand alone."""

    cell: Cell
    numbers: list[int]  # its lines in the cell
    spaced: bool  # whether the author left a blank line above it
    node: ast.stmt | None

    @property
    def is_definition(self) -> bool:
        """Whether it is a function or a class."""
        return isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)

    @property
    def is_string(self) -> bool:
        """Whether it is a string, as a docstring is."""
        value = self.node.value if isinstance(self.node, ast.Expr) else None
        return isinstance(value, ast.Constant) and isinstance(value.value, str)


@dataclass
class Tangled:
    """A file made of cells."""

    target: str
    docnames: list[str]
    lines: list[Line]  # the file below its header, so lines[0] is line 2
    import_lines: tuple[int, int] | None
    imports: dict[Import, list[tuple[Cell, ast.stmt]]] = field(repr=False)
    fragments: list[Fragment] = field(default_factory=list)

    @property
    def page(self) -> str:
        """The name of the file's page in the book."""
        return self.target.removesuffix(".py")

    @cached_property
    def body(self) -> str:
        """The text below the header."""
        return "".join(f"{line.text}\n" for line in self.lines)

    @cached_property
    def text(self) -> str:
        """The whole file."""
        comment = "#" if is_python(self.target) else "//"
        return f"{header(self.docnames, digest(self.body), comment)}\n{self.body}"


def is_python(target: str) -> bool:
    """Tell a Python file from a JavaScript one."""
    return target.endswith(".py")


def digest(body: str) -> str:
    """Give the digest that a header records."""
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def header(docnames: list[str], body_digest: str, comment: str = "#") -> str:
    """Name the chapters of a file as fully as one line can, and its digest."""
    folders: dict[str, list[str]] = {}
    for docname in docnames:
        folder, _, name = docname.rpartition("/")
        folders.setdefault(folder, []).append(name)
    paths = [
        f"{folder}/{names[0] if len(names) == 1 else '{' + ','.join(names) + '}'}.md".lstrip("/")
        for folder, names in folders.items()
    ]
    forms = [
        ", ".join(paths),
        f"{len(docnames)} chapters, {docnames[0]}.md to {docnames[-1]}.md",
        f"{len(docnames)} chapters",
    ]
    lines = [f"{comment} Tangled from {form}; sha256 {body_digest}" for form in forms]
    return next((line for line in lines if len(line) <= WIDTH), lines[-1])


def parse(cell: Cell) -> ast.Module:
    """Parse a cell that is going to be part of a module."""
    try:
        tree = ast.parse(cell.source)
        compile(tree, cell.docname, "exec", dont_inherit=True)
        return tree
    except SyntaxError as error:
        number = min(error.lineno or 1, len(cell.lines))
        if MAGIC.match(cell.lines[number - 1]):
            problem = "a tangled cell must be plain Python; move the magic into a cell of its own"
        else:
            problem = f"{error.msg}: {cell.lines[number - 1].strip()}"
        raise TangleError(f"{cell.place(number)}: {problem}") from None


def span(node: ast.stmt) -> tuple[int, int]:
    """Give a statement's first and last line, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    return min(item.lineno for item in [node, *decorators]), node.end_lineno or node.lineno


def inner_comments(cell: Cell, numbers: Iterable[int]) -> list[int]:
    """Give the first of these lines, as far as they are comments that end an indented block."""
    inner = list(takewhile(lambda number: cell.lines[number - 1][:1] in ("", " ", "\t"), numbers))
    while inner and not cell.lines[inner[-1] - 1].strip():
        inner.pop()
    return inner


def split(cell: Cell, tree: ast.Module) -> tuple[list[Chunk], list[ast.Import | ast.ImportFrom]]:
    """Split a cell into the chunks that stay in place and the imports that move.

    A comment belongs to the statement right below it; with a blank line between, it stands alone.
    """
    chunks: list[Chunk] = []
    imports: list[ast.Import | ast.ImportFrom] = []
    pending: list[int] = []  # comments and blank lines above the next statement
    end = 0

    def skip(stop: int) -> None:
        """Collect what stands between the last statement and line ``stop``."""
        between = list(range(end + 1, stop))
        if chunks and chunks[-1].numbers[-1] == end:
            inner = inner_comments(cell, between)
            chunks[-1].numbers += inner
            between = between[len(inner) :]
        pending.extend(between)

    def flush(statement: list[int], node: ast.stmt | None) -> None:
        """Make chunks of the pending comments and of the statement below them."""
        group: list[int] = []
        spaced = False
        for number in pending:
            if cell.lines[number - 1].strip():
                group.append(number)
                continue
            if group:
                chunks.append(Chunk(cell, group, spaced, None))
            group, spaced = [], True
        pending.clear()
        if group or statement:
            chunks.append(Chunk(cell, group + statement, spaced, node))

    for node in tree.body:
        first, last = span(node)
        if first <= end:
            raise TangleError(f"{cell.place(first)}: put each statement on a line of its own")
        skip(first)
        end = last
        if not isinstance(node, ast.Import | ast.ImportFrom):
            flush(list(range(first, last + 1)), node)
        elif any("#" in line for line in cell.lines[first - 1 : last]):
            raise TangleError(
                f"{cell.place(first)}: this import moves to the top of {cell.target} and cannot "
                "take its comment along; put the comment on a line of its own"
            )
        else:
            imports.append(node)
    skip(len(cell.lines) + 1)
    flush([], None)
    return chunks, imports


def defined_names(node: ast.stmt) -> list[str]:
    """List the names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value:
        targets = [node.target]
    return [
        name.id
        for target in targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store) and name.id != "_"
    ]


def assemble(target: str, cells: list[Cell], local: Iterable[str]) -> Tangled:
    """Make one file of its cells."""
    docstring: Chunk | None = None
    chunks: list[Chunk] = []
    imports: dict[Import, list[tuple[Cell, ast.stmt]]] = {}
    defined: dict[str, str] = {}
    for cell in cells:
        tree = parse(cell)
        for node in tree.body:
            for name in defined_names(node):
                place = cell.place(node.lineno)
                if name in defined:
                    raise TangleError(
                        f"{place}: {name} is defined in {target} already, at {defined[name]}; "
                        "rename one, or tangle only one of them"
                    )
                defined[name] = place
        cell_chunks, cell_imports = split(cell, tree)
        for node in cell_imports:
            for item in Import.of(node):
                imports.setdefault(item, []).append((cell, node))
        if cell is cells[0] and cell_chunks and cell_chunks[0].is_string:
            docstring = cell_chunks.pop(0)
        chunks += cell_chunks

    lines: list[Line] = []

    def add(chunk: Chunk) -> None:
        lines.extend(Line(chunk.cell.lines[n - 1], chunk.cell, n) for n in chunk.numbers)

    if docstring:
        add(docstring)
    import_lines = None
    if imports:
        lines.append(Line(""))
        rendered = render_imports(imports, local)
        import_lines = (len(lines) + 2, len(lines) + 1 + len(rendered))
        lines += map(Line, rendered)
    previous: Chunk | None = None
    for chunk in chunks:
        if chunk.is_definition or (previous and previous.is_definition):
            gap = 2
        else:
            gap = 0 if previous and previous.cell is chunk.cell and not chunk.spaced else 1
        lines += [Line("")] * gap
        add(chunk)
        previous = chunk

    docnames = list(dict.fromkeys(cell.docname for cell in cells))
    tangled = Tangled(target, docnames, lines, import_lines, imports)
    tangled.fragments = [fragment(tangled, cell) for cell in cells]
    return tangled


def join(target: str, cells: list[Cell]) -> Tangled:
    """Make one file of cells in another language than Python: all of them, a blank line apart."""
    lines: list[Line] = []
    for cell in cells:
        lines += [Line("")] if lines else []
        lines += [Line(text, cell, number) for number, text in enumerate(cell.lines, 1)]
    docnames = list(dict.fromkeys(cell.docname for cell in cells))
    tangled = Tangled(target, docnames, lines, None, {})
    tangled.fragments = [fragment(tangled, cell) for cell in cells]
    return tangled


def fragment(tangled: Tangled, cell: Cell) -> Fragment:
    """Find the lines that a cell contributed."""
    spans: list[tuple[int, int]] = []
    joined = False  # whether nothing but blank lines came since the last span
    for number, line in enumerate(tangled.lines, 2):
        if line.cell is cell:
            first = spans.pop()[0] if joined else number
            spans.append((first, number))
            joined = True
        elif line.text:
            joined = False
    contributors = (who for pairs in tangled.imports.values() for who, _ in pairs)
    return Fragment(cell, tuple(spans), tangled.import_lines if cell in contributors else None)


def tangle(root: Path = ROOT, texts: Mapping[str, str] | None = None) -> dict[str, Tangled]:
    """Make the files of ``src/`` in memory; ``texts`` replaces chapters on disk."""
    chapters = read_chapters(root, texts)
    known = {chapter.docname for chapter in chapters}
    for path in sorted((root / "book").rglob("*.md")):
        docname = path.relative_to(root).with_suffix("").as_posix()
        text = path.read_text("utf-8") if docname not in known else ""
        for cell in read_chapter(docname, text).cells if "tangle:" in text else ():
            if cell.target:
                raise TangleError(
                    f"{cell.place()}: this cell goes to {cell.target}, but {docname} is not in "
                    "_toc.yml, which gives the order of the chapters; add it there"
                )

    targets: dict[str, list[Cell]] = {}
    for cell in (cell for chapter in chapters for cell in chapter.cells):
        if "tangle" not in cell.metadata:
            continue
        if not isinstance(cell.target, str) or not TARGET.fullmatch(cell.target):
            raise TangleError(
                f"{cell.place()}: a cell cannot be tangled into {cell.target!r}; "
                "name a file as src/NAME.py or src/NAME.js"
            )
        targets.setdefault(cell.target, []).append(cell)
    local = {Path(target).stem for target in targets if is_python(target)}
    local |= {path.stem for path in (root / "src").glob("*.py")}
    return {
        target: assemble(target, cells, local) if is_python(target) else join(target, cells)
        for target, cells in sorted(targets.items())
    }


# -------------------------------------------------------------------------------- files in src/


def header_digest(text: str) -> str | None:
    """Read the digest in a tangled file's header; None if the file has no such header."""
    match = HEADER.fullmatch(text.partition("\n")[0])
    return match and match[1]


def body_of(text: str) -> str:
    """Give a file's text below its first line."""
    return text.partition("\n")[2]


def is_edited(text: str) -> bool:
    """Tell whether a tangled file was changed since it was written."""
    return header_digest(text) != digest(body_of(text))


def files_on_disk(root: Path, results: Mapping[str, Tangled]) -> dict[str, str]:
    """Read what stands where files are tangled to, and tangled files of no chapter."""
    texts = {}
    for path in sorted((root / "src").glob("*.*")):
        target = path.relative_to(root).as_posix()
        if not TARGET.fullmatch(target):
            continue
        text = path.read_text("utf-8")
        if target in results or header_digest(text):
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


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, "utf-8", newline="\n")
    temporary.replace(path)


def check(root: Path = ROOT) -> list[str]:
    """Compare ``src/`` with the chapters; give a diff for each file that differs."""
    results = tangle(root)
    disk = files_on_disk(root, results)
    fresh = {target: result.text for target, result in results.items()}
    return [
        diff(target, fresh.get(target, ""), disk.get(target, ""))
        for target in sorted(fresh | disk)
        if fresh.get(target) != disk.get(target)
    ]


def write(root: Path = ROOT, force: bool = False) -> list[str]:
    """Bring ``src/`` up to date, and say what was done; refuse to destroy hand edits."""
    results = tangle(root)
    disk = files_on_disk(root, results)
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
                "    python book/_ext/tangle.py untangle\nor discard them with\n"
                "    python book/_ext/tangle.py --force"
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


# -------------------------------------------------------------------------------- command line


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0 if all is well, 1 if ``--check`` found a difference, 2 on errors."""
    parser = argparse.ArgumentParser(description="Tangle the chapters' code cells into src/.")
    parser.add_argument("command", nargs="?", choices=["tangle", "untangle"], default="tangle")
    parser.add_argument("--check", action="store_true", help="write nothing; show what differs")
    parser.add_argument("--force", action="store_true", help="discard hand edits in src/")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        if options.check:
            differences = check(options.root)
            print("\n".join(differences), end="\n" if differences else "")
            return 1 if differences else 0
        if options.command == "untangle":
            from untangle import untangle  # it needs this module whole

            done = untangle(options.root)
        else:
            done = write(options.root, options.force)
    except TangleError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(done), end="\n" if done else "")
    return 0


if __name__ == "__main__":
    import tangle as module  # the one that untangle.py imports, so that there is one TangleError

    sys.exit(module.main())

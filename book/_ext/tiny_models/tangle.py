"""Put the chapters' code cells together to the files of ``src/``, in memory.

A ``{code-cell}`` with the option ``:tangle: src/NAME.py`` contributes its text to that file, in the
order of ``_toc.yml`` and then of the cells. What a person would do when typing the cells into one
file is done here too: the imports move to the top, where ruff merges and sorts them, and
definitions stand two blank lines apart. All other text, comments included, stays as it is. The
cells of a ``src/NAME.js`` are put together as they are, a blank line apart.

The first line of a tangled file holds a digest of the rest. It tells a hand-edited file from one
that is merely older than its chapters.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from ruff.__main__ import find_ruff_bin

from tiny_models.chapters import Cell, Chapter, TangleError

WIDTH = 100
TARGET = re.compile(r"src/[A-Za-z_]\w*\.(py|js)")
HEADER = re.compile(r"(?:#|//) Tangled from .+; sha256 ([0-9a-f]{12})")
MAGIC = re.compile(r"\s*[%!?]|[^#]*=\s*[%!]|[^#]*\?\s*$")
FIRST_LINE = re.compile(r"#!|#.*?coding[:=]")  # what counts in the first line of a file only

# ----------------------------------------------------------------------------- a tangled file


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


def statement(items: Sequence[Import]) -> list[str]:
    """Write imports of one kind from one module, unsorted."""
    names = [
        f"{i.name or i.module} as {i.asname}" if i.asname else i.name or i.module for i in items
    ]
    if items[0].name is None:
        return [f"import {name}" for name in names]
    return [f"from {items[0].module} import {name}" for name in names]


@cache
def sort_imports(lines: tuple[str, ...], local: frozenset[str] = frozenset()) -> list[str]:
    """Merge and sort import statements, with the comments above and behind them, as ruff does."""
    options = ["--isolated", "--no-cache", "--quiet", "--select", "I", "--fix"]
    options += ["--line-length", str(WIDTH), "--target-version", "py311"]
    options += ["--config", "src=[]", "--stdin-filename", "module.py"]  # whatever the folder
    ours = f"lint.isort.known-first-party={json.dumps(sorted(local))}"
    # A comment above the very first import would stay there, so this one goes first.
    future = [line for line in lines if line.startswith("from __future__")]
    first = future[0] if future else "from __future__ import annotations"
    done = subprocess.run(
        [find_ruff_bin(), "check", *options, "--config", ours, "-"],
        input="\n".join([first, *lines, ""]),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.rstrip("\n").split("\n")[0 if future else 2 :]


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


def split(cell: Cell, tree: ast.Module) -> tuple[list[Chunk], list[Chunk]]:
    """Split a cell into the chunks that stay in place and the imports that move.

    A comment belongs to the statement right below it; with a blank line between, it stands alone.
    """
    chunks: list[Chunk] = []
    imports: list[Chunk] = []
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
            moves = isinstance(node, ast.Import | ast.ImportFrom)
            (imports if moves else chunks).append(Chunk(cell, group + statement, spaced, node))

    for node in tree.body:
        first, last = span(node)
        if first <= end:
            raise TangleError(f"{cell.place(first)}: put each statement on a line of its own")
        skip(first)
        end = last
        flush(list(range(first, last + 1)), node)
    skip(len(cell.lines) + 1)
    flush([], None)
    return chunks, imports


def may_act(node: ast.stmt) -> bool:
    """Tell whether a statement may change what an import below it does, as a call may."""
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return not all(isinstance(name, ast.Name | ast.Tuple | ast.List) for name in targets)
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Constant)
    harmless = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    return not isinstance(node, harmless)


def check_order(target: str, cells: Sequence[Cell]) -> None:
    """Refuse an import that would overtake a statement that may change what it does."""
    known: set[str] = set()
    act = None
    for cell in cells:
        for node in parse(cell).body:
            if may_act(node):
                act = act or cell.place(node.lineno)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = {item.module for item in Import.of(node)}
                if act and not modules <= known:
                    raise TangleError(
                        f"{cell.place(node.lineno)}: in {target} this import would come before "
                        f"{act}, which may change what it does; move it above that line"
                    )
                known |= modules


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
    if FIRST_LINE.match(cells[0].lines[0]):
        raise TangleError(
            f"{cells[0].place()}: this line counts only as the first of a file, and that of "
            f"{target} says where it comes from; leave it out"
        )
    check_order(target, cells)
    docstring: Chunk | None = None
    chunks: list[Chunk] = []
    statements: list[str] = []  # the imports, as they are written in the cells
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
        for chunk in cell_imports:
            statements += [cell.lines[number - 1] for number in chunk.numbers]
            for item in Import.of(chunk.node):
                imports.setdefault(item, []).append((cell, chunk.node))
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
        rendered = sort_imports(tuple(statements), frozenset(local))
        import_lines = (len(lines) + 2, len(lines) + 1 + len(rendered))
        lines += map(Line, rendered)
    previous: Chunk | None = None
    for chunk in chunks:
        if chunk.is_definition or (previous and previous.is_definition):
            gap = 2
        else:
            # A comment that stands alone would be taken for one about what comes right below it.
            joined = previous and previous.cell is chunk.cell and previous.node and not chunk.spaced
            gap = 0 if joined else 1
        lines += [Line("")] * gap
        add(chunk)
        previous = chunk

    docnames = list(dict.fromkeys(cell.docname for cell in cells))
    tangled = Tangled(target, docnames, lines, import_lines, imports)
    tangled.fragments = [fragment(tangled, cell) for cell in cells]
    try:
        compile(tangled.text, target, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise TangleError(
            f"{target}:{error.lineno}: {error.msg}, in what the cells make together: "
            f"{tangled.text.splitlines()[error.lineno - 1].strip()}"
        ) from None
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


def tangle(chapters: Iterable[Chapter], modules: Iterable[str] = ()) -> dict[str, Tangled]:
    """Make the files of ``src/`` of the chapters; ``modules`` are others that can be imported."""
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
    local = {Path(target).stem for target in targets if is_python(target)} | set(modules)
    return {
        target: assemble(target, cells, local) if is_python(target) else join(target, cells)
        for target, cells in sorted(targets.items())
    }

"""Chapters in MyST Markdown: their order in ``_toc.yml``, their front matter and their code cells.

Jupytext finds the cells. It looks for them at the top level only, as MyST-NB does, and passes over
any other in silence; so a cell in a note, a list or a quotation is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import yaml
from jupytext.myst import MystMetadataParsingError, myst_to_notebook
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from nbformat import ValidationError

CELL = "{code-cell}"
# Directives whose content is not Markdown, so that a cell in it is an example of one.
VERBATIM = re.compile(r"\{(?:code|code-block|sourcecode|literalinclude|math|raw|parsed-literal)\}")


class TangleError(Exception):
    """Something the author has to put right; the message says where and how."""


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


def docnames(toc: str) -> list[str]:
    """List the documents of a ``_toc.yml`` in reading order."""

    def walk(entry: Mapping[str, Any]) -> Iterator[str]:
        for key in ("root", "file"):
            if key in entry:
                yield entry[key].removesuffix(".md")
        for key in ("parts", "chapters", "sections"):
            for child in entry.get(key) or ():
                yield from walk(child)

    return list(walk(yaml.safe_load(toc)))


@cache
def markdown() -> MarkdownIt:
    """Make a parser that finds the blocks of MyST, of which directives stay unread."""
    parser = MarkdownIt("commonmark").use(front_matter_plugin).use(colon_fence_plugin)
    return parser.disable("inline")


def inner_cells(tokens: Sequence[Token], first: int = 1, within: bool = False) -> Iterator[int]:
    """Give the lines of cells that stand within something; the tokens begin in line ``first``."""
    for token in tokens:
        if token.type not in ("fence", "colon_fence"):
            continue
        info, line = token.info.strip(), first + token.map[0]
        if info.startswith(CELL):
            if within or token.level:
                yield line
        elif info.startswith("{") and not VERBATIM.match(info):
            yield from inner_cells(markdown().parse(token.content), line + 1, True)


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
    if CELL not in text:
        return Chapter(docname, text, {}, [])
    try:
        notebook = myst_to_notebook(text, add_source_map=True)
    except (MystMetadataParsingError, yaml.YAMLError) as error:
        raise TangleError(f"{docname}.md: {error}") from None
    except ValidationError as error:
        raise TangleError(f"{docname}.md:1: in the front matter, {error.message}") from None
    for line in inner_cells(markdown().parse(text)):
        raise TangleError(
            f"{docname}.md:{line}: this code cell stands within a note, a list or a quotation, "
            "where it is neither executed nor tangled; put it at the top level"
        )
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

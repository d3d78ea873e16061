"""Find the chapters' new text for edits made in tangled files, in memory.

Each change of a file is attributed to the one cell it belongs to, through the cell and line that
tangling noted for every line of the file. Whether the new chapters tangle to the edited files is
for the caller to see; see ``carry_back`` in ``files.py``.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import NamedTuple

from tiny_models.chapters import Cell, Chapter, TangleError
from tiny_models.tangle import Import, Line, Tangled, is_python, sort_imports, statement


class Edit(NamedTuple):
    """New text for the lines from ``first`` up to, not including, ``last`` of a cell."""

    cell: Cell
    first: int
    last: int
    text: list[str]


def import_edits(result: Tangled, edited: Iterable[Import]) -> Iterator[Edit]:
    """Find the one import statement of a cell that each changed import belongs to."""
    edited = dict.fromkeys(edited)
    added = [item for item in edited if item not in result.imports]
    removed = [item for item in result.imports if item not in edited]
    changes: dict[ast.stmt, tuple[Cell, list[Import], list[Import]]] = {}

    def change(contributors: list[tuple[Cell, ast.stmt]], item: Import) -> tuple:
        unique = {node: cell for cell, node in contributors}
        if len(unique) != 1:
            what = statement([item])[0]
            places = ", ".join(cell.place(node.lineno) for node, cell in unique.items())
            raise TangleError(
                f"{result.target}: the changed import '{what}' belongs to "
                f"{'several cells: ' + places if unique else 'no cell'}; "
                "nothing was changed. Change the chapters instead"
            )
        (node, cell), *_ = unique.items()
        return changes.setdefault(node, (cell, [], []))

    for item in removed:
        change(result.imports[item], item)[1].append(item)
    for item in added:
        kin = [
            contributors
            for other, contributors in result.imports.items()
            if other.module == item.module and (other.name is None) == (item.name is None)
        ]
        if not kin:
            kin = [result.imports[other] for other in removed]
        change([who for contributors in kin for who in contributors], item)[2].append(item)
    for node, (cell, minus, plus) in changes.items():
        items = [item for item in Import.of(node) if item not in minus] + plus
        text = sort_imports(tuple(statement(items))) if items else []
        yield Edit(cell, node.lineno, (node.end_lineno or 0) + 1, text)


def line_edit(result: Tangled, old: list[Line], start: int, stop: int, new: list[str]) -> Edit:
    """Find the cell to which the change of ``old[start:stop]`` into ``new`` belongs."""
    touched = [line for line in old[start:stop] if line.cell]
    before = next((line for line in reversed(old[:start]) if line.cell), None)
    after = next((line for line in old[stop:] if line.cell), None)
    code = next((text for text in new if text.strip()), "")

    def refuse(why: str) -> TangleError:
        shown = code or (touched[0].text if touched else "a blank line")
        return TangleError(
            f"{result.target}: the edit at {shown.strip()!r} {why}; nothing was changed. "
            "Make it in the chapters instead"
        )

    def blank(cell: Cell, first: int, last: int) -> bool:
        return not any(line.strip() for line in cell.lines[first - 1 : last - 1])

    if touched:
        cell, first, last = touched[0].cell, touched[0].number, touched[-1].number + 1
        assert cell
        if any(line.cell is not cell for line in touched):
            raise refuse("spans two cells")
        if len([text for text in cell.lines[first - 1 : last - 1] if text.strip()]) != len(
            [line for line in touched if line.text.strip()]
        ):
            raise refuse("spans imports that were moved to the top")
        # The blank lines around a statement go the way that it goes.
        if not old[stop - 1].cell and after and after.cell is cell:
            last = after.number if blank(cell, last, after.number) else last
        if not old[start].cell and before and before.cell is cell:
            first = before.number + 1 if blank(cell, before.number + 1, first) else first
        return Edit(cell, first, last, new)

    if before and code.startswith((" ", "\t")):  # it continues the block above
        gap = list(takewhile(lambda line: line is not before, reversed(old[:start])))
        while new and not new[-1].strip():
            new = new[:-1]
        return Edit(before.cell, before.number + 1, before.number + 1, [""] * len(gap) + new)

    joins_before = before and start and old[start - 1] is before
    joins_after = after and stop < len(old) and old[stop] is after
    if before and after and before.cell is not after.cell:
        if joins_before and new and new[0].strip():
            after = None
        elif joins_after and new and new[-1].strip():
            before = None
        else:
            raise refuse(
                f"stands between two cells, {before.cell.place(before.number)} and "
                f"{after.cell.place(after.number)}, and belongs to neither"
            )
    if before and (joins_before or not after):
        return Edit(before.cell, before.number + 1, before.number + 1, new)
    if after:
        return Edit(after.cell, after.number, after.number, new)
    raise refuse("belongs to no cell")


def edits_of(result: Tangled, body: str) -> list[Edit]:
    """Find out which cells the edits of a file, below its header, belong to."""
    try:
        tree = ast.parse(f"\n{body}" if is_python(result.target) else "")
    except SyntaxError as error:
        raise TangleError(
            f"{result.target}:{error.lineno}: {error.msg}; nothing was changed"
        ) from None
    # The leading imports are compared by what they import, the other lines as text.
    statements = tree.body[1:] if ast.get_docstring(tree) is not None else tree.body
    imports: list[ast.Import | ast.ImportFrom] = []
    for node in statements:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            break
        imports.append(node)
    edits = list(import_edits(result, (item for node in imports for item in Import.of(node))))

    lines = body.removesuffix("\n").split("\n")
    first, last = result.import_lines or (2, 1)
    if imports:
        top = imports[0].lineno - 2
        while top and lines[top - 1].startswith("#"):  # comments move along with an import
            top -= 1
        new_parts = lines[:top], lines[imports[-1].end_lineno - 1 :]
    else:
        new_parts = lines[: first - 2], lines[first - 2 :]
    old_parts = result.lines[: first - 2], result.lines[last - 1 :]
    for old, new in zip(old_parts, new_parts, strict=True):
        while old and new and not old[-1].text and not new[-1]:
            old, new = old[:-1], new[:-1]
        matcher = difflib.SequenceMatcher(None, [line.text for line in old], new, autojunk=False)
        edits += [
            line_edit(result, old, start, stop, new[new_start:new_stop])
            for tag, start, stop, new_start, new_stop in matcher.get_opcodes()
            if tag != "equal"
        ]
    return edits


def untangle(
    results: Mapping[str, Tangled], bodies: Mapping[str, str], chapters: Iterable[Chapter]
) -> dict[str, str]:
    """Give the new texts of the chapters to which the edits belong; ``bodies`` are edited files."""
    cells: dict[Cell, list[Edit]] = {}
    for target, body in bodies.items():
        for edit in edits_of(results[target], body):
            cells.setdefault(edit.cell, []).append(edit)
    texts = {chapter.docname: chapter.text.split("\n") for chapter in chapters}
    for cell in sorted(cells, key=lambda cell: cell.line, reverse=True):  # so that lines hold
        source = list(cell.lines)
        for edit in sorted(cells[cell], key=lambda edit: edit.first, reverse=True):
            source[edit.first - 1 : edit.last - 1] = edit.text
        while source and not source[-1].strip():
            source.pop()
        while source and not source[0].strip():
            source.pop(0)
        lines = texts[cell.docname]
        lines[cell.line - 1 : cell.line - 1 + len(cell.lines)] = source
    return {docname: "\n".join(texts[docname]) for docname in {cell.docname for cell in cells}}

"""Carry hand edits in ``src/`` back into the chapters they came from.

Run it as ``python book/_ext/tangle.py untangle``. Each change of a tangled file is attributed to
the one cell it belongs to, through the cell and line that tangling noted for every line of the
file. The edited chapters are then tangled in memory: unless that gives the edited files to the
letter, nothing is changed.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from tangle import (
    ROOT,
    Cell,
    Import,
    Line,
    Tangled,
    TangleError,
    body_of,
    diff,
    digest,
    files_on_disk,
    header_digest,
    is_edited,
    is_python,
    render_imports,
    tangle,
    write_atomically,
)


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
            what = " ".join(render_imports([item]))
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
        yield Edit(cell, node.lineno, (node.end_lineno or 0) + 1, render_imports(items))


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


def edits_of(result: Tangled, text: str) -> list[Edit]:
    """Find out which cells an edited file's edits belong to."""
    try:
        tree = ast.parse(text if is_python(result.target) else "")
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

    lines = body_of(text).removesuffix("\n").split("\n")
    first, last = result.import_lines or (2, 1)
    if imports:
        new_parts = lines[: imports[0].lineno - 2], lines[imports[-1].end_lineno - 1 :]
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


def apply(edits: list[Edit], root: Path) -> dict[str, str]:
    """Give the chapters' texts after the edits."""
    cells: dict[Cell, list[Edit]] = {}
    for edit in edits:
        cells.setdefault(edit.cell, []).append(edit)
    texts: dict[str, list[str]] = {}
    for cell in sorted(cells, key=lambda cell: cell.line, reverse=True):  # so that lines hold
        source = list(cell.lines)
        for edit in sorted(cells[cell], key=lambda edit: edit.first, reverse=True):
            source[edit.first - 1 : edit.last - 1] = edit.text
        while source and not source[-1].strip():
            source.pop()
        while source and not source[0].strip():
            source.pop(0)
        path = root / f"{cell.docname}.md"
        lines = texts.setdefault(cell.docname, path.read_text("utf-8").split("\n"))
        lines[cell.line - 1 : cell.line - 1 + len(cell.lines)] = source
    return {docname: "\n".join(lines) for docname, lines in texts.items()}


def untangle(root: Path = ROOT) -> list[str]:
    """Carry hand edits in ``src/`` back into the cells they belong to, or change nothing."""
    results = tangle(root)
    wanted = {target: result.body for target, result in results.items()}
    edits: list[Edit] = []
    edited_targets = []
    for target, text in files_on_disk(root, results).items():
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
                "chapters and run\n    python book/_ext/tangle.py --force"
            )
        wanted[target] = body_of(text)
        edits += edits_of(results[target], text)
        edited_targets.append(target)
    if not edited_targets:
        return ["no file in src/ was edited"]

    texts = apply(edits, root)
    try:
        again = tangle(root, texts)
    except TangleError as error:
        raise TangleError(
            f"carried back, the edits would not tangle; nothing was changed: {error}"
        ) from None
    for target, body in wanted.items():
        if target not in again or again[target].body != body:
            tangled = again[target].body if target in again else ""
            raise TangleError(
                f"{diff(target, tangled, body)}\n\n{target}: carried back, the edits would tangle "
                "to another text (above), for tangling sets the imports and the blank lines around "
                "definitions itself; nothing was changed. Make the edits in the chapters instead"
            )
    for docname, text in texts.items():
        write_atomically(root / f"{docname}.md", text)
    for target in edited_targets:
        write_atomically(root / target, again[target].text)
    return [f"carried {', '.join(edited_targets)} back into {', '.join(f'{d}.md' for d in texts)}"]

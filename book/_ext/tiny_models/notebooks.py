"""Sphinx extension: each chapter with code can be taken home, as a notebook with its outputs.

The text is what the page says, in Markdown, with all values, numbers and citations filled in.
Figures stand below the cell that draws them. The first cell makes the notebook run elsewhere, on a
laptop or on Colab: it fetches the book's repository if it is not there, installs the packages that
are missing, and prepares the weights if the chapter needs them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from sphinx.application import Sphinx

from tiny_models.edition import Edition, read_edition
from tiny_models.execute import executed_path
from tiny_models.files import write_atomically
from tiny_models.pages import has_solutions, is_solution
from tiny_models.permalinks import is_cell
from tiny_models.pictures import MIME

GLUED = "application/papermill.record/"  # how an output is kept that stands elsewhere on the page
HIDDEN = {"remove-cell", "remove-input", "hide-input", "hide-cell"}  # tags
SVG = re.compile(r"<svg\b.*</svg>", re.DOTALL)

FIRST_CELL = '''\
# This cell makes the notebook run where the book's repository is not: it fetches the
# repository and installs what is missing.
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = "@REPOSITORY@"
COMMIT = "@COMMIT@"  # that this notebook was made from

here = Path.cwd()
folders = [here, *here.parents, here / "tiny-models"]
root = next((f for f in folders if (f / "book/_kit/bookkit.py").exists()), None)
if root is None and not REPOSITORY:
    sys.exit("Fetch the book's repository, and open this notebook in it.")
if root is None:
    root = here / "tiny-models"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, root], check=True)
    if COMMIT:
        subprocess.run(["git", "-C", root, "checkout", "--quiet", COMMIT], check=True)


def is_missing(requirement):
    try:
        return not importlib.metadata.version(requirement.partition("==")[0])
    except importlib.metadata.PackageNotFoundError:
        return True


lines = (root / "requirements.txt").read_text().splitlines()
wanted = [line for line in lines if line and line[0] != "#" and is_missing(line)]
if wanted:
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *wanted], check=True)
PREPARE
os.chdir(root)
paths = [str(root / "src"), str(root / "book/_kit")]
sys.path[:0] = paths
os.environ["PYTHONPATH"] = os.pathsep.join(paths)
os.environ["TQDM_DISABLE"] = "1"

import bookkit  # noqa: E402 (only now can it be found)


def show(name, fig, alt):
    """Show a figure below its cell; in the book it stands in the text."""
    fig.set_facecolor("white")
    display(fig)
    bookkit.plt.close(fig)


bookkit.figure = show
'''
PREPARE = """\
subprocess.run([sys.executable, root / "book/models/prepare.py"], check=True)
"""


# ---------------------------------------------------------------------------------- first cell


def first_cell(edition: Edition, weights: Iterable[str]) -> str:
    """Write the cell that makes a chapter with these weights run elsewhere."""
    text = FIRST_CELL.replace("PREPARE\n", PREPARE if "gemma-3-270m" in weights else "")
    return text.replace("@REPOSITORY@", edition.repository).replace("@COMMIT@", edition.commit)


# ------------------------------------------------------------------------------------ markdown


@dataclass
class Writer:
    """Writes a page's document as Markdown; links within the book lead to where it is published."""

    app: Sphinx
    docname: str
    url: str

    def inline(self, node: nodes.Node) -> str:
        """Write what stands in a line."""
        if isinstance(node, nodes.Text):
            return re.sub(r"([\\`*_$<\[\]|])", r"\\\1", node.astext().replace("\n", " "))
        if isinstance(node, nodes.literal):
            return code(node.astext())
        if isinstance(node, nodes.math):
            return f"${node.astext()}$"
        if isinstance(node, nodes.image):
            return ""
        if isinstance(node, nodes.raw):
            return node.astext() if "cell-link" not in node.astext() else ""
        text = "".join(map(self.inline, node.children))
        if isinstance(node, nodes.emphasis) and text:
            return f"*{text}*"
        if isinstance(node, nodes.strong) and text:
            return f"**{text}**"
        if isinstance(node, nodes.superscript):
            return f"<sup>{text}</sup>"
        if isinstance(node, nodes.reference):
            address = self.address(node)
            return f"[{text}]({address})" if address else text
        return text

    def address(self, node: nodes.reference) -> str:
        """Give the address that a link leads to, as far as it can be known outside of the book."""
        uri = node.get("refuri", "")
        if re.match(r"\w+:", uri):
            return uri
        if not self.url:
            return ""
        page = self.app.builder.get_target_uri(self.docname)
        if not uri:
            return f"{self.url}{page}#{node['refid']}" if node.get("refid") else ""
        parts = page.split("/")[:-1]
        while uri.startswith("../"):
            uri = uri.removeprefix("../")
            parts = parts[:-1]
        return self.url + "/".join([*parts, uri])

    def blocks(self, node: nodes.Node, level: int = 0) -> Iterator[str | nodes.container]:
        """Write the blocks in a node, in their order; a code cell is given as it is."""
        for child in node.children:
            if is_cell(child):
                yield child
            else:
                yield from self.block(child, level)

    def block(self, node: nodes.Node, level: int) -> Iterator[str | nodes.container]:
        """Write one block, or the blocks within it."""
        if isinstance(node, nodes.section):
            yield from self.blocks(node, level + 1)
        elif isinstance(node, nodes.title):
            section = isinstance(node.parent, nodes.section)
            yield f"{'#' * level} {self.inline(node)}" if section else f"**{self.inline(node)}**"
        elif isinstance(node, nodes.paragraph | nodes.rubric):
            yield self.inline(node)
        elif isinstance(node, nodes.bullet_list | nodes.enumerated_list):
            yield from self.items(node)
        elif isinstance(node, nodes.definition_list):
            for item in node.children:
                yield f"**{self.inline(item.children[0])}**"
                yield from self.blocks(item.children[-1], level)
        elif isinstance(node, nodes.literal_block):
            language = node.get("language", "")
            yield f"```{language if language.isalpha() else ''}\n{node.astext()}\n```"
        elif isinstance(node, nodes.math_block):
            yield f"$$\n{node.astext()}\n$$"
        elif isinstance(node, nodes.figure):
            yield from self.figure(node)
        elif isinstance(node, nodes.table):
            yield self.table(node)
        elif isinstance(node, nodes.block_quote):
            for block in self.blocks(node, level):
                yield indent(block, "> ") if isinstance(block, str) else block
        elif isinstance(node, nodes.transition):
            yield "---"
        elif isinstance(node, nodes.raw):
            if node.get("format") == "html" and "<svg" not in node.astext():
                yield node.astext()
        elif isinstance(node, nodes.Inline):
            yield self.inline(node)
        elif not isinstance(node, nodes.Invisible | nodes.system_message):
            yield from self.blocks(node, level)

    def items(self, node: nodes.Element) -> Iterator[str | nodes.container]:
        """Write the items of a list; code cells within them come after the list."""
        lines, cells = [], []
        for number, item in enumerate(node.children, node.get("start", 1)):
            mark = f"{number}. " if isinstance(node, nodes.enumerated_list) else "- "
            parts = list(self.blocks(item))
            cells += [part for part in parts if not isinstance(part, str)]
            text = "\n\n".join(part for part in parts if isinstance(part, str))
            lines.append(mark + indent(text, " " * len(mark)).lstrip())
        yield "\n".join(lines)
        yield from cells

    def figure(self, node: nodes.figure) -> Iterator[str]:
        """Write a figure's caption with its number; the figure itself is an output of a cell."""
        numbers = self.app.env.toc_fignumbers.get(self.docname, {}).get("figure", {})
        found = [numbers[name] for name in node["ids"] if name in numbers]
        title = f"**Fig. {'.'.join(map(str, found[0]))}** " if found else ""
        for caption in node.findall(nodes.caption):
            yield title + self.inline(caption)

    def table(self, node: nodes.table) -> str:
        """Write a table with a row a line."""
        rows = [
            [" ".join(map(self.inline, entry.children)) for entry in row.children]
            for row in node.findall(nodes.row)
        ]
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def code(text: str) -> str:
    """Write code within a line, whatever backticks it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def indent(text: str, by: str) -> str:
    """Indent all lines that have something on them."""
    return "\n".join(by + line if line else by.rstrip() for line in text.split("\n"))


# ------------------------------------------------------------------------------------ notebook


def make_notebook(
    blocks: Iterable[str | nodes.container],
    executed: NotebookNode,
    edition: Edition,
    page: str,
) -> NotebookNode:
    """Put a page's text and its executed cells together, those too that the page does not show."""
    used = executed.metadata.get("tiny_models", {}).get("used", {})
    notebook = new_notebook(cells=[new_code_cell(first_cell(edition, used.get("weights", ())))])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    if "language_info" in executed.metadata:
        notebook.metadata["language_info"] = executed.metadata["language_info"]
    text: list[str] = []
    done = 0

    def add_text() -> None:
        if text:
            notebook.cells.append(new_markdown_cell("\n\n".join(text)))
            text.clear()

    def add_cells(last: int) -> None:
        nonlocal done
        for cell in executed.cells[done:last]:
            if has_solutions() or not is_solution(cell):
                notebook.cells.append(take(cell, page))
        done = max(done, last)

    for block in blocks:
        if isinstance(block, str):
            text += filter(None, [block.strip()])
        else:
            add_text()
            add_cells(block["cell_metadata"]["number"])
    add_text()
    add_cells(len(executed.cells))
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same in every build
    return notebook


def take(cell: NotebookNode, page: str) -> NotebookNode:
    """Give a cell as it is in the notebook; one whose code the page hides is folded."""
    metadata: dict[str, Any] = {}
    if HIDDEN.intersection(cell.metadata.get("tags", ())):
        metadata = {"jupyter": {"source_hidden": True}, "cellView": "form"}
    outputs = [new for output in cell.outputs if (new := take_output(output, page))]
    count = cell.execution_count
    return new_code_cell(cell.source, metadata=metadata, outputs=outputs, execution_count=count)


def take_output(output: NotebookNode, page: str) -> NotebookNode | None:
    """Give an output as it is in the notebook: figures too, but none that needs the page."""
    data = output.get("data")
    if data is None:
        return output
    if MIME in data:
        return None
    html = data.get("text/html", "")
    if 'class="play"' in html:
        title = re.search(r'data-title="([^"]*)"', html)
        name = f"“{unescape(title[1])}”" if title else "A picture"
        where = f"[the book's page]({page})" if page else "the book's page"
        text = f"{name} is for playing; it is on {where}."
        return new_output("display_data", {"text/markdown": text, "text/plain": text})
    glued = data.get(f"{GLUED}text/html", "")
    if found := SVG.search(glued):
        svg = found[0].replace("currentColor", "#000000").replace("<svg", SVG_TAG, 1)
        return new_output("display_data", {"image/svg+xml": svg, "text/plain": "<Figure>"})
    kept = {kind: value for kind, value in data.items() if not kind.startswith(GLUED)}
    if not kept:
        return None
    return nbformat.from_dict({**output, "data": kept, "metadata": {}})


SVG_TAG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def offer(
    edition: Edition,
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Write a chapter's notebook, and have the page offer it beside its source."""
    path = executed_path(Path(app.srcdir), page)
    if doctree is None or not path.exists():
        return
    url = edition.url and edition.url + app.builder.get_target_uri(page)
    blocks = Writer(app, page, edition.url).blocks(doctree)
    executed = nbformat.read(path, as_version=4)
    notebook = make_notebook(blocks, executed, edition, url)
    nbformat.validate(notebook)
    name = f"{page}.ipynb"
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    write_atomically(Path(app.outdir, "_sources", name), text + "\n")
    context["ipynb_source"] = name  # the theme makes a link of it


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    edition = read_edition(Path(app.srcdir))  # once: it asks git
    app.connect("html-page-context", partial(offer, edition))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

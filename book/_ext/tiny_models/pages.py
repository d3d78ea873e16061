"""Sphinx extension: tangle, execute, and link every tangled cell with its file.

Before Sphinx reads anything, ``src/`` is tangled and the stale chapters are executed. The reader
below then gives Sphinx each chapter with its outputs. In the HTML a tangled cell says where its
code went; the files of ``src/`` are pages of the book, and there each fragment says which cell it
came from.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.core.read import read_myst_markdown_notebook
from myst_nb.ext.glue.utils import PendingGlueReference
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import JavascriptLexer, PythonLexer
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging

from tiny_models import pictures
from tiny_models.chapters import TangleError
from tiny_models.execute import execute_stale, executed_path
from tiny_models.files import check, read_sources, toc_docnames, write, write_atomically
from tiny_models.tangle import Fragment, Tangled, is_python

LOGGER = logging.getLogger(__name__)
FIGURE = re.compile(r"^```\{glue:figure\} (\S+)\n.*?^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Book:
    """What was prepared before reading."""

    app: Sphinx
    root: Path
    tangled: dict[str, Tangled]
    pictures: list[pictures.Picture]
    was_interrupted: bool  # the build before, so that its pages may be half written

    def fragments(self, docname: str) -> dict[int, tuple[str, Fragment]]:
        """Give the files and fragments of a chapter's tangled cells by cell number."""
        return {
            fragment.cell.number: (target, fragment)
            for target, tangled in self.tangled.items()
            for fragment in tangled.fragments
            if fragment.cell.docname == docname
        }

    def playing(self, target: str, fragment: Fragment) -> list[pictures.Picture]:
        """Give the interactive pictures of what a cell computes."""
        return pictures.of_fragment(self.pictures, target, fragment)

    def state(self, docname: str) -> str:
        """Digest what a page shows that is not in its chapter: outputs and captions."""
        executed = executed_path(self.root, docname)
        captions = [
            (number, target, fragment.spans, fragment.imports, self.playing(target, fragment))
            for number, (target, fragment) in self.fragments(docname).items()
        ]
        digest = hashlib.sha256(repr((captions, has_solutions())).encode())
        digest.update(executed.read_bytes() if executed.exists() else b"")
        return digest.hexdigest()


book: Book  # set once per build; MyST-NB gives its readers nothing but the text


def prepare(app: Sphinx) -> None:
    """Tangle and execute, before anything is read.

    Where CI is set, src/ is what was committed, and has to agree with the chapters as it is.
    What goes wrong here is the author's to put right. Jupyter Book would bury an exception in
    tracebacks; an exit leaves the message alone.
    """
    global book
    try:
        sources = read_sources(Path(app.srcdir))
        if os.environ.get("CI") and (differences := check(sources)):
            advice = "src/ is not what the chapters say: run `make tangle` and commit the result"
            raise TangleError("\n".join([*differences, advice]))
        for done in write(sources):
            LOGGER.info("tangle: %s", done)
        execute_stale(sources, LOGGER.info)
        shown = pictures.pictures(notebooks(sources.root), sources.tangled)
        book = Book(app, sources.root, sources.tangled, list(shown), unfinished(app).exists())
        unfinished(app).touch()
    except (TangleError, pictures.PlayError) as error:
        raise SystemExit(f"\n{error}") from None


def unfinished(app: Sphinx) -> Path:
    """Name the file that is there from the beginning to the end of a build.

    Sphinx notes what it has read before it writes the pages, and takes a page that was half written
    when the build was killed for a whole one.
    """
    return Path(app.doctreedir) / "unfinished"


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Note that all pages were written."""
    if exception is None:
        unfinished(app).unlink()
        if not has_solutions():  # nor are they in the chapters' sources
            for path in Path(app.outdir, "_sources").rglob("*.md"):
                path.unlink()


def notebooks(root: Path) -> dict[str, Path]:
    """Give the executed notebooks by chapter."""
    return {docname: executed_path(root, docname) for docname in toc_docnames(root)}


# ------------------------------------------------------------------------------------- reading


def read_chapter(text: str) -> nbformat.NotebookNode:
    """Read a chapter and fill in the outputs (see ``nb_custom_formats`` in ``_config.yml``)."""
    env = book.app.env
    notebook = read_myst_markdown_notebook(text, config=env.myst_config, add_source_map=True)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if cells:
        executed = nbformat.read(executed_path(book.root, env.docname), as_version=4)
        if [cell.source for cell in cells] != [cell.source for cell in executed.cells]:
            raise ExtensionError(
                f"{env.docname}: changed while the book was being built; build again"
            )
        for number, (cell, done) in enumerate(zip(cells, executed.cells, strict=True), 1):
            cell.outputs = pictures.drop_data(done.outputs)
            cell.execution_count = done.execution_count
            cell.metadata["number"] = number
        notebook.metadata["language_info"] = executed.metadata["language_info"]
    return notebook if has_solutions() else without_solutions(notebook)


def has_solutions() -> bool:
    """Tell whether the book is built with the solutions of its exercises, as it mostly is."""
    return os.environ.get("SOLUTIONS") != "0"


def is_solution(cell: nbformat.NotebookNode) -> bool:
    """Tell whether a cell is an exercise's solution: only these are folded with their outputs."""
    return "hide-cell" in cell.metadata.get("tags", ())


def without_solutions(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out the solutions of a chapter's exercises, and the figures that they draw."""
    drawn = {
        output.get("metadata", {}).get("scrapbook", {}).get("name")
        for cell in notebook.cells
        if is_solution(cell)
        for output in cell.get("outputs", ())
    }
    starts = notebook.metadata["source_map"]
    kept = [pair for pair in zip(notebook.cells, starts, strict=True) if not is_solution(pair[0])]
    notebook.cells, notebook.metadata["source_map"] = map(list, zip(*kept, strict=True))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FIGURE.sub(
                lambda found: "" if found[1] in drawn else found[0], cell.source
            )
    return notebook


def find_outdated(
    app: Sphinx, env: BuildEnvironment, added: set[str], changed: set[str], removed: set[str]
) -> set[str]:
    """Find pages to make anew although their chapter did not change."""
    states = getattr(env, "tiny_models_states", {})
    glued = getattr(env, "tiny_models_glued", {})
    if book.was_interrupted:
        return env.found_docs - added - removed
    outdated = {name for name in env.found_docs if states.get(name) != book.state(name)}
    news = outdated | added | changed
    outdated |= {name for name, sources in glued.items() if sources & news}
    return outdated - added - removed


def note_page(app: Sphinx, doctree: nodes.document) -> None:
    """Remember what a page shows, and the chapters from which it glues values."""
    env = app.env
    states, glued = records(env)
    states[env.docname] = book.state(env.docname)
    glued[env.docname] = {node.refdoc for node in doctree.findall(PendingGlueReference)}


def records(env: BuildEnvironment) -> tuple[dict[str, str], dict[str, set[str]]]:
    """Give the environment's records of pages' states and of the chapters they glue from."""
    for name in ("tiny_models_states", "tiny_models_glued"):
        if not hasattr(env, name):
            setattr(env, name, {})
    return env.tiny_models_states, env.tiny_models_glued


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is read again or gone."""
    for record in records(env):
        record.pop(docname, None)


def merge_pages(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: Any) -> None:
    """Take over what a parallel reader remembered."""
    for mine, theirs in zip(records(env), records(other), strict=True):
        mine.update({name: theirs[name] for name in docnames if name in theirs})


# ------------------------------------------------------------------------------------ captions


def anchor(span: tuple[int, int]) -> str:
    """Name a span of lines on a source page."""
    return f"L{span[0]}-L{span[1]}"


def numbers(span: tuple[int, int]) -> str:
    """Write a span of lines for reading."""
    return f"lines {span[0]}–{span[1]}" if span[0] < span[1] else f"line {span[0]}"


def add_captions(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put a caption on every tangled cell, and an anchor on every cell."""
    if app.builder.format != "html":
        return
    fragments = book.fragments(docname)
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") != "cell_code":
            continue
        number = cell["cell_metadata"]["number"]
        cell["ids"].insert(0, f"code-cell-{number}")
        for source in cell.findall(nodes.container):
            if source.get("nb_element") == "cell_code_source" and number in fragments:
                target, fragment = fragments[number]
                page = app.builder.get_relative_uri(docname, book.tangled[target].page)
                if not is_python(target):
                    for block in source.findall(nodes.literal_block):
                        block["language"] = "javascript"
                paragraph = caption(target, page, fragment)
                for picture in book.playing(target, fragment):
                    uri = app.builder.get_relative_uri(docname, picture.docname)
                    paragraph += play_link(f"{uri}#{picture.fragment}", picture.title)
                source.insert(0, paragraph)


def caption(target: str, page: str, fragment: Fragment) -> nodes.paragraph:
    """Make the caption ``src/NAME.py, lines 41–63``, each span a link into the file's page.

    Imports are named only in the caption of a cell that has no code below them in the file.
    """
    spans = [(span, "") for span in fragment.spans]
    if fragment.imports and all(span < fragment.imports for span in fragment.spans):
        spans.append((fragment.imports, "imports, "))
    paragraph = nodes.paragraph(classes=["tangled-caption"])
    for span, what in spans:
        link = nodes.reference(refuri=f"{page}#{anchor(span)}", internal=True)
        if len(paragraph):
            paragraph += nodes.Text(" and ")
        else:
            link += [nodes.literal("", target), nodes.Text(", ")]
        link += nodes.Text(what + numbers(span))
        paragraph += link
    return paragraph


def play_link(uri: str, title: str) -> nodes.inline:
    """Make the link from a tangled cell to a picture that plays it."""
    link = nodes.reference("", title, refuri=uri, internal=True)
    return nodes.inline("", "", link, classes=["tangled-play"])


# ------------------------------------------------------------------------- interactive pictures


def add_pictures(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give a page the scripts and styles of its pictures, and their links into ``src/``."""
    parts = pictures.parts(context.get("body", ""))
    for part in parts:
        app.add_js_file(f"{part}.js", defer="defer")
        app.add_css_file(f"{part}.css")
    if parts:
        context["body"] = pictures.resolve(
            pictures.name_still(context["body"]),
            page,
            book.tangled,
            lambda other: app.builder.get_relative_uri(page, other),
        )


# -------------------------------------------------------------------------------- source pages


def source_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make a page of every tangled file, and put the file itself beside it; write the data."""
    pictures.write_data(notebooks(book.root).values(), Path(app.outdir))
    for target, tangled in book.tangled.items():
        write_atomically(Path(app.outdir) / target, tangled.text)
        page = tangled.page
        yield page, {"title": target, "body": source_page(app, page, tangled)}, "page.html"


def source_page(app: Sphinx, page: str, tangled: Tangled) -> str:
    """Write the body of a file's page."""

    def uri(docname: str) -> str:
        return app.builder.get_relative_uri(page, docname)

    def title(docname: str) -> str:
        return escape(app.env.titles[docname].astext())

    origins: dict[tuple[int, int], Fragment] = {
        span: fragment for fragment in tangled.fragments for span in fragment.spans
    }
    spans = dict(origins)
    if tangled.import_lines:
        spans[tangled.import_lines] = None
    lexer = PythonLexer if is_python(tangled.target) else JavascriptLexer
    lines = highlight(tangled.text, lexer(stripnl=False), HtmlFormatter(nowrap=True))
    code = [
        f'<span class="line" id="L{number}"><a class="lineno" href="#L{number}" '
        f'data-line="{number}" aria-label="Line {number}" tabindex="-1"></a>{line}\n</span>'
        for number, line in enumerate(lines.removesuffix("\n").split("\n"), 1)
    ]
    parts = []
    position = 1
    for (first, last), fragment in sorted(spans.items()):
        if position < first:
            parts.append(f"<pre>{''.join(code[position - 1 : first - 1])}</pre>")
        origin = ""
        if fragment:
            cell = fragment.cell
            hidden = {"remove-cell", "remove_cell"}.intersection(cell.metadata.get("tags", ()))
            where = uri(cell.docname) + ("" if hidden else f"#code-cell-{cell.number}")
            origin = f'<p class="tangled-origin"><a href="{where}">{title(cell.docname)}</a></p>'
        parts.append(
            f'<div class="tangled-fragment" id="{anchor((first, last))}">{origin}'
            f"<pre>{''.join(code[first - 1 : last])}</pre></div>"
        )
        position = last + 1
    chapters = ", ".join(f'<a href="{uri(name)}">{title(name)}</a>' for name in tangled.docnames)
    name = Path(tangled.target).name
    return (
        f"<section><h1>{tangled.target}</h1>"
        f"<p>The code of {chapters}. "
        f'<a class="tangled-download" href="{name}" download>Download {name}</a></p>'
        f'<div class="tangled-file highlight"><div>{"".join(parts)}</div></div></section>'
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("builder-inited", prepare)
    app.connect("env-get-outdated", find_outdated)
    app.connect("doctree-read", note_page)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("doctree-resolved", add_captions)
    app.connect("html-collect-pages", source_pages)
    app.connect("html-page-context", add_pictures)
    app.connect("build-finished", finish)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx extension: an address within a page, once published, leads to the same text for good.

A section has the anchor of its heading, and its label if it has one. A code cell that shows is
named by its place in the innermost section: ``sec-control-code-2``. ``book/anchors.txt`` lists the
anchors that readers may have noted down; a test misses each of them that is gone. ``make anchors``
adds the new ones. Where a heading was changed or a text moved, a line in ``book/moved.txt`` leads
from the old address to the new one; so does a line without anchors for a whole page.

    book/gpt2/attention#why-three-vectors  book/gpt2/attention#why-three-roles
    book/gpt2/speed                        book/gpt2/fast
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from tiny_models.chapters import TangleError

LIST = "book/anchors.txt"
MOVED = "book/moved.txt"
FOUND = "_build/anchors.txt"  # what the last build has
ANCHORED = nodes.section | nodes.figure | nodes.math_block | nodes.table
GENERATED = re.compile(r"id\d+")


def is_cell(node: nodes.Node) -> bool:
    """Tell whether a node is a code cell."""
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


# ----------------------------------------------------------------------------------- permalinks


def name_cells(doctree: nodes.document) -> None:
    """Name each code cell by the section that it is in."""
    counts: dict[str, int] = {}
    for cell in doctree.findall(is_cell):
        section = cell.parent
        while section and not isinstance(section, nodes.section):
            section = section.parent
        if section:
            name = section["ids"][-1]  # the label, which outlives the heading
            counts[name] = counts.get(name, 0) + 1
            cell["ids"].append(f"{name}-code-{counts[name]}")


def anchors(doctree: nodes.document) -> list[str]:
    """List the anchors of a page that may be noted down."""
    found = doctree.findall(lambda node: isinstance(node, ANCHORED) or is_cell(node))
    names = dict.fromkeys(name for node in found for name in node["ids"])
    return [name for name in names if not GENERATED.fullmatch(name)]


def note_page(app: Sphinx, doctree: nodes.document) -> None:
    """Name the cells of a page that was read, and remember its anchors."""
    name_cells(doctree)
    record(app.env)[app.env.docname] = anchors(doctree)


def record(env: BuildEnvironment) -> dict[str, list[str]]:
    """Give the environment's record of all pages' anchors."""
    if not hasattr(env, "tiny_models_anchors"):
        env.tiny_models_anchors = {}
    return env.tiny_models_anchors


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Forget a page that is read again or gone."""
    record(env).pop(docname, None)


def merge_pages(app: Sphinx, env: BuildEnvironment, docnames: set[str], other: Any) -> None:
    """Take over what a parallel reader remembered."""
    record(env).update({name: record(other)[name] for name in docnames if name in record(other)})


def write_found(app: Sphinx, error: Exception | None) -> None:
    """Write down all addresses of the book as it is."""
    if not error and app.builder.format == "html":
        lines = [
            address
            for docname, names in sorted(record(app.env).items())
            for address in [docname, *(f"{docname}#{name}" for name in names)]
        ]
        path = Path(app.srcdir, FOUND)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", "utf-8")


def add_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Show the link to a cell beside it."""
    if app.builder.format == "html":
        for cell in doctree.findall(is_cell):
            if cell["ids"]:
                link = (
                    f'<a class="cell-link" href="#{cell["ids"][-1]}" '
                    'aria-label="Link to this code" tabindex="-1"></a>'
                )
                cell.insert(0, nodes.raw("", link, format="html"))


# ---------------------------------------------------------------------------------------- moved


def read_moved(root: Path) -> dict[str, str]:
    """Read which address leads to which, followed to the last."""
    path = root / MOVED
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    pairs = [line.split() for line in lines if line.strip() and not line.startswith("# ")]
    if wrong := [" ".join(pair) for pair in pairs if len(pair) != 2]:
        raise ExtensionError(f"{MOVED}: an old address and a new one are wanted: {wrong[0]}")
    moved = dict(pairs)
    for old in moved:
        seen = {old}
        while moved[old] in moved:
            if moved[old] in seen:
                raise ExtensionError(f"{MOVED}: {old} leads to itself")
            seen.add(moved[old])
            moved[old] = moved[moved[old]]
    return moved


def within(page: str, moved: dict[str, str]) -> Iterator[tuple[str, str]]:
    """List a page's old anchors, each with the address where its text is now."""
    for old, new in moved.items():
        docname, _, name = old.partition("#")
        if docname == page and name:
            yield name, new


def add_old_anchors(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give what has another name on the same page its old name too."""
    nodes_by_id = {name: node for node in doctree.findall(nodes.Element) for name in node["ids"]}
    for old, new in within(docname, read_moved(Path(app.srcdir))):
        page, _, name = new.partition("#")
        if page == docname:
            if name not in nodes_by_id or old in nodes_by_id:
                raise ExtensionError(f"{MOVED}: {docname}#{old} can't lead to {new}")
            nodes_by_id[name]["ids"].append(old)


def point_elsewhere(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Have an anchor whose text is on another page now lead there; it shows only when it is hit."""
    for old, new in within(page, read_moved(Path(app.srcdir))):
        if new.partition("#")[0] != page:
            link = link_to(app, page, new)
            context["body"] += f'<p id="{escape(old)}" class="moved">This is now in {link}.</p>'


def moved_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make a page at each old address of a page, which leads to the new one."""
    for old, new in read_moved(Path(app.srcdir)).items():
        if "#" not in old:
            link = link_to(app, old, new)
            refresh = f'<meta http-equiv="refresh" content="0; url={uri(app, old, new)}" />'
            title = app.env.titles[new.partition("#")[0]].astext()
            body = f"<h1>{escape(title)}</h1><p>This page is now {link}.</p>"
            yield old, {"title": title, "body": body, "metatags": refresh}, "page.html"


def uri(app: Sphinx, page: str, new: str) -> str:
    """Write an address as a link on a page."""
    docname, hash_, name = new.partition("#")
    if docname not in app.env.found_docs:
        raise ExtensionError(f"{MOVED}: there is no page {docname}")
    return escape(app.builder.get_relative_uri(page, docname) + hash_ + name)


def link_to(app: Sphinx, page: str, new: str) -> str:
    """Write a link with the title of the page that it leads to."""
    address = uri(app, page, new)  # or an error, if there is no such page
    title = app.env.titles[new.partition("#")[0]].astext()
    return f'<a href="{address}">{escape(title)}</a>'


# ----------------------------------------------------------------------------------------- list


def renew(root: Path) -> list[str]:
    """Add the addresses of the last build to the list; give the new ones."""
    path = root / LIST
    if not (root / FOUND).exists():
        raise TangleError(f"{FOUND}: missing; build the book first, with `make book`")
    listed = read_list(path)
    new = [address for address in read_list(root / FOUND) if address not in set(listed)]
    path.write_text("\n".join(sorted([*listed, *new])) + "\n", "utf-8")
    return new


def read_list(path: Path) -> list[str]:
    """Read addresses, one a line."""
    return path.read_text("utf-8").split() if path.exists() else []


def gone(listed: Iterable[str], found: Iterable[str], moved: Iterable[str]) -> list[str]:
    """List the addresses that lead nowhere any more."""
    there = {*found, *moved}
    return [address for address in listed if address not in there]


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("doctree-read", note_page)
    app.connect("env-purge-doc", forget_page)
    app.connect("env-merge-info", merge_pages)
    app.connect("doctree-resolved", add_links)
    app.connect("doctree-resolved", add_old_anchors)
    app.connect("html-page-context", point_elsewhere)
    app.connect("html-collect-pages", moved_pages)
    app.connect("build-finished", write_found)
    return {
        "version": "1",
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }

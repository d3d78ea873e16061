"""Link a term to its definition where a page sets it in bold or italics for the first time.

The definitions are the entries of the book's glossary. Chapters need no markup for this: they set a
term in bold or italics where they introduce it.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def forms(text: str) -> list[str]:
    """Give what a word may be listed as: itself, in the singular, with a small first letter."""
    word = text.strip().rstrip(".:").casefold()
    ends = {"s": "", "es": "is"}
    return [word, *(word.removesuffix(e) + new for e, new in ends.items() if word.endswith(e))]


def add_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link the first emphasized form of each term on a page."""
    entries = {
        name.casefold(): (page, label)
        for (kind, name), (page, label) in app.env.domains["std"].objects.items()
        if kind == "term"
    }
    if any(page == docname for page, _ in entries.values()):
        return
    done: set[str] = set()
    for node in list(doctree.findall(lambda n: isinstance(n, nodes.strong | nodes.emphasis))):
        within = (nodes.reference, nodes.title, addnodes.pending_xref)
        if any(isinstance(parent, within) for parent in ancestors(node)):
            continue
        term = next((form for form in forms(node.astext()) if form in entries), None)
        if term is None or term in done:
            continue
        done.add(term)
        page, label = entries[term]
        uri = f"{app.builder.get_relative_uri(docname, page)}#{label}"
        link = nodes.reference("", "", refuri=uri, internal=True, classes=["term"])
        node.replace_self(link)
        link += node


def ancestors(node: nodes.Node) -> list[nodes.Node]:
    """Give what a node stands in."""
    result = []
    while node.parent is not None:
        node = node.parent
        result.append(node)
    return result


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("doctree-resolved", add_links)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

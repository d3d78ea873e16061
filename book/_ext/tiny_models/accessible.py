"""Sphinx extension: mends what screen readers stumble over in the HTML of Sphinx and of MyST-NB."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

MENDED = {
    # The name of a control has to be what is written on it, or "click ..." does not find it.
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # The entries of a list are its items.
    'role="doc-biblioentry"': 'role="listitem"',
}


def mend(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Mend the body of a page."""
    for wrong, right in MENDED.items():
        context["body"] = context.get("body", "").replace(wrong, right)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("html-page-context", mend)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx extension: what a book needs that is published, beside its text.

Each page says how to cite it, to people and to machines. If it is known where the book is
published (see ``edition.py``), each page also names its own address and has a card for those who
share it, and there is a sitemap. (Of the maintained extensions, ``sphinx-sitemap`` lists only the
pages that the last build wrote, and ``sphinxext-opengraph`` writes addresses that lead nowhere if
it has no site's.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

from tiny_models.citations import Citation
from tiny_models.edition import Edition, read_edition

NOT_CITED = {"book/references"}  # which has no text of its own
DESCRIPTION = 200  # characters
CARD = {"line_color": "#2f8fd0", "image_mini": "book/_static/icon.png"}
NOT_FOUND = """\
<h1>Page not found</h1>
<p>There is no page at this address. Perhaps it had another name before: the contents beside this
text, and the search, lead to all pages of the book.</p>
"""


@dataclass(frozen=True)
class Press:
    """What is done for an edition."""

    edition: Edition

    def configure(self, app: Sphinx, config: Config) -> None:
        """Tell Sphinx and its extensions where the book is published."""
        url = self.edition.url
        config.html_baseurl = url
        config.notfound_urls_prefix = urlsplit(url).path or "/"
        config.notfound_context = {"title": "Page not found", "body": NOT_FOUND}
        if url:
            config.ogp_site_url = url
            config.ogp_site_name = self.edition.short_title
            config.ogp_social_cards = CARD

    def cite(
        self,
        app: Sphinx,
        page: str,
        template: str,
        context: dict[str, Any],
        doctree: nodes.document | None,
    ) -> None:
        """Say on a page, and in its head, how to cite it."""
        if doctree is None or page in NOT_CITED:
            return
        edition = self.edition
        whole = page == app.config.root_doc
        citation = Citation(
            edition,
            key=citation_key(edition.date, "" if whole else page),
            chapter="" if whole else app.env.titles[page].astext(),
            url=edition.url and edition.url + app.builder.get_target_uri(page),
        )
        description = describe(doctree)
        tag = f'<meta name="description" content="{escape(description)}" />\n'
        context["metatags"] = context.get("metatags", "") + tag + citation.metatags()
        context["meta"] = {**(context.get("meta") or {}), "og:description": description}
        context["body"] += citation.html()

    def write_sitemap(self, app: Sphinx, error: Exception | None) -> None:
        """List the addresses of all pages for search engines."""
        if error or app.builder.format != "html":
            return
        path = Path(app.outdir, "sitemap.xml")
        path.unlink(missing_ok=True)
        if self.edition.url:
            pages = (p.relative_to(app.outdir) for p in Path(app.outdir).glob("*/**/*.html"))
            path.write_text(sitemap(self.edition.url, sorted(p.as_posix() for p in pages)), "utf-8")


def describe(doctree: nodes.document) -> str:
    """Give the first sentences of a page, as many as a search engine shows."""
    text = next(
        (" ".join(paragraph.astext().split()) for paragraph in doctree.findall(nodes.paragraph)), ""
    )
    description = ""
    for sentence in re.split(r"(?<=[.?!:]) ", text):
        if description and len(description) + len(sentence) >= DESCRIPTION:
            break
        description = f"{description} {sentence}".strip()
    return description


def citation_key(day: date, page: str) -> str:
    """Name an entry of BibTeX: ``tinymodels2026:gpt2-attention``."""
    name = page.removeprefix("book/").replace("/", "-")
    return f"tinymodels{day.year}" + (f":{name}" if name else "")


def sitemap(url: str, pages: Iterable[str]) -> str:
    """Write a list of addresses in the way in which search engines expect it."""
    urls = "".join(f"<url><loc>{escape(url + page)}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{urls}</urlset>\n'
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    press = Press(read_edition(Path(app.srcdir)))
    app.setup_extension("notfound.extension")
    if press.edition.url:
        app.setup_extension("sphinxext.opengraph")
    app.connect("config-inited", press.configure)
    app.connect("html-page-context", press.cite, priority=400)  # before the extensions
    app.connect("build-finished", press.write_sitemap)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""How to cite the book or one chapter of it: for people, for BibTeX, and for machines."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from html import escape

from pybtex.database import BibliographyData, Entry, Person
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from tiny_models.edition import Edition

SCHEMA = "https://schema.org"
COMMIT = 12  # characters of a commit that are enough to find it


@dataclass(frozen=True)
class Citation:
    """What is cited: a chapter, or the book if it has no title of its own."""

    edition: Edition
    key: str  # of BibTeX
    chapter: str
    url: str

    def edition_in_words(self) -> str:
        """Say which text was read, as exactly as it can be said."""
        edition = self.edition
        parts = [f"Version {edition.version}", day_in_words(edition)]
        if edition.commit:
            parts.append(f"commit {edition.commit[:COMMIT]}")
        return ", ".join(parts)

    def text(self) -> str:
        """Write it as a sentence of plain text."""
        title = f"{self.edition.title}."
        if self.chapter:
            title = f"“{self.chapter}.” In {title}"
        parts = [f"{', '.join(self.edition.authors)}.", title, f"{self.edition_in_words()}."]
        return " ".join([*parts, *filter(None, [self.url])])

    def bibtex(self) -> str:
        """Write it as an entry of BibTeX. The braces keep the capitals as they are."""
        edition = self.edition
        authors = [f"{{{author}}}" for author in edition.authors]
        fields = {"title": f"{{{self.chapter or edition.title}}}"}
        if self.chapter:
            fields["booktitle"] = f"{{{edition.title}}}"
        fields |= {
            "publisher": " and ".join(authors),  # nobody else
            "year": str(edition.date.year),
            "month": f"{edition.date:%B}",
            "note": self.edition_in_words(),
        }
        if self.url:
            fields["url"] = self.url
        entry = Entry(
            "incollection" if self.chapter else "book",
            fields=list(fields.items()),
            persons={"author": [Person(last=author) for author in authors]},
        )
        text = BibliographyData({self.key: entry}).to_string("bibtex").strip()
        # An address is no text to be set; pybtex writes "\\_" in it all the same.
        return re.sub(r'(?m)^ *url = ".*"', lambda match: match[0].replace("\\", ""), text)

    def metatags(self) -> str:
        """Write what reference managers, Google Scholar and search engines read."""
        edition = self.edition
        tags = [("citation_title", self.chapter or edition.title)]
        tags += [("citation_author", author) for author in edition.authors]
        tags += [("citation_publication_date", f"{edition.date:%Y/%m/%d}")]
        tags += [("citation_inbook_title", edition.title)] * bool(self.chapter)
        tags += [("citation_public_url", self.url)] * bool(self.url)
        tags += [("citation_language", "en")]
        lines = [f'<meta name="{name}" content="{escape(content)}" />' for name, content in tags]
        data = json.dumps(self.schema(), ensure_ascii=False).replace("<", r"\u003c")
        return "\n".join([*lines, f'<script type="application/ld+json">{data}</script>\n'])

    def schema(self) -> dict[str, object]:
        """Describe it in the words of schema.org."""
        edition = self.edition
        about = {
            "author": [{"@type": "Organization", "name": author} for author in edition.authors],
            "datePublished": edition.date.isoformat(),
            "inLanguage": "en",
            "version": edition.version,
            "license": [f"https://spdx.org/licenses/{name}.html" for name in edition.licences],
        }
        book = {"@type": "Book", "name": edition.title}
        if edition.url:
            book["url"] = edition.url
        if not self.chapter:
            return {"@context": SCHEMA, **book, **about}
        chapter = {"@type": "Chapter", "name": self.chapter, **about, "isPartOf": book}
        if self.url:
            chapter["url"] = self.url
        return {"@context": SCHEMA, **chapter}

    def html(self) -> str:
        """Write what stands at the end of a page: closed on the screen, a line in print."""
        lexer = get_lexer_by_name("bibtex")
        code = highlight(self.bibtex(), lexer, HtmlFormatter(nowrap=True))
        what = "chapter" if self.chapter else "book"
        return (
            f'<p class="cite-print onlyprint">{escape(self.text())}</p>'
            f'<details class="cite"><summary>Cite this {what}</summary>'
            f"<p>{escape(self.text())}</p>"
            '<div class="highlight-bibtex notranslate"><div class="highlight">'
            f"<pre>{code}</pre></div></div></details>"
        )


def day_in_words(edition: Edition) -> str:
    """Write a date as in "3 May 2026"."""
    return f"{edition.date.day} {edition.date:%B %Y}"

"""How pages are cited: it compiles, agrees with CITATION.cff, and names what was read."""

import json
import os
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import pybtex
import pytest
import yaml
from bs4 import BeautifulSoup
from pybtex.database import parse_string

from tiny_models.citations import Citation
from tiny_models.edition import Edition, author_name, read_edition
from tiny_models.files import toc_docnames
from tiny_models.press import NOT_CITED, sitemap

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
DOCNAMES = toc_docnames(ROOT)
EDITION = Edition(
    title="A Book: of pages",
    authors=("The Authors", "Ada Lovelace"),
    version="0.1",
    date=date(2026, 5, 3),
    commit="0123456789abcdef",
    licences=("MIT",),
    url="https://example.org/a_book/",
    repository="",
)
TITLE = "Why √d & a_file.py: 100 % of #1 <b>"
CHAPTER = Citation(EDITION, "book2026:why", TITLE, EDITION.url + "why_not.html")
BOOK = Citation(EDITION, "book2026", "", EDITION.url)

built = pytest.mark.skipif(
    not HTML.exists() and "CI" not in os.environ, reason="the book is not built; run `make book`"
)


def test_the_text_says_what_was_read():
    assert CHAPTER.text() == (
        f"The Authors, Ada Lovelace. “{TITLE}.” In A Book: of pages. Version 0.1, 3 May 2026, "
        "commit 0123456789ab. https://example.org/a_book/why_not.html"
    )
    assert BOOK.text().startswith("The Authors, Ada Lovelace. A Book: of pages. Version 0.1,")


def test_without_a_repository_and_an_address_none_is_named():
    bare = Citation(replace(EDITION, commit="", url=""), "key", "Chapter", "")
    assert "commit" not in bare.text() and bare.text().endswith("3 May 2026.")
    assert "url" not in bare.bibtex() + bare.metatags() and "commit" not in bare.bibtex()


@pytest.mark.parametrize("citation, kind", [(CHAPTER, "incollection"), (BOOK, "book")])
@pytest.mark.parametrize("style", ["plain", "alpha"])
def test_the_entry_of_bibtex_compiles(citation, kind, style):
    (entry,) = parse_string(citation.bibtex(), "bibtex").entries.values()
    assert entry.type == kind and entry.fields["url"] == citation.url
    assert len(entry.persons["author"]) == 2
    text = pybtex.format_from_string(citation.bibtex(), style=style, output_backend="plaintext")
    assert (citation.chapter or EDITION.title) in text and "2026" in text


def test_machines_read_the_same():
    page = BeautifulSoup(CHAPTER.metatags(), "html.parser")
    tags = {tag["name"]: tag["content"] for tag in page("meta")}
    assert tags["citation_title"] == TITLE and tags["citation_inbook_title"] == EDITION.title
    assert tags["citation_publication_date"] == "2026/05/03"
    authors = [tag["content"] for tag in page("meta", {"name": "citation_author"})]
    assert authors == [*EDITION.authors]
    data = json.loads(page.script.string)
    assert (data["@type"], data["name"], data["url"]) == ("Chapter", TITLE, CHAPTER.url)
    assert data["isPartOf"]["name"] == EDITION.title and data["datePublished"] == "2026-05-03"
    assert "</script" not in page.script.string


def test_people_are_named_by_their_parts():
    assert author_name({"given-names": "Ada", "family-names": "Lovelace"}) == "Ada Lovelace"
    assert author_name({"name": "The Authors"}) == "The Authors"


def test_the_edition_is_that_of_the_citation_file(monkeypatch):
    for name in ("TINY_MODELS_URL", "TINY_MODELS_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    edition = read_edition(ROOT)
    assert (edition.title, edition.version) == (CFF["title"], str(CFF["version"]))
    assert edition.licences == tuple(CFF["license"]) and edition.short_title == "Tiny Models"
    assert edition.url == (CFF["url"].rstrip("/") + "/" if "url" in CFF else "")
    monkeypatch.setenv("TINY_MODELS_URL", "https://example.org/book")
    monkeypatch.setenv("TINY_MODELS_REPOSITORY", "https://example.org/repository/")
    edition = read_edition(ROOT)
    assert edition.url == "https://example.org/book/"
    assert edition.repository == "https://example.org/repository"


def test_date_and_commit_are_those_of_git_or_else_of_the_file(tmp_path):
    text = 'title: T\nauthors: [{name: A}]\nversion: 1\ndate-released: "2026-01-02"\nlicense: MIT\n'
    (tmp_path / "CITATION.cff").write_text(text)
    edition = read_edition(tmp_path)
    assert (edition.date, edition.commit, edition.licences) == (date(2026, 1, 2), "", ("MIT",))

    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    when = {"GIT_AUTHOR_DATE": "2026-03-04T12:00", "GIT_COMMITTER_DATE": "2026-03-04T12:00"}
    commands = [["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "One"]]
    for command in commands:
        subprocess.run(["git", "-C", tmp_path, *command], env=os.environ | when, check=True)
    edition = read_edition(tmp_path)
    assert edition.date == date(2026, 3, 4) and len(edition.commit) == 40


def test_a_sitemap_has_whole_addresses():
    text = sitemap("https://example.org/book/", ["a.html", "b/c&d.html"])
    assert "<loc>https://example.org/book/a.html</loc>" in text and "c&amp;d" in text


@built
@pytest.mark.parametrize("docname", DOCNAMES)
def test_a_page_says_how_to_cite_it(docname):
    page = BeautifulSoup((HTML / f"{docname}.html").read_text("utf-8"), "html.parser")
    found = page.select("article details.cite")
    assert len(found) == (docname not in NOT_CITED)
    for details in found:
        (entry,) = parse_string(details.pre.get_text(), "bibtex").entries.values()
        title = page.find("meta", {"name": "citation_title"})["content"]
        assert entry.fields["title"].strip("{}") == title
        assert f"Version {CFF['version']}" in entry.fields["note"]
        data = json.loads(page.find("script", type="application/ld+json").string)
        assert data["name"] == title
        assert entry.fields.get("booktitle", entry.fields["title"]) == f"{{{CFF['title']}}}"

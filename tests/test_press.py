"""What a published book has beside its text, on a small book with an address and one without."""

import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from tiny_models import press

ROOT = Path(__file__).resolve().parents[1]
CFF = """\
title: "A Book: of pages"
authors: [{name: The Authors}]
version: "1"
date-released: "2026-01-02"
license: MIT
"""
ONE = """\
One
===

A first sentence, which is rather short. A second one; it says nothing but that it is the second of
them.
A third sentence is one too many for what a search engine shows of a page, and so it is left out.
"""


def build(folder):
    """Build the book; give a function that reads its pages."""
    icon = folder / press.CARD["image_mini"]
    icon.parent.mkdir(parents=True)
    shutil.copy(ROOT / press.CARD["image_mini"], icon)
    (folder / "book/one.rst").write_text(ONE)
    (folder / "index.rst").write_text("Book\n====\n\nIts text.\n\n.. toctree::\n\n   book/one\n")
    (folder / "CITATION.cff").write_text(CFF)
    with docutils_namespace():
        app = Sphinx(
            srcdir=folder,
            confdir=None,
            outdir=folder / "html",
            doctreedir=folder / "doctrees",
            buildername="html",
            confoverrides={"extensions": ["tiny_models.press"], "html_theme": "basic"},
            status=None,
            warningiserror=True,
        )
        app.build()

    def page(name):
        return BeautifulSoup((folder / f"html/{name}.html").read_text("utf-8"), "html.parser")

    return page


@pytest.fixture(autouse=True)
def without_addresses(monkeypatch):
    for name in ("TINY_MODELS_URL", "TINY_MODELS_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)


def test_a_book_with_an_address_names_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_MODELS_URL", "https://example.org/a/book")
    page = build(tmp_path)
    address = "https://example.org/a/book/book/one.html"
    one = page("book/one")
    assert one.find("link", rel="canonical")["href"] == address
    tags = one("meta", content=True)
    meta = {tag.get("property", tag.get("name")): tag["content"] for tag in tags}
    assert len(one("meta", {"name": "description"})) == 1
    assert meta["og:url"] == meta["citation_public_url"] == address
    assert meta["og:site_name"] == "A Book"
    assert meta["description"] == meta["og:description"]
    assert meta["description"].startswith("A first") and meta["description"].endswith("of them.")
    assert meta["og:image"].startswith("https://example.org/a/book/_images/")
    assert one.find(class_="cite").find("p").get_text().endswith(address)
    assert f"<loc>{address}</loc>" in (tmp_path / "html/sitemap.xml").read_text("utf-8")

    missing = page("404")
    assert "no page at this address" in missing.get_text()
    links = [tag.get("href") or tag.get("src") for tag in missing(["a", "link", "script"])]
    inner = [link for link in links if link and not link.startswith(("#", "https:"))]
    assert inner and all(link.startswith("/a/book/") for link in inner)


def test_a_book_without_an_address_names_none(tmp_path):
    page = build(tmp_path)
    one = page("book/one")
    assert not one.find("link", rel="canonical") and not one.find("meta", property="og:url")
    assert one.find("meta", {"name": "description"}) and one.find(class_="cite")
    assert not (tmp_path / "html/sitemap.xml").exists()
    assert page("404").find("a", href="/index.html")


def test_the_first_page_cites_the_whole_book(tmp_path):
    page = build(tmp_path)
    assert page("index").select_one("details.cite summary").get_text() == "Cite this book"
    assert page("book/one").select_one("details.cite summary").get_text() == "Cite this chapter"

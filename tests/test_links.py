"""Every link within the built book leads somewhere: to a file, and to an anchor that is there."""

import os
import re
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tiny_models.edition import read_edition

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
PAGES = sorted(str(path.relative_to(HTML)) for path in HTML.rglob("*.html"))
TAG = re.compile(r"<[a-z](?:[^>\"']|\"[^\"]*\"|'[^']*')*>", re.IGNORECASE)
LINK = re.compile(r"\s(?:xlink:)?(?:href|src)=\"([^\"]*)\"")
PREFIX = urlsplit(read_edition(ROOT).url).path or "/"  # of the published book
NAME = re.compile(r"\sid=\"([^\"]*)\"")

pytestmark = pytest.mark.skipif(
    not PAGES and "CI" not in os.environ, reason="the book is not built; run `make book`"
)


@cache
def links_and_names(page):
    """Read a page once: what it links to and loads, and the anchors that it has."""
    tags = " ".join(TAG.findall((HTML / page).read_text("utf-8")))
    return {unescape(link) for link in LINK.findall(tags)}, set(map(unescape, NAME.findall(tags)))


def problem(page, link):
    """Say what is wrong with a link on a page, if it is one within the book and leads nowhere."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return None
    path = unquote(parts.path)
    if path.startswith("/"):  # on the page of what is not found, whose own address can be any
        target = HTML / path.removeprefix(PREFIX)
    else:
        target = HTML / page if not path else HTML / os.path.normpath(Path(page).parent / path)
    if not target.is_file():
        return f"{link}: no such file"
    name = unquote(parts.fragment).split("&")[0]  # a picture takes what follows as its settings
    if not name or target.suffix != ".html":
        return None
    names = links_and_names(str(target.relative_to(HTML)))[1]
    return None if name in names else f"{link}: no such anchor"


def test_the_book_has_pages_with_links():
    assert len(PAGES) > 30
    assert sum(len(links_and_names(page)[0]) for page in PAGES) > 1000


@pytest.mark.parametrize(
    "link, wrong",
    [
        ("b.html", None),
        ("b.html#two", None),
        ("b.html?x=1#two&step=3", None),
        ("#one", None),
        ("https://example.org/none", None),
        ("mailto:a@example.org", None),
        ("c.html", "no such file"),
        ("../a.html", "no such file"),
        ("b.html#one", "no such anchor"),
        ("#two", "no such anchor"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link, wrong, tmp_path, monkeypatch):
    monkeypatch.setattr("test_links.HTML", tmp_path)
    links_and_names.cache_clear()
    (tmp_path / "a.html").write_text('<p title="1 > 0" id="one"></p>')
    (tmp_path / "b.html").write_text('<p id="two"></p><code>id="one"</code>')
    assert problem("a.html", link) == (wrong and f"{link}: {wrong}")
    links_and_names.cache_clear()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_within_the_book_leads_somewhere(page):
    links, _ = links_and_names(page)
    assert not list(filter(None, (problem(page, link) for link in sorted(links))))


@pytest.mark.parametrize("page", PAGES)
def test_no_anchor_is_there_twice(page):
    tags = " ".join(TAG.findall((HTML / page).read_text("utf-8")))
    names = NAME.findall(tags)
    assert not sorted({name for name in names if names.count(name) > 1})

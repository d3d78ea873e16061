"""Addresses within pages: what was published leads to the same text for good."""

import os
import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace

from tiny_models.files import read_chapters
from tiny_models.permalinks import FOUND, LIST, MOVED, gone, read_list, read_moved, renew

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
PAGES = {chapter.docname for chapter in read_chapters(ROOT)}
CELL = "```{code-cell}\n1 + 1\n```\n"
CHAPTER = f"""\
---
jupytext: {{text_representation: {{format_name: myst}}}}
kernelspec: {{name: python3, display_name: Python 3}}
---
# One
{CELL}
## Two
{CELL}
{CELL}
(sec-three)=
## Three
```{{note}}
A cell in a box.
```
{CELL}
"""


@pytest.fixture
def build(tmp_path):
    """Build a small book; give a function that reads one of its pages."""

    def page(name, moved="", chapter=CHAPTER):
        (tmp_path / "book").mkdir(exist_ok=True)
        (tmp_path / "book/one.md").write_text(chapter)
        (tmp_path / "book/other.md").write_text("# Other\n\n(here)=\n## Here\n\nText.\n")
        (tmp_path / "index.md").write_text("# Book\n```{toctree}\nbook/one\nbook/other\n```\n")
        (tmp_path / MOVED).write_text(moved)
        settings = {
            "extensions": ["myst_nb", "tiny_models.permalinks"],
            "nb_execution_mode": "off",
            "html_theme": "basic",
            "suppress_warnings": ["myst-nb.lexer"],
        }
        with docutils_namespace():
            app = Sphinx(
                srcdir=tmp_path,
                confdir=None,
                outdir=tmp_path / "html",
                doctreedir=tmp_path / "doctrees",
                buildername="html",
                confoverrides=settings,
                status=None,
                warningiserror=True,
                freshenv=True,
            )
            app.build()
        return BeautifulSoup((tmp_path / f"html/{name}.html").read_text("utf-8"), "html.parser")

    return page


def test_a_cell_is_named_by_its_place_in_the_section(build, tmp_path):
    page = build("book/one")
    names = ["one-code-1", "two-code-1", "two-code-2", "sec-three-code-1"]
    cells = page.select("div.cell")
    assert [cell["id"] for cell in cells] == names
    links = [cell.find("a", class_="cell-link", recursive=False) for cell in cells]
    assert [link["href"] for link in links] == [f"#{name}" for name in names]
    found = read_list(tmp_path / FOUND)
    assert {"book/one", "book/one#two", "book/one#sec-three", "book/other#here"} <= set(found)
    assert [name for name in found if "code" in name] == [f"book/one#{name}" for name in names]


def test_a_new_cell_renames_none_in_other_sections(build):
    page = build("book/one", chapter=CHAPTER.replace("## Two", f"{CELL}\n## Two"))
    names = [cell["id"] for cell in page.select("div.cell")]
    assert names == ["one-code-1", "one-code-2", "two-code-1", "two-code-2", "sec-three-code-1"]


def test_an_old_name_leads_to_what_has_another_on_the_same_page(build):
    page = build("book/one", "book/one#deux book/one#two\nbook/one#z book/one#two-code-2\n")
    assert page.find(id="deux").find_parent("section")["id"] == "two"
    assert page.find(id="z").find_parent(class_="cell")["id"] == "two-code-2"


def test_an_old_name_leads_to_another_page(build):
    page = build("book/one", "# a remark\n\nbook/one#gone book/other#here\n")
    link = page.find(id="gone").a
    assert (link["href"], link.get_text()) == ("other.html#here", "Other")


def test_an_old_page_leads_to_the_new_one(build):
    page = build("book/old/first", "book/old/first book/other#here\n")
    refresh = page.find("meta", {"http-equiv": "refresh"})["content"]
    assert refresh == "0; url=../other.html#here"
    assert page.find("a", href="../other.html#here")


@pytest.mark.parametrize(
    "moved, words",
    [
        ("book/one#a\n", "an old address and a new one"),
        ("book/one#a book/one#b\nbook/one#b book/one#a\n", "leads to itself"),
        ("book/one#a book/one#none\n", "can't lead to"),
        ("book/one#sec-three book/one#two\n", "can't lead to"),
        ("book/one#a book/none#b\n", "no page book/none"),
    ],
)
def test_a_line_that_leads_nowhere_stops_the_build(build, moved, words):
    with pytest.raises(ExtensionError, match=words):
        build("book/one", moved)


def test_old_addresses_are_followed_to_the_last(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / MOVED).write_text("a#1 b#2\nb#2 c#3\nc#3 d\n")
    assert read_moved(tmp_path) == {"a#1": "d", "b#2": "d", "c#3": "d"}


def test_the_list_only_grows(tmp_path):
    for name, text in ((LIST, "b#1\na\n"), (FOUND, "a\na#2\n")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert renew(tmp_path) == ["a#2"]
    assert read_list(tmp_path / LIST) == ["a", "a#2", "b#1"]
    assert renew(tmp_path) == []
    assert gone(["a", "b#1"], ["a"], []) == ["b#1"] and gone(["b#1"], [], ["b#1"]) == []


@pytest.mark.skipif(not HTML.exists() and "CI" not in os.environ, reason="the book is not built")
def test_every_address_that_was_listed_is_still_there():
    listed = read_list(ROOT / LIST)
    assert len(listed) > 500
    names = {}
    for docname in PAGES | {address.partition("#")[0] for address in listed}:
        path = HTML / f"{docname}.html"
        text = path.read_text("utf-8") if path.exists() else None
        names[docname] = text and set(re.findall(r'\sid="([^"]*)"', text))
    missing = [
        address
        for address in listed
        for docname, _, name in [address.partition("#")]
        if names[docname] is None or name and name not in names[docname]
    ]
    assert not missing, f"say in {MOVED} where these are now: {missing}"

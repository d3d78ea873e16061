"""Chapters to take home: what their notebooks have, and that the first cell makes them run."""

import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from docutils import nodes
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tiny_models.edition import Edition
from tiny_models.files import read_chapters
from tiny_models.notebooks import GLUED, Writer, first_cell, make_notebook
from tiny_models.pictures import MIME

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
CHAPTERS = {chapter.docname: chapter for chapter in read_chapters(ROOT) if chapter.cells}


def edition(repository="", commit=""):
    return Edition("T", ("A",), "1", date(2026, 1, 2), commit, ("MIT",), "", repository)


# ---------------------------------------------------------------------------------- first cell


def run(text, folder):
    """Run a first cell in a folder."""
    end = "print(Path.cwd(), bookkit.figure.__name__, os.environ['PYTHONPATH'])"
    return subprocess.run(
        [sys.executable, "-c", f"{text}\n{end}"], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def repository(tmp_path):
    """A repository like that of the book, whose second commit spoils it; give the first."""
    folder = tmp_path / "origin"
    (folder / "book/_kit").mkdir(parents=True)
    (folder / "book/models").mkdir()
    (folder / "book/_kit/bookkit.py").write_text("plt = None\n")
    (folder / "book/models/prepare.py").write_text("open('prepared', 'w')\n")
    (folder / "requirements.txt").write_text("# What is needed\npytest==0.0.1\n\n")

    def git(*arguments):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        done = subprocess.run(
            ["git", "-C", folder, *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "One")
    first = git("rev-parse", "HEAD")
    (folder / "book/_kit/bookkit.py").write_text("raise ImportError\n")
    git("commit", "-qam", "Two")
    return folder, first


def test_the_first_cell_fetches_the_repository_as_it_was(repository, tmp_path):
    folder, commit = repository
    home = tmp_path / "home"
    home.mkdir()
    text = first_cell(edition(str(folder), commit), ["gemma-3-270m"])
    for _ in range(2):  # what is there is used again
        done = run(text, home)
        clone = home / "tiny-models"
        paths = os.pathsep.join([str(clone / "src"), str(clone / "book/_kit")])
        assert done.stdout == f"{clone} show {paths}\n", done.stderr
    assert (home / "prepared").exists()


def test_the_first_cell_finds_the_repository_that_it_is_in(repository):
    folder, commit = repository
    subprocess.run(["git", "-C", folder, "checkout", "-q", commit], check=True)
    done = run(first_cell(edition(), []), folder / "book/models")
    assert done.stdout.startswith(f"{folder} show "), done.stderr
    assert not (folder / "book/models/prepared").exists()


def test_without_an_address_the_first_cell_says_what_to_do(tmp_path):
    done = run(first_cell(edition(), []), tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("Fetch the book's repository")


# -------------------------------------------------------------------------------------- cells


def cell_node(number):
    return nodes.container(nb_element="cell_code", cell_metadata={"number": number})


def executed(*outputs, tags=()):
    """A notebook of cells with these outputs, one each."""
    cells = [
        new_code_cell(f"cell({number})", outputs=list(filter(None, [output])))
        for number, output in enumerate(outputs, 1)
    ]
    for cell in cells:
        cell.metadata["tags"] = list(tags)
    return new_notebook(cells=cells)


def test_hidden_cells_are_where_they_were():
    blocks = ["One", cell_node(2), "Two", "Three", cell_node(3)]
    notebook = make_notebook(blocks, executed(None, None, None, None), edition(), "")
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells[1:]] == [
        "One", "cell(1)", "cell(2)", "Two\n\nThree", "cell(3)", "cell(4)",
    ]  # fmt: skip


def outputs(*wanted):
    notebook = make_notebook([], executed(*wanted), edition(), "https://example.org/a.html")
    return [cell.outputs for cell in notebook.cells[1:]]


def test_outputs_are_kept_as_far_as_a_notebook_can_show_them():
    stream = new_output("stream", text="hello")
    text = new_output("execute_result", {"text/plain": "3"}, execution_count=1)
    data = new_output("display_data", {MIME: {"name": "x"}})
    glued = new_output("display_data", {f"{GLUED}text/plain": "3"})
    assert outputs(stream, text, data, glued) == [[stream], [text], [], []]


def test_a_figure_stands_below_its_cell():
    svg = '<svg role="img"><path stroke="currentColor"/></svg>'
    ((output,),) = outputs(new_output("display_data", {f"{GLUED}text/html": svg}))
    drawing = output["data"]["image/svg+xml"]
    assert drawing.startswith("<svg xmlns=") and "currentColor" not in drawing


def test_a_picture_that_needs_the_page_is_linked():
    html = '<div id="a" class="play" data-kind="b" data-title="A &amp; B"></div>'
    ((output,),) = outputs(new_output("display_data", {"text/html": html}))
    text = output["data"]["text/markdown"]
    assert "“A & B”" in text and "(https://example.org/a.html)" in text


def test_what_the_page_folds_is_folded():
    notebook = make_notebook([], executed(None, tags=["hide-input"]), edition(), "")
    assert notebook.cells[1].metadata["jupyter"] == {"source_hidden": True}


# ----------------------------------------------------------------------------------- markdown


def markdown(*children, url="https://example.org/"):
    """Write nodes as Markdown, as a page of a book."""
    app = SimpleNamespace(
        env=SimpleNamespace(toc_fignumbers={"a/b": {"figure": {"f": (4,)}}}),
        builder=SimpleNamespace(get_target_uri=lambda name: f"{name}.html"),
    )
    document = nodes.section("", *children)
    return list(Writer(app, "a/b", url).blocks(document))


def paragraph(*children):
    return nodes.paragraph("", "", *children)


def test_text_is_markdown():
    text = paragraph(
        nodes.Text("a*b "),
        nodes.emphasis("", "c"),
        nodes.strong("", "d"),
        nodes.literal("", "e`f"),
        nodes.math("", "x_1"),
    )
    assert markdown(text) == [r"a\*b *c***d**`` e`f ``$x_1$"]


@pytest.mark.parametrize(
    "attributes, address",
    [
        ({"refuri": "https://a.org/b"}, "https://a.org/b"),
        ({"refuri": "../c/d.html#e"}, "https://example.org/c/d.html#e"),
        ({"refuri": "d.html"}, "https://example.org/a/d.html"),
        ({"refid": "e"}, "https://example.org/a/b.html#e"),
    ],
)
def test_links_lead_to_the_published_book(attributes, address):
    link = nodes.reference("", "x", **attributes)
    assert markdown(paragraph(link)) == [f"[x]({address})"]
    outside = address.startswith("https://a.org")
    assert markdown(paragraph(link.deepcopy()), url="") == [f"[x]({address})" if outside else "x"]


def test_blocks_are_markdown():
    items = [nodes.list_item("", paragraph(nodes.Text(word))) for word in "ab"]
    figure = nodes.figure("", nodes.caption("", "A caption"), ids=["f"])
    row = nodes.row("", nodes.entry("", paragraph(nodes.Text("a|b"))))
    table = nodes.table("", nodes.tgroup("", nodes.tbody("", row, row.deepcopy())))
    section = nodes.section("", nodes.title("", "Title"), cell_node(1))
    cell = section.children[1]
    assert markdown(
        section,
        nodes.enumerated_list("", *items),
        nodes.block_quote("", paragraph(nodes.Text("quoted"))),
        nodes.math_block("", "x"),
        nodes.admonition("", nodes.title("", "Answer"), paragraph(nodes.Text("yes"))),
        figure,
        table,
        nodes.comment("", "no"),
    ) == [
        "# Title", cell, "1. a\n2. b", "> quoted", "$$\nx\n$$", "**Answer**", "yes",
        "**Fig. 4** A caption", "| a\\|b |\n| --- |\n| a\\|b |",
    ]  # fmt: skip


# --------------------------------------------------------------------------------------- book


@pytest.mark.skipif(not HTML.exists() and "CI" not in os.environ, reason="the book is not built")
@pytest.mark.parametrize("docname", CHAPTERS)
def test_every_chapter_offers_its_notebook(docname):
    notebook = nbformat.read(HTML / f"_sources/{docname}.ipynb", as_version=4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert sources[1:] == [cell.source for cell in CHAPTERS[docname].cells]
    assert notebook.cells[1].source.startswith("# ")  # the title
    text = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "{glue:" not in text and "{ref}`" not in text
    page = (HTML / f"{docname}.html").read_text("utf-8")
    assert f'/_sources/{docname}.ipynb"' in page

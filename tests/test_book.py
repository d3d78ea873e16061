"""The book as it was built, and the files in ``src/`` as readers will find them."""

import ast
import os
import random
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tiny_models.chapters import TangleError
from tiny_models.execute import executed_path, stale
from tiny_models.files import check, read_sources, toc_docnames
from tiny_models.tangle import Import, is_python
from tiny_models.untangle import untangle

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build/html"
BUDGETS = {"src/gpt2.py": 175, "src/gemma3.py": 200, "src/gemma3_chat.py": 80}
BUDGETS |= {"src/train.py": 120, "src/gpt2.js": 250, "src/evolve.py": 200}
WIDTH = 100

SOURCES = read_sources(ROOT)
CHAPTERS = {chapter.docname: chapter for chapter in SOURCES.chapters}
WITH_CODE = [docname for docname, chapter in CHAPTERS.items() if chapter.cells]
TANGLED = SOURCES.tangled

built = pytest.mark.skipif(  # where changes are checked, nothing is skipped
    not HTML.exists() and "CI" not in os.environ, reason="the book is not built; run `make book`"
)


@cache
def page(name):
    """Parse a page of the book."""
    return BeautifulSoup((HTML / f"{name}.html").read_text("utf-8"), "html.parser")


def follow(name, href):
    """Resolve a link on a page; give the name of the page it leads to and the fragment."""
    path, _, fragment = href.partition("#")
    target = (HTML / name).parent / path if path else HTML / f"{name}.html"
    return os.path.relpath(target, HTML).removesuffix(".html"), fragment


def parsed(target, text):
    """Parse Python; of another language there are no imports to find, so it counts as none."""
    return ast.parse(text if is_python(target) else "")


def code_lines(text):
    """List the lines that have something on them."""
    return [line for line in text.split("\n") if line.strip()]


# ---------------------------------------------------------------------------------------- pages


@built
@pytest.mark.parametrize("docname", toc_docnames(ROOT))
def test_every_chapter_has_a_page(docname):
    assert page(docname).find("h1").get_text()


@built
def test_the_first_page_leads_to_the_book():
    assert f"url={toc_docnames(ROOT)[0]}.html" in (HTML / "index.html").read_text()


@built
def test_the_outputs_are_those_of_the_code():
    assert stale(SOURCES) == {}


@built
@pytest.mark.parametrize(
    "docname, read, not_read",
    [
        ("book/compare/frameworks", "src/gemma3.py", "src/train.py"),  # by a computed name
        ("book/compare/frameworks", "src/gpt2.py", "book/_kit/architecture.py"),
        ("book/gpt2/generate", "src/gpt2.py", "src/gemma3.py"),  # only in a shell
    ],
)
def test_what_a_chapter_read_was_recorded(docname, read, not_read):
    notebook = nbformat.read(executed_path(ROOT, docname), as_version=4)
    files = notebook.metadata["tiny_models"]["used"]["files"]
    assert read in files and not_read not in files


@built
@pytest.mark.parametrize("docname", WITH_CODE)
def test_every_cell_was_executed_without_errors(docname):
    notebook = nbformat.read(executed_path(ROOT, docname), as_version=4)
    for cell, done in zip(CHAPTERS[docname].cells, notebook.cells, strict=True):
        tags = cell.metadata.get("tags", [])
        assert done.source == cell.source
        assert done.execution_count or "skip-execution" in tags, cell.place()
        errors = [output for output in done.outputs if output.output_type == "error"]
        assert not errors or "raises-exception" in tags, cell.place()


@built
@pytest.mark.parametrize("docname", WITH_CODE)
def test_no_page_shows_an_error_or_noise(docname):
    for output in page(docname).select(".cell_output .traceback, .cell_output .stderr"):
        cell = output.find_parent(class_="cell")
        assert "tag_raises-exception" in cell["class"], output.get_text()


@built
@pytest.mark.parametrize("docname", toc_docnames(ROOT))
def test_every_picture_has_a_description(docname):
    article = page(docname).find("article")
    for image in article.find_all("img"):
        alt = image.get("alt", "").strip()
        assert alt and "_images/" not in alt and alt not in image["src"], image
    for drawing in article.find_all("svg"):
        described = drawing.get("aria-label") or drawing.get("aria-labelledby")
        assert described or drawing.get("aria-hidden") == "true", str(drawing)[:200]


@built
@pytest.mark.parametrize("docname", toc_docnames(ROOT))
def test_every_formula_is_mathml_and_needs_no_script(docname):
    for formula in page(docname).select(".math"):
        assert formula.find("math"), formula
        assert not formula.find("merror") and "\\" not in formula.get_text(), formula
    assert not re.search(r"\\\(|\\\[|\$\$", prose(docname))
    scripts = [script.get("src", "") + script.get_text() for script in page(docname)("script")]
    assert not [script for script in scripts if re.search("mathjax|katex", script, re.IGNORECASE)]


def prose(docname):
    """The text of a page that is not code."""
    article = BeautifulSoup(str(page(docname).find("article")), "html.parser")
    for code in article(["pre", "code"]):
        code.extract()
    return article.get_text()


@built
def test_nothing_is_shipped_that_no_page_loads():
    shipped = {path.relative_to(HTML).as_posix() for path in HTML.rglob("*") if path.is_file()}
    assert not [name for name in shipped if re.search(r"mathjax|fontawesome|thebe|\.map$", name)]
    assert sum((HTML / name).stat().st_size for name in shipped if "_static/" in name) < 2e6


def test_make_runs_no_script_that_names_the_folder_it_was_installed_in():
    """Such a script does not run any more when the checkout was moved."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipes = [line for line in makefile.splitlines() if not line.startswith("#")]
    assert set(re.findall(r"\$\(BIN\)/(\w\S*)", "\n".join(recipes))) == {"python"}


# ------------------------------------------------------------------------------------- captions


@built
@pytest.mark.parametrize(
    "target, fragment",
    [
        pytest.param(target, fragment, id=f"{target}-{fragment.cell.place()}")
        for target, tangled in TANGLED.items()
        for fragment in tangled.fragments
    ],
)
def test_the_caption_of_a_tangled_cell_leads_to_its_code(target, fragment):
    cell = fragment.cell
    if {"remove-cell", "remove-input"}.intersection(cell.metadata.get("tags", ())):
        pytest.skip("the cell is not shown")
    tree = parsed(target, cell.source)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    moved = {line for node in imports for line in range(node.lineno, node.end_lineno + 1)}
    stays = [line for number, line in enumerate(cell.lines, 1) if number not in moved]
    names = {name for node in imports for name in Import.of(node)}

    (caption,) = page(cell.docname).select(f"#code-cell-{cell.number} .tangled-caption")
    assert caption.get_text().startswith(f"{target}, ")
    for link in caption.select(".tangled-play a"):  # to a picture that plays the cell
        name, anchor = follow(cell.docname, link["href"])
        assert page(name).find(id=anchor.split("&")[0])["class"] == ["play"]
    shown = []
    for link in caption.select("a:not(.tangled-play a)"):
        name, anchor = follow(cell.docname, link["href"])
        assert name == TANGLED[target].page
        first, last = (int(number) for number in anchor.removeprefix("L").split("-L"))
        assert link.get_text().endswith(
            f"lines {first}–{last}" if first < last else f"line {first}"
        )
        text = "".join(line.get_text() for line in page(name).select(f'[id="{anchor}"] .line'))
        assert text.split("\n")[:-1] == TANGLED[target].text.split("\n")[first - 1 : last]
        if "imports" in link.get_text():
            found = {name for node in ast.parse(text).body for name in Import.of(node)}
            assert names <= found
        else:
            shown += code_lines(text)
    assert shown == code_lines("\n".join(stays))


@built
@pytest.mark.parametrize("target", TANGLED)
def test_the_page_of_a_file_leads_back_and_offers_the_file(target):
    name = TANGLED[target].page
    text = "".join(line.get_text() for line in page(name).select(".tangled-file .line"))
    assert text == (ROOT / target).read_text("utf-8")
    for link in page(name).select(".tangled-origin a"):
        docname, anchor = follow(name, link["href"])
        assert docname in CHAPTERS
        assert not anchor or page(docname).find(id=anchor)
    (download,) = page(name).select("a.tangled-download")
    assert (HTML / target).parent / download["href"] == HTML / target
    assert (HTML / target).read_bytes() == (ROOT / target).read_bytes()


# ----------------------------------------------------------------------------------------- src/


def test_src_is_what_the_chapters_say():
    assert check(SOURCES) == []


@pytest.mark.parametrize("target", TANGLED)
def test_an_edit_of_any_line_of_code_is_carried_back(target):
    """A comment behind a line: it comes back, or, in a string for example, is refused."""
    rng = random.Random(target)
    lines = TANGLED[target].body.split("\n")
    code = [n for n, line in enumerate(TANGLED[target].lines) if line.cell and line.text.strip()]
    carried = 0
    for at in rng.sample(code, 3):
        comment = "  # more" if is_python(target) else " // more"
        body = "\n".join([*lines[:at], lines[at] + comment, *lines[at + 1 :]])
        try:
            texts = untangle(TANGLED, {target: body}, SOURCES.chapters)
            again = SOURCES.with_texts(texts).tangled
        except TangleError:
            continue
        assert again[target].body == body
        assert all(again[name].body == TANGLED[name].body for name in TANGLED if name != target)
        carried += 1
    assert carried


@pytest.mark.parametrize("target", BUDGETS)
def test_files_are_short(target):
    assert len((ROOT / target).read_text("utf-8").splitlines()) <= BUDGETS[target]


@pytest.mark.parametrize("target", sorted({*BUDGETS, *TANGLED}))
def test_files_have_one_statement_a_line_and_fit_the_page(target):
    text = (ROOT / target).read_text("utf-8")
    for number, line in enumerate(text.splitlines(), 1):
        assert len(line) <= WIDTH, f"{target}:{number}"
    if is_python(target):
        lines = [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    else:
        lines = javascript_statements(text)
    twice = sorted(line for line in set(lines) if lines.count(line) > 1)
    assert not twice, f"{target}: more than one statement on lines {twice}"


def javascript_statements(text):
    """List the lines on which statements of our plain JavaScript begin or end, one for each.

    A statement ends with a semicolon, or begins with a word that has others below it; what stands
    in the head of a loop, in a string or in a comment is no statement.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r"/\*.*\*/|//.*|`[^`]*`|\"[^\"]*\"", "", line)
        head = re.match(r"\s*(?:\} )?(?:if|for|while|else)\b", code)
        code = re.sub(r"\bfor \([^;()]*;.*;[^;()]*\)", "for", code)
        lines += [number] * (code.count(";") + bool(head))
    return lines


@pytest.mark.parametrize(
    "line, statements",
    [
        ("const a = 1; // so; and so", 1),
        ("const a = 1; b();", 2),
        ("for (let i = 0; i < n; i++)", 1),
        ("for (let i = 0; i < n; i++) a += i;", 2),
        ("  for (const end = i + n; i < end; i += 4, j += 4) {", 1),
        ('if (a) return "a; b";', 2),
        ("  return `${a};`;", 1),
    ],
)
def test_statements_of_javascript_are_counted(line, statements):
    assert len(javascript_statements(line)) == statements


@pytest.mark.parametrize("target", [t for t in sorted({*BUDGETS, *TANGLED}) if is_python(t)])
def test_importing_a_file_does_nothing(target, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", f"import {Path(target).stem}"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@built
def test_the_terms_lead_to_their_definitions():
    terms = {entry["id"] for entry in page("book/terms").select("dl.glossary dt")}
    linked = set()
    for docname in toc_docnames(ROOT):
        for link in page(docname).select("a.term"):
            name, fragment = follow(docname, link["href"])
            assert name == "book/terms" and fragment in terms
            linked.add(fragment)
    assert len(linked) > 0.9 * len(terms)

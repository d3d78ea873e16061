"""The tangler, on small books made up for each test."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_models import files
from tiny_models.__main__ import main
from tiny_models.chapters import TangleError, docnames
from tiny_models.files import carry_back, read_sources
from tiny_models.tangle import header, sort_imports

TOOLS = Path(files.__file__).parent
FRONT_MATTER = """\
---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---
# A chapter
"""
TOC = """\
format: jb-book
root: book/index
parts:
- caption: Part
  chapters:
  - file: book/a/one
  - file: book/a/two
"""


def cell(source, target="src/m.py"):
    """Write a code cell that is tangled."""
    return f"\n```{{code-cell}} ipython3\n:tangle: {target}\n\n{source}\n```\n"


@pytest.fixture
def book(tmp_path):
    """Give a function that makes a book of the chapters one and two."""

    def make(*chapters, toc=TOC):
        (tmp_path / "book/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "_toc.yml").write_text(toc)
        (tmp_path / "book/index.md").write_text("# Index\n")
        chapters += ("",) * (2 - len(chapters))
        for name, text in zip(("one", "two", "three"), chapters, strict=False):
            (tmp_path / f"book/a/{name}.md").write_text(FRONT_MATTER + text)
        return tmp_path

    return make


def tangle(root):
    """Tangle a book in memory."""
    return read_sources(root).tangled


def check(root):
    return files.check(read_sources(root))


def write(root, **options):
    return files.write(read_sources(root), **options)


def untangle(root):
    return carry_back(read_sources(root))


def body(root, target="src/m.py"):
    """Give what the chapters say, without the header."""
    return tangle(root)[target].body


def contents(root):
    """Read all files, to find that nothing changed."""
    return {path: path.read_text() for path in root.rglob("*") if path.is_file()}


def ruff(root, rules):
    """Give what ruff finds wrong in src/."""
    options = ["--isolated", "--no-cache", "--quiet", "--line-length", "100", "--select", rules]
    command = [sys.executable, "-m", "ruff", "check", *options, "src"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True).stdout


def edit(root, old, new, target="src/m.py"):
    """Edit a tangled file by hand."""
    path = root / target
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


# ---------------------------------------------------------------------------------------- order


def test_cells_come_in_the_order_of_the_toc_and_then_of_the_chapter(book):
    root = book(cell("b = 1") + cell("a = 2"), cell("c = 3"))
    assert body(root) == "\nb = 1\n\na = 2\n\nc = 3\n"
    swapped = TOC.replace("one", "x").replace("two", "one").replace("x", "two")
    swapped = swapped.replace("root: book/index", "root: book/index").replace("indetwo", "index")
    (root / "_toc.yml").write_text(swapped)
    assert body(root) == "\nc = 3\n\nb = 1\n\na = 2\n"


@pytest.mark.parametrize(
    "toc",
    [
        "format: jb-book\nroot: i\nchapters:\n- file: x\n  sections:\n  - file: y\n- file: z.md\n",
        "format: jb-book\nroot: i\nparts:\n- chapters:\n  - file: x\n- chapters:\n"
        "  - file: y\n  - file: z\n",
    ],
)
def test_toc_forms(toc):
    assert docnames(toc) == ["i", "x", "y", "z"]


def test_cells_of_different_targets_go_to_different_files(book):
    root = book(cell("a = 1") + cell("b = 2", "src/n.py") + "\n```{code-cell}\nc = 3\n```\n")
    assert body(root) == "\na = 1\n"
    assert body(root, "src/n.py") == "\nb = 2\n"


# -------------------------------------------------------------------------------------- imports


def test_imports_are_hoisted_merged_and_sorted(book):
    first = (
        "import torch\nfrom torch import nn\nimport sys, os\nfrom m2 import y\n"
        "from torch import Tensor, nn\n\nx = 1"
    )
    second = (
        "from __future__ import annotations\nfrom collections import Counter\nimport numpy as np\n"
        "from torch.nn import functional as F\nfrom math import pi, E2, E10, Aa\n"
        "from . import z\nimport os\n\nw = 2"
    )
    root = book(cell(first), cell(second) + cell("y = 1", "src/m2.py"))
    assert body(root) == (
        "\nfrom __future__ import annotations\n\n"
        "import os\nimport sys\nfrom collections import Counter\n"
        "from math import E2, E10, Aa, pi\n\n"
        "import numpy as np\nimport torch\nfrom torch import Tensor, nn\n"
        "from torch.nn import functional as F\n\nfrom m2 import y\n\nfrom . import z\n"
        "\nx = 1\n\nw = 2\n"
    )


def test_long_imports_are_wrapped(book):
    names = [f"name_number_{number}" for number in range(1, 9)]
    text = body(book(cell(f"from package import {', '.join(reversed(names))}")))
    assert text == "\nfrom package import (\n" + "".join(f"    {n},\n" for n in names) + ")\n"


def test_imports_within_functions_stay(book):
    assert "    import os\n" in body(book(cell("def f():\n    import os\n    return os")))


def test_imports_take_their_comments_along(book):
    first = "# Kept.\n\n# Why m2.\nimport m2  # noqa: F401\nimport a1\n# About x.\nx = 1"
    root = book(cell(first), cell("from m2 import y  # both\nfrom m2 import z\n\nw = 2"))
    assert body(root) == (
        "\nimport a1\n\n# Why m2.\nimport m2  # noqa: F401\n"
        "from m2 import (\n    y,  # both\n    z,\n)\n"
        "\n# Kept.\n\n# About x.\nx = 1\n\nw = 2\n"
    )


def test_a_star_is_not_merged_with_names(book):
    root = book(cell("from math import *") + cell("from math import pi\n\nx = pi"))
    assert body(root) == "\nfrom math import *\nfrom math import pi\n\nx = pi\n"


@pytest.mark.parametrize(
    "act",
    [
        "os.environ['A'] = '1'",
        "os.putenv('A', '1')",
        "del os.environ['A']",
        "if os:\n    os.abort()",
        "x = os.x = 1",
    ],
)
def test_an_import_does_not_overtake_what_may_change_it(book, act):
    root = book(cell(f"import os\n\n{act}") + cell("import os\nimport jax"))
    with pytest.raises(TangleError, match=r"one\.md:2\d: .*before book/a/one\.md:16, .*above"):
        tangle(root)
    root = book(cell("import os\n\nx = os.environ\n'Why.'\n\ndef f(): f()") + cell("import jax"))
    assert "import jax" in body(root)


def test_docstring_goes_above_the_imports(book):
    root = book(cell('"""What it is.\n\nMore."""\nimport os\n\nx = os'), cell('"""Not this."""'))
    assert body(root) == ('"""What it is.\n\nMore."""\n\nimport os\n\nx = os\n\n"""Not this."""\n')


# ----------------------------------------------------------------------------------- separation


def test_definitions_are_separated_as_pep8_asks(book):
    source = (
        "a = 1\n\n\n\nb = 2\nc = 3\n# About f.\n@property\ndef f():\n    pass\n    # The end.\n"
        "d = 4\n\n# About G.\n\nclass G:\n\n\n    x = 1\n# Last."
    )
    assert body(book(cell(source), cell("async def h():\n    pass\n"))) == (
        "\na = 1\n\nb = 2\nc = 3\n\n\n# About f.\n@property\ndef f():\n    pass\n    # The end.\n"
        "\n\nd = 4\n\n# About G.\n\n\nclass G:\n\n\n    x = 1\n\n\n# Last.\n"
        "\n\nasync def h():\n    pass\n"
    )


def test_strings_and_comments_are_kept_verbatim(book):
    source = 'text = """\n\n\n  # not a comment\n"""  # a comment\nb = [\n    1,  # one\n\n]'
    assert body(book(cell(source))) == f"\n{source}\n"


def test_result_is_accepted_by_ruff(book):
    first = '"""Doc."""\nimport sys, os\nimport numpy as np\n\nclass A:\n    x = np, os, sys'
    second = (
        "from torch import nn as n, Tensor\nfrom torch import ARGS\nfrom os import path as Path\n"
        "from os import curdir\nfrom a1 import f\nfrom a10 import F\nfrom a2 import G2\n"
        "# Comment.\n@n\ndef g():\n    return A, Tensor, ARGS, Path, curdir, f, F, G2\n"
    )
    last = "x = g()\nif x:\n    print(x, later, very)"

    third = (
        "from very_long_package_name.with_a_module import later, very, "
        + ", ".join(f"long_name_{number}" for number in range(9))
        + "\n\ny = ["
        + ", ".join(f"long_name_{number}" for number in range(5))
        + "]\nz = [long_name_5, long_name_6, long_name_7, long_name_8]"
    )
    only_functions = cell("import os\n# About f.\n\ndef f():\n    return os", "src/n.py")
    imports_first = cell("import m\n\nx = m", "src/o.py")
    root = book(
        cell(first), cell(second) + cell(third) + cell(last) + only_functions + imports_first
    )
    write(root)
    assert ruff(root, "E,F,I,W") == ""
    assert "from torch import ARGS, Tensor\nfrom torch import nn as n\n" in body(root)


def test_imports_do_not_depend_on_the_folder(tmp_path, monkeypatch):
    """ruff takes for the book's own what it finds in the folder."""
    lines = ("import torch", "import os", "import m2", "import m")
    (tmp_path / "torch").mkdir()
    (tmp_path / "src/m2").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    sort_imports.cache_clear()
    wanted = ["import os", "", "import m2", "import torch", "", "import m"]
    assert sort_imports(lines, frozenset(["m"])) == wanted


def test_result_is_the_same_every_time(book):
    root = book(cell("import b, a\nfrom c import d, e, f\nfrom c import g as h"), cell("x = 1"))
    command = [sys.executable, "-c", "import sys, pathlib\nfrom tiny_models import files\n"]
    command[-1] += "print(files.read_sources(pathlib.Path(sys.argv[1])).tangled['src/m.py'].text)"
    texts = {
        subprocess.run(
            [*command, root],
            env={
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(TOOLS.parent),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in "123"
    }
    assert texts == {tangle(root)["src/m.py"].text + "\n"}


# --------------------------------------------------------------------------------------- header


def test_header_names_the_chapters(book):
    line = tangle(book(cell("a = 1"), cell("b = 1")))["src/m.py"].text.split("\n")[0]
    assert line.startswith("# Tangled from book/a/{one,two}.md; sha256 ")


def test_header_fits():
    names = "tokens attention block model weights generate".split()
    line = header([f"book/gpt2/{name}" for name in names], "0" * 12)
    assert "{tokens,attention,block,model,weights,generate}.md" in line
    assert len(line) <= 100
    assert len(header([f"book/gpt2/{name * 3}" for name in names], "0" * 12)) <= 100
    assert header(["book/a"], "0" * 12) == f"# Tangled from book/a.md; sha256 {'0' * 12}"


# ------------------------------------------------------------------------------------ fragments


def test_fragments_name_the_lines_of_each_cell(book):
    root = book(
        cell('"""Doc."""\nimport os\n\n\ndef f():\n    pass\ng = 1') + cell("import sys"),
        cell("h = 1\n\ni = os, sys"),
    )
    tangled = tangle(root)["src/m.py"]
    lines = tangled.text.split("\n")
    spans = [fragment.spans for fragment in tangled.fragments]
    assert spans == [((2, 2), (8, 12)), (), ((14, 16),)]
    assert [fragment.imports for fragment in tangled.fragments] == [(4, 5), (4, 5), None]
    assert lines[7:12] == ["def f():", "    pass", "", "", "g = 1"]
    assert lines[13:16] == ["h = 1", "", "i = os, sys"]
    assert [fragment.cell.number for fragment in tangled.fragments] == [1, 2, 1]


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "options, line",
    [
        (":tangle: src/m.py\n", 14),
        (":tangle: src/m.py\n\n", 15),
        (":tangle: src/m.py\n:tags: [hide-input]\n\n", 16),
        ("---\ntangle: src/m.py\ntags:\n- a\n---\n", 18),
        ("---\ntangle: src/m.py\n---\n\n", 17),
    ],
)
def test_syntax_errors_are_found_in_the_chapter(book, options, line):
    root = book(f"\nText.\n```{{code-cell}} ipython3\n{options}x = 1\ny = (\nz = 1\n```\n")
    assert (root / "book/a/one.md").read_text().split("\n")[line] == "y = ("
    with pytest.raises(TangleError, match=rf"book/a/one\.md:{line + 1}: '\(' was never closed"):
        tangle(root)


def test_cells_with_equal_text_are_told_apart(book):
    root = book(
        cell("x = 1\n", "src/n.py") + "\n~~~~{code-cell}\n:tangle: src/m.py\nx = 1\n\n~~~~\n"
    )
    (fragment,) = tangle(root)["src/m.py"].fragments
    assert fragment.cell.place() == "book/a/one.md:20"


def test_cells_that_cannot_be_found_are_reported(book):
    for text in ("```{code-cell}\nx = 1", "   ```{code-cell}\n   x = 1\n   ```\n"):
        with pytest.raises(TangleError, match=r"book/a/one\.md:10: .* indented or not closed"):
            tangle(book(text))


@pytest.mark.parametrize(
    "target", ["m.py", "src/m.txt", "src/a/m.py", "../src/m.py", "src/a-b.py", "true", "[a, b]"]
)
def test_unknown_target(book, target):
    with pytest.raises(TangleError, match=r"book/a/one\.md:14: .*name a file as src/NAME\.py"):
        tangle(book(cell("x = 1", target)))


def test_chapter_missing_from_the_toc(book):
    root = book("", "", cell("x = 1"))
    with pytest.raises(TangleError, match=r"book/a/three\.md:14: .*_toc\.yml"):
        tangle(root)
    (root / "book/a/three.md").write_text("# Without code\n\nThe option `tangle: src/m.py`.\n")
    assert tangle(root) == {}


@pytest.mark.parametrize(
    "first, second",
    [
        ("x = 1", "x = 2"),
        ("def x(): pass", "class x: pass"),
        ("x, y = 1, 2", "async def y(): pass"),
        ("x: int = 1", "(z, x) = [w] = 1, 2"),
    ],
)
def test_names_defined_twice(book, first, second):
    root = book(cell(first), cell(f"a = 1\n{second}"))
    with pytest.raises(TangleError, match=r"book/a/two\.md:15: .*already, at book/a/one\.md:14"):
        tangle(root)


def test_names_may_be_used_again_in_another_file(book):
    root = book(cell("x = 1"), cell("x = 1", "src/n.py") + cell("x += 1\n_ = 1") + cell("_ = 2"))
    assert set(tangle(root)) == {"src/m.py", "src/n.py"}


@pytest.mark.parametrize("magic", ["%matplotlib inline", "!ls", "x = !ls", "x?", "%%bash"])
def test_magics_are_refused(book, magic):
    with pytest.raises(TangleError, match=r"book/a/one\.md:15: .*plain Python"):
        tangle(book(cell(f"a = 1\n{magic}")))


def test_two_statements_on_a_line_are_refused(book):
    with pytest.raises(TangleError, match=r"book/a/one\.md:15: put each statement on a line"):
        tangle(book(cell("a = 1\nb = 2; c = 3")))


def test_errors_on_the_command_line(book, capsys):
    root = book(cell("x = ("))
    assert main(["tangle", "--root", str(root)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("book/a/one.md:14: ") and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        ":::{note}\n```{code-cell}\n:tangle: src/m.py\nx = 1\n```\n:::\n",
        "````{note}\n```{code-cell}\n:tangle: src/m.py\nx = 1\n```\n````\n",
        "- An item.\n\n  ```{code-cell}\n  :tangle: src/m.py\n  x = 1\n  ```\n",
        "> ```{code-cell}\n> :tangle: src/m.py\n> x = 1\n> ```\n",
    ],
)
def test_a_cell_within_something_is_refused(book, text):
    root = book(cell("y = 1") + text)
    with pytest.raises(TangleError, match=r"one\.md:1[678]: .*top level"):
        tangle(root)
    assert not (root / "src").exists()


def test_an_example_of_a_cell_is_not_one(book):
    example = "\n````{code-block} markdown\n```{code-cell}\n:tangle: src/m.py\nx = 1\n```\n````\n"
    assert body(book(cell("y = 1") + example)) == "\ny = 1\n"


def test_a_chapter_that_is_gone_is_named(book):
    root = book(cell("x = 1"), cell("y = 1"))
    write(root)
    (root / "book/a/two.md").unlink()
    with pytest.raises(TangleError, match=r"_toc\.yml: it lists book/a/two, but there is no"):
        write(root)
    assert (root / "src/m.py").read_text().endswith("y = 1\n")


def test_what_is_hidden_excluded_or_ignored_is_no_chapter(book):
    root = book(cell("x = 1"))
    (root / "_config.yml").write_text("exclude_patterns: [book/drafts, '*.tmp.md']\n")
    (root / ".gitignore").write_text("mine.md\n")
    subprocess.run(["git", "init", "--quiet", root], check=True)
    copies = ["book/a/.ipynb_checkpoints/one.md", "book/drafts/b/c.md", "book/a/mine.md"]
    for name in copies:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(FRONT_MATTER + cell("x = 2"))
    (root / "book/a/.#one.md").symlink_to("somebody@here.123")  # an editor's lock
    (root / "book/a/gone.md").symlink_to("nowhere")
    assert write(root) == ["wrote src/m.py"]
    (root / "book/a/mine.md").rename(root / "book/a/yours.md")
    with pytest.raises(TangleError, match=r"book/a/yours\.md:14: .*_toc\.yml"):
        write(root)


@pytest.mark.parametrize("line", ["#!/usr/bin/env python", "# -*- coding: latin-1 -*-"])
def test_a_first_line_that_would_not_be_first_is_refused(book, line):
    with pytest.raises(TangleError, match=r"one\.md:14: this line counts only as the first"):
        tangle(book(cell(f"{line}\nx = 1")))


def test_what_would_not_compile_is_not_written(book):
    root = book(cell("x = 1") + cell("global x\nx += 1"))
    with pytest.raises(TangleError, match=r"src/m\.py:5: name 'x' is .*global x"):
        write(root)
    assert not (root / "src").exists()


# --------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    "data, why",
    [
        ("x = 'é'".encode("latin-1"), r"one\.md:11: not UTF-8"),
        (b"\nx\r\ny\n", r"one\.md: its lines end in different ways"),
        (b"\rx\n", r"one\.md: its lines end in different ways"),
    ],
)
def test_a_file_that_could_not_be_kept_as_it_is_is_refused(book, data, why):
    root = book("")
    (root / "book/a/one.md").write_bytes(FRONT_MATTER.encode() + b"\n" + data)
    with pytest.raises(TangleError, match=why):
        tangle(root)


def test_a_byte_order_mark_is_refused(book):
    root = book(cell("x = 1"))
    path = root / "book/a/one.md"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(TangleError, match=r"one\.md:1: begins with a byte order mark"):
        tangle(root)


def test_line_ends_permissions_and_links_are_kept(book, tmp_path_factory):
    root = book("\nProse.\n" + cell("x = 1"), cell("y = 2"))
    one, two = root / "book/a/one.md", root / "book/a/two.md"
    one.write_bytes(one.read_bytes().replace(b"\n", b"\r\n"))
    one.chmod(0o640)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "two.md"
    two.rename(elsewhere)
    two.symlink_to(elsewhere)
    write(root)
    (root / "src/m.py").chmod(0o755)
    before = one.read_bytes()
    edit(root, "x = 1", "x = 3")
    edit(root, "y = 2", "y = 4")
    untangle(root)
    assert one.read_bytes() == before.replace(b"x = 1", b"x = 3")
    assert one.stat().st_mode & 0o777 == 0o640
    assert (root / "src/m.py").stat().st_mode & 0o777 == 0o755
    assert two.is_symlink() and "y = 4" in elsewhere.read_text()
    assert check(root) == []


def test_output_that_nobody_reads_is_no_error(book):
    root = book(cell("\n".join(f"x{n} = 1" for n in range(20_000))))
    command = f"{sys.executable} {TOOLS} check --root {root} | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stdout.startswith("---") and run.stderr == ""


# ---------------------------------------------------------------------------- writing, checking


def test_check_shows_drift_and_writes_nothing(book, capsys):
    root = book(cell("x = 1"), cell("y = 2"))
    arguments = ["check", "--root", str(root)]
    assert main(arguments) == 1  # the file is missing
    assert not (root / "src").exists()
    assert main(["tangle", "--root", str(root)]) == 0
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""

    path = root / "book/a/two.md"
    path.write_text(path.read_text().replace("y = 2", "y = 3"))
    before = contents(root)
    assert main(arguments) == 1  # the file is stale
    out = capsys.readouterr().out
    assert "-y = 3" in out and "+y = 2" in out
    assert contents(root) == before
    assert main(["tangle", "--root", str(root)]) == 0
    assert main(arguments) == 0


def test_check_finds_hand_edits_and_stray_files(book):
    root = book(cell("x = 1"), cell("y = 2", "src/n.py"))
    write(root)
    edit(root, "x = 1", "x = 9")
    assert "+x = 9" in check(root)[0]
    write(root, force=True)
    (root / "book/a/two.md").write_text(FRONT_MATTER)
    assert "+y = 2" in check(root)[0]
    assert write(root) == ["removed src/n.py, which no chapter is tangled into any more"]
    assert check(root) == []


def test_identical_files_are_not_touched(book):
    root = book(cell("x = 1"))
    assert write(root) == ["wrote src/m.py"]
    before = (root / "src/m.py").stat()
    assert write(root) == []
    after = (root / "src/m.py").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_hand_edits_are_not_overwritten(book, capsys):
    root = book(cell("x = 1") + cell("z = 3", "src/n.py"), cell("y = 2"))
    write(root)
    edit(root, "x = 1", "x = 9")
    edit(root, "z = 3", "z = 4", "src/n.py")
    before = contents(root)
    assert main(["tangle", "--root", str(root)]) == 2
    message = capsys.readouterr().err
    assert contents(root) == before
    for part in (
        "-x = 1",
        "+x = 9",
        "src/m.py: this file was edited",
        "make untangle",
        "make tangle FORCE=1",
    ):
        assert part in message
    assert main(["tangle", "--force", "--root", str(root)]) == 0
    assert check(root) == []


def test_edited_file_of_no_chapter_is_not_removed(book):
    root = book(cell("x = 1"))
    write(root)
    edit(root, "x = 1", "x = 9")
    (root / "book/a/one.md").write_text(FRONT_MATTER)
    with pytest.raises(TangleError, match="edited by hand"):
        write(root)
    assert (root / "src/m.py").exists()


@pytest.mark.parametrize("force", [False, True])
def test_other_files_are_never_overwritten(book, force):
    root = book(cell("x = 1"))
    (root / "src").mkdir()
    (root / "src/m.py").write_text("mine = 1\n")
    (root / "src/other.py").write_text("mine = 1\n")
    with pytest.raises(TangleError, match=r"src/m\.py: this file was not made by tangling"):
        write(root, force=force)
    assert (root / "src/m.py").read_text() == "mine = 1\n"
    (root / "src/m.py").unlink()
    write(root)
    assert (root / "src/other.py").exists()


def test_runs_from_anywhere(book, tmp_path_factory):
    root = book(cell("x = 1"))
    command = [sys.executable, TOOLS, "tangle", "--root", root]
    cwd = tmp_path_factory.mktemp("elsewhere")
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    assert run.stdout == "wrote src/m.py\n"


# ---------------------------------------------------------------------------------- untangling

FIRST = '''"""Doc."""
import os
from torch import nn

# A constant.
SIZE = 1

def f(x):
    """Do it."""
    y = x
    return y

def g():
    return os, nn'''
SECOND = """import os
from torch import Tensor

class A:
    x = Tensor

    def method(self):
        return os"""


@pytest.fixture
def tangled(book):
    """Make a book, tangled."""
    root = book("\nProse.\n" + cell(FIRST) + "\nMore.\n", cell(SECOND) + cell("z = 1\nw = 2"))
    write(root)
    return root


@pytest.mark.parametrize(
    "old, new, chapter",
    [
        ("    y = x\n", "    y = x + 1\n", "one"),
        ("    y = x\n", "", "one"),
        ("    y = x\n", "    y = x\n\n    # Why.\n    y += 1\n", "one"),
        ("    return y\n", "    return y  # done\n", "one"),
        ("    return y\n", "    y += 2\n    return y\n", "one"),
        ('"""Doc."""', '"""Doc.\n\nAnd so on.\n"""', "one"),
        ("def g():\n", "@property\ndef g():\n", "one"),
        ("def f(x):\n", "def e():\n    return 1\n\n\ndef f(x):\n", "one"),
        ("def g():\n    return os, nn\n\n\n", "", "one"),
        ("SIZE = 1\n", "SIZE = 2\nOTHER = 3\n", "one"),
        ("    return os, nn\n", "    return nn, os\n", "one"),
        ("    return os, nn\n", "    return os, nn, 1\n    # The end.\n", "one"),
        ("class A:\n", "# About A.\n@dataclass\nclass A:\n", "two"),
        ("        return os\n", "        return os\n\n    def other(self):\n        pass\n", "two"),
        ("w = 2\n", "w = 2\nv = 3\n", "two"),
        ("w = 2\n", "w = 2\n\n\ndef last():\n    return 1\n", "two"),
        ("z = 1\nw = 2", "w = 2\nz = 1", "two"),
    ],
)
def test_edits_are_carried_back(tangled, old, new, chapter):
    before = {name: (tangled / f"book/a/{name}.md").read_text() for name in ("one", "two")}
    edit(tangled, old, new)
    edited = (tangled / "src/m.py").read_text().partition("\n")[2]
    assert untangle(tangled) == [f"carried src/m.py back into book/a/{chapter}.md"]
    assert (tangled / "src/m.py").read_text().partition("\n")[2] == edited
    assert check(tangled) == []
    for name, text in before.items():
        after = (tangled / f"book/a/{name}.md").read_text()
        assert (after != text) == (name == chapter)
        # All but the lines concerned are as they were.
        kept = [line for line in text.split("\n") if line not in old]
        assert [line for line in after.split("\n") if line in kept][
            : len(kept)
        ] == kept or new == ""
        assert after.startswith(FRONT_MATTER)


def test_only_the_lines_concerned_change(tangled):
    before = (tangled / "book/a/one.md").read_text()
    edit(tangled, "    y = x\n", "    y = 2 * x\n")
    untangle(tangled)
    assert (tangled / "book/a/one.md").read_text() == before.replace("y = x", "y = 2 * x")


@pytest.mark.parametrize(
    "old, new, chapter, statement",
    [
        ("SIZE = 1", "SIZE = 1", "", ""),
        ("from json import loads", "from json import dumps, loads", "one", "dumps, loads"),
        ("from json import loads", "from re import match", "one", "from re import match"),
        ("import numpy as np\n\n", "", "two", ""),
        ("import numpy as np", "import numpy", "two", "import numpy"),
        (
            "from json import loads",
            "from json import dumps as d",
            "one",
            "from json import dumps as d",
        ),
    ],
)
def test_imports_are_carried_back(book, old, new, chapter, statement):
    root = book(
        cell("from json import loads\n\nSIZE = 1"), cell("import numpy as np\n\nimport os\nz = 1")
    )
    write(root)
    edit(root, old, new)
    untangle(root)
    assert check(root) == []
    if chapter:
        text = (root / f"book/a/{chapter}.md").read_text()
        assert statement in text and old.strip() not in text.split("\n")


def test_edits_of_several_files_and_cells(book):
    root = book(cell("a = 1") + cell("b = 1", "src/n.py"), cell("c = 1") + cell("d = 1"))
    write(root)
    edit(root, "a = 1", "a = 2")
    edit(root, "d = 1", "d = 2\ne = 3")
    edit(root, "b = 1", "b = 2", "src/n.py")
    untangle(root)
    assert check(root) == []
    assert body(root) == "\na = 2\n\nc = 1\n\nd = 2\ne = 3\n"
    assert body(root, "src/n.py") == "\nb = 2\n"


@pytest.mark.parametrize(
    "old, new, why",
    [
        (
            "def g():\n    return os, nn\n\n\nclass A:\n    x = Tensor\n\n",
            "",
            "spans two cells",
        ),
        ("class A:\n", "def new():\n    return 1\n\n\nclass A:\n", "stands between two cells"),
        ("import os\n", "import re\n", "belongs to several cells"),
        ("import os\n", "import os\nimport re\n", "belongs to no cell"),
        ("class A:\n", "\nclass A:\n", "stands between two cells"),
        ("class A:\n", "class A(:\n", r"src/m\.py:22: invalid syntax"),
        ("SIZE = 1\n", "SIZE = 1\nw = 3\n", "would not tangle"),
        ("SIZE = 1\n", "SIZE = 1\nimport re\n", "would tangle to another text"),
        ("# Tangled", "# tangled", "header in line 1 is gone or changed"),
    ],
)
def test_ambiguous_edits_change_nothing(tangled, old, new, why):
    edit(tangled, old, new)
    before = contents(tangled)
    with pytest.raises(TangleError, match=why):
        untangle(tangled)
    assert contents(tangled) == before


def test_one_ambiguous_edit_keeps_the_others_back(tangled, capsys):
    edit(tangled, "SIZE = 1", "SIZE = 2")
    edit(tangled, "import os\n", "import re\n")
    before = contents(tangled)
    assert main(["untangle", "--root", str(tangled)]) == 2
    assert "nothing was changed" in capsys.readouterr().err
    assert contents(tangled) == before


def test_untangling_is_refused_when_the_chapters_changed_too(tangled):
    edit(tangled, "SIZE = 1", "SIZE = 2")
    path = tangled / "book/a/two.md"
    path.write_text(path.read_text().replace("w = 2", "w = 3"))
    before = contents(tangled)
    with pytest.raises(TangleError, match="its chapters changed as well"):
        untangle(tangled)
    assert contents(tangled) == before


def test_untangling_without_edits(tangled):
    before = contents(tangled)
    assert untangle(tangled) == ["no file in src/ was edited"]
    assert contents(tangled) == before


# --------------------------------------------------------------------------------- at random

PIECES = [
    "import os",
    "import sys, os",
    "from math import pi, tau",
    "from math import e  # a comment",
    "# Above an import.\nimport json",
    "# A comment.",
    "SIZE_{n} = 1",
    "a_{n} = [\n    1,\n\n    2,\n]",
    "# About f.\ndef f_{n}(x):\n    import re\n\n    return x\n    # The end.",
    'class C_{n}:\n    """Text.\n\n  # No comment.\n    """\n\n    def m(self):\n        pass',
    '@property\ndef g_{n}():\n    return """\n\nlines\n"""',
    "if SIZE_{n}:\n    b_{n} = 1\nelse:\n    b_{n} = 2",
]


def random_chapter(rng, names):
    """Write a chapter with a few cells, of a few pieces each."""
    text = "\nProse.\n"
    for _ in range(rng.randrange(1, 4)):
        pieces = [piece.replace("{n}", next(names)) for piece in rng.choices(PIECES, k=4)]
        source = "".join(piece + "\n" * rng.randrange(1, 4) for piece in pieces)
        text += cell(source.rstrip("\n"), rng.choice(["src/m.py", "src/m.py", "src/n.py"]))
    return text


def random_edit(rng, text):
    """Change, add or remove a line below the header."""
    lines = text.split("\n")
    at = rng.randrange(1, len(lines))
    new = rng.choice(["x_9 = 1", "    y_9 = 1", "# More.", "", "import re", lines[at] + "  # more"])
    first, last = rng.choice([(at, at), (at, at + 1), (at, at + 2)])
    lines[first:last] = rng.choice([[new], [new, new], []])
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(40))
def test_at_random_nothing_is_lost_and_all_is_valid(book, seed):
    """What is written compiles, tangling again changes nothing, edits come back or are refused."""
    rng = random.Random(seed)
    names = map(str, range(1000))
    root = book(random_chapter(rng, names), random_chapter(rng, names))
    try:
        write(root)
    except TangleError as error:  # an import below an `if`
        assert "may change what it does" in str(error)
        return
    sources = read_sources(root)
    assert check(root) == [] and write(root) == []
    for target, tangled in sources.tangled.items():
        compile(tangled.text, target, "exec")
        kept = [line.text for line in tangled.lines if line.cell]
        moved = [line for one in sources.chapters for c in one.cells for line in c.lines]
        assert all(line in moved for line in kept)
    before = contents(root)
    for _ in range(5):
        target = rng.choice(list(sources.tangled))
        edited = random_edit(rng, sources.tangled[target].text)
        (root / target).write_text(edited)
        try:
            untangle(root)
        except TangleError:
            assert contents(root) == before | {root / target: edited}
        else:
            assert (root / target).read_text().partition("\n")[2] == edited.partition("\n")[2]
            assert check(root) == []
        for path, text in before.items():
            path.write_text(text)


# ---------------------------------------------------------------------------------- JavaScript

JS = "src/m.js"
GREET = "/* A greeting. */\nfunction greet(name) {\n  return `hello ${name}`; // import x\n}"
NAMED = "const a = 1;\n\nconst b = { c: a };"


@pytest.fixture
def javascript(book):
    """A book whose cells go to a Python and a JavaScript file by turns, tangled."""
    root = book(cell(GREET, JS) + cell("x = 1") + cell(NAMED, JS), cell("greet(b.c);", JS))
    write(root)
    return root


def test_javascript_is_put_together_as_it_is(javascript):
    assert body(javascript, JS) == f"{GREET}\n\n{NAMED}\n\ngreet(b.c);\n"
    assert body(javascript) == "\nx = 1\n"
    first = (javascript / JS).read_text().partition("\n")[0]
    assert first.startswith("// Tangled from book/a/{one,two}.md; sha256 ")
    assert check(javascript) == [] and write(javascript) == []


def test_fragments_of_javascript_name_the_lines_of_each_cell(javascript):
    tangled = tangle(javascript)[JS]
    assert [fragment.spans for fragment in tangled.fragments] == [((2, 5),), ((7, 9),), ((11, 11),)]
    assert [fragment.imports for fragment in tangled.fragments] == [None] * 3
    assert tangled.page == JS and tangle(javascript)["src/m.py"].page == "src/m"


def test_hand_edits_of_javascript_are_not_overwritten(javascript):
    edit(javascript, "const a = 1;", "const a = 2;", JS)
    with pytest.raises(TangleError, match="edited by hand"):
        write(javascript)


@pytest.mark.parametrize(
    "old, new, chapter",
    [
        ("hello ${name}", "good day, ${name}", "one"),
        ("const a = 1;\n", "const a = 1; // one\nconst d = 4;\n", "one"),
        ("\n\nconst b", "\nconst b", "one"),
        ("greet(b.c);", "greet(b.c);\ngreet(a);", "two"),
    ],
)
def test_edits_of_javascript_are_carried_back(javascript, old, new, chapter):
    edit(javascript, old, new, JS)
    wanted = (javascript / JS).read_text().partition("\n")[2]
    assert untangle(javascript) == [f"carried {JS} back into book/a/{chapter}.md"]
    assert body(javascript, JS) == wanted and check(javascript) == []


def test_an_edit_between_two_cells_of_javascript_changes_nothing(javascript):
    edit(javascript, "}\n\nconst a", "}\n\nlet z;\n\nconst a", JS)
    before = contents(javascript)
    with pytest.raises(TangleError, match="belongs to neither"):
        untangle(javascript)
    assert contents(javascript) == before

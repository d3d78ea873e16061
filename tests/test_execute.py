"""The execution cache, in both directions: what has to be executed again, and what must not be.

One small book is executed with real kernels; the tests work on copies of it.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import nbformat
import pytest

from execute import (
    ExecuteError,
    execute_stale,
    executed_path,
    imported_by_cell,
    main,
    stale,
)
from tangle import write

REPOSITORY = Path(__file__).resolve().parents[1]
FRONT_MATTER = """\
---
jupytext:
  text_representation:
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---
"""
CHAPTERS = {
    # Tangled into a module.
    "model": """
# The model
```{code-cell}
:tangle: src/model.py

SIZE = 1
```
```{code-cell}
:tangle: src/helper.py

from model import SIZE

DOUBLE = 2 * SIZE
```
""",
    # Imports the module through another, and within a magic.
    "use": """
# Use it
```{code-cell}
%%time
import helper
```
```{code-cell}
import jinja2
helper.DOUBLE
```
```{code-cell}
:tags: [skip-execution]

raise RuntimeError
```
""",
    # Runs the module as a script.
    "script": """
# Run it
```{code-cell}
%%bash
python src/model.py && echo $PWD && which python
```
```{code-cell}
:tags: [raises-exception]

import os, sys
print(os.environ["PYTHONPATH"].split(os.pathsep)[:2], sys.executable)
1 / 0
```
""",
    # Loads weights, through a module that names every model.
    "weights": """
# Weights
```{code-cell}
from bookkit import load

load("alpha")
```
""",
    # Depends on none of this.
    "alone": """
# Alone
```{code-cell}
import yaml

print("alone")
```
""",
    "prose": "\n# Prose\nAbout alpha and `import model`.\n",
}
BOOKKIT = '''"""Helpers."""

import os

MODELS = ["alpha", "beta"]


def load(name):
    return open(f"book/models/{name}/weights").read()
'''


def sources(root, docname):
    return root / f"book/{docname}.md"


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stale_names(root):
    return {docname.removeprefix("book/") for docname in stale(root)}


def outputs(root, docname):
    return [
        cell.outputs
        for cell in nbformat.read(executed_path(root, f"book/{docname}"), as_version=4).cells
    ]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Make the book and execute it once."""
    root = tmp_path_factory.mktemp("executed")
    (root / "book/_ext").mkdir(parents=True)
    (root / "book/_ext/bookkit.py").write_text(BOOKKIT)
    (root / "book/_ext/unused.py").write_text("")
    for name in ("alpha", "beta"):
        (root / "book/models" / name).mkdir(parents=True)
        (root / "book/models" / name / "weights").write_text(name)
    for name, text in CHAPTERS.items():
        sources(root, name).write_text(FRONT_MATTER + text)
    files = "".join(f"- file: book/{name}\n" for name in CHAPTERS if name != "prose")
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/prose\nchapters:\n{files}")
    write(root)
    messages = []
    execute_stale(root, messages.append)
    assert len(messages) == 2 * (len(CHAPTERS) - 1), messages
    return root


@pytest.fixture
def book(executed, tmp_path):
    """Copy the executed book."""
    return shutil.copytree(executed, tmp_path / "book", dirs_exist_ok=True)


# ----------------------------------------------------------------------------------- execution


def test_outputs_are_stored(book):
    assert outputs(book, "use")[1][0].data["text/plain"] == "2"
    assert outputs(book, "alone") == [
        [{"output_type": "stream", "name": "stdout", "text": "alone\n"}]
    ]
    assert not executed_path(book, "book/prose").exists()


def test_tags_are_honoured(book):
    assert outputs(book, "use")[2] == []
    assert outputs(book, "script")[1][-1].ename == "ZeroDivisionError"


def test_kernels_run_this_python_in_the_root_with_our_modules(executed):
    shell, python = outputs(executed, "script")
    folder, interpreter = shell[0].text.splitlines()
    assert folder == "."  # not a path of this machine
    assert Path(interpreter).parent == Path(sys.executable).parent
    assert python[0].text == f"['src', 'book/_ext'] {os.path.normpath(sys.executable)}\n"


def test_nothing_is_executed_twice(book):
    before = {path: path.stat().st_mtime_ns for path in (book / "_build").rglob("*")}
    assert stale(book) == {}
    execute_stale(book, pytest.fail)
    assert {path: path.stat().st_mtime_ns for path in (book / "_build").rglob("*")} == before


def test_the_time_it_took_is_recorded(book):
    notebook = nbformat.read(executed_path(book, "book/alone"), as_version=4)
    assert 0 < notebook.metadata["tiny_models"]["seconds"] < 60


# ---------------------------------------------------------------------- chapters and modules


def test_a_changed_sentence_executes_nothing(book):
    for name in CHAPTERS:
        replace(sources(book, name), "# ", "Another sentence.\n\n# ")
    assert stale(book) == {}


def test_a_changed_cell_executes_its_chapter_only(book):
    replace(sources(book, "alone"), '"alone"', '"changed"')
    assert stale(book) == {"book/alone": "code changed"}


def test_a_changed_tangled_cell_executes_the_chapters_that_depend_on_it(book):
    replace(sources(book, "model"), "SIZE = 1", "SIZE = 3")
    assert stale(book) == {
        "book/model": "code changed, src/model.py changed",
        "book/use": "src/model.py changed",
        "book/script": "src/model.py changed",
    }
    write(book)
    assert stale_names(book) == {"model", "use", "script"}
    messages = []
    execute_stale(book, messages.append)
    assert messages[2] == "executing book/use: src/model.py changed"
    assert outputs(book, "use")[1][0].data["text/plain"] == "6"
    assert stale(book) == {}


def test_a_changed_module_executes_those_that_import_it(book):
    replace(sources(book, "model"), "2 * SIZE", "SIZE * 2")
    assert stale_names(book) == {"model", "use"}
    replace(book / "book/_ext/bookkit.py", "Helpers", "Help")
    assert stale(book)["book/weights"] == "book/_ext/bookkit.py changed"
    (book / "book/_ext/unused.py").write_text("x = 1")
    assert stale_names(book) == {"model", "use", "weights"}


def test_tags_count_as_far_as_they_concern_execution(book):
    replace(sources(book, "use"), "[skip-execution]", "[skip-execution, hide-input]")
    assert stale(book) == {}
    replace(sources(book, "use"), "skip-execution, ", "")
    assert stale_names(book) == {"use"}


def test_a_removed_or_broken_result_is_made_again(book):
    executed_path(book, "book/alone").unlink()
    executed_path(book, "book/use").write_text("{")
    assert stale(book) == dict.fromkeys(["book/use", "book/alone"], "not executed yet")


@pytest.mark.parametrize(
    "source, names",
    [
        ("import a.b, c as d\ndef f():\n    from e.f import g", {"a", "c", "e"}),
        ("%matplotlib inline\nimport a\nx = !ls", {"a"}),
        ("%%time\nimport a", {"a"}),
        ("%%bash\npython src/a.py | sort\npython -c 'import b'\npython -m c", {"a", "b", "c"}),
        ("!python book/_ext/a.py", {"a"}),
        ("%run src/a.py", {"a"}),
        ("subprocess.run(['python', 'src/a.py'])", {"a"}),
        ("text = 'import a'  # from b", set()),
        ("broken (", set()),
        ("a != b  # from c", set()),
    ],
)
def test_imports_of_a_cell(source, names):
    assert imported_by_cell(source) == names


# -------------------------------------------------------------------- weights and environment


def test_changed_weights_execute_the_chapters_that_name_them(book):
    (book / "book/models/beta/weights").write_text("other")
    assert stale(book) == {}
    (book / "book/models/alpha/weights").write_text("other")
    assert stale(book) == {"book/weights": "book/models/alpha changed"}


def test_renamed_and_new_weights_are_noticed(book):
    (book / "book/models/alpha/more").write_text("more")
    assert stale_names(book) == {"weights"}


def test_only_the_content_of_weights_counts(book):
    path = book / "book/models/alpha/weights"
    path.write_text(path.read_text())
    os.utime(path, (1, 1))
    assert stale(book) == {}


def test_unchanged_weights_are_read_once(book, monkeypatch):
    assert stale(book) == {}  # digests the copies
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
    assert stale(book) == {}
    (book / "book/models/alpha/weights").write_text("other")
    with pytest.raises(pytest.fail.Exception):
        stale(book)


def test_the_weights_variable_counts_where_weights_do(book, monkeypatch):
    monkeypatch.setenv("TINY_MODELS_WEIGHTS", "elsewhere")
    assert stale(book) == {"book/weights": "TINY_MODELS_WEIGHTS changed"}


@pytest.mark.parametrize(
    "package, chapters",
    [
        ("pyyaml", {"alone"}),
        ("jinja2", {"use"}),
        ("markupsafe", {"use"}),  # required by jinja2
        ("ipykernel", {"model", "use", "script", "weights", "alone"}),
        ("sphinx", set()),  # installed, but not imported
    ],
)
def test_a_package_version_executes_those_that_import_it(book, monkeypatch, package, chapters):
    version = metadata.version

    def changed(name):
        return "999" if name == package else version(name)

    monkeypatch.setattr(metadata, "version", changed)
    reasons = stale(book)
    assert {docname.removeprefix("book/") for docname in reasons} == chapters
    assert set(reasons.values()) <= {f"{package} {version(package)}→999"}


def test_the_python_version_executes_everything(book, monkeypatch):
    version = platform.python_version()
    monkeypatch.setattr(platform, "python_version", lambda: "4.0")
    assert set(stale(book).values()) == {f"Python {version}→4.0"}
    assert stale_names(book) == CHAPTERS.keys() - {"prose"}


# ------------------------------------------------------------------------------------- failures


def test_a_raising_cell_is_named_and_nothing_is_stored(book):
    before = executed_path(book, "book/use").read_text()
    replace(sources(book, "use"), "helper.DOUBLE", "x = 1\nx.missing")
    with pytest.raises(ExecuteError) as error:
        execute_stale(book, lambda _: None)
    message = str(error.value)
    line = sources(book, "use").read_text().split("\n").index("import jinja2") + 1
    assert message.startswith(f"book/use.md:{line}: cell 2 raised AttributeError\n")
    assert message.endswith("AttributeError: 'int' object has no attribute 'missing'")
    assert "\x1b" not in message
    assert executed_path(book, "book/use").read_text() == before
    assert stale_names(book) == {"use"}


def test_a_dead_kernel_is_reported(book):
    replace(sources(book, "alone"), "import yaml", "import os\nos._exit(1)")
    with pytest.raises(ExecuteError, match=r"book/alone\.md:\d+: cell 1 failed: "):
        execute_stale(book, lambda _: None)
    assert stale_names(book) == {"alone"}


# --------------------------------------------------------------------------------- command line


def test_dry_run_names_chapters_and_reasons(book, capsys):
    replace(sources(book, "alone"), '"alone"', '"changed"')
    before = executed_path(book, "book/alone").read_text()
    assert main(["--dry-run", "--root", str(book)]) == 0
    assert capsys.readouterr().out == "book/alone: code changed\n"
    assert executed_path(book, "book/alone").read_text() == before
    assert main(["--root", str(book)]) == 0
    assert capsys.readouterr().out.startswith("executing book/alone: code changed\n")
    assert main(["--dry-run", "--root", str(book)]) == 0
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------- together with Sphinx


def build(root, ci=False):
    """Build the book with Jupyter Book; give what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment |= {"CI": "true"} if ci else {}
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", ".", "-W", "--keep-going"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    return run.returncode, run.stdout + run.stderr


def test_an_incremental_build_shows_what_is_new_and_nothing_stale(book):
    for name in ("tangle.py", "execute.py", "tiny_models.py"):
        shutil.copy(REPOSITORY / "book/_ext" / name, book / "book/_ext")
    shutil.copy(REPOSITORY / "_config.yml", book)
    shutil.copytree(REPOSITORY / "book/_static", book / "book/_static")
    (book / "book/references.bib").touch()
    model, use = book / "_build/html/book/model.html", book / "_build/html/book/use.html"

    status, printed = build(book)
    assert status == 0, printed
    assert "executing" not in printed
    assert "src/helper.html#L5-L5" in model.read_text()
    assert "<pre><span></span>2\n</pre>" in use.read_text()

    # CI has to see a src/ that was not tangled before it was committed.
    replace(sources(book, "model"), "2 * SIZE", "3 * SIZE  # more")
    status, printed = build(book, ci=True)
    assert status == 1
    assert "2 * SIZE" in printed and "3 * SIZE" in printed
    assert "make tangle" in printed and "Traceback" not in printed

    # The chapter itself is as it was, but what it shows is not.
    status, printed = build(book)
    assert status == 0, printed
    assert "executing book/use: src/helper.py changed" in printed
    assert "<pre><span></span>3\n</pre>" in use.read_text()

    # Lines of the module move, and so do the captions that name them.
    replace(sources(book, "model"), "from model import SIZE\n", "from model import SIZE\n\nX = 1\n")
    status, printed = build(book)
    assert "src/helper.html#L5-L7" in model.read_text()

    status, printed = build(book)
    assert status == 0, printed
    assert "0 added, 0 changed, 0 removed" in printed and "executing" not in printed

    replace(book / "src/helper.py", "3 * SIZE", "4 * SIZE")
    status, printed = build(book)
    assert status == 1
    assert "src/helper.py: this file was edited by hand" in printed
    assert "Traceback" not in printed

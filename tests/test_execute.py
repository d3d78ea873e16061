"""The execution cache, in both directions: what has to be executed again, and what must not be.

One small book is executed with real kernels; the tests work on copies of it.
"""

import hashlib
import os
import platform
import py_compile
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import nbformat
import numpy as np
import pytest
from safetensors.numpy import save_file

from tiny_models import execute
from tiny_models.__main__ import main
from tiny_models.execute import ExecuteError, executed_path, hide_paths
from tiny_models.files import read_sources, write
from tiny_models.fingerprint import LARGE

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

What is the answer?

```{code-cell}
:tags: [hide-cell]

print("The answer")
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
    # Reads files, in ways that do not show in its text.
    "files": """
# Files
```{code-cell}
import os, runpy, subprocess, sys

HERE = "notes"


def read(name):
    return open(name, "rb").read()


read(f"{HERE}/computed")
os.close(os.open(os.path.join(HERE, "system"), os.O_RDONLY))
read(os.path.join(os.getcwd(), HERE, "absolute"))
try:
    read(f"{HERE}/missing")
except FileNotFoundError:
    pass
sys.path.append(HERE)
import first
runpy.run_path(HERE + "/ran.py")
```
```{code-cell}
%%bash
folder=notes
python -c "open('$folder/child')"
cat notes/shell > /dev/null
cd notes && python -c "open('moved')" && python -m module
```
```{code-cell}
subprocess.run([sys.executable, "-c", f"open('{HERE}/sub' + 'process')"], check=True)
subprocess.run(["cat", f"{HERE}/other" + "-program"], check=True, stdout=subprocess.DEVNULL)
subprocess.run([sys.executable, f"{HERE}/parent" + ".py"], check=True)
listed = os.listdir("listed")
!cat {HERE}/magic > /dev/null
```
""",
    # Writes files and reads them, one also with another program.
    "writes": """
# Write
```{code-cell}
import os, tempfile
from pathlib import Path

Path("out").mkdir(exist_ok=True)
Path("out/made").write_text(str(os.getpid()))
Path("out/.new").write_text(str(os.getpid()))
os.replace("out/.new", "out/replaced")
Path("_build/made").write_text(str(os.getpid()))
text = [Path(name).read_text() for name in ("out/made", "out/replaced", "_build/made")]
with tempfile.TemporaryDirectory() as folder:
    Path(folder, "new").mkdir()
    Path(folder, "made").write_text("")
    Path(folder, "made").read_text()
```
""",
    # Reads weights in native code, from a directory whose name is computed.
    "native": """
# Native
```{code-cell}
from safetensors.numpy import load_file

load_file("book/models/" + "be" + "ta/model.safetensors")
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
MORE = "\n```{code-cell}\nimport time\nprint(%s)\n```\n"
CLOCKED = {"alone": MORE % 1, "weights": MORE % "time.perf_counter() > 0", "files": MORE % 2}
BOOKKIT = '''"""Helpers; TINY_MODELS_WEIGHTS is not read here, only named."""

import os

MODELS = ["alpha", "beta"]


def load(name):
    return open(f"book/models/{name}/model.safetensors", "rb").read()[:9]
'''
NOTES = {
    "computed": "",
    "system": "",
    "absolute": "",
    "first.py": "import second",
    "second.py": "",
    "ran.py": "",
    "child": "",
    "shell": "",
    "moved": "",
    "module.py": "",
    "subprocess": "",
    "other-program": "",
    "parent.py": "import os, sys; os.system(f'cd notes; {sys.executable} grandchild.py')",
    "grandchild.py": "",
    "magic": "",
}


def weights(root, name):
    return root / f"book/models/{name}/model.safetensors"


def sources(root, docname):
    return root / f"book/{docname}.md"


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replace_bytes(path):
    path.write_bytes(path.read_bytes()[:-1] + b"1")


def stale(root):
    return execute.stale(read_sources(root))


def execute_stale(root, log):
    execute.execute_stale(read_sources(root), log)


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
    (root / "book/_kit").mkdir(parents=True)
    (root / "book/_kit/bookkit.py").write_text(BOOKKIT)
    (root / "book/_kit/unused.py").write_text("")
    for name in ("alpha", "beta"):
        (root / "book/models" / name).mkdir(parents=True)
        save_file({name: np.zeros(LARGE, np.int8)}, weights(root, name))
        (root / "book/models" / name / "README.md").write_text(name)
    for name, text in NOTES.items():
        (root / "notes").mkdir(exist_ok=True)
        (root / "notes" / name).write_text(text)
    (root / "notes/unread").touch()
    (root / "listed").mkdir()
    for name, text in CHAPTERS.items():
        sources(root, name).write_text(FRONT_MATTER + text)
    files = "".join(f"- file: book/{name}\n" for name in CHAPTERS if name != "prose")
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/prose\nchapters:\n{files}")
    write(read_sources(root))
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
    assert python[0].text == f"['src', 'book/_kit'] {os.path.normpath(sys.executable)}\n"


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
    write(read_sources(book))
    assert stale_names(book) == {"model", "use", "script"}
    messages = []
    execute_stale(book, messages.append)
    assert "executing book/use: src/model.py changed" in messages
    assert outputs(book, "use")[1][0].data["text/plain"] == "6"
    assert stale(book) == {}


def test_a_changed_module_executes_those_that_import_it(book):
    replace(sources(book, "model"), "2 * SIZE", "SIZE * 2")
    assert stale_names(book) == {"model", "use"}
    replace(book / "book/_kit/bookkit.py", "Helpers", "Help")
    assert stale(book)["book/weights"] == "book/_kit/bookkit.py changed"
    (book / "book/_kit/unused.py").write_text("x = 1")
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


# -------------------------------------------------------------------------- files that are read


@pytest.mark.parametrize("name", NOTES)
def test_a_changed_file_executes_the_chapter_that_read_it(book, name):
    (book / "notes" / name).write_text("changed = 1")
    assert stale(book) == {"book/files": f"notes/{name} changed"}


@pytest.mark.parametrize("name", NOTES)
def test_a_removed_file_executes_the_chapter_that_read_it(book, name):
    (book / "notes" / name).unlink()
    assert stale(book) == {"book/files": f"notes/{name} changed"}


def test_a_file_that_was_missing_executes_the_chapter_that_looked_for_it(book):
    (book / "notes/missing").touch()
    assert stale(book) == {"book/files": "notes/missing changed"}


def test_a_new_name_executes_the_chapter_that_listed_the_folder(book):
    (book / "listed/new").touch()
    assert stale(book) == {"book/files": "listed/ changed"}


@pytest.mark.parametrize("name", ["notes/unread", "notes/new", "src/new.py", "new"])
def test_a_file_that_nobody_read_executes_nothing(book, name):
    (book / name).write_text("changed = 1")
    assert stale(book) == {}


def test_what_a_chapter_writes_does_not_make_it_stale(book):
    for name in ("out/made", "out/replaced", "_build/made"):
        (book / name).write_text("changed")
    shutil.rmtree(book / "listed")
    (book / "listed/__pycache__").mkdir(parents=True)
    assert stale(book) == {}


@pytest.mark.parametrize(
    "command",
    ["cat notes/$name", "head -n 1 $PWD/notes/unread", "cat notes/*", "cat {notes/,}$name"],
)
def test_a_file_that_a_shell_may_have_read_counts(book, command):
    replace(sources(book, "alone"), "import yaml\n", f"%%bash\nname=unread\n{command}\n")
    replace(sources(book, "alone"), 'print("alone")', "true")
    execute_stale(book, lambda _: None)
    (book / "notes/unread").write_text("changed")
    assert stale(book) == {"book/alone": "notes/unread changed"}


def test_a_module_from_a_compile_cache_counts(book):
    """Then Python does not open the source."""
    for name in ("first", "second"):
        py_compile.compile(book / f"notes/{name}.py")
    replace(sources(book, "files"), "import first\n", "import first  # again\n")
    execute_stale(book, lambda _: None)
    (book / "notes/second.py").write_text("changed = 1")
    assert stale(book) == {"book/files": "notes/second.py changed"}


def test_a_file_that_changes_meanwhile_executes_the_chapter_again(book):
    """Which of the two contents was read is not known."""
    cell = "import yaml\nopen('notes/computed')\n!echo more >> notes/computed"
    replace(sources(book, "alone"), "import yaml", cell)
    execute_stale(book, lambda _: None)
    assert stale(book)["book/alone"] == "notes/computed changed"


@pytest.mark.parametrize(
    "cell",
    [
        "%%bash\nPYTHONPATH=src python -c 'import helper'",
        '%%bash\npython -I -c \'open("sr" "c/helper.py")\'',
        "%%bash\nunset HOME TINY_MODELS_RECORD\npython -c 'import this'",
        '%%bash\nunset "${!TINY@}"\npython -c "import this"',
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import this'], env={})",
    ],
)
def test_a_python_that_records_nothing_may_have_read_everything_of_ours(book, cell):
    replace(sources(book, "alone"), 'import yaml\n\nprint("alone")', cell)
    execute_stale(book, lambda _: None)
    assert stale(book) == {}
    replace(sources(book, "model"), "2 * SIZE", "SIZE * 2")
    assert stale(book)["book/alone"] == "src/helper.py changed"


def test_a_shell_that_unsets_other_names_is_seen(book):
    cell = "%%bash\nunset HOME\npython -c 'import this' > /dev/null"
    replace(sources(book, "alone"), 'import yaml\n\nprint("alone")', cell)
    execute_stale(book, lambda _: None)
    replace(sources(book, "model"), "2 * SIZE", "SIZE * 2")
    assert "book/alone" not in stale(book)


def test_a_sitecustomize_of_the_reader_runs_too(book, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.reader = 'was here'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    replace(sources(book, "alone"), '"alone"', "__import__('sys').reader")
    execute_stale(book, lambda _: None)
    assert outputs(book, "alone")[0][0].text == "was here\n"


# -------------------------------------------------------------------- weights and environment


def test_changed_weights_execute_the_chapters_that_use_them(book):
    replace_bytes(weights(book, "beta"))
    # Safetensors reads in native code. Which directory is not known, so that it is any.
    assert stale(book) == {"book/native": "book/models/beta changed"}
    replace_bytes(weights(book, "alpha"))
    assert stale(book)["book/weights"] == "book/models/alpha changed"


@pytest.mark.parametrize("name", ["README.md", "run-1.pt"])
def test_what_is_beside_weights_executes_nothing(book, name):
    (book / "book/models/alpha" / name).write_text("changed")
    assert stale(book) == {}


def test_a_readme_beside_weights_executes_the_chapter_that_read_it(book):
    replace(sources(book, "alone"), "import yaml", "open('book/models/alpha/' + 'README.md')")
    execute_stale(book, lambda _: None)
    (book / "book/models/alpha/README.md").write_text("changed")
    assert stale(book) == {"book/alone": "book/models/alpha/README.md changed"}


@pytest.mark.parametrize("name", ["more.safetensors", "config.json", "tokenizer.model"])
def test_renamed_and_new_weights_are_noticed(book, name):
    (book / "book/models/alpha" / name).write_text("more")
    assert stale_names(book) == {"weights", "native"}


def test_only_the_content_of_weights_counts(book):
    path = weights(book, "alpha")
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))
    assert stale(book) == {}


def test_unchanged_weights_are_read_once(book, monkeypatch):
    assert stale(book) == {}  # digests the copies
    digest = hashlib.file_digest

    def small_only(file, name):
        assert "safetensors" not in file.name, "read again"
        return digest(file, name)

    monkeypatch.setattr("hashlib.file_digest", small_only)
    assert stale(book) == {}
    replace_bytes(weights(book, "alpha"))
    with pytest.raises(AssertionError, match="read again"):
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
        ("ipykernel", CHAPTERS.keys() - {"prose"}),
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


def test_a_failure_ends_the_chapters_beside_it(book):
    replace(sources(book, "alone"), "import yaml", "1 / 0")
    replace(sources(book, "weights"), 'load("alpha")', "import time\ntime.sleep(60)")
    before = time.monotonic()
    with pytest.raises(ExecuteError, match="book/alone.*ZeroDivisionError"):
        execute_stale(book, lambda _: None)
    assert time.monotonic() - before < 50
    assert stale_names(book) == {"alone", "weights"}


def test_what_measures_time_is_executed_by_itself(book):
    for name in ("alone", "weights", "files"):
        sources(book, name).write_text(sources(book, name).read_text() + CLOCKED[name])
    messages = []
    execute_stale(book, messages.append)
    begun = [message.split()[:2] for message in messages]
    assert begun[-2:] == [["executing", "book/weights:"], ["executed", "book/weights"]]


def test_a_dead_kernel_is_reported(book):
    replace(sources(book, "alone"), "import yaml", "import os\nos._exit(1)")
    with pytest.raises(ExecuteError, match=r"book/alone\.md:\d+: cell 1 failed: "):
        execute_stale(book, lambda _: None)
    assert stale_names(book) == {"alone"}


@pytest.mark.parametrize("names", [["alone"], ["alone", "weights"]])
def test_interrupted_chapters_leave_nothing(book, tmp_path, names):
    for name in names:
        beginning = {"alone": "import yaml", "weights": 'load("alpha")'}[name]
        waiting = f"import time\nopen('started-{name}', 'w')\ntime.sleep(60)"
        replace(sources(book, name), beginning, waiting)
    before = {path for path in (book / "_build").rglob("*") if path.name != "digests.json"}
    (temporary := tmp_path / "temporary").mkdir()
    process = subprocess.Popen(
        [sys.executable, REPOSITORY / "book/_ext/tiny_models", "execute", "--root", book],
        env={**os.environ, "TMPDIR": str(temporary)},
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while len(list(book.glob("started-*"))) < len(names) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    after = {path for path in (book / "_build").rglob("*") if path.name != "digests.json"}
    assert after == before
    assert list(temporary.iterdir()) == []
    assert stale_names(book) == set(names)


MOMENTS = [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 20))]


@pytest.mark.parametrize("moment", MOMENTS)
def test_what_was_killed_is_right_the_next_time(book, moment):
    replace(sources(book, "model"), "SIZE = 1", "SIZE = 5")
    command = [sys.executable, REPOSITORY / "book/_ext/tiny_models", "execute", "--root", book]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    time.sleep(random.Random(moment).uniform(0, 10))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert stale(book) == {}
    assert outputs(book, "use")[1][0].data["text/plain"] == "10"
    assert "DOUBLE = 2 * SIZE" in (book / "src/helper.py").read_text()


@pytest.mark.parametrize(
    "root, text, shown",
    [
        ("/src", "https://example.org/src/a.py", "https://example.org/src/a.py"),
        (
            "/src",
            "/home/src/a.py, ./src/a.py, ~/src/a.py",
            "/home/src/a.py, ./src/a.py, ~/src/a.py",
        ),
        ("/src", "see https://src/a.py and and/src", "see https://src/a.py and and/src"),
        ("/src", "('/src/src/a.py:3', \"/src\")", "('src/a.py:3', \".\")"),
        ("/src", "/src/a:/src/b /src/c", "a:b c"),
        ("/src", "\x1b[32m/src/src/a.py", "\x1b[32msrc/a.py"),
        ("/src", "file:///src/a.py", "file://a.py"),
        ("/src", "/srcs/a /src-1 /src.d", "/srcs/a /src-1 /src.d"),
        ("/home/me/book", "File ~/book/src/a.py:3, /home/me/book/b", "File src/a.py:3, b"),
    ],
)
def test_paths_of_this_machine_are_hidden_and_nothing_else_is(monkeypatch, root, text, shown):
    monkeypatch.setenv("HOME", "/home/me")
    output = nbformat.v4.new_output("stream", text=text)
    hide_paths(Path(root), output)
    assert output.text == shown


# --------------------------------------------------------------------------------- command line


def test_dry_run_names_chapters_and_reasons(book, capsys):
    replace(sources(book, "alone"), '"alone"', '"changed"')
    before = executed_path(book, "book/alone").read_text()
    assert main(["stale", "--root", str(book)]) == 0
    assert capsys.readouterr().out == "book/alone: code changed\n"
    assert executed_path(book, "book/alone").read_text() == before
    assert main(["execute", "--root", str(book)]) == 0
    assert capsys.readouterr().out.startswith("executing book/alone: code changed\n")
    assert main(["stale", "--root", str(book)]) == 0
    assert capsys.readouterr().out == ""


# --------------------------------------------------------------------------- together with Sphinx


def build(root, ci=False, **changes):
    """Build the book with Jupyter Book; give what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | changes
    environment |= {"CI": "true"} if ci else {}
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", ".", "-W", "--keep-going"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    return run.returncode, run.stdout + run.stderr


def test_an_incremental_build_shows_what_is_new_and_nothing_stale(book):
    shutil.copytree(REPOSITORY / "book/_ext", book / "book/_ext")
    for name in ("_config.yml", "CITATION.cff"):
        shutil.copy(REPOSITORY / name, book)
    for folder in ("_static", "_templates"):
        shutil.copytree(REPOSITORY / "book" / folder, book / "book" / folder)
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

    # An edition without solutions, and back.
    status, printed = build(book, SOLUTIONS="0")
    assert status == 0, printed
    assert "The answer" not in use.read_text() and "What is the answer" in use.read_text()
    taken_home = book / "_build/html/_sources/book/use.ipynb"
    assert "The answer" not in taken_home.read_text() and "helper.DOUBLE" in taken_home.read_text()
    assert not (book / "_build/html/_sources/book/use.md").exists()
    status, printed = build(book)
    assert status == 0, printed
    assert "The answer" in use.read_text() and "The answer" in taken_home.read_text()

    # A build that was killed: what it had written may be half a page.
    [environment] = (book / "_build").rglob("environment.pickle")
    assert not (environment.parent / "unfinished").exists()
    whole = use.read_text()
    use.write_text(whole[: len(whole) // 2])
    (environment.parent / "unfinished").touch()
    status, printed = build(book)
    assert status == 0, printed
    assert re.sub(r"\?v=\w+", "", use.read_text()) == re.sub(r"\?v=\w+", "", whole)

    replace(book / "src/helper.py", "3 * SIZE", "4 * SIZE")
    status, printed = build(book)
    assert status == 1
    assert "src/helper.py: this file was edited by hand" in printed
    assert "Traceback" not in printed


# --------------------------------------------------------------------------------- command line


def test_only_the_chapters_that_are_named_are_executed(book):
    replace(sources(book, "alone"), "alone", "changed")
    replace(sources(book, "use"), "helper.DOUBLE", "3 * helper.DOUBLE")
    assert main(["execute", "book/alone.md", "--root", str(book)]) == 0
    assert stale_names(book) == {"use"}
    assert main(["execute", "book/use", "book/alone", "--root", str(book)]) == 0
    assert stale(book) == {}


def test_an_unknown_chapter_is_named(book, capsys):
    assert main(["execute", "book/alone", "book/gone", "book/prose", "--root", str(book)]) == 2
    assert capsys.readouterr().err == "book/gone, book/prose: no chapter with code in _toc.yml\n"

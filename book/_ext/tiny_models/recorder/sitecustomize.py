"""Record what this process reads of the repository.

``dependencies.py`` puts this directory on the ``PYTHONPATH`` of a chapter's kernel. Python imports
a module of this name whenever it starts, so this runs in the kernel and in every Python that the
kernel starts, however indirectly. An audit hook then sees each file before Python opens it, each
module before it is imported, and each command before it is run. It appends them to a file, where
``dependencies.py`` finds them once the chapter is done: a letter for the kind, a text, and NUL.

The hook has to be quick and must never change what the process does.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.environ.get("TINY_MODELS_ROOT", "")
RECORD = os.environ.get("TINY_MODELS_RECORD", "")
READ, WRITTEN, LISTED, IMPORTED, COMMAND, UNSEEN = "rwlicu"
# These list the directories of sys.path, to find modules, which are recorded one by one.
FINDERS = {"importlib._bootstrap_external", "importlib.metadata", "pkgutil"}
noted = set()


def note(kind, text):
    """Append an entry, once for each process. The record is gone when the chapter is done."""
    if (kind, text) in noted:
        return
    noted.add((kind, text))
    try:
        record = os.open(RECORD, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        return
    os.write(record, f"{kind}{text}\0".encode("utf-8", "surrogateescape"))
    os.close(record)


def note_path(kind, path):
    """Append a path if it is in the repository, also if only a link leads there."""
    if path == RECORD or isinstance(path, int):
        return
    try:
        path = os.path.abspath(os.fsdecode(path))
        if "/site-packages/" in path:  # thousands, and they count by their version
            return
        if not f"{path}/".startswith(f"{ROOT}/"):
            path = os.path.realpath(path)
    except (OSError, ValueError):  # opening it will say so
        return
    if f"{path}/".startswith(f"{ROOT}/"):
        note(kind, os.path.relpath(path, ROOT))


def note_command(command, folder, environment):
    """Append a command, and whether a Python that it starts would not record what it reads."""
    if not isinstance(command, str | bytes | os.PathLike):
        command = b" ".join(map(os.fsencode, command))
    note(COMMAND, f"{os.path.abspath(os.fsdecode(folder or '.'))}\n{os.fsdecode(command)}")
    values = (os.environ if environment is None else environment).values()
    inherited = "\n".join(map(str, values))
    if HERE not in inherited or RECORD not in inherited:
        note(UNSEEN, "")


def hook(event, args):
    """Note what an audit event says (https://docs.python.org/3/library/audit_events.html)."""
    if event == "open":
        path, mode, flags = args
        if mode is None and sys._getframe(1).f_globals.get("__name__") == "shutil":
            return  # rmtree, with paths relative to a folder that an audit event does not tell
        writes = (flags or 0) & os.O_CREAT or (mode and not {"w", "a", "x"}.isdisjoint(mode))
        note_path(WRITTEN if writes else READ, path)
    elif event == "exec":  # a module from a compile cache: its source is not opened
        path = getattr(args[0], "co_filename", "")
        if path.endswith(".py"):
            note_path(READ, path)
    elif event == "import":
        note(IMPORTED, args[0].partition(".")[0])
    elif event in ("os.listdir", "os.scandir"):
        if sys._getframe(1).f_globals.get("__name__") not in FINDERS:
            note_path(LISTED, args[0] or ".")
    elif event in ("os.rename", "os.link", "os.symlink"):
        note_path(WRITTEN, args[1])
    elif event == "subprocess.Popen":
        note_command(*args[1:])
    elif event in ("os.exec", "os.posix_spawn"):
        note_command(args[1], None, args[2])
    elif event == "os.system":
        note_command(args[0], None, None)


def run_hidden():
    """Run the sitecustomize that would have run if this one were not before it on the path."""
    path = [entry for entry in sys.path if os.path.abspath(entry) != HERE]
    spec = PathFinder.find_spec(__name__, path)
    if spec and spec.loader:
        sys.modules[__name__] = module = module_from_spec(spec)
        spec.loader.exec_module(module)


if ROOT and RECORD:
    sys.addaudithook(hook)
run_hidden()

"""Fixtures of the tests in a real browser: Chromium, and the built book on a server of its own.

The browser is that of the system; ``.ci/run`` installs it. What lacks one is skipped, or fails
where CI is set.
"""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")


def missing(what):
    """Skip a test that lacks something; where CI is set, it fails."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        missing("there is no Chromium here (`apt-get install chromium`)")
    with sync_api.sync_playwright() as playwright:
        # Root, who runs tests in containers, gets no sandbox from Chromium.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site():
    """The address of the built book, whose path is that of the published one, if it has any."""
    from tiny_models.edition import read_edition

    prefix = urlsplit(read_edition(ROOT).url).path.rstrip("/")
    folder = ROOT / "_build/html"
    if not (folder / "index.html").exists():
        missing("the book is not built; run `make book`")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path(path.removeprefix(prefix))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}{prefix}"
    server.shutdown()

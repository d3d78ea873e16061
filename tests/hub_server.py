"""A small Hugging Face Hub on this machine: model files, gates, and what can go wrong.

Of a gated repository it tells everyone the names of the files, as the Hub does, but not what is in
them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer:
    """Serves the files of directories, as repositories, while it is open.

    `token`: what opens a gated repository; `approved`: whether its licence was accepted;
    `breaks`: for a file, after how many bytes the connection breaks, and how many times it does.
    """

    def __init__(self, repositories: dict[str, Path], token: str | None = None) -> None:
        self.repositories = repositories
        self.token = token
        self.approved = True
        self.breaks: dict[str, tuple[int, float]] = {}
        self.requests: list[tuple[str, str, str]] = []  # for files: method, path, authorization
        self.n_questions = 0  # about repositories, not files

        class Handler(BaseHTTPRequestHandler):
            hub = self
            protocol_version = "HTTP/1.1"
            do_HEAD = do_GET = answer

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def downloads(self) -> list[str]:
        """The names of the files that were asked for, not only asked about."""
        return [path.rsplit("/")[-1] for method, path, _ in self.requests if method == "GET"]


def answer(request: BaseHTTPRequestHandler) -> None:
    """Answer as the Hub does: /api/models/owner/name/revision/…, …/tree/…, and a HEAD or a GET of
    /owner/name/resolve/revision/file."""
    hub: HubServer = request.hub
    path = request.path.partition("?")[0]
    if question := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/[^/]+", path):
        return tell(request, *question.groups())
    address = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/([^/]+)", request.path)
    if address is None:  # the library asks for other things too, and can do without
        return refuse(request, 404, "RepoNotFound", "Not found")
    authorization = request.headers.get("Authorization", "")
    hub.requests.append((request.command, request.path, authorization))
    repository, name = address.groups()
    if repository not in hub.repositories:
        return refuse(request, 404, "RepoNotFound", "Repository not found")
    page = f"https://huggingface.co/{repository}"
    if hub.token and authorization != f"Bearer {hub.token}":
        text = f"Access to model {repository} is restricted. You must have access to it and be "
        text += "authenticated to access it. Please log in."
        return refuse(request, 401, "GatedRepo", text)
    if not hub.approved:
        text = f"Access to model {repository} is restricted and you are not in the authorized "
        text += f"list. Visit {page} to ask for access."
        return refuse(request, 403, "GatedRepo", text)
    file = hub.repositories[repository] / name
    if not file.is_file():
        return refuse(request, 404, "EntryNotFound", "Entry not found")
    data = file.read_bytes()
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.send_header("ETag", f'"{etag(file)}"')
    request.send_header("X-Repo-Commit", COMMIT)
    request.end_headers()
    if request.command == "GET":
        place, times = hub.breaks.get(name, (0, 0))
        if times > 0:
            hub.breaks[name] = place, times - 1
            data, request.close_connection = data[:place], True
        request.wfile.write(data)
    return None


def tell(request: BaseHTTPRequestHandler, repository: str, what: str) -> None:
    """Which commit a repository has, or which files."""
    hub: HubServer = request.hub
    hub.n_questions += 1
    if repository not in hub.repositories:
        return refuse(request, 404, "RepoNotFound", "Repository not found")
    if what == "revision":
        found = {"id": repository, "sha": COMMIT, "private": False, "siblings": []}
    else:
        files = sorted(hub.repositories[repository].iterdir())
        found = [
            {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": etag(file)}
            for file in files
        ]
    data = json.dumps(found).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
    return None


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


def refuse(request: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    request.send_response(status)
    request.send_header("X-Error-Code", code)
    request.send_header("X-Error-Message", message)
    request.send_header("X-Request-Id", "Root=1-6874f0a1-0c1d2e3f4a5b6c7d8e9f0a1b;" + 36 * "0")
    request.send_header("Content-Length", "0")
    request.end_headers()

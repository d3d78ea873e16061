"""What the build does for the interactive pictures (see ``book/_kit/playground.py``).

It writes the data that the chapters published to files of the book, resolves links to a line of
``src/`` that name the line by its text, and finds the pictures that play a tangled cell.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from nbformat import NotebookNode

from tiny_models.tangle import Fragment, Tangled


class PlayError(Exception):
    """Something that the author of a picture has to put right."""


MIME = "application/vnd.tiny-models.data+json"  # as playground.py publishes it
FOLDER = "_play"  # in the built book
PICTURE = re.compile(
    r'<div id="([^"]+)" class="play"[^>]* data-kind="([^"]+)" data-title="([^"]+)"'
)
LINK = re.compile(r'data-part="([^"]*)" href="source:([^"#]+)#([^"]+)"')
MISSING = re.compile(r'(<p class="play-missing">[^<]*)</p>')
FIGURE = re.compile(
    r'<figure [^>]*id="([^"]+)".*?<span class="caption-number">(.*?) *</span>', re.DOTALL
)


@dataclass(frozen=True)
class Picture:
    """An interactive picture that shows what a line of ``src/`` computes."""

    docname: str
    title: str
    fragment: str  # of its address: the picture and the part of it
    target: str
    line: int


def drop_data(outputs: Iterable[NotebookNode]) -> list[NotebookNode]:
    """Give a cell's outputs without published data, which is no part of the page itself."""
    return [output for output in outputs if MIME not in output.get("data", {})]


def write_data(notebooks: Iterable[Path], outdir: Path) -> None:
    """Write what chapters published, twice.

    A page that was served fetches the bytes. One that was opened from disk may not, but it may
    run a script, so there the same bytes come in a script. Files of earlier builds are removed.
    """
    folder = outdir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    old = set(folder.iterdir())
    for output in outputs(notebooks, MIME):
        content = output["data"][MIME]
        path = folder / f"{content['name']}.{content['digest']}"
        call = f'play.receive("{path.name}", "{content["base64"]}");\n'
        for suffix, data in (
            (".safetensors", base64.b64decode(content["base64"])),
            (".js", call.encode()),
        ):
            file = path.with_name(path.name + suffix)
            if file not in old:
                file.write_bytes(data)
            old.discard(file)
    for file in old:
        file.unlink()


def outputs(notebooks: Iterable[Path], word: str) -> Iterator[dict]:
    """Give all outputs of the notebooks, as far as a notebook has this word in it."""
    for path in notebooks:
        text = path.read_text("utf-8") if path.exists() else ""
        if word in text:
            for cell in json.loads(text)["cells"]:
                yield from (o for o in cell["outputs"] if word in json.dumps(o))


def pictures(notebooks: Mapping[str, Path], tangled: Mapping[str, Tangled]) -> Iterator[Picture]:
    """Find the pictures of all chapters, each with the lines that it links to."""
    for docname, path in notebooks.items():
        for output in outputs([path], 'class=\\"play\\"'):
            text = output["data"]["text/html"]
            text = text if isinstance(text, str) else "".join(text)
            name, _, title = PICTURE.search(text).groups()
            for part, target, quoted in LINK.findall(text):
                line = line_of(tangled, target, quoted, docname)
                yield Picture(docname, unescape(title), f"{name}&part={part}", target, line)


def of_fragment(all_pictures: Iterable[Picture], target: str, fragment: Fragment) -> list[Picture]:
    """Give the pictures of a cell's lines, one for each picture."""
    found = {
        (picture.docname, picture.title): picture
        for picture in all_pictures
        if picture.target == target
        and any(first <= picture.line <= last for first, last in fragment.spans)
    }
    return list(found.values())


def line_of(tangled: Mapping[str, Tangled], target: str, quoted: str, docname: str) -> int:
    """Find the one line of a file that has in it the text that a link quotes."""
    text = unquote(unescape(quoted))
    if target not in tangled:
        raise PlayError(f"{docname}: a picture links to {target}, which no chapter makes")
    lines = tangled[target].text.split("\n")
    found = [number for number, line in enumerate(lines, 1) if text in line]
    if len(found) != 1:
        raise PlayError(
            f"{docname}: a picture links to the line of {target} with {text!r}, "
            f"but {len(found)} lines have it"
        )
    return found[0]


def resolve(
    body: str, docname: str, tangled: Mapping[str, Tangled], uri: Callable[[str], str]
) -> str:
    """Make links of ``source:FILE#TEXT`` lead to the line of the file's page with that text."""

    def link(match: re.Match[str]) -> str:
        part, target, quoted = match.groups()
        line = line_of(tangled, target, quoted, docname)
        return f'data-part="{part}" data-line="{line}" href="{uri(tangled[target].page)}#L{line}"'

    return LINK.sub(link, body)


def name_still(body: str) -> str:
    """Where JavaScript is off, lead from each picture to the last figure before it."""

    def lead(match: re.Match[str]) -> str:
        before = list(FIGURE.finditer(body, 0, match.start()))
        if not before:
            return match.group()
        name, number = before[-1].groups()
        link = f'<a href="#{name}">{number}</a>'
        still = f"{link} above is a still picture of the same subject."
        return f"{match[1]} Without it, nothing can be tried here; {still}</p>"

    return MISSING.sub(lead, body)


def parts(body: str) -> list[str]:
    """Name what a page's pictures need, if it has any: files of book/_static, without suffix."""
    kinds = dict.fromkeys(kind for _, kind, _ in PICTURE.findall(body))
    return ["play", *(f"play-{kind}" for kind in kinds)] if kinds else []

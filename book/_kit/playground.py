"""Interactive pictures: what a chapter calls to send data to its page and to place a picture there.

    publish("rope", {"angle": angles}, base=10000)      # arrays and facts, as a file of the page
    play("clock", "RoPE's clock", data=["rope"], lines={"turn": ("src/gemma3.py", "x * cos")})

The data goes with the outputs of the cell, so it is made anew exactly when they are; the build puts
it into a file (see tiny_models/pictures.py). The picture is drawn in the reader's browser by
book/_static/play-KIND.js, with what book/_static/play.js offers all of them. Nothing here is part
of the models.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import numpy as np
from IPython.display import HTML, display
from safetensors.numpy import save

MIME = "application/vnd.tiny-models.data+json"

_digests: dict[str, str] = {}  # of what this chapter has published, by name


def publish(name: str, tensors: Mapping[str, np.ndarray], **about: Any) -> None:
    """Send arrays, and facts that JSON can hold, to the page as the file ``name``.

    The format is that of safetensors; the facts are in its metadata, with a digest by which a
    page tells this file from that of another build.
    """
    arrays = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
    facts = json.dumps(about, ensure_ascii=False)
    digest = hashlib.sha256(save(arrays, {"about": facts})).hexdigest()[:12]
    data = save(arrays, {"about": facts, "digest": digest})
    _digests[name] = digest
    content = {"name": name, "digest": digest, "base64": base64.b64encode(data).decode()}
    display({MIME: content}, raw=True)


def quantized(values: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """Round values to 8 bits: integers (int8), and the scale (float32) of each row along ``axis``.

    ``integers * scale`` is within half a scale of the values, and a scale is 1/127 of the largest.
    """
    scale = np.abs(values).max(axis, keepdims=True).astype(np.float32) / 127
    integers = np.rint(values / np.where(scale, scale, 1)).astype(np.int8)
    return integers, scale


def play(
    kind: str,
    title: str,
    *,
    name: str = "",
    data: Iterable[str] = (),
    lines: Mapping[str, tuple[str, str]] | None = None,
    **options: Any,
) -> None:
    """Place an interactive picture, made by ``play-KIND.js``, on the page.

    ``data`` names what it may load, published by this chapter before. ``lines`` says which line
    of ``src/`` computes a part of the picture, by a text that stands on that line alone; the
    picture links there, and the cell that is tangled to that line links to the picture. All other
    options are handed to the script.
    """
    files = {key: _digests[key] for key in data}
    parts = [
        f'<a class="play-line" hidden data-part="{html.escape(part)}" '
        f'href="source:{target}#{quote(text, safe="")}">{target}</a>'
        for part, (target, text) in (lines or {}).items()
    ]
    attributes = {
        "id": name or kind,
        "class": "play",
        "role": "group",
        "aria-label": title,
        "data-kind": kind,
        "data-title": title,
        "data-files": json.dumps(files),
        "data-options": json.dumps(options, ensure_ascii=False),
    }
    tag = " ".join(f'{key}="{html.escape(value)}"' for key, value in attributes.items())
    missing = f"{html.escape(title)}: this picture is drawn by JavaScript, which is off here."
    display(HTML(f'<div {tag}><p class="play-missing">{missing}</p>{"".join(parts)}</div>'))

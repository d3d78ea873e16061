"""Sphinx extension: a page loads what it uses, and nothing is shipped that no page loads.

The theme brings Font Awesome, of which it shows a dozen icons (``icons.css`` has them), all of
Bootstrap's CSS, and on every page the index that only the page of the search asks. Matplotlib's
SVGs carry six decimals of a point, and boxes that nobody can see.
"""

from __future__ import annotations

import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

UNUSED = (  # files and folders of _static, by pattern
    "**/*.map",
    "*webpack-macros.html",
    "fonts/*.py",
    "images/logo_*",
    "locales",
    "mathjax",  # in the folder of a build by an earlier version
    "scripts/fontawesome.js*",
    "sphinx-thebe.*",
    "vendor",
)

# ------------------------------------------------------------------------------------- scripts


def offer_without_scripts(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Let ``layout.html`` leave scripts out of the theme's blocks."""
    context["without_scripts"] = without_scripts


def without_scripts(html: str, *names: str) -> str:
    """Leave out the script elements that load a file with one of these names."""
    for name in names:
        html = re.sub(rf'<script\b[^>]*\bsrc="[^"]*/?{name}\.js\b[^"]*"[^>]*></script>', "", html)
    return html


# ------------------------------------------------------------------------------------ pictures


SVG = re.compile(r"<svg\b.*?</svg>", re.DOTALL)


def slim_pictures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Write the SVGs of Matplotlib that are on a page with fewer characters."""
    for raw in doctree.findall(nodes.raw):
        if "Matplotlib" in raw.astext():
            raw.children = [nodes.Text(SVG.sub(lambda match: slim_svg(match[0]), raw.astext()))]


def slim_svg(svg: str) -> str:
    """Leave out what does not show: remarks, invisible boxes, the digits after the second."""
    if "Matplotlib" not in svg:
        return svg
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'<path\b[^>]*style="fill: none"\s*/>', "", svg)  # and no stroke
    svg = re.sub(r'(?<= d=")[^"]*', lambda match: slim_path(match[0]), svg)
    svg = re.sub(
        r'(?<=translate\()[-\d. ]+(?=\))|(?<= [xy]=")[-\d.]+(?=")',
        lambda match: round_numbers(match[0]),
        svg,
    )
    svg = re.sub(
        r'data:image/png;base64,([^"]+)',
        lambda match: f"data:image/webp;base64,{slim_png(match[1])}",
        svg,
    )
    return re.sub(r">\s+<", "><", svg)


def slim_path(path: str) -> str:
    """Write the commands of a path without what separates them from their numbers."""
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", round_numbers(path)).strip()


def round_numbers(text: str) -> str:
    """Round to a hundredth of a point."""

    def shorter(match: re.Match[str]) -> str:
        return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")

    return re.sub(r"-?\d+\.\d+", shorter, text)


def slim_png(base64: str) -> str:
    """Compress an image better; no pixel changes."""
    file = BytesIO()
    Image.open(BytesIO(b64decode(base64))).save(file, "WEBP", lossless=True, method=6)
    return b64encode(file.getvalue()).decode()


# --------------------------------------------------------------------------------------- files


def drop_unused(app: Sphinx, error: Exception | None) -> None:
    """Delete the files that no page loads, and the rules of the CSS that match nothing."""
    if error or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    for pattern in UNUSED:
        for path in sorted(static.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    ours = {
        static / path.relative_to(folder)
        for folder in (Path(app.srcdir, name) for name in app.config.html_static_path)
        for path in folder.rglob("*.*")
    }
    used = used_names(Path(app.outdir), set(static.rglob("*.js")) - ours)
    for path in set(static.rglob("*.css")) - ours:
        path.write_text(slim_css(path.read_text("utf-8"), used), "utf-8")


def used_names(directory: Path, scripts: Iterable[Path]) -> set[str]:
    """Find all names of classes on the pages, and all words of the scripts, which may add some.

    The book's own scripts are not among these: what they make has styles of its own.
    """
    pages = (path.read_text("utf-8") for path in directory.rglob("*.html"))
    texts = (path.read_text("utf-8") for path in scripts)
    names = {name for page in pages for value in CLASS.findall(page) for name in value.split()}
    return names | {word for text in texts for word in re.findall(r"[A-Za-z_][\w-]*", text)}


CLASS = re.compile(r'\bclass=["\']([^"\']*)["\']')
RULE = re.compile(r"([^{}@;/]+)\{[^{}]*\}")
MADE_UP = ("bs-tooltip-",)  # beginnings of names that a script puts together


def slim_css(css: str, used: set[str]) -> str:
    """Leave out Font Awesome's fonts, and the selectors with a class that is not used."""

    def matches(selector: str) -> bool:
        plain = re.sub(r"\[[^]]*\]|:not\((?:[^()]|\([^()]*\))*\)", "", selector)
        classes = re.findall(r"\.(-?[A-Za-z_][\w-]*)", plain)
        alternatives = ":is(" in plain or ":where(" in plain  # of which one is enough
        return alternatives or all(name in used or name.startswith(MADE_UP) for name in classes)

    def slim_rule(match: re.Match[str]) -> str:
        selectors = re.split(r",(?![^()]*\))", match[1])
        kept = [selector for selector in selectors if matches(selector)]
        return ",".join(kept) + match[0][len(match[1]) :] if kept else ""

    css = re.sub(r"@font-face\{[^}]*Font Awesome[^}]*\}", "", css)
    css = RULE.sub(slim_rule, css)
    return re.sub(r"@(?:media|supports)[^{};]*\{\s*\}", "", css)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension."""
    app.connect("html-page-context", offer_without_scripts)
    app.connect("doctree-resolved", slim_pictures)
    app.connect("build-finished", drop_unused)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

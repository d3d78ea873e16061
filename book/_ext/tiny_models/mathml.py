"""Sphinx extension: formulas become MathML while the book is built.

Browsers draw MathML themselves and screen readers read it, so a page needs no script for its
formulas. The converter is ``math-core``; what it can't convert stops the build. A browser needs a
font that knows how roots and brackets grow, which not every machine has: ``book.css`` brings one.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.locale import _
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

CONVERTER = LatexToMathML(fancy_error=False)
PRIMED = re.compile(r"<msup>(<mi>[^<]*</mi>)<mo>([′″])</mo></msup>")


def mathml(latex: str, display: bool, where: str) -> str:
    """Convert a formula; where it stands is for the message if it can't be converted."""
    try:
        formula = CONVERTER.convert_with_local_state(latex, displaystyle=display)
    except LatexError as error:
        raise ExtensionError(f"{where}: {error}\n{latex}") from None
    # A font's primes are raised already; as an exponent they would be tiny and far up.
    return PRIMED.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', formula)


def one_formula(latex: str) -> str:
    """Write a block of formulas as one: a blank line in it begins a new line, as in TeX."""
    parts = [part.strip() for part in latex.split("\n\n") if part.strip()]
    lines = r" \\ ".join(parts)
    several = len(parts) > 1 or r"\\" in lines and r"\begin" not in lines
    return rf"\begin{{aligned}}{lines}\end{{aligned}}" if several else lines


def visit_math(translator: HTML5Translator, node: nodes.math) -> None:
    """Write a formula within a line."""
    translator.body.append(translator.starttag(node, "span", "", CLASS="math"))
    translator.body.append(mathml(node.astext(), False, place(translator, node)) + "</span>")
    raise nodes.SkipNode


def visit_math_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula, after its number if it has one."""
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})')
        translator.add_permalink_ref(node, _("Link to this equation"))
        translator.body.append("</span>")
    latex = node.astext() if node["nowrap"] else one_formula(node.astext())
    formula = mathml(latex, True, place(translator, node))
    translator.body.append(f'<div class="formula">{formula}</div></div>\n')
    raise nodes.SkipNode


def place(translator: HTML5Translator, node: nodes.Element) -> str:
    """Say where a formula stands."""
    line = f":{node.line}" if node.line else ""
    return f"{translator.builder.current_docname}{line}"


def setup(app: Sphinx) -> dict[str, Any]:
    """Make this the renderer of formulas."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

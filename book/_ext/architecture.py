"""GPT-2's architecture as a picture, drawn from a model's own modules.

`diagram(model)` walks the model, so that names, shapes and the number of blocks are those of the
code, and fails on a part that it can't place; `diagram(model, "attention")` colours one piece and
lets the rest step back. `describe` says the same in words, for the picture's alternative text.

The picture is read from top to bottom. The residual stream is one straight line; attention and MLP
branch off to its right and add back to it. To the left of a line stands the shape of what flows
along it, to its right what that is. A box is a module, with the shape of its weight; one with round
ends is code without weights.
"""

import re
from dataclasses import dataclass

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from bookkit import BLUE, GREY, INK, plt

HIGHLIGHTS = {
    "tokens": "the step from text to ids",
    "embeddings": "the embeddings of tokens and positions",
    "attention": "attention",
    "mlp": "the MLP",
    "block": "the block",
    "norm": "every layer norm",
    "head": "the last layer norm and the output head",
    "sampling": "the step from scores to the next token",
    "weights": "every module that has weights",
}

# --- what the model says ---------------------------------------------------------------------

PLACES = {  # the modules that the drawing has a place for, by the module that holds them
    "": {"wte", "wpe", "h", "ln_f", "lm_head"},
    "h.0": {"ln_1", "attn", "ln_2", "mlp"},
    "h.0.attn": {"c_attn", "c_proj"},
    "h.0.mlp": {"c_fc", "c_proj"},
}


@dataclass(frozen=True)
class Facts:
    """What the drawing needs to know of a model."""

    shapes: dict  # of the weights, by the module's name; of the blocks, only the first
    blocks: int
    heads: int
    shared: bool  # lm_head has no weight of its own, it uses that of wte

    def shape(self, name):
        """The shape of a module's weight, as text."""
        return _shape_text(self.shapes[name])

    def flow(self, name):
        """The shape of what a module gives for T tokens, as text."""
        # An embedding gives rows of its weight, a linear layer one number for each row.
        return _shape_text(("T", self.shapes[name][1 if name == "wte" else 0]))


def read(model):
    """The Facts of a GPT2; a ValueError if the drawing would leave out a part of it."""
    shapes = _shapes(model, "")
    blocks = [(_shapes(block, f"h.{i}"), block.n_head) for i, block in enumerate(model.h)]
    if not blocks:
        raise ValueError("the model has no blocks, but the drawing shows h.0")
    for i, block in enumerate(blocks):
        if block != blocks[0]:
            raise ValueError(f"h.{i} differs from h.0, but the drawing shows one block for all")
    first, heads = blocks[0]
    shapes |= {f"h.0.{name}": shape for name, shape in first.items()}
    wte, head = _weight(model.wte), _weight(model.lm_head)
    shared = not wte.is_meta and wte.data_ptr() == head.data_ptr()
    return Facts(shapes, len(blocks), heads, shared)


def _shapes(module, name):
    """Weight shapes by name within a module, whose parts must be those that have a place."""
    place = re.sub(r"^h\.\d+", "h.0", name)
    holds_others = place in PLACES
    children = {  # without private ones, which PyTorch's quantized modules have
        child: part for child, part in module.named_children() if not child.startswith("_")
    }
    parameters = {parameter for parameter, _ in module.named_parameters(recurse=False)}
    known = PLACES.get(place, set())
    where = f"the model's {name}" if name else "the model"
    unknown = children.keys() - known | parameters - (set() if holds_others else {"weight", "bias"})
    if unknown:
        raise ValueError(f"the drawing has no place for {', '.join(sorted(unknown))} in {where}")
    missing = known - children.keys()
    if not holds_others and getattr(module, "weight", None) is None:
        missing = {"weight"}
    if missing:
        raise ValueError(f"the drawing expects {', '.join(sorted(missing))} in {where}")
    if not holds_others:
        return {"": tuple(_weight(module).shape)}
    return {
        f"{child}.{below}".rstrip("."): shape
        for child, part in children.items()
        if child != "h"  # the blocks are read one by one
        for below, shape in _shapes(part, f"{name}.{child}".lstrip(".")).items()
    }


def _weight(module):
    """A module's weight, which PyTorch's quantized modules give by a method."""
    return module.weight() if callable(module.weight) else module.weight


def _shape_text(shape):
    """A shape as Python writes it, with T for the number of tokens."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _block_names(n):
    """The names of n blocks, those between the first and the last left out."""
    return {1: "h.0", 2: "h.0, h.1"}.get(n, f"h.0 … h.{n - 1}")


def _count(n, noun):
    return f"{n} {noun}" + "s" * (n != 1)


def _check(highlight):
    if highlight is not None and highlight not in HIGHLIGHTS:
        choices = ", ".join(HIGHLIGHTS)
        raise ValueError(f"there is no piece {highlight!r} to highlight; choose from {choices}")


def describe(model, highlight=None):
    """The drawing in words: what it shows of this model, and which piece is highlighted."""
    _check(highlight)
    facts = read(model)
    text = (
        "The architecture of GPT-2, from top to bottom: the tokenizer turns a text into T ids; "
        f"wte {facts.shape('wte')} and wpe {facts.shape('wpe')} turn these into a residual stream "
        f"of shape {facts.flow('wte')}, to which each of {_count(facts.blocks, 'block')} adds "
        f"twice, after ln_1 by attention with {_count(facts.heads, 'head')}, after ln_2 by an MLP "
        f"that is {facts.shapes['h.0.mlp.c_fc'][0]} wide; ln_f and lm_head "
        f"{facts.shape('lm_head')} make of it scores {facts.flow('lm_head')}, from whose last row "
        "the next token is drawn, to join the ids."
    )
    return text if highlight is None else f"{text} Highlighted: {HIGHLIGHTS[highlight]}."


# --- the picture -----------------------------------------------------------------------------

# All lengths are points, with y downwards. The figure is as wide as a page of 400 pixels shows it
# without shrinking it, so that the letters have there, too, the size that they have here.
WIDTH, MARGIN = 262, 8
SIZE = 9  # of letters
STREAM = 60  # x of the residual stream
ON_STREAM = (1, 119)  # left and right of a box on the stream
NORM = (77, 119)  # of the layer norm at the entrance of a branch
BRANCH = (137, 245)  # of a box in a branch
TURN = sum(BRANCH) / 2  # x of the lines between these
GROUP = (132, 250)  # of the frame around attn or mlp
BLOCK = (1, 255)  # of the frame around a block
LOOP = 261  # x of the way back from the next token to the ids
BOX, GAP, ARROW = 18, 26, 12  # heights: a box, a line with labels, a line without
PLUS = 6  # radius of a sum
IDS = MARGIN + 7 + ARROW + BOX + GAP / 2  # y of the ids, where the way back ends

# Text that steps back. Transparent ink would have more contrast, but Chromium blurs some of it
# in an SVG; this grey has about the same contrast to a light and to a dark page, 4.2 to 4.4.
QUIET = "#767b84"


class Pen:
    """Draws the picture's elements; the tags of each are the highlights that it belongs to."""

    def __init__(self, ax, highlight):
        self.ax, self.highlight = ax, highlight

    def text(self, x, y, text, tags, **style):
        color = INK if self.highlight is None or self.highlight in tags else QUIET
        style = {"color": color, "fontsize": SIZE, "va": "center_baseline"} | style
        self.ax.text(x, y, text, **style)

    def name(self, x, y, text, tags, **style):
        """A name of the code."""
        weight = "bold" if self.highlight in tags else "normal"
        self.text(x, y, text, tags, family="monospace", fontweight=weight, **style)

    def flow(self, x, y, shape, what, tags):
        """Label a line: the shape of what flows along it, and what that is."""
        self.text(x - 7, y, shape, tags, ha="right")
        self.text(x + 7, y, what, tags)

    def stroke(self, tags, width=1.0):
        """Colour and width of a line or an outline."""
        return (BLUE, width + 0.7) if self.highlight in tags else (GREY, width)

    def line(self, tags, *points, width=1.0, head=True):
        """A line through points, with an arrowhead at its end."""
        color, width = self.stroke(tags, width)
        style = {"arrowstyle": "-|>" if head else "-", "mutation_scale": 9, "capstyle": "butt"}
        style |= {"color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        self.ax.add_patch(FancyArrowPatch(path=Path(points), joinstyle="miter", **style))

    def stream(self, top, bottom, tags):
        """A piece of the residual stream."""
        self.line(tags, (STREAM, top), (STREAM, bottom), width=2.5, head=False)

    def plus(self, label, y, tags):
        """The sum of the stream and of what comes to it from the right."""
        color, width = self.stroke(tags)
        style = {"label": label, "facecolor": "none", "edgecolor": color, "linewidth": width}
        self.ax.add_patch(Circle((STREAM, y), PLUS, **style))
        for dx, dy in ((3, 0), (0, 3)):
            self.line(tags, (STREAM - dx, y - dy), (STREAM + dx, y + dy), head=False)

    def frame(self, label, columns, top, bottom, tags, rounding=4.0, fill=0.06):
        """A rounded rectangle; its label, which does not show, says what it stands for."""
        (left, right), (color, width) = columns, self.stroke(tags)
        self.ax.add_patch(FancyBboxPatch(
            (left, top), right - left, bottom - top,
            boxstyle=f"round,pad=0,rounding_size={rounding}", edgecolor=color, label=label,
            facecolor=(color, fill if self.highlight in tags else fill / 2), linewidth=width,
        ))  # fmt: skip

    def box(self, label, columns, y, note, tags, rounding=4.0):
        """A box at y, with the last part of its label as a name, and with a note."""
        left, right = columns
        self.frame(label, columns, y - BOX / 2, y + BOX / 2, tags, rounding, fill=0.16)
        self.name(left + 5, y, label.split(".")[-1], tags)
        self.text(right - 5, y, note, tags, ha="right")


def diagram(model, highlight=None):
    """A figure of the model's architecture: one of HIGHLIGHTS coloured, or with None all alike."""
    _check(highlight)
    facts = read(model)
    fig = plt.figure()
    fig.set_layout_engine("none")  # everything has its place already
    ax = fig.add_axes((0, 0, 1, 1))
    pen = Pen(ax, highlight)
    y = _draw_input(pen, facts, MARGIN)
    y = _draw_block(pen, facts, y)
    height = _draw_output(pen, facts, y) + MARGIN
    fig.set_size_inches(WIDTH / 72, height / 72)
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    return fig


# Each of these draws a part from y on downwards, and returns the y where the next one begins.


def _draw_input(pen, facts, y):
    """From the text to the stream."""
    tokens, embeddings, weights = {"tokens"}, {"embeddings"}, {"embeddings", "weights"}
    pen.text(STREAM, y, "text", tokens, ha="center")
    y += 7
    pen.line(tokens, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + BOX / 2
    pen.box("Tokenizer", ON_STREAM, y, "encode", tokens, rounding=BOX / 2)
    y += BOX / 2
    pen.line(tokens, (STREAM, y), (STREAM, y + GAP))
    pen.flow(STREAM, IDS, "(T,)", "ids", tokens)
    y += GAP + BOX / 2
    pen.box("wte", ON_STREAM, y, facts.shape("wte"), weights)
    pen.text(TURN, y - 3, "positions 0 … T − 1", embeddings, ha="center")
    plus = y + BOX / 2 + 24
    pen.stream(y + BOX / 2, plus - PLUS, embeddings)
    pen.line(embeddings, (TURN, y + 6), (TURN, plus - BOX / 2))
    pen.box("wpe", BRANCH, plus, facts.shape("wpe"), weights)
    pen.line(embeddings, (BRANCH[0], plus), (STREAM + PLUS, plus))
    pen.plus("+ wpe", plus, embeddings)
    y = plus + PLUS
    pen.stream(y, y + GAP, embeddings)
    pen.flow(STREAM, y + GAP / 2, facts.flow("wte"), "residual stream", embeddings)
    return y + GAP


def _draw_block(pen, facts, top):
    """One block in full, and how many there are."""
    tags = {"block"}
    pen.name(NORM[0], top + 12, _block_names(facts.blocks), tags)
    style = {"ha": "right", "fontsize": 12, "fontweight": "bold"}
    pen.text(GROUP[1], top + 12, f"× {facts.blocks}", tags, **style)
    heads = _count(facts.heads, "head")
    attention = _draw_branch(pen, facts, top + 23, "attention", "ln_1", "attn", "c_attn", heads)
    mlp = _draw_branch(pen, facts, attention + 8, "mlp", "ln_2", "mlp", "c_fc", "gelu")
    bottom = mlp + 6
    sums = attention - SUM, mlp - SUM
    ends = top, *(y for plus in sums for y in (plus - PLUS, plus + PLUS)), bottom
    for begin, end in zip(ends[::2], ends[1::2], strict=True):
        pen.stream(begin, end, tags)
    pen.text(STREAM - 7, attention + 4, facts.flow("wte"), tags, ha="right")
    pen.frame("h.0", BLOCK, top, bottom, tags, rounding=6)
    return bottom


SUM = BOX / 2 + 6  # from a branch's sum down to its end


def _draw_branch(pen, facts, top, highlight, norm, group, first, between):
    """One of a block's branches: from the stream through a norm and two layers to a sum."""
    tags, norms = {highlight, "block"}, {"norm", "block", "weights"}
    layers = tags | {"weights"}
    norm, group = f"h.0.{norm}", f"h.0.{group}"
    first, last = f"{group}.{first}", f"{group}.c_proj"
    y = top + 19 + BOX / 2
    plus = y + BOX + GAP - 4
    bottom = plus + SUM
    pen.frame(group, GROUP, top, bottom, tags)
    pen.name(BRANCH[0] + 5, top + 10, group.split(".")[-1], tags)

    pen.line({"block"}, (STREAM, y), (NORM[0], y))
    pen.frame(norm, NORM, y - 14, y + 14, norms, fill=0.16)
    pen.name(sum(NORM) / 2, y - 6, norm.split(".")[-1], norms, ha="center")
    pen.text(sum(NORM) / 2, y + 6, facts.shape(norm), norms, ha="center")
    pen.line(tags, (NORM[1], y), (BRANCH[0], y))
    pen.box(first, BRANCH, y, facts.shape(first), layers)
    pen.line(tags, (TURN, y + BOX / 2), (TURN, plus - BOX / 2))
    pen.flow(TURN, (y + plus) / 2, facts.flow(first), between, tags)
    pen.box(last, BRANCH, plus, facts.shape(last), layers)
    pen.line(tags, (BRANCH[0], plus), (STREAM + PLUS, plus))
    pen.plus(f"+ {group}", plus, tags)
    return bottom


def _draw_output(pen, facts, y):
    """From the stream to the next token, and the way back to the ids."""
    head, sampling = {"head"}, {"sampling"}
    pen.stream(y, y + GAP, head)
    pen.text(STREAM - 7, y + GAP / 2, facts.flow("wte"), head, ha="right")
    y += GAP + BOX / 2
    pen.box("ln_f", ON_STREAM, y, facts.shape("ln_f"), head | {"norm", "weights"})
    y += BOX / 2
    pen.line(head, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + BOX / 2
    pen.box("lm_head", ON_STREAM, y, facts.shape("lm_head"), head | {"weights"})
    if facts.shared:
        pen.text(BRANCH[0], y, "the weight of wte", head | {"weights"})
    y += BOX / 2
    pen.line(head | sampling, (STREAM, y), (STREAM, y + GAP))
    pen.flow(STREAM, y + GAP / 2, facts.flow("lm_head"), "scores", head | sampling)
    y += GAP + BOX / 2
    pen.box("generate", ON_STREAM, y, "draw one", sampling, rounding=BOX / 2)
    pen.text(BRANCH[0], y, "from the last row", sampling)
    y += BOX / 2
    pen.line(sampling, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + 8
    pen.text(STREAM, y, "next token", sampling, ha="center")
    pen.line(sampling, (STREAM + 30, y), (LOOP, y), (LOOP, IDS), (STREAM + 26, IDS))
    return y

"""The architectures of GPT-2 and of Gemma 3 as pictures, drawn from a model's own weights.

`diagram(model)` walks a GPT-2, so that names, shapes and the number of blocks are those of the
code, and fails on a part that it can't place; `diagram(model, "attention")` colours one piece and
lets the rest step back. `describe` says the same in words, for the picture's alternative text.
`gemma3(params, config, "attention")` gives both, the picture and the words, for a Gemma 3.

The pictures are read from top to bottom. The residual stream is one straight line; attention and
MLP branch off to its right and add back to it. To the left of a line stands the shape of what flows
along it, to its right what that is. A box is a weight, with its shape; one with round ends is code
without weights.

What both pictures share comes first: the pen, and the parts at the top and at the bottom. Then
comes each model: its highlights, how its facts are read, its words, and what it draws.
"""

import re
from dataclasses import dataclass

from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from bookkit import BLUE, GREY, INK, plt

# --- the pen ---------------------------------------------------------------------------------

# All lengths are points, with y downwards. The figure is as wide as a page of 400 pixels shows it
# without shrinking it, so that the letters have there, too, the size that they have here.
WIDTH, MARGIN = 262, 8
SIZE = 9  # of letters
STREAM = 60  # x of the residual stream
ON_STREAM = (1, 119)  # left and right of a box on the stream
NAMES = 77  # x where the names of the blocks begin
BRANCH = (137, 245)  # of a box beside the stream, and where notes begin
BLOCK = (1, 255)  # of the frame around a block
LOOP = 261  # x of the way back from the next token to the ids
BOX, TALL = 18, 28  # heights of a box with one line of text, and with two
GAP, ARROW = 26, 12  # heights of a line with labels, and of one without
PLUS = 6  # radius of a sum
IDS = MARGIN + 7 + ARROW + BOX + GAP / 2  # y of the ids, where the way back ends

# Text that steps back. Transparent ink would have more contrast, but Chromium blurs some of it
# in an SVG; this grey has about the same contrast to a light and to a dark page, 4.2 to 4.4.
QUIET = "#767b84"


class Pen:
    """Draws the picture's elements; the tags of each are the highlights that it belongs to."""

    def __init__(self, ax, highlight):
        self.ax, self.highlight = ax, highlight

    def lit(self, tags):
        return self.highlight == "all" or self.highlight in tags

    def text(self, x, y, text, tags, **style):
        color = INK if self.highlight is None or self.lit(tags) else QUIET
        style = {"color": color, "fontsize": SIZE, "va": "center_baseline"} | style
        self.ax.text(x, y, text, **style)

    def name(self, x, y, text, tags, **style):
        """A name of the code."""
        weight = "bold" if self.lit(tags) else "normal"
        self.text(x, y, text, tags, family="monospace", fontweight=weight, **style)

    def flow(self, x, y, shape, what, tags):
        """Label a line: the shape of what flows along it, and what that is."""
        self.text(x - 7, y, shape, tags, ha="right")
        self.text(x + 7, y, what, tags)

    def stroke(self, tags, width=1.0):
        """Colour and width of a line or an outline."""
        return (BLUE, width + 0.7) if self.lit(tags) else (GREY, width)

    def line(self, tags, *points, width=1.0, head=True):
        """A line through points, with an arrowhead at its end."""
        color, width = self.stroke(tags, width)
        style = {"arrowstyle": "-|>" if head else "-", "mutation_scale": 9, "capstyle": "butt"}
        style |= {"color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
        self.ax.add_patch(FancyArrowPatch(path=Path(points), joinstyle="miter", **style))

    def stream(self, top, bottom, tags):
        """A piece of the residual stream."""
        self.line(tags, (STREAM, top), (STREAM, bottom), width=2.5, head=False)

    def circle(self, label, x, y, tags, strokes):
        """A circle around a sign of two strokes, each from (-dx, -dy) to (dx, dy)."""
        color, width = self.stroke(tags)
        style = {"label": label, "facecolor": "none", "edgecolor": color, "linewidth": width}
        self.ax.add_patch(Circle((x, y), PLUS, **style))
        for dx, dy in strokes:
            self.line(tags, (x - dx, y - dy), (x + dx, y + dy), head=False)

    def plus(self, label, y, tags):
        """The sum of the stream and of what comes to it from the right."""
        self.circle(label, STREAM, y, tags, ((3, 0), (0, 3)))

    def times(self, label, x, y, tags):
        """A product of what comes to it."""
        self.circle(label, x, y, tags, ((2.2, 2.2), (2.2, -2.2)))

    def frame(self, label, columns, top, bottom, tags, rounding=4.0, fill=0.06):
        """A rounded rectangle; its label, which does not show, says what it stands for."""
        (left, right), (color, width) = columns, self.stroke(tags)
        self.ax.add_patch(FancyBboxPatch(
            (left, top), right - left, bottom - top,
            boxstyle=f"round,pad=0,rounding_size={rounding}", edgecolor=color, label=label,
            facecolor=(color, fill if self.lit(tags) else fill / 2), linewidth=width,
        ))  # fmt: skip

    def box(self, label, columns, y, note, tags, rounding=4.0):
        """A box at y, with the last part of its label as a name, and with a note."""
        left, right = columns
        self.frame(label, columns, y - BOX / 2, y + BOX / 2, tags, rounding, fill=0.16)
        self.name(left + 5, y, label.split(".")[-1], tags)
        self.text(right - 5, y, note, tags, ha="right")

    def tall(self, label, columns, y, note, tags, rounding=4.0):
        """A box with the last part of its label as a name, and with a note below the name."""
        self.frame(label, columns, y - TALL / 2, y + TALL / 2, tags, rounding, fill=0.16)
        self.name(sum(columns) / 2, y - 6, label.split(".")[-1], tags, ha="center")
        self.text(sum(columns) / 2, y + 6, note, tags, ha="center")


def _figure(highlight, facts, parts):
    """A figure of what parts draw, each from y on downwards; each returns where the next begins."""
    fig = plt.figure()
    fig.set_layout_engine("none")  # everything has its place already
    ax = fig.add_axes((0, 0, 1, 1))
    pen, y = Pen(ax, highlight), MARGIN
    for part in parts:
        y = part(pen, facts, y)
    height = y + MARGIN
    fig.set_size_inches(WIDTH / 72, height / 72)
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    return fig


def _draw_tokens(pen, y, tags, changes=frozenset()):
    """From the text to the ids; changes are the further tags of the tokenizer itself."""
    pen.text(STREAM, y, "text", tags, ha="center")
    y += 7
    pen.line(tags, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + BOX / 2
    pen.box("Tokenizer", ON_STREAM, y, "encode", tags | changes, rounding=BOX / 2)
    y += BOX / 2
    pen.line(tags, (STREAM, y), (STREAM, y + GAP))
    pen.flow(STREAM, IDS, "(T,)", "ids", tags)
    return y + GAP


def _draw_block_title(pen, y, names, blocks, tags):
    """The names of the blocks, and how many there are."""
    pen.name(NAMES, y, names, tags)
    style = {"ha": "right", "fontsize": 12, "fontweight": "bold"}
    pen.text(BLOCK[1] - 5, y, f"× {blocks}", tags, **style)


def _draw_sampling(pen, y, tags, note=None):
    """From the scores to the next token, and the way back to the ids."""
    y += BOX / 2
    pen.box("generate", ON_STREAM, y, "draw one", tags, rounding=BOX / 2)
    if note is not None:
        pen.text(BRANCH[0], y, note, tags)
    y += BOX / 2
    pen.line(tags, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + 8
    pen.text(STREAM, y, "next token", tags, ha="center")
    pen.line(tags, (STREAM + 30, y), (LOOP, y), (LOOP, IDS), (STREAM + 26, IDS))
    return y


# --- in words --------------------------------------------------------------------------------


def _shape_text(shape):
    """A shape as Python writes it, with T for the number of tokens."""
    return "(" + ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "") + ")"


def _block_names(name, n):
    """The names of n blocks, those between the first and the last left out."""
    return {1: f"{name}.0", 2: f"{name}.0, {name}.1"}.get(n, f"{name}.0 … {name}.{n - 1}")


def _count(n, noun):
    return f"{n} {noun}" + "s" * (n != 1)


def _check(highlight, highlights):
    if highlight is not None and highlight not in highlights:
        choices = ", ".join(highlights)
        raise ValueError(f"there is no piece {highlight!r} to highlight; choose from {choices}")


def _highlighted(text, highlight, highlights):
    """A description, with the highlighted piece named in the end."""
    return text if highlight is None else f"{text} Highlighted: {highlights[highlight]}."


# --- GPT-2 -----------------------------------------------------------------------------------

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
    "changes": "the pieces that Gemma 3 makes in another way",
}

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
    shared = wte is head or not wte.is_meta and wte.data_ptr() == head.data_ptr()
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


def describe(model, highlight=None):
    """The drawing in words: what it shows of this model, and which piece is highlighted."""
    _check(highlight, HIGHLIGHTS)
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
    return _highlighted(text, highlight, HIGHLIGHTS)


def diagram(model, highlight=None):
    """A figure of the model's architecture: one of HIGHLIGHTS coloured, or with None all alike."""
    _check(highlight, HIGHLIGHTS)
    return _figure(highlight, read(model), (_draw_input, _draw_block, _draw_output))


NORM = (77, 119)  # left and right of the layer norm at the entrance of a branch
TURN = sum(BRANCH) / 2  # x of the lines between a branch's boxes
GROUP = (132, 250)  # of the frame around attn or mlp
SUM = BOX / 2 + 6  # from a branch's sum down to its end


def _draw_input(pen, facts, y):
    """From the text to the stream."""
    embeddings, weights = {"embeddings"}, {"embeddings", "weights"}
    positions = {"embeddings", "changes"}
    y = _draw_tokens(pen, y, {"tokens"}, {"changes"}) + BOX / 2
    pen.box("wte", ON_STREAM, y, facts.shape("wte"), weights)
    pen.text(TURN, y - 3, "positions 0 … T − 1", positions, ha="center")
    plus = y + BOX / 2 + 24
    pen.stream(y + BOX / 2, plus - PLUS, embeddings)
    pen.line(positions, (TURN, y + 6), (TURN, plus - BOX / 2))
    pen.box("wpe", BRANCH, plus, facts.shape("wpe"), positions | weights)
    pen.line(positions, (BRANCH[0], plus), (STREAM + PLUS, plus))
    pen.plus("+ wpe", plus, positions)
    y = plus + PLUS
    pen.stream(y, y + GAP, embeddings)
    pen.flow(STREAM, y + GAP / 2, facts.flow("wte"), "residual stream", embeddings)
    return y + GAP


def _draw_block(pen, facts, top):
    """One block in full, and how many there are."""
    tags = {"block"}
    _draw_block_title(pen, top + 12, _block_names("h", facts.blocks), facts.blocks, tags)
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


def _draw_branch(pen, facts, top, highlight, norm, group, first, between):
    """One of a block's branches: from the stream through a norm and two layers to a sum."""
    tags, norms = {highlight, "block"}, {"norm", "block", "weights", "changes"}
    layers = tags | {"weights"}
    norm, group = f"h.0.{norm}", f"h.0.{group}"
    first, last = f"{group}.{first}", f"{group}.c_proj"
    y = top + 19 + BOX / 2
    plus = y + BOX + GAP - 4
    bottom = plus + SUM
    pen.frame(group, GROUP, top, bottom, tags)
    pen.name(BRANCH[0] + 5, top + 10, group.split(".")[-1], tags)

    pen.line({"block"}, (STREAM, y), (NORM[0], y))
    pen.tall(norm, NORM, y, facts.shape(norm), norms)
    pen.line(tags, (NORM[1], y), (BRANCH[0], y))
    pen.box(first, BRANCH, y, facts.shape(first), layers | {"changes"})
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
    pen.box("ln_f", ON_STREAM, y, facts.shape("ln_f"), head | {"norm", "weights", "changes"})
    y += BOX / 2
    pen.line(head, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + BOX / 2
    pen.box("lm_head", ON_STREAM, y, facts.shape("lm_head"), head | {"weights"})
    if facts.shared:
        pen.text(BRANCH[0], y, "the weight of wte", head | {"weights"})
    y += BOX / 2
    pen.line(head | sampling, (STREAM, y), (STREAM, y + GAP))
    pen.flow(STREAM, y + GAP / 2, facts.flow("lm_head"), "scores", head | sampling)
    return _draw_sampling(pen, y + GAP, sampling, "from the last row")


# --- Gemma 3 ---------------------------------------------------------------------------------

GEMMA3 = {
    "tokenizer": "the step from text to ids",
    "embedding": "the embedding and its scale",
    "norms": "every norm",
    "rope": "the rotation of queries and keys",
    "attention": "attention",
    "windows": "the softmax, which in most layers sees a window only",
    "mlp": "the gated MLP",
    "block": "the block",
    "head": "the last norm and the output head",
    "step": "what one compiled step computes, from the ids to the scores",
    "sampling": "the step from scores to the next token",
    "weights": "everything that has weights",
    "changes": "what GPT-2 lacks or makes in another way",
    "all": "everything",
}
LAYER = (  # the weights of a layer that the drawing has a place for
    *("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    *("self_attn.q_norm", "self_attn.k_norm", "self_attn.o_proj", "post_attention_layernorm"),
    *("pre_feedforward_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "post_feedforward_layernorm",
)
JOINED = {"self_attn.qkv_proj": "qkv", "mlp.gate_up_proj": ("gate", "up")}  # drawn as these


@dataclass(frozen=True)
class GemmaFacts:
    """What the drawing needs to know of a Gemma 3."""

    shapes: dict  # of the weights, by name; of the layers, only the first
    windows: tuple  # for each layer: how many tokens it sees, or None for all

    def shape(self, name):
        """The shape of a weight, as text."""
        return _shape_text(self.shapes[name])

    def flow(self, n):
        """The shape of n numbers for each of T tokens, as text."""
        return _shape_text(("T", n))

    def heads(self, letter):
        """How many heads the queries (q), the keys (k) or the values (v) have."""
        return self.shapes[f"self_attn.{letter}_proj"][0] // self.shapes["self_attn.q_norm"][0]

    def reaches(self):
        """How many layers see how much, as pairs of a count and a window, the global ones last."""
        windows = sorted(set(self.windows), key=lambda window: (window is None, window))
        return [(self.windows.count(window), window) for window in windows]


def read_gemma3(params, config):
    """The GemmaFacts of params; a ValueError if the drawing would leave out a part of them."""
    _check_names(params, {"embed_tokens", "norm", "layers"}, "the params")
    layers = [_layer_shapes(p, f"layers.{i}") for i, p in enumerate(params["layers"])]
    if not layers:
        raise ValueError("the model has no layers, but the drawing shows layers.0")
    for i, layer in enumerate(layers):
        if layer != layers[0]:
            raise ValueError(f"layers.{i} differs from layers.0, but the drawing shows one for all")
    everything = getattr(config, "context", None)  # the window of a layer that sees all tokens
    windows = tuple(None if layer[0] == everything else layer[0] for layer in config.layers)
    if len(windows) != len(layers):
        raise ValueError(f"the config has {len(windows)} layers, but the params {len(layers)}")
    outer = {name: tuple(params[name].shape) for name in ("embed_tokens", "norm")}
    return GemmaFacts(outer | layers[0], windows)


def _check_names(found, known, where):
    unknown, missing = found.keys() - known, known - found.keys()
    if unknown:
        raise ValueError(f"the drawing has no place for {', '.join(sorted(unknown))} in {where}")
    if missing:
        raise ValueError(f"the drawing expects {', '.join(sorted(missing))} in {where}")


def _layer_shapes(p, where):
    """Shapes by name of a layer's weights; a matrix that joins several counts as these."""
    shapes = {name: tuple(weight.shape) for name, weight in p.items()}
    if "self_attn.qkv_proj" in shapes and "self_attn.o_proj" in shapes:
        rows, C = shapes.pop("self_attn.qkv_proj")
        queries = shapes["self_attn.o_proj"][1]  # as many as there are numbers to collect
        for letter, n in ("q", queries), ("k", (rows - queries) // 2), ("v", (rows - queries) // 2):
            shapes[f"self_attn.{letter}_proj"] = (n, C)
    if "mlp.gate_up_proj" in shapes:
        rows, C = shapes.pop("mlp.gate_up_proj")
        shapes |= {f"mlp.{name}_proj": (rows // 2, C) for name in ("gate", "up")}
    _check_names(shapes, LAYER, where)
    return shapes


def gemma3(params, config, highlight=None):
    """Drawing and description of a Gemma 3, with one of GEMMA3 highlighted, or with None nothing.

    `figure(name, *gemma3(params, config, "attention"))` is all that a chapter has to say. `params`
    and `config` are those of `gemma3.load`.
    """
    _check(highlight, GEMMA3)
    facts = read_gemma3(params, config)
    parts = (_draw_gemma3_input, _draw_gemma3_layer, _draw_gemma3_output)
    return _figure(highlight, facts, parts), _describe_gemma3(facts, highlight)


def _describe_gemma3(facts, highlight):
    V, C = facts.shapes["embed_tokens"]
    shared = _count(facts.heads("k"), "head")
    reaches = " and ".join(
        f"{'all tokens' if window is None else f'the last {window} tokens'} in {_count(n, 'layer')}"
        for n, window in facts.reaches()
    )
    text = (
        "The architecture of Gemma 3, from top to bottom: the tokenizer turns a text into T ids; "
        f"embed_tokens {facts.shape('embed_tokens')}, times the square root of {C}, turns these "
        f"into a residual stream of shape {facts.flow(C)}, to which each of "
        f"{_count(len(facts.windows), 'layer')} adds twice, with a norm before and a norm after "
        f"either part: by attention, where {_count(facts.heads('q'), 'head')} of queries share "
        f"{shared} of keys and values, queries and keys pass a norm and are turned by rope, and a "
        f"query sees {reaches}; and by an MLP that is {facts.shapes['mlp.down_proj'][1]} wide, "
        "whose up_proj is multiplied by the gelu of gate_proj. From the last row, norm and "
        f"embed_tokens once more make {V} scores, by which the next token is drawn, to join the "
        "ids."
    )
    return _highlighted(text, highlight, GEMMA3)


FRAME = (77, 250)  # left and right of a branch: of its norms and of the frame between them
INSIDE = (93, 245)  # of what is in the frame
MIDDLE = sum(INSIDE) / 2  # x of the lines between these
ENTRY, EXIT = 85, 245  # x of the lines along which attention's rows begin and end
ROWS = (93, 157), (164, 205), (212, 240)  # of a row's boxes: the matrix, the norm, rope
HALVES = (93, 166), (172, 245)  # of the two boxes at the entrance of the MLP
ROW = TALL + 4  # from one row to the next
SHORT = 16  # height of a line with one label


def _draw_gemma3_input(pen, facts, y):
    """From the text to the stream."""
    tags, C = {"embedding", "step"}, facts.shapes["embed_tokens"][1]
    y = _draw_tokens(pen, y, {"tokenizer"}, {"changes"}) + TALL / 2
    pen.tall("embed_tokens", ON_STREAM, y, facts.shape("embed_tokens"), tags | {"weights"})
    times = y + TALL / 2 + 8 + PLUS
    pen.stream(y + TALL / 2, times - PLUS, tags)
    pen.times("× scale", STREAM, times, tags | {"changes"})
    pen.text(STREAM + PLUS + 6, times, f"√{C}", tags | {"changes"})
    y = times + PLUS
    pen.stream(y, y + GAP, tags)
    pen.flow(STREAM, y + GAP / 2, facts.flow(C), "residual stream", tags)
    return y + GAP


def _draw_gemma3_layer(pen, facts, top):
    """One layer in full, and how many there are."""
    tags, blocks = {"block", "step"}, len(facts.windows)
    _draw_block_title(pen, top + 12, _block_names("layers", blocks), blocks, tags)
    first = _draw_gemma3_branch(
        pen, facts, top + 24, "attention", "input", "self_attn", "post_attention", _draw_heads
    )
    last = _draw_gemma3_branch(
        pen, facts, first + 8, "mlp", "pre_feedforward", "mlp", "post_feedforward", _draw_gate
    )
    bottom = last + 6
    sums = first - TALL / 2, last - TALL / 2
    ends = top, *(y for plus in sums for y in (plus - PLUS, plus + PLUS)), bottom
    for begin, end in zip(ends[::2], ends[1::2], strict=True):
        pen.stream(begin, end, tags)
    pen.text(STREAM - 7, first + 4, facts.flow(facts.shapes["norm"][0]), tags, ha="right")
    pen.frame("layers.0", BLOCK, top, bottom, tags, rounding=6)
    return bottom


def _draw_gemma3_branch(pen, facts, y, highlight, before, group, after, draw_inside):
    """One of a layer's branches: from the stream through a norm, what is inside, and a norm."""
    tags, norms = {highlight, "block", "step"}, {"norms", "block", "step", "weights", "changes"}
    before, after = f"{before}_layernorm", f"{after}_layernorm"
    y += TALL / 2
    pen.line({"block", "step"}, (STREAM, y), (FRAME[0], y))
    pen.tall(before, FRAME, y, facts.shape(before), norms)
    y += TALL / 2
    top = y + 7
    last = draw_inside(pen, facts, top, y)
    bottom = last + 6
    pen.frame(group, FRAME, top, bottom, tags)
    y = bottom + 7 + TALL / 2
    pen.line(tags, (MIDDLE, last), (MIDDLE, y - TALL / 2))
    pen.tall(after, FRAME, y, facts.shape(after), norms)
    pen.line(tags, (FRAME[0], y), (STREAM + PLUS, y))
    pen.plus(f"+ {group}", y, tags)
    return y + TALL / 2


def _draw_heads(pen, facts, top, entry):
    """What is in attention's frame from top on, entered from a box that ends at entry."""
    tags = {"attention", "block", "step"}
    matrix, norm = tags | {"weights"}, tags | {"weights", "norms", "changes"}
    rope, softmax = tags | {"rope", "changes"}, tags | {"windows", "changes"}
    matrices = {"q": matrix, "k": matrix | {"changes"}, "v": matrix | {"changes"}}
    (left, matrix_end), (norm_left, norm_end), (rope_left, rope_end) = ROWS
    pen.name(left, top + 9, "self_attn", tags)
    pen.text(EXIT, top + 9, f"q: {_count(facts.heads('q'), 'head')}", tags, ha="right")
    y = {letter: top + 18 + TALL / 2 + i * ROW for i, letter in enumerate(matrices)}
    for letter in matrices:
        name = f"self_attn.{letter}_proj"
        pen.line(tags, (ENTRY, entry), (ENTRY, y[letter]), (left, y[letter]))
        pen.tall(name, ROWS[0], y[letter], facts.shape(name), matrices[letter])
    for letter in "qk":
        name = f"self_attn.{letter}_norm"
        pen.line(tags, (matrix_end, y[letter]), (norm_left, y[letter]))
        pen.tall(name, ROWS[1], y[letter], facts.shape(name), norm)
        pen.line(rope, (norm_end, y[letter]), (rope_left, y[letter]))
    pen.frame("rope", ROWS[2], y["q"] - TALL / 2, y["k"] + TALL / 2, rope, rounding=9, fill=0.16)
    pen.name((rope_left + rope_end) / 2, (y["q"] + y["k"]) / 2, "rope", rope, ha="center")
    shared = f"k, v: {_count(facts.heads('k'), 'head')}"
    pen.text(EXIT - 4, y["v"] - 7, shared, matrices["v"], ha="right")

    softmax_y = y["v"] + ROW + 2
    for letter, x in ("q", rope_end), ("k", rope_end), ("v", matrix_end):
        points = (x, y[letter]), (EXIT, y[letter]), (EXIT, softmax_y), (rope_end, softmax_y)
        pen.line(tags, *points)
    reaches = ", ".join(
        f"{_count(n, 'layer') if i == 0 else n}: {'all' if window is None else f'last {window}'}"
        for i, (n, window) in enumerate(facts.reaches())
    )
    pen.tall("softmax", (left, rope_end), softmax_y, reaches, softmax, rounding=TALL / 2)
    begin = softmax_y + TALL / 2
    end = begin + SHORT
    pen.line(tags, (MIDDLE, begin), (MIDDLE, end))
    collected = facts.flow(facts.shapes["self_attn.o_proj"][1])
    pen.text(MIDDLE - 7, (begin + end) / 2, collected, tags, ha="right")
    name = "self_attn.o_proj"
    pen.box(name, INSIDE, end + BOX / 2, facts.shape(name), matrix)
    return end + BOX


def _draw_gate(pen, facts, top, entry):
    """What is in the MLP's frame from top on, entered from a box that ends at entry."""
    tags = {"mlp", "block", "step"}
    changed, layers = tags | {"changes"}, tags | {"weights"}
    pen.name(ENTRY, top + 9, "mlp", tags)
    y = top + 19 + TALL / 2
    times = y + TALL / 2 + 14
    for name, columns, side in ("gate", HALVES[0], -1), ("up", HALVES[1], 1):
        x, name = sum(columns) / 2, f"mlp.{name}_proj"
        pen.line(tags, (x, entry), (x, y - TALL / 2))
        pen.tall(name, columns, y, facts.shape(name), layers | {"changes"})
        pen.line(changed, (x, y + TALL / 2), (x, times), (MIDDLE + side * PLUS, times))
    pen.text(sum(HALVES[0]) / 2 - 7, times - 6, "gelu", changed, ha="right")
    pen.times("gelu(gate) × up", MIDDLE, times, changed)
    begin, end = times + PLUS, times + PLUS + SHORT
    pen.line(tags, (MIDDLE, begin), (MIDDLE, end))
    hidden = facts.flow(facts.shapes["mlp.down_proj"][1])
    pen.text(MIDDLE - 7, (begin + end) / 2, hidden, tags, ha="right")
    pen.box("mlp.down_proj", INSIDE, end + BOX / 2, facts.shape("mlp.down_proj"), layers)
    return end + BOX


def _draw_gemma3_output(pen, facts, y):
    """From the stream to the next token, and the way back to the ids."""
    head, (V, C) = {"head", "step"}, facts.shapes["embed_tokens"]
    pen.stream(y, y + GAP, head)
    pen.text(STREAM - 7, y + GAP / 2, facts.flow(C), head, ha="right")
    y += GAP + BOX / 2
    pen.box("norm", ON_STREAM, y, facts.shape("norm"), head | {"norms", "weights", "changes"})
    pen.text(BRANCH[0], y, "of the last row", head)
    y += BOX / 2
    pen.line(head, (STREAM, y), (STREAM, y + ARROW))
    y += ARROW + TALL / 2
    pen.frame("head", ON_STREAM, y - TALL / 2, y + TALL / 2, head | {"weights"}, fill=0.16)
    pen.name(STREAM, y - 6, "embed_tokens.T", head | {"weights"}, ha="center")
    pen.text(STREAM, y + 6, _shape_text((C, V)), head | {"weights"}, ha="center")
    pen.text(BRANCH[0], y, "the same weight", head | {"weights"})
    y += TALL / 2
    pen.line(head | {"sampling"}, (STREAM, y), (STREAM, y + GAP))
    pen.flow(STREAM, y + GAP / 2, _shape_text((V,)), "scores", head | {"sampling"})
    return _draw_sampling(pen, y + GAP, {"sampling"})

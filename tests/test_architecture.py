"""book/_ext/architecture.py: what it draws is the model, and it highlights the right pieces."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import architecture
import gpt2
from bookkit import BLUE, GREY, INK, ROOT, plt

SMALL = {"n_layer": 3, "n_embd": 12, "n_head": 2, "n_positions": 20, "vocab_size": 300}
GPT2 = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
XL = GPT2 | {"n_layer": 48, "n_embd": 1600, "n_head": 25}  # the widest numbers
ONE = SMALL | {"n_layer": 1, "n_head": 1}
CONFIGS = {"small": SMALL, "gpt2": GPT2, "xl": XL, "one": ONE}

NORMS = {"h.0.ln_1", "h.0.ln_2", "ln_f"}
ATTENTION = {"h.0.attn", "h.0.attn.c_attn", "h.0.attn.c_proj", "+ h.0.attn"}
MLP = {"h.0.mlp", "h.0.mlp.c_fc", "h.0.mlp.c_proj", "+ h.0.mlp"}
COLOURED = {
    None: set(),
    "tokens": {"Tokenizer"},
    "embeddings": {"wte", "wpe", "+ wpe"},
    "attention": ATTENTION,
    "mlp": MLP,
    "block": ATTENTION | MLP | {"h.0", "h.0.ln_1", "h.0.ln_2"},
    "norm": NORMS,
    "head": {"ln_f", "lm_head"},
    "sampling": {"generate"},
}


def model_of(config: dict) -> gpt2.GPT2:
    with torch.device("meta"):
        return gpt2.GPT2(config | {"layer_norm_epsilon": 1e-5})


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS)
def drawn(request):
    """A config and its model, to be drawn and not to be changed."""
    return request.param, model_of(request.param)


@pytest.fixture
def draw():
    """Give a function that draws a model; close its figures in the end."""
    yield architecture.diagram
    plt.close("all")


def texts(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.axes[0].texts]


def boxes(fig: Figure) -> dict:
    """The drawing's boxes and sums, by the name of what they stand for."""
    named = [patch for patch in fig.axes[0].patches if patch.get_label()]
    assert len({patch.get_label() for patch in named}) == len(named)
    return {patch.get_label(): patch for patch in named}


def modules_with_weights(model: gpt2.GPT2) -> dict[str, tuple[int, ...]]:
    """The shapes of their weights by name, those of the blocks after the first left out."""
    weights = {n.removesuffix(".weight"): p for n, p in model.state_dict().items() if "weight" in n}
    return {n: tuple(p.shape) for n, p in weights.items() if not re.match(r"h\.[1-9]", n)}


def shape_text(*shape: int | str) -> str:
    return f"({shape[0]},)" if len(shape) == 1 else f"({', '.join(map(str, shape))})"


def test_has_every_name_of_the_model(drawn, draw):
    config, model = drawn
    fig = draw(model)
    blocks = {1: "h.0", 3: "h.0 … h.2", 12: "h.0 … h.11", 48: "h.0 … h.47"}[config["n_layer"]]
    assert blocks in texts(fig)
    parts = {part for name in model.state_dict() for part in name.split(".")[:-1]}
    assert parts - {"h"} - set(map(str, range(48))) <= set(texts(fig))
    modules = {name for name in boxes(fig) if "+" not in name} - {"Tokenizer", "generate"}
    groups = {"h.0", "h.0.attn", "h.0.mlp"}
    assert modules - groups == modules_with_weights(model).keys() and groups < modules


def test_numbers_are_those_of_the_model(drawn, draw):
    config, model = drawn
    fig = draw(model)
    shown = texts(fig)
    shapes = [shape_text(*shape) for shape in modules_with_weights(model).values()]
    C, V = config["n_embd"], config["vocab_size"]
    shapes += [shape_text("T")] + 3 * [shape_text("T", C)]
    shapes += [shape_text("T", n) for n in (3 * C, 4 * C, V)]
    assert sorted(text for text in shown if text.startswith("(")) == sorted(shapes)
    assert f"× {config['n_layer']}" in shown
    assert ("1 head" if config["n_head"] == 1 else f"{config['n_head']} heads") in shown


@pytest.mark.parametrize("highlight", [None, *architecture.HIGHLIGHTS])
def test_colours_the_highlighted_pieces(drawn, highlight, draw):
    _, model = drawn
    fig = draw(model, highlight)
    expected = {**COLOURED, "weights": modules_with_weights(model).keys()}[highlight]
    edges = {name: to_hex(box.get_edgecolor()) for name, box in boxes(fig).items()}
    assert {name for name, edge in edges.items() if edge == BLUE} == expected
    assert set(edges.values()) <= {BLUE, GREY}
    others = {to_hex(patch.get_edgecolor()) for patch in fig.axes[0].patches}
    assert (BLUE in others) == (highlight is not None)

    # A name is in ink where its box is blue, and bold unless all is alike.
    for text in fig.axes[0].texts:
        if "monospace" in text.get_fontfamily():
            at = fig.axes[0].transData.transform(text.get_position())
            around = [box for box in boxes(fig).values() if box.get_window_extent().contains(*at)]
            box = min(around, key=lambda box: box.get_window_extent().width)
            on = to_hex(box.get_edgecolor()) == BLUE
            assert text.get_fontweight() == ("bold" if on else "normal")
            assert (text.get_color() == INK) == (on or highlight is None)


@pytest.mark.parametrize("highlight", [None, "block", "weights"])  # bold letters are wider
def test_texts_are_legible_and_apart(drawn, highlight, draw):
    _, model = drawn
    fig = draw(model, highlight)
    assert fig.get_size_inches()[0] <= 5
    fig.draw_without_rendering()
    placed = [(text.get_text(), text.get_window_extent()) for text in fig.axes[0].texts]
    for (one, here), (other, there) in itertools.combinations(placed, 2):
        assert not here.overlaps(there), f"{one} is on {other}"
    for text, extent in placed:
        assert fig.bbox.x0 <= extent.x0 and extent.x1 <= fig.bbox.x1, text
        for name, box in boxes(fig).items():
            frame = box.get_window_extent()
            if frame.overlaps(extent):
                assert frame.x0 < extent.x0 and extent.x1 < frame.x1, f"{text} leaves {name}"
    assert min(text.get_fontsize() for text in fig.axes[0].texts) >= 9


def test_says_that_weights_are_shared(draw):
    loaded, _ = gpt2.load(str(ROOT / "book/models/fairy-gpt2"))
    note = "the weight of wte"
    assert note in texts(draw(loaded))
    loaded.lm_head = copy.deepcopy(loaded.lm_head)
    assert note not in texts(draw(loaded))
    assert note not in texts(draw(model_of(SMALL)))  # nothing is shared before weights are loaded


@pytest.mark.filterwarnings("ignore")  # PyTorch announces a successor
def test_draws_quantized_modules(draw):
    model = gpt2.GPT2(SMALL | {"layer_norm_epsilon": 1e-5})
    before = texts(draw(model))
    kinds = {torch.nn.Linear: torch.ao.quantization.per_channel_dynamic_qconfig}
    torch.ao.quantization.quantize_dynamic(model, kinds, inplace=True)
    assert texts(draw(model)) == before


def test_unknown_highlight():
    model = model_of(SMALL)
    for function in (architecture.diagram, architecture.describe):
        with pytest.raises(ValueError, match="'heads'.*tokens, embeddings, .*, weights"):
            function(model, "heads")


def change(model: gpt2.GPT2, where: str, name: str, part: object) -> gpt2.GPT2:
    module = model.get_submodule(where)
    if isinstance(module, torch.nn.ModuleDict):
        module[name] = part
    else:
        setattr(module, name, part)
    return model


@pytest.mark.parametrize(
    ("where", "name", "part", "message"),
    [
        ("", "drop", torch.nn.Dropout(), "no place for drop in the model"),
        ("h.0", "ln_3", torch.nn.LayerNorm(12), "no place for ln_3 in the model's h.0"),
        ("h.2.attn", "q_norm", torch.nn.LayerNorm(6), "no place for q_norm in .*h.2.attn"),
        ("ln_f", "inner", torch.nn.Linear(2, 2), "no place for inner in the model's ln_f"),
        ("", "scale", torch.nn.Parameter(torch.ones(1)), "no place for scale in the model"),
        ("h.1.ln_1", "gain", torch.nn.Parameter(torch.ones(1)), "no place for gain in .*h.1.ln_1"),
        ("", "ln_f", torch.nn.LayerNorm(12, elementwise_affine=False), "expects weight in .*ln_f"),
        ("", "ln_f", None, "expects ln_f in the model"),
        ("", "h", torch.nn.ModuleList(), "no blocks"),
        ("h.1.mlp", "c_fc", torch.nn.Linear(12, 13), "h.1 differs from h.0"),
        ("h.2", "n_head", 3, "h.2 differs from h.0"),
    ],
)  # fmt: skip
def test_part_without_a_place(where, name, part, message):
    model = change(model_of(SMALL), where, name, part)
    for function in (architecture.diagram, architecture.describe):
        with pytest.raises(ValueError, match=message):
            function(model)
    assert not plt.get_fignums()


def test_describes_the_same():
    model = model_of(GPT2)
    text = architecture.describe(model)
    shown = ("T ids", "12 blocks", "12 heads", "3072", "(50257, 768)", "(T, 768)", "(T, 50257)")
    assert all(words in text for words in shown) and "Highlighted" not in text
    for highlight, words in architecture.HIGHLIGHTS.items():
        assert architecture.describe(model, highlight) == f"{text} Highlighted: {words}."
    assert "1 block adds twice" in architecture.describe(model_of(ONE))

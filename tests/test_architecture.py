"""book/_kit/architecture.py: what it draws are the models, and it highlights the right pieces."""

from __future__ import annotations

import copy
import itertools
import re
from types import SimpleNamespace

import numpy as np
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
    "changes": NORMS | {"Tokenizer", "wpe", "+ wpe", "h.0.attn.c_attn", "h.0.mlp.c_fc"},
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
    check_colours(fig, highlight)


def check_colours(fig: Figure, highlight: str | None) -> None:
    """Something is coloured unless all is alike, and names go with their boxes."""
    others = {to_hex(patch.get_edgecolor()) for patch in fig.axes[0].patches}
    assert others <= {BLUE, GREY}
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
    check_texts(draw(model, highlight))


def check_texts(fig: Figure) -> None:
    """No text is on another, leaves its box, or is too small on a narrow screen."""
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
    unloaded = model_of(SMALL)
    assert note not in texts(draw(unloaded))  # nothing is shared before weights are loaded
    unloaded.lm_head.weight = unloaded.wte.weight
    assert note in texts(draw(unloaded))


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


# --- Gemma 3 ---------------------------------------------------------------------------------

# Vocabulary, features, heads of queries and of keys, size of a head, of the MLP; layers, window
TINY = (300, 12, 4, 2, 6, 20, 7, 5)
G270M = (262144, 640, 4, 1, 256, 2048, 18, 512)
G27B = (262144, 5376, 32, 16, 128, 21504, 62, 1024)  # the widest numbers
SINGLE = (300, 12, 1, 1, 6, 20, 1, 5)
GEMMAS = {"tiny": TINY, "270M": G270M, "27B": G27B, "single": SINGLE}

BEFORE_AND_AFTER = {
    f"{place}_layernorm" for place in
    ("input", "post_attention", "pre_feedforward", "post_feedforward")
}  # fmt: skip
QK_NORMS = {"self_attn.q_norm", "self_attn.k_norm"}
QKV = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}
GEMMA_ATTENTION = QK_NORMS | QKV | {
    "self_attn", "rope", "softmax", "self_attn.o_proj", "+ self_attn",
}  # fmt: skip
GATE = {"mlp.gate_proj", "mlp.up_proj", "gelu(gate) × up"}
GEMMA_MLP = GATE | {"mlp", "mlp.down_proj", "+ mlp"}
GEMMA_BLOCK = GEMMA_ATTENTION | GEMMA_MLP | BEFORE_AND_AFTER | {"layers.0"}
GEMMA_NORMS = BEFORE_AND_AFTER | QK_NORMS | {"norm"}
GEMMA_STEP = GEMMA_BLOCK | {"embed_tokens", "× scale", "norm", "head"}
GEMMA_COLOURED = {
    None: set(),
    "tokenizer": {"Tokenizer"},
    "embedding": {"embed_tokens", "× scale"},
    "norms": GEMMA_NORMS,
    "rope": {"rope"},
    "attention": GEMMA_ATTENTION,
    "windows": {"softmax"},
    "mlp": GEMMA_MLP,
    "block": GEMMA_BLOCK,
    "head": {"norm", "head"},
    "step": GEMMA_STEP,
    "sampling": {"generate"},
    "weights": GEMMA_NORMS | QKV | {"self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
                                    "mlp.down_proj", "embed_tokens", "head"},
    "changes": GEMMA_NORMS | GATE | {"Tokenizer", "× scale", "self_attn.k_proj",
                                     "self_attn.v_proj", "rope", "softmax"},
    "all": GEMMA_STEP | {"Tokenizer", "generate"},
}  # fmt: skip


def zeros(*shape: int) -> np.ndarray:
    """An array that takes no room, however large it is."""
    return np.broadcast_to(np.float32(0), shape)


def gemma_of(V: int, C: int, H: int, K: int, d: int, M: int, L: int, window: int) -> tuple:
    """Params and config of a Gemma 3 in the form that gemma3.load gives; each layer a dict."""

    def layer() -> dict:
        norms = {name: zeros(C) for name in BEFORE_AND_AFTER} | {n: zeros(d) for n in QK_NORMS}
        q, k, v = zeros(H * d, C), zeros(K * d, C), zeros(K * d, C)
        attention = {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": zeros(C, H * d)}
        mlp = {"gate_proj": zeros(M, C), "up_proj": zeros(M, C), "down_proj": zeros(C, M)}
        return (
            norms
            | {f"self_attn.{name}": weight for name, weight in attention.items()}
            | {f"mlp.{name}": weight for name, weight in mlp.items()}
        )

    params = {"embed_tokens": zeros(V, C), "norm": zeros(C), "layers": [layer() for _ in range(L)]}
    layers = tuple((None if i % 6 == 5 else window, "more") for i in range(L))
    return params, SimpleNamespace(layers=layers)


@pytest.fixture(params=GEMMAS.values(), ids=GEMMAS)
def gemma(request):
    yield gemma_of(*request.param)
    plt.close("all")


def test_gemma_has_every_name_and_number_of_the_params(gemma):
    params, config = gemma
    layer, L = params["layers"][0], len(params["layers"])
    fig, _ = architecture.gemma3(params, config)
    weights = {name for name in boxes(fig) if "+" not in name and "×" not in name}
    code = {"Tokenizer", "generate", "rope", "softmax", "head", "self_attn", "mlp", "layers.0"}
    assert weights - code == layer.keys() | {"embed_tokens", "norm"} and code < weights
    names = {name.split(".")[-1] for name in layer} | {"embed_tokens", "embed_tokens.T", "norm"}
    assert names <= set(texts(fig))
    assert {1: "layers.0"}.get(L, f"layers.0 … layers.{L - 1}") in texts(fig)

    shapes = [weight.shape for weight in layer.values()]
    V, C = params["embed_tokens"].shape
    collected = layer["self_attn.o_proj"].shape[1]
    hidden = layer["mlp.down_proj"].shape[1]
    shapes += [(V, C), (C,), (C, V), (V,), ("T",)] + 3 * [("T", C)]
    shapes += [("T", collected), ("T", hidden)]
    shown = sorted(text for text in texts(fig) if text.startswith("("))
    assert shown == sorted(shape_text(*shape) for shape in shapes)
    d = layer["self_attn.q_norm"].shape[0]
    for letters, name in ("q", "q_proj"), ("k, v", "k_proj"):
        heads = layer[f"self_attn.{name}"].shape[0] // d
        assert f"{letters}: {heads} head{'s' * (heads != 1)}" in texts(fig)
    assert f"× {L}" in texts(fig) and f"√{C}" in texts(fig)


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ([512] * 5 + [None], "5 layers: last 512, 1: all"),
        ([4, None], "1 layer: last 4, 1: all"),
        ([None, None], "2 layers: all"),
        ([8, 8, 8], "3 layers: last 8"),
        ([8, None, 4], "1 layer: last 4, 1: last 8, 1: all"),
    ],
)
def test_gemma_says_how_far_layers_see(windows, words):
    params, config = gemma_of(*TINY[:6], len(windows), 1)
    config.layers = tuple((window,) for window in windows)
    fig, _ = architecture.gemma3(params, config)
    plt.close(fig)
    assert words in texts(fig)


@pytest.mark.parametrize("highlight", GEMMA_COLOURED)
def test_gemma_colours_the_highlighted_pieces(gemma, highlight):
    fig, _ = architecture.gemma3(*gemma, highlight)
    edges = {name: to_hex(box.get_edgecolor()) for name, box in boxes(fig).items()}
    coloured = {name for name, edge in edges.items() if edge == BLUE}
    assert coloured == GEMMA_COLOURED[highlight]
    check_colours(fig, highlight)


def test_gemma_highlights_are_all_tested():
    assert set(GEMMA_COLOURED) == {None, *architecture.GEMMA3}


@pytest.mark.parametrize("highlight", [None, "all"])  # bold letters are wider
def test_gemma_texts_are_legible_and_apart(gemma, highlight):
    fig, _ = architecture.gemma3(*gemma, highlight)
    check_texts(fig)


def test_gemma_draws_joined_matrices_like_separate_ones():
    params, config = gemma_of(*G270M)
    plain, words = architecture.gemma3(params, config)
    for p in params["layers"]:
        rows = sum(p.pop(name).shape[0] for name in sorted(QKV))
        p["self_attn.qkv_proj"] = zeros(rows, 640)
        rows = p.pop("mlp.gate_proj").shape[0] + p.pop("mlp.up_proj").shape[0]
        p["mlp.gate_up_proj"] = zeros(rows, 640)
    joined, joined_words = architecture.gemma3(params, config)
    plt.close("all")
    assert texts(joined) == texts(plain) and joined_words == words


def test_gemma_of_the_embedded_weights():
    """The drawing suits what gemma3.load gives."""
    pytest.importorskip("jax")
    import gemma3

    config, params, _ = gemma3.load(str(ROOT / "book/models/gemma-3-270m"))
    fig, words = architecture.gemma3(params, config)
    expected, expected_words = architecture.gemma3(*gemma_of(*G270M))
    plt.close("all")
    assert texts(fig) == texts(expected) and words == expected_words


def test_gemma_unknown_highlight():
    with pytest.raises(ValueError, match="'heads'.*tokenizer, embedding, .*, all"):
        architecture.gemma3(*gemma_of(*TINY), "heads")


def change_gemma(params: dict, config: SimpleNamespace, where: str) -> None:
    layer = params["layers"][2]
    if where == "a bias":
        layer["self_attn.q_bias"] = zeros(24)
    elif where == "no norm":
        del layer["self_attn.k_norm"]
    elif where == "a separate head":
        params["lm_head"] = zeros(300, 12)
    elif where == "no embedding":
        del params["embed_tokens"]
    elif where == "another width":
        layer["mlp.down_proj"] = zeros(12, 19)
    elif where == "no layers":
        params["layers"], config.layers = [], ()
    elif where == "another count":
        config.layers = config.layers[1:]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("a bias", "no place for self_attn.q_bias in layers.2"),
        ("no norm", "expects self_attn.k_norm in layers.2"),
        ("a separate head", "no place for lm_head in the params"),
        ("no embedding", "expects embed_tokens in the params"),
        ("another width", "layers.2 differs from layers.0"),
        ("no layers", "no layers"),
        ("another count", "the config has 6 layers, but the params 7"),
    ],
)
def test_gemma_part_without_a_place(where, message):
    params, config = gemma_of(*TINY)
    change_gemma(params, config, where)
    with pytest.raises(ValueError, match=message):
        architecture.gemma3(params, config)
    assert not plt.get_fignums()


def test_gemma_describes_the_same():
    _, text = architecture.gemma3(*gemma_of(*G270M))
    plt.close("all")
    shown = ["T ids", "(262144, 640)", "(T, 640)", "18 layers", "2048 wide", "262144 scores"]
    shown += ["4 heads of queries share 1 head of keys and values"]
    shown += ["the last 512 tokens in 15 layers and all tokens in 3 layers"]
    assert all(words in text for words in shown) and "Highlighted" not in text
    for highlight, words in architecture.GEMMA3.items():
        _, highlighted = architecture.gemma3(*gemma_of(*TINY), highlight)
        plt.close("all")
        assert highlighted.endswith(f" Highlighted: {words}.")

"""What the chapters share: where the weights are, what a page says of them, and how figures look.

A chapter imports this module; the kernel finds it because tiny_models.execute puts book/_kit on
its path. Nothing here is part of the models.
"""

import html
import io
import json
import os
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from IPython.display import HTML, Markdown
from myst_nb import glue

ROOT = Path(__file__).resolve().parents[2]

# --- weights ---------------------------------------------------------------------------------

ON_HUB = os.environ.get("TINY_MODELS_WEIGHTS") == "hub"
HUB = {"fairy-gpt2": "openai-community/gpt2", "gemma-3-270m": "google/gemma-3-270m"}
TERMS = "[Gemma Terms of Use](https://ai.google.dev/gemma/terms)"


def weights(name):
    """The directory of embedded weights, or with TINY_MODELS_WEIGHTS=hub their Hub repository."""
    if ON_HUB:
        return HUB[name]
    return os.path.relpath(ROOT / "book" / "models" / name)


def weights_file(name, file):
    """The path of one file of these weights, downloaded first if they are on the Hub."""
    if ON_HUB:
        from huggingface_hub import hf_hub_download, logging

        logging.set_verbosity_error()
        return Path(hf_hub_download(HUB[name], file))
    return Path(weights(name), file)


def provenance(*names):
    """A note for the reader: which weights made the outputs of this page."""
    return Markdown("\n\n".join(map(_describe, names)))


def _describe(name):
    if ON_HUB:
        text = f"`{HUB[name]}`, downloaded from the Hugging Face Hub"
    elif name == "fairy-gpt2":
        config = json.loads((ROOT / "book/models/fairy-gpt2/config.json").read_text())
        text = (
            "`book/models/fairy-gpt2`, a small GPT-2 that we trained on stories for children "
            f"({config['n_layer']} blocks, {config['n_embd']} features)"
        )
    else:
        text = (
            "`book/models/gemma-3-270m`, Google's Gemma 3 270M (the base model, not the one for "
            "chats), made from a copy with 7.4 bits a weight on average; the weights are under the "
            f"{TERMS}"
        )
    return f"**Weights.** The outputs on this page come from {text}."


# --- figures ---------------------------------------------------------------------------------

# Okabe and Ito's colours, which colour-blind readers can tell apart, in the order of use; each is
# mid-bright, so that it shows on white and on near-black alike.
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = (
    "#2f8fd0", "#e08a1e", "#12a178", "#c070a8", "#d9603b", "#8a8f98",
)  # fmt: skip
INK = "#010203"  # stands for the colour of the page's text, see figure()

plt.rcParams.update({
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, RED, GREY]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "figure.figsize": (7, 3.2),
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "tiny-models",  # the same figure is the same file
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
})  # fmt: skip

# Heat maps: nothing is transparent, so that zero is the page itself in a light and a dark theme.
HEAT = matplotlib.colors.LinearSegmentedColormap.from_list("heat", [BLUE + "00", BLUE + "ff"])
DIVERGING = matplotlib.colors.LinearSegmentedColormap.from_list(
    "diverging", [(0, ORANGE + "ff"), (0.5, ORANGE + "00"), (0.5, BLUE + "00"), (1, BLUE + "ff")]
)


def figure(name, fig, alt):
    """Glue a Matplotlib figure under a name, for a `{glue:figure}` directive to place.

    It becomes an inline SVG whose INK is the page's own text colour, so that it suits light and
    dark themes. `alt` says the figure's message to those who can't see it.
    """
    buffer = io.StringIO()
    fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    plt.close(fig)
    svg = buffer.getvalue().replace(INK, "currentColor")
    tag, content = svg[svg.index("<svg") :].split(">", maxsplit=1)
    width = re.search(r'width="([\d.]+)pt"', tag)[1]
    tag = re.sub(r' (width|height)="[^"]*"', "", tag)
    style = f"width: {width}pt; max-width: 100%; height: auto"
    svg = f'{tag} role="img" aria-label="{html.escape(alt)}" style="{style}">{content}'
    # One figure's ids must not meet another's on the same page.
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    glue(name, HTML(svg), display=False)

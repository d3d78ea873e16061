"""Models by name: the real `huggingface_hub` in a process of its own, and a Hub on this machine."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SRC, assert_one_line
from hub_server import COMMIT, HubServer
from safetensors.numpy import load_file, save_file

NAMES = {"gpt2": "someone/tiny-gpt2", "gemma3": "someone/tiny-gemma3"}
NAMES["find"] = NAMES["gemma3"]
FILES = {
    "gpt2": ["config.json", "vocab.json", "model.safetensors"],
    "gemma3": ["config.json", "tokenizer.model", "model.safetensors"],
}
NOT_FOUND = "Repository Not Found"
NO_NETWORK = {"gpt2": "check your connection", "gemma3": "check your internet connection"}
# The library waits between attempts, up to half a minute in all: here, not at all.
IMPATIENT = """
import os, runpy, sys, time
time.sleep = lambda seconds: None
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# What the scripts do first, without starting JAX: enough for what only concerns the download.
FIND = """
import sys, time
time.sleep = lambda seconds: None
sys.path[0] = sys.argv[1]
from gemma3_files import find
try:
    print("the", find(sys.argv[2]))
except OSError as error:
    sys.exit(print("gemma3.py:", *str(error).split(), file=sys.stderr) or 2)
"""

both = pytest.mark.parametrize("script", ["gpt2", "gemma3"])
gpt2_only = pytest.mark.parametrize("script", ["gpt2"])
gemma3_only = pytest.mark.parametrize("script", ["gemma3"])
find_only = pytest.mark.parametrize("script", ["find"])


@pytest.fixture
def hub(tiny_gpt2, tiny_gemma3):
    with HubServer({NAMES["gpt2"]: tiny_gpt2, NAMES["gemma3"]: tiny_gemma3}) as server:
        yield server


@pytest.fixture
def run(tmp_path, hub):
    """Run a script, or only `find`, with an empty cache of the Hub's files in a home of its own."""

    def call(script: str, name: str | None = None, **changes: str) -> tuple[int, str, str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith("HF_")}
        kept = {n: v for n, v in kept.items() if not n.lower().endswith("_proxy")}
        kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
        kept |= {"HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", IMPATIENT, SRC / f"{script}.py", "the", "--tokens", "4"]
        command += ["--model", name or NAMES[script]]
        if script == "find":
            command = [sys.executable, "-c", FIND, SRC, name or NAMES["gemma3"]]
        done = subprocess.run(
            command, capture_output=True, text=True, env=kept | changes, cwd=tmp_path, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    return call


def cached(tmp_path: Path, script: str) -> dict[str, int]:
    """Give the files that the cache shows under their names, and their sizes."""
    folder = f"cache/hub/models--{NAMES[script].replace('/', '--')}/snapshots/{COMMIT}"
    return {path.name: path.stat().st_size for path in (tmp_path / folder).glob("*")}


def assert_text(result: tuple[int, str, str]) -> None:
    status, out, err = result
    assert (status, err) == (0, "")
    assert out.startswith("the") and out.endswith("\n") and len(out) > 4


@both
def test_a_model_is_downloaded_once_and_then_works_offline(run, hub, tmp_path, script):
    first = run(script)
    assert_text(first)
    assert sorted(hub.downloads()) == sorted(FILES[script])
    assert sorted(cached(tmp_path, script)) == sorted(FILES[script])
    assert {authorization for *_, authorization in hub.requests} == {""}
    hub.requests.clear()
    hub.n_questions = 0
    assert run(script, HF_HUB_OFFLINE="1") == first
    assert hub.requests == [] and hub.n_questions == 0


@both
def test_a_second_run_downloads_nothing(run, hub, script):
    first = run(script)
    assert_text(first)
    hub.requests.clear()
    assert run(script) == first
    assert hub.downloads() == []


@find_only
def test_what_was_downloaded_works_without_a_network(run, hub, script):
    first = run(script)
    assert_text(first)
    closed = HubServer({})
    closed.server.server_close()
    assert run(script, HF_ENDPOINT=closed.url) == first


@gemma3_only
def test_a_gated_model_without_a_token_tells_what_to_do(run, hub, tmp_path, script):
    hub.token = "hf_secret"
    result = run(script)
    assert_one_line(script, result, NAMES[script], "must have access", "log in")
    assert cached(tmp_path, script) == {}


@find_only
def test_a_gated_model_whose_licence_was_not_accepted_tells_where(run, hub, script):
    hub.token, hub.approved = "hf_secret", False
    result = run(script, HF_TOKEN="hf_secret")
    page = f"https://huggingface.co/{NAMES[script]}"
    assert_one_line(script, result, "restricted", f"Visit {page} to ask for access")
    assert "hf_secret" not in result[2]


@find_only
def test_hf_token_opens_a_gated_model(run, hub, script):
    hub.token = "hf_secret"
    assert_text(run(script, HF_TOKEN="hf_secret"))
    assert {authorization for *_, authorization in hub.requests} == {"Bearer hf_secret"}


@both
def test_a_repository_that_does_not_exist_is_named(run, hub, tmp_path, script):
    assert_one_line(script, run(script, "no-one/nothing"), "no-one/nothing", NOT_FOUND)
    assert hub.downloads() == []


@gemma3_only
def test_a_model_of_another_kind_is_said_to_be_one(run, hub, script):
    result = run(script, NAMES["gpt2"])
    assert_one_line(script, result, "model_type is 'gpt2'")
    assert "vocab.json" not in hub.downloads()


@find_only
def test_a_connection_that_breaks_is_tried_again(run, hub, script):
    hub.breaks["model.safetensors"] = 1000, 2
    assert_text(run(script))
    assert hub.downloads().count("model.safetensors") == 3


@find_only
def test_only_what_is_needed_is_downloaded(run, hub, tmp_path, tiny_gemma3, script):
    """Not the same weights again in another format, nor a picture; but all parts of the weights."""
    repository = tmp_path / "repository"
    shutil.copytree(tiny_gemma3, repository)
    for name in ("pytorch_model.bin", "README.md", "tokenizer.json", "picture.png"):
        (repository / name).write_bytes(b"?")
    tensors = load_file(repository / "model.safetensors")
    (repository / "model.safetensors").unlink()
    parts = {f"model-0000{i}-of-00002.safetensors": names
             for i, names in enumerate((list(tensors)[::2], list(tensors)[1::2]), 1)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, repository / file)
    weight_map = {name: file for file, names in parts.items() for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (repository / "model.safetensors.index.json").write_text(json.dumps(index))
    (repository / "generation_config.json").write_text('{"eos_token_id": 1}')
    hub.repositories["someone/parts"] = repository
    assert_text(run(script, "someone/parts"))
    expected = {"config.json", "generation_config.json", "tokenizer.model", *parts}
    assert {*hub.downloads()} == expected | {"model.safetensors.index.json"}


@find_only
def test_half_a_file_is_never_left_under_its_name(run, hub, tmp_path, tiny_gemma3, script):
    hub.breaks["model.safetensors"] = 1000, math.inf
    assert_one_line(script, run(script), NAMES[script], "closed connection")
    offline = run(script, HF_HUB_OFFLINE="1")
    assert_one_line(script, offline, NAMES[script], "incomplete", "model.safetensors", "network")
    assert "model.safetensors" not in cached(tmp_path, script)
    assert not list(tmp_path.rglob("*.incomplete"))
    hub.breaks.clear()
    assert_text(run(script))
    size = (tiny_gemma3 / "model.safetensors").stat().st_size
    assert cached(tmp_path, script)["model.safetensors"] == size


@both
def test_without_a_network_the_error_is_one_line(run, hub, script):
    closed = HubServer({})
    closed.server.server_close()
    result = run(script, HF_ENDPOINT=closed.url)
    assert_one_line(script, result, NAMES[script], NO_NETWORK[script])


@gemma3_only
def test_offline_and_never_downloaded_is_one_line(run, hub, script):
    result = run(script, HF_HUB_OFFLINE="1")
    assert_one_line(script, result, NAMES[script], "set 'HF_HUB_OFFLINE=0'")
    assert hub.requests == [] and hub.n_questions == 0

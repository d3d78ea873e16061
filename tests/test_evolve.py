"""src/evolve.py against `transformers` at both ends and with itself between; src/evolve_runs.py."""

from __future__ import annotations

import itertools
import json
import lzma
import math
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import start
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

import evolve
import evolve_runs
from evolve import CHANGES, HEADS, LAYERS, WINDOW, C, Model, T, d
from gpt2 import END_OF_TEXT, Tokenizer

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "book/compare/evolve.json"
VOCAB = ROOT / "book/models/fairy-gpt2/vocab.json"
V = 50
STAGES = [CHANGES[:n] for n in range(10)]
SOME = STAGES + [(key,) for key in CHANGES[1:]]
SOME += [tuple(k for k in CHANGES if k != key) for key in CHANGES[:-1]]
torch.set_num_threads(1)


def random_model(keys, seed=0) -> Model:
    """A model whose weights are so large that an error anywhere shows."""
    torch.manual_seed(seed)
    model = Model(keys, V, evolve.width(keys, V))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3 if p.dim() == 1 else 0.15)
    return model


def ids(length: int, B: int = 2) -> torch.Tensor:
    return torch.randint(V, (B, length), generator=torch.Generator().manual_seed(1))


# ----------------------------------------------------------------------------------- both ends


@torch.no_grad()
def test_the_first_stage_is_gpt2():
    ours = random_model(())
    config = GPT2Config(
        vocab_size=V, n_positions=T, n_embd=C, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    state = {}
    for name, p in ours.named_parameters():
        name = name.replace(".c_attn", ".attn.c_attn").replace(".c_proj", ".attn.c_proj")
        name = name.replace(".c_fc", ".mlp.c_fc").replace(".mlp_proj", ".mlp.c_proj")
        name = name.replace("norm_", "ln_")
        name = f"transformer.{name.removeprefix('norm.') and name}"
        name = name.replace("transformer.norm.", "transformer.ln_f.")
        state[name] = p.T if "c_" in name and p.dim() == 2 else p
    state["lm_head.weight"] = ours.wte.weight
    theirs.load_state_dict(state)
    assert evolve.n_parameters(ours) == sum(p.numel() for p in theirs.parameters())
    torch.testing.assert_close(ours(ids(T)), theirs(ids(T)).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_last_stage_is_gemma_3():
    ours = random_model(CHANGES)
    F = ours.h[0].c_fc.out_features
    config = Gemma3TextConfig(
        vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=1, head_dim=d, query_pre_attn_scalar=d,
        sliding_window=WINDOW, max_position_embeddings=4 * T, pad_token_id=None,
    )  # fmt: skip
    theirs = Gemma3ForCausalLM(config).eval()
    names = {"c_proj": "self_attn.o_proj", "c_fc": "mlp.gate_proj", "c_gate": "mlp.up_proj"}
    names |= {"mlp_proj": "mlp.down_proj", "norm_q": "self_attn.q_norm"}
    names |= {"norm_k": "self_attn.k_norm", "norm_1": "input_layernorm"}
    names |= {"post_1": "post_attention_layernorm", "norm_2": "pre_feedforward_layernorm"}
    names |= {"post_2": "post_feedforward_layernorm"}
    state = {"model.embed_tokens.weight": ours.wte.weight, "lm_head.weight": ours.wte.weight}
    state["model.norm.weight"] = ours.norm.weight
    for i, block in enumerate(ours.h):
        for ours_name, their_name in names.items():
            state[f"model.layers.{i}.{their_name}.weight"] = getattr(block, ours_name).weight
        parts = block.c_attn.weight.split((C, d, d))
        for name, part in zip("qkv", parts):
            state[f"model.layers.{i}.self_attn.{name}_proj.weight"] = part
    theirs.load_state_dict(state)
    assert evolve.n_parameters(ours) == sum(p.numel() for p in theirs.parameters())
    x = ids(2 * T)  # further than windows reach
    torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-3, rtol=1e-3)


# --------------------------------------------------------------------------------- all mixtures


@pytest.mark.parametrize("keys", SOME, ids="-".join)
@torch.no_grad()
def test_with_a_cache_the_scores_are_the_same(keys):
    model, x = random_model(keys), ids(WINDOW + 8, 1)
    caches, parts, start = [[] for _ in model.h], [], 0
    for length in (WINDOW + 2, 1, 3, 1, 1):  # a window is left behind
        parts.append(model(x[:, start : start + length], caches, start))
        start += length
    torch.testing.assert_close(torch.cat(parts, dim=1), model(x), atol=1e-3, rtol=1e-3)
    kept = [cache[0].shape[2] for cache in caches]
    assert kept == ([WINDOW] * 5 + [start] if "windows" in keys else [start] * 6)


def test_all_models_are_of_the_same_size_and_gpt2_is_as_wide_as_ever():
    sizes = []
    with torch.device("meta"):
        for keys in SOME:
            sizes.append(evolve.n_parameters(Model(keys, 2000, evolve.width(keys, 2000))))
    assert max(abs(size / sizes[0] - 1) for size in sizes) < 0.01
    assert evolve.width((), V) == 4 * C


@torch.no_grad()
def test_every_change_changes_the_scores():
    x = ids(WINDOW + 8, 1)
    scores = [random_model(keys)(x) for keys in STAGES]
    assert not any(a.allclose(b) for a, b in itertools.pairwise(scores))


def test_multiplications_are_counted_by_hand():
    for keys, kv, F, seen in (((), C, 384, T), (CHANGES, d, 312, WINDOW)):
        with torch.device("meta"):
            model = Model(keys, V, F)
        matrices = C * V + LAYERS * (C * (C + 2 * kv) + C * C + (2 + ("gated" in keys)) * C * F)
        keys_seen = [sum(min(t + 1, seen) for t in range(T)) / T] * 5 + [(T + 1) / 2]
        assert math.isclose(evolve.products(model, T), matrices + 2 * C * sum(keys_seen))


def test_writing_fills_the_cache():
    for keys, heads, places in (((), 4, 6 * T), (CHANGES, 1, 5 * WINDOW + T)):
        speed, cache_bytes = evolve.write(random_model(keys), T)
        assert speed > 0 and cache_bytes == 2 * heads * d * places * 4


def test_the_loss_by_place_is_that_of_each_piece():
    model, text = random_model(CHANGES), ids(4 * T + 9)[0]  # the rest is left out
    for length in (T, 4 * T):
        nats = evolve.held_out_nats(model, text, length)
        assert nats.shape == (length - 1,)
        with torch.no_grad():
            scores = model(text[: 4 * T].view(-1, length))[:, :-1].log_softmax(dim=2)
        answers = text[: 4 * T].view(-1, length)[:, 1:, None]
        torch.testing.assert_close(nats, -scores.gather(2, answers)[..., 0].mean(dim=0))


def test_training_learns_and_can_be_repeated():
    text, losses = torch.arange(600) % 30, []
    for _ in range(2):
        model = evolve.new_model(CHANGES, V, 0)
        losses.append(list(itertools.islice(evolve.train(model, text, 200, 0, 2e-3, 1), 12)))
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0] - 0.5


# ------------------------------------------------------------------------------------- the runs


def story(n: int) -> str:
    words = "the goose laid an egg of gold for a king".split()
    return f"Number {n} {' '.join(random.Random(n).choices(words, k=700))}.\n{END_OF_TEXT}"


@pytest.fixture
def folder(tmp_path):
    """A directory with stories and the vocabulary."""
    pack(tmp_path, 41)
    shutil.copy(VOCAB, tmp_path / "vocab.json")
    return tmp_path


def pack(folder: Path, n: int) -> None:
    text = "".join(story(i) for i in range(1, n + 1))
    (folder / "stories.txt.xz").write_bytes(lzma.compress(text.encode()))


class Pool:
    """A pool of processes that is none."""

    def __init__(self, jobs, prepare, arguments):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def imap_unordered(self, call, jobs):
        return map(call, jobs)


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """Call main as if from the command line, every run a made-up one; exit status and stderr."""
    done = []

    def call(job):
        keys, seed, peak = job
        if len(done) == call.until:
            raise KeyboardInterrupt
        done.append(job)
        return {"keys": keys, "seed": seed, "peak": peak, "bits": 1.5}

    def main(*options: str, until: int | None = None) -> tuple[int, str]:
        call.until = until
        files = [folder / name for name in ("stories.txt.xz", "vocab.json", "record.json")]
        monkeypatch.setattr(sys, "argv", ["evolve_runs.py", *map(str, files), *options])
        status = 0
        try:
            evolve_runs.main()
        except SystemExit as end:
            status = end.code
        except KeyboardInterrupt:
            status = 130
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    class Context:
        Pool = Pool

    monkeypatch.setattr(evolve_runs.multiprocessing, "get_context", lambda how: Context)
    monkeypatch.setattr(evolve_runs, "call", call)
    main.done = done
    return main


def test_the_plan_has_every_run_once_and_the_stages_first():
    plan = evolve_runs.plan()
    assert len(plan) == len({(tuple(keys), seed, peak) for keys, seed, peak in plan}) == 82
    assert [keys for keys, _, _ in plan[:10]] == [list(keys) for keys in STAGES]
    assert [seed for _, seed, _ in plan[:30]] == [0] * 10 + [1] * 10 + [2] * 10
    for keys in SOME:
        assert [list(keys), 2, evolve_runs.PEAK] in [list(job) for job in plan]


def test_a_broken_off_experiment_goes_on_and_a_finished_one_does_not_begin_again(run, folder):
    assert run(until=7)[0] == 130
    record = json.loads((folder / "record.json").read_text())
    assert [len(record["runs"]), len(run.done)] == [7, 7]
    assert run()[0] == 0
    record = json.loads((folder / "record.json").read_text())
    assert [[r["keys"], r["seed"], r["peak"]] for r in record["runs"]] == [
        list(job) for job in evolve_runs.plan()
    ]
    assert len(run.done) == 82
    assert run()[0] == 0 and len(run.done) == 82
    assert {path.name for path in folder.iterdir()} == {
        "stories.txt.xz", "vocab.json", "record.json",
    }  # fmt: skip


def test_a_text_as_ids_and_as_bits(folder):
    data = evolve_runs.read(folder / "stories.txt.xz", folder / "vocab.json")
    tokenizer = Tokenizer(json.loads(VOCAB.read_bytes()))
    held_out = story(20) + story(40)
    tokens = tokenizer.encode(held_out)
    assert len(data.held_out) == len(tokens)
    rare = data.held_out == data.V - 1
    words = {"".join(tokenizer.decode([i])) for i, r in zip(tokens, rare) if r}
    assert words == {" 20", " 40"}  # of all others there are thirty
    share = 2 / len(tokens)
    assert data.rare == pytest.approx(share * math.log(50_257 - data.V + 1))
    assert data.bits_per_nat == pytest.approx(len(tokens) / math.log(2) / len(held_out.encode()))


def no_stories(folder: Path) -> str:
    (folder / "stories.txt.xz").unlink()
    return "stories.txt.xz"


def not_compressed(folder: Path) -> str:
    (folder / "stories.txt.xz").write_text(story(1))
    return "stories.txt.xz: LZMAError"


def too_few(folder: Path) -> str:
    pack(folder, 19)
    return "stories.txt.xz has 19 stories; it takes 20"


def no_vocabulary(folder: Path) -> str:
    (folder / "vocab.json").unlink()
    return "vocab.json"


def half_a_vocabulary(folder: Path) -> str:
    (folder / "vocab.json").write_text('{"a": 0}')
    return f"vocab.json: KeyError: '{END_OF_TEXT}'"


def no_record(folder: Path) -> str:
    (folder / "record.json").write_text("{")
    return "record.json: JSONDecodeError"


def another_record(folder: Path) -> str:
    evolve_runs.save(folder / "record.json", json.loads(RECORD.read_text()) | {"sha256": "0"})
    return "record.json has runs with sha256 0"


def no_runs(folder: Path) -> str:
    (folder / "record.json").write_text('{"sha256": "0"}')
    return "record.json is no record"


SPOILERS = [no_stories, not_compressed, too_few, no_vocabulary, half_a_vocabulary, no_record]


@pytest.mark.parametrize("spoil", [*SPOILERS, another_record, no_runs])
def test_bad_input_is_one_line_and_nothing_is_written(run, folder, spoil):
    word = spoil(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    status, err = run()
    lines = [line for line in err.splitlines() if not line.startswith("usage")]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("evolve_runs.py: error: ")
    assert word in lines[0]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before and not run.done


@pytest.mark.parametrize("options", ["--jobs 0", "--steps 0", "--steps 15"])
def test_impossible_options_are_an_error(run, options):
    status, err = run(*options.split())
    assert status == 2 and "--jobs has to be" in err.splitlines()[-1] and not run.done


def test_a_record_of_other_steps_is_not_continued(run):
    assert run("--steps", "10", until=1)[0] == 130
    status, err = run("--steps", "20")
    assert status == 2 and "steps 10, not 20" in err and len(run.done) == 1


def test_real_runs_until_ctrl_c(folder):
    """Two processes; what is recorded is what the record of the book has."""
    record = folder / "record.json"
    process = start("evolve_runs", folder / "stories.txt.xz", VOCAB, record, "--steps", "10")
    limit = time.monotonic() + 100
    while not (record.exists() and json.loads(record.read_text())["runs"]):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"") and b"Traceback" not in err
    last = err.replace(b"\r", b"\n").split(b"\n")[-2]
    assert last == b"evolve_runs.py: the same command goes on"
    first = json.loads(record.read_text())["runs"][0]
    book = json.loads(RECORD.read_text())["runs"][0]
    assert first.keys() == book.keys() and first["keys"] == book["keys"] == []
    assert first["bits_4T"] is None and len(first["curve"]) == 1 and len(book["curve"]) == 40
    for key in ("cache_bytes", "batch", "peak"):
        assert first[key] == book[key]


# ------------------------------------------------------------------------------ the book's record


def test_the_record_is_of_the_plan():
    record = json.loads(RECORD.read_text())
    assert record["steps"] == evolve_runs.STEPS and record["seeds"] == evolve_runs.SEEDS
    jobs = [(r["keys"], r["seed"], r["peak"]) for r in record["runs"]]
    plan = evolve_runs.plan()
    assert len(jobs) == len({str(job) for job in jobs}) and all(job in plan for job in jobs)

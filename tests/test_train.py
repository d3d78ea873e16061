"""src/train.py, corpus.py and rows.py: each part for itself, then the command on a tiny corpus."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import start
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel
from transformers.utils import logging

import corpus as corpus_module
import gpt2
import rows
import train

FAIRY = Path(__file__).resolve().parents[1] / "book/models/fairy-gpt2"
END = gpt2.END_OF_TEXT
N_VOCAB = 50_257
SHAPE = {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 16, "layer_norm_epsilon": 1e-5}
CONFIG = {"model_type": "gpt2", "activation_function": "gelu_new", "vocab_size": N_VOCAB} | SHAPE

torch.set_num_threads(1)
logging.disable_progress_bar()


def new_model(seed: int = 0, **config: int) -> gpt2.GPT2:
    """A new model, as train.py makes it, its weights so large that an error anywhere shows."""
    model = gpt2.GPT2(SHAPE | config)
    model.lm_head.weight = model.wte.weight
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = ".ln_" in f".{name}" and name.endswith("weight")
            parameter.normal_(float(is_scale), 0.3)
    return model


def has_own_row(wte: torch.Tensor) -> torch.Tensor:
    """Which tokens (V,) have a row that no other token has."""
    _, kind, count = wte.unique(dim=0, return_inverse=True, return_counts=True)
    return count[kind] == 1


# --------------------------------------------------------------------------------------- stories

LONG = "Once upon a time there was a goose. " * 60 + "\n"
OTHER = "There was once a king who had three sons. " * 60 + "\n"


@pytest.mark.parametrize("heading", ["THE GOLDEN GOOSE", "The Golden Goose", "XII. THE KING'S SON"])
def test_a_heading_ends_a_story_and_begins_the_next(heading):
    assert corpus_module.stories(f"{LONG}{heading}\n{OTHER}") == [LONG, OTHER]
    assert corpus_module.stories(f"A BOOK\nThe first\n{LONG}{heading}\n{OTHER}") == [LONG, OTHER]


@pytest.mark.parametrize("line", ["'Come in.'", '"Come in!"', "Come in;", "Go on-", "It (ran)"])
def test_a_short_line_that_ends_in_punctuation_is_no_heading(line):
    assert corpus_module.stories(f"{LONG}{line}\n{OTHER}") == [f"{LONG}{line}\n{OTHER}"]


@pytest.mark.parametrize("line", ["II.", "XIV", "I", "[From the Danish.]", "[1] A note"])
def test_numbers_of_parts_and_remarks_are_left_out(line):
    assert corpus_module.stories(f"{LONG}{line}\n{OTHER}") == [LONG + OTHER]


@pytest.mark.parametrize("note", ["This folk-tale", "Folk-lore", "The Editor", "In translation"])
def test_what_talks_like_an_editor_is_left_out(note):
    assert corpus_module.stories(f"{LONG}NOTES\n{note} is known. {OTHER}") == [LONG]


def test_only_what_is_long_enough_is_a_story():
    assert corpus_module.stories("") == []
    for length, found in ((2000, 0), (2001, 1)):
        text = "a" * (length - 2) + ".\n"
        assert len(text) == length and len(corpus_module.stories(f"A STORY\n{text}")) == found


def test_where_stories_are_parted_already_all_of_them_are_taken():
    book = f"{END}A short one.\n\n{END}\nII.\nThe Editor\n{END}\n"
    assert corpus_module.stories(book) == ["A short one.", "II.\nThe Editor"]


# -------------------------------------------------------------------------------------- held out


def number(n: int, words: int = 30) -> str:
    return f"{n} " * words


def test_a_passage_is_twenty_words_whatever_stands_between_them():
    words = [f"w{n}" for n in range(22)]
    plain = corpus_module.passages(" ".join(words))
    assert plain == {" ".join(words[n : n + 20]) for n in range(3)}
    assert corpus_module.passages('"' + ", ".join(words).upper() + '!"\n') == plain
    assert corpus_module.passages(" ".join(words[:19])) == set()


def test_every_twentieth_story_and_every_twentieth_book_are_held_out():
    own = [number(n) for n in range(1, 42)]
    books = [[number(100 * n), number(100 * n + 1)] for n in range(1, 42)]
    parts = corpus_module.split(own, books)
    assert parts["held_out_stories"] == [own[19], own[39]]
    assert parts["held_out_books"] == [*books[19], *books[39]]
    rest = [story for n, story in enumerate(own, 1) if n not in (20, 40)]
    rest += [story for n, book in enumerate(books, 1) if n not in (20, 40) for story in book]
    assert parts["trained_on"] == rest


@pytest.mark.parametrize("shared", [19, 20])
def test_what_shares_twenty_words_with_a_held_out_story_is_left_out(shared):
    own = [number(n) for n in range(1, 21)]
    copy = f"Before. {number(20, shared)} after."
    parts = corpus_module.split(own, [[copy]])
    assert (copy in parts["trained_on"]) == (shared == 19) and own[19] in parts["held_out_stories"]
    parts = corpus_module.split([copy, *own[1:19], number(77), *own[1:]], [])
    assert len(parts["trained_on"]) == 38 and number(77) in parts["held_out_stories"]


def test_books_below_the_folder_are_not_collections(tmp_path):
    (tmp_path / "more/even").mkdir(parents=True)
    for n in range(1, 21):
        (tmp_path / f"{n:02}.txt").write_text(f"{number(n)}{END}")
        (tmp_path / f"more/{'even/' * (n % 2)}{n:02}.txt").write_text(f"{number(n + 50)}{END}")
    (tmp_path / "README.md").write_text(f"{number(99)}{END}")
    parts = corpus_module.read_corpus(tmp_path)
    assert [len(part) for part in parts.values()] == [38, 1, 1]
    assert parts["held_out_stories"] == [number(20).strip()]
    assert parts["held_out_books"] == [number(69).strip()]


# ------------------------------------------------------------------------------------------ rows


def test_tokens_that_occur_twenty_times_get_rows_and_the_others_share_one():
    ids = torch.tensor([5] * 20 + [2] * 19 + [7] * 100)
    often, row = rows.compact(ids, 9)
    assert often.tolist() == [5, 7] and row.tolist() == [2, 2, 2, 2, 2, 0, 2, 1, 2]
    assert row[ids].bincount().tolist() == [20, 100, 19]


@torch.no_grad()
def test_a_model_that_begins_with_a_full_one_gives_its_scores():
    full = new_model(vocab_size=40)
    often = torch.tensor([3, 11, 12, 39])
    others = torch.tensor([n for n in range(40) if n not in often.tolist()])
    full.wte.weight[others] = full.wte.weight[0].clone()  # alike, as in a file of ours
    model = first_model(torch.tensor([1.0] * 4 + [36.0]), n_embd=8)
    rows.begin_with(model, full, often)
    assert model.lm_head.weight is model.wte.weight
    compact = torch.randint(5, (2, 9))
    ids = torch.cat((often, torch.tensor([0])))[compact]
    ours, theirs = model.lm_head(model(compact)), full.lm_head(full(ids))
    torch.testing.assert_close(ours[..., :4], theirs[..., often])
    torch.testing.assert_close(ours[..., 4], theirs[..., 0] + math.log(36))
    torch.testing.assert_close(
        train.surprise(model, compact[:, :-1], compact[:, 1:]),
        train.surprise(full, ids[:, :-1], ids[:, 1:]),
    )


# ----------------------------------------------------------------------------- loss, first weights


def test_surprise_is_the_cross_entropy():
    model = new_model(vocab_size=30)
    ids = torch.randint(30, (3, 11))
    with torch.no_grad():
        nats = train.surprise(model, ids[:, :-1], ids[:, 1:])
        logits = model.lm_head(model(ids[:, :-1]))
    theirs = torch.nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none")
    assert nats.shape == (3, 10) and nats.min() > 0
    torch.testing.assert_close(nats, theirs)


def test_surprise_does_not_depend_on_what_comes_later():
    model = new_model(vocab_size=30)
    ids = torch.randint(30, (1, 11))
    changed = ids.clone()
    changed[0, 7:] = (ids[0, 7:] + 1) % 30
    with torch.no_grad():
        before, after = (train.surprise(model, row[:, :-1], row[:, 1:]) for row in (ids, changed))
    assert before[0, :6].equal(after[0, :6]) and not before[0, 6:].isclose(after[0, 6:]).any()


def first_model(counts: torch.Tensor, **config: int) -> gpt2.GPT2:
    """A model with the weights that training begins with."""
    model = gpt2.GPT2(SHAPE | {"n_embd": 64, "vocab_size": len(counts)} | config)
    model.lm_head.weight = model.wte.weight
    torch.manual_seed(0)
    rows.initialize(model, counts)
    return model


def test_the_first_weights_have_the_spread_of_gpt2():
    counts = torch.tensor([1.0] * 500)
    for name, parameter in first_model(counts, n_layer=3, n_positions=100).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif ".ln_" in f".{name}":
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / math.sqrt(6) if "c_proj" in name else 0.02
            assert abs(parameter.std().item() / expected - 1) < 0.05, name
            assert abs(parameter.mean().item()) < 0.1 * expected, name


@pytest.mark.parametrize("others", [1, 7, 50_000])
def test_a_new_model_finds_every_token_of_the_vocabulary_equally_likely(others):
    model = first_model(torch.tensor([1.0] * 30 + [others]))
    ids = torch.randint(30, (4, 17))
    with torch.no_grad():
        nats = train.surprise(model, ids[:, :-1], ids[:, 1:])
    assert nats.mean().item() == pytest.approx(math.log(30 + others), abs=0.1)


def test_one_row_is_to_the_loss_what_as_many_equal_rows_would_be():
    """A row that stands for seven tokens: the same surprise and gradient as seven equal rows."""
    one = first_model(torch.tensor([1.0] * 30 + [7.0]))
    seven = first_model(torch.ones(37))
    with torch.no_grad():
        for name, parameter in one.named_parameters():
            if name == "wte.weight":
                seven.wte.weight.copy_(torch.cat([parameter[:-1], parameter[-1].expand(7, -1)]))
            elif name != "lm_head.bias":
                seven.get_parameter(name).copy_(parameter)
    ids = torch.randint(30, (2, 17))
    losses = [train.surprise(model, ids[:, :-1], ids[:, 1:]).mean() for model in (one, seven)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    theirs = seven.wte.weight.grad
    torch.testing.assert_close(one.wte.weight.grad[:-1], theirs[:30])
    torch.testing.assert_close(one.wte.weight.grad[-1], theirs[30:].sum(dim=0))
    assert one.lm_head.bias.grad is None


def test_if_all_tokens_occur_the_row_of_the_others_has_no_part():
    model = first_model(torch.tensor([1.0] * 30 + [0.0]))
    ids = torch.arange(90) % 30
    loss = train.train_step(model, train.optimizers(model), ids, 0.5)
    assert loss == pytest.approx(math.log(30), abs=0.1)
    assert all(parameter.isfinite().all() for parameter in model.wte.parameters())


# ------------------------------------------------------------------------------------- optimization


@pytest.mark.parametrize(
    ("done", "share"), [(0.002, 0.1), (0.02, 1), (0.3, 1), (0.6, 1), (0.8, 0.5), (1, 0)]
)
def test_the_learning_rate_rises_stays_and_falls(done, share):
    model = new_model(vocab_size=30)
    both = train.optimizers(model)
    train.train_step(model, both, torch.arange(90) % 30, done, batch=1, peak=0.7)
    for optimizer in both:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.7 * share, abs=1e-6)


def test_each_weight_has_one_optimizer_and_muon_has_the_matrices_of_the_blocks():
    model = first_model(torch.ones(30))
    muon, adamw = train.optimizers(model)
    assert isinstance(muon, torch.optim.Muon) and isinstance(adamw, torch.optim.AdamW)
    of = [{id(p) for p in optimizer.param_groups[0]["params"]} for optimizer in (muon, adamw)]
    for name, p in model.named_parameters():
        is_matrix = name.startswith("h.") and p.dim() == 2
        assert [id(p) in ids for ids in of] == [is_matrix, not is_matrix and p.requires_grad], name
    assert sum(map(len, of)) == len([p for p in model.parameters() if p.requires_grad])


def test_a_step_reports_the_loss_before_it_and_leaves_no_gradient():
    model = new_model(vocab_size=30)
    ids = torch.randint(30, (len(model.wpe.weight) + 1,))  # room for one piece only
    with torch.no_grad():
        expected = train.surprise(model, ids[None, :-1], ids[None, 1:]).mean().item()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = train.train_step(model, train.optimizers(model), ids, 0.5, batch=3)
    assert loss == pytest.approx(expected, rel=1e-4)
    after = list(model.parameters())
    assert all(parameter.grad is None for parameter in after)
    assert not any(a.equal(b) for a, b in zip(after, before, strict=True))


def test_the_gradient_is_that_of_the_mean_surprise_cut_to_length_1():
    model = new_model(vocab_size=30)
    ids = torch.randint(30, (len(model.wpe.weight) + 1,))
    found = {}

    class Optimizer:
        param_groups = [{}]

        def step(self):
            found.update((name, p.grad.clone()) for name, p in model.named_parameters())

        def zero_grad(self):
            model.zero_grad()

    train.train_step(model, [Optimizer()], ids, 0.5, batch=2)
    logits = model.lm_head(model(ids[None, :-1]))
    torch.nn.functional.cross_entropy(logits.mT, ids[None, 1:]).backward()
    length = sum(p.grad.square().sum() for p in model.parameters()).sqrt().item()
    assert length > 1
    for name, parameter in model.named_parameters():
        expected = parameter.grad / length
        torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-3)


def test_training_learns_a_text_and_that_no_other_tokens_occur():
    model = first_model(torch.tensor([1.0] * 30 + [970.0]), n_embd=32)
    both, ids = train.optimizers(model), torch.arange(300) % 30
    losses = [train.train_step(model, both, ids, n / 160, peak=2e-2) for n in range(1, 161)]
    with torch.no_grad():
        p = model.lm_head(model(ids[None, :16])).softmax(dim=2)  # (1, T, 31)
    assert losses[0] == pytest.approx(math.log(1000), abs=0.1) and losses[-1] < 0.5
    assert p[..., -1].max() < 0.01  # 0.97 at first


# ------------------------------------------------------------------------------------ bits per byte


@pytest.mark.parametrize("length", [2, 15, 16, 17, 32, 33, 50])
def test_bits_per_byte_is_the_surprise_piece_by_piece(length):
    model = new_model(vocab_size=30)
    ids, text, context = torch.randint(30, (length,)), "é" * length, len(model.wpe.weight)
    bits, guesses = 0.0, 0
    with torch.no_grad():
        for i in range(length):
            begin = i - i % context  # of the piece that holds token i
            if i > begin:
                scores = model.lm_head(model(ids[None, begin:i]))[0, -1]
                bits -= scores.log_softmax(dim=0)[ids[i]].item() / math.log(2)
                guesses += 1
    expected = bits / guesses * length / (2 * length)  # as if all tokens had been guessed
    assert train.bits_per_byte(model, ids, text) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------------- saving


@pytest.fixture
def folder(tmp_path):
    """A directory that is complete but for the weights."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(FAIRY / name, directory)
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


@pytest.fixture
def saved(folder):
    """A saved model, the ids of the tokens that it knows, and the model as it was."""
    used = torch.tensor(sorted(random.Random(0).sample(range(N_VOCAB), 40)))
    model = new_model(vocab_size=len(used) + 1)
    counts = torch.tensor([1.0] * len(used) + [N_VOCAB - len(used)])
    model.lm_head.bias = torch.nn.Parameter(counts.log(), requires_grad=False)
    rows.save(model, used, N_VOCAB, folder / "model.safetensors")
    return folder, used, model


def test_the_file_has_float16_a_row_a_token_and_no_head(saved):
    folder, used, model = saved
    tensors = load_file(folder / "model.safetensors")
    assert set(tensors) == {name for name, _ in model.named_parameters()} - {"lm_head.bias"}
    assert not any("lm_head" in name for name in tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    rows = tensors["wte.weight"]
    assert rows.shape == (N_VOCAB, SHAPE["n_embd"])
    assert (rows != model.wte.weight[-1].half()).any(dim=1).nonzero().squeeze(1).equal(used)
    assert tensors["h.0.mlp.c_fc.weight"].shape == (8, 32)  # (n_in, n_out)


@torch.no_grad()
def test_what_is_saved_loads_and_gives_the_same_scores(saved):
    folder, used, model = saved
    loaded, tokenizer = gpt2.load(folder)
    compact = torch.randint(len(used), (2, 12))
    before = model.lm_head(model(compact))
    after = loaded.lm_head(loaded(used[compact]))
    assert tokenizer.end_of_text == N_VOCAB - 1
    known = before[..., :-1]
    assert (after[..., used] - known).abs().max() < 0.01 * known.abs().max()  # float16
    others = torch.ones(N_VOCAB, dtype=torch.bool)
    others[used] = False
    shares = after.softmax(dim=2)[..., others].sum(dim=2), before.softmax(dim=2)[..., -1]
    torch.testing.assert_close(*shares, atol=0.01, rtol=0.01)


@torch.no_grad()
def test_transformers_loads_what_is_saved(saved):
    folder, used, _ = saved
    ours, _ = gpt2.load(folder)
    theirs, notes = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = used[torch.randint(len(used), (2, 12))]
    torch.testing.assert_close(ours.lm_head(ours(ids)), theirs.eval()(ids).logits)


# ------------------------------------------------------------------------------------- command line


def story(n: int) -> str:
    """A story that has its number in it, and words of its own choice."""
    words = random.Random(n).choices("the goose laid an egg of gold for a king".split(), k=700)
    return f"Number {n} {' '.join(words)}.\n"


STORIES = [story(n) for n in range(1, 42)]


@pytest.fixture
def corpus(tmp_path):
    """Forty-one stories in two books, the second of which was written first."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    for name, part in (("b.txt", STORIES[15:]), ("a.txt", STORIES[:15])):
        (directory / name).write_text("".join(f"A STORY\n{text}" for text in part))
    (directory / "README.md").write_text(f"A STORY\n{OTHER}")
    return directory


@pytest.fixture
def run(monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """Call main as if from the command line; give the exit status and stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
        status = 0
        try:
            train.main()
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert out == ""
        return status, err

    return call


def copied(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder, folder.parent / name))


def results(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "model.safetensors").read_bytes(), (folder / "training.json").read_bytes()


def test_a_run_writes_a_model_and_a_record(run, corpus, folder):
    assert run(corpus, folder, "--steps", 3, "--seed", 5, "--peak", 0.004)[0] == 0
    record = json.loads((folder / "training.json").read_text())
    assert (record["seed"], record["peak"], len(record["loss"])) == (5, 0.004, 3)
    model, tokenizer = gpt2.load(folder)
    held_out = "".join(text + END for text in STORIES[19::20])
    trained_on = "".join(text + END for n, text in enumerate(STORIES, 1) if n % 20)
    ids = torch.tensor(tokenizer.encode(trained_on))
    often = (ids.bincount(minlength=N_VOCAB) >= rows.OFTEN).nonzero().squeeze(1)
    assert has_own_row(model.wte.weight).nonzero().squeeze(1).equal(often)
    for name, text in (("trained_on", trained_on), ("held_out_stories", held_out)):
        assert record["sha256"][name] == hashlib.sha256(text.encode()).hexdigest()
    measured = train.bits_per_byte(model, torch.tensor(tokenizer.encode(held_out)), held_out)
    assert record["bits_per_byte"] == {"held_out_stories": {"3": pytest.approx(measured, rel=1e-3)}}


def test_books_that_are_held_out_are_measured_at_the_end(run, corpus, folder):
    (corpus / "more").mkdir()
    for n in range(1, 21):
        (corpus / f"more/{n:02}.txt").write_text(f"{story(n + 100)}{END}{story(n + 200)}{END}")
    assert run(corpus, folder, "--steps", 251)[0] == 0
    record = json.loads((folder / "training.json").read_text())
    measured = record["bits_per_byte"]
    assert list(measured["held_out_stories"]) == ["250", "251"]
    assert list(measured["held_out_books"]) == ["251"]
    model, tokenizer = gpt2.load(folder)
    text = story(120).strip() + END + story(220).strip() + END
    again = train.bits_per_byte(model, torch.tensor(tokenizer.encode(text)), text)
    assert measured["held_out_books"]["251"] == pytest.approx(again, rel=1e-3)
    assert record["sha256"]["held_out_books"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_run_can_begin_with_weights(run, corpus, folder, monkeypatch):
    """Its first loss is about the last of the run before; without them it is that of a guess."""
    assert run(corpus, folder, "--steps", 60, "--peak", 0.02)[0] == 0
    last = json.loads((folder / "training.json").read_text())["loss"][-1]
    other = copied(folder, "other")
    for path in (*other.glob("run-*"), other / "model.safetensors"):
        path.unlink()
    assert run(corpus, other, "--start", folder, "--steps", 2)[0] == 0
    first = json.loads((other / "training.json").read_text())["loss"][0]
    assert first == pytest.approx(last, abs=0.5) and first < math.log(N_VOCAB) - 2
    assert run(corpus, other, "--steps", 2)[0] == 0  # another run: it does not go on with the first
    first = json.loads((other / "training.json").read_text())["loss"][0]
    assert first == pytest.approx(math.log(N_VOCAB), abs=0.3)


def test_a_seed_fixes_the_run(run, corpus, folder):
    other, third = copied(folder, "other"), copied(folder, "third")
    for directory, seed in ((folder, 0), (other, 0), (third, 1)):
        assert run(corpus, directory, "--steps", 5, "--seed", seed)[0] == 0
    assert results(folder) == results(other)
    assert results(folder)[0] != results(third)[0]


def test_an_interrupted_run_goes_on_to_the_same_bits(run, corpus, folder, monkeypatch):
    whole, steps, allowed = copied(folder, "whole"), [], [255]
    real_step = train.train_step

    def counted(model, optimizers, ids, done, peak):
        if len(steps) == allowed[0]:
            raise KeyboardInterrupt
        steps.append(done)
        return real_step(model, optimizers, ids, done, 2, peak)

    monkeypatch.setattr(train, "train_step", counted)
    assert run(corpus, whole, "--steps", 255)[0] == 0
    assert len(steps) == 255
    steps.clear()
    allowed[0] = 252
    with pytest.raises(KeyboardInterrupt):
        run(corpus, folder, "--steps", 255)
    assert len(json.loads((folder / "training.json").read_text())["loss"]) == 250
    steps.clear()
    assert run(corpus, folder, "--steps", 255)[0] == 0
    assert [round(done * 255) for done in steps] == [251, 252, 253, 254, 255]
    assert results(folder) == results(whole)
    assert not list(folder.glob("*.part"))

    # Another seed, other steps or another corpus are other runs.
    steps.clear()
    assert run(corpus, folder, "--steps", 2)[0] == 0
    (corpus / "b.txt").write_text("".join(f"A STORY\n{text}" for text in STORIES[15:40]))
    assert run(corpus, folder, "--steps", 2)[0] == 0
    assert run(corpus, folder, "--steps", 2, "--seed", 1)[0] == 0
    assert len(steps) == 6 and len(list(folder.glob("run-*.pt"))) == 4


def test_a_finished_run_is_not_begun_again(run, corpus, folder, monkeypatch):
    assert run(corpus, folder, "--steps", 2)[0] == 0
    before = results(folder)
    monkeypatch.setattr(torch.Tensor, "backward", None)
    assert run(corpus, folder, "--steps", 2)[0] == 0
    assert results(folder) == before


def other_heads(corpus: Path, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"n_head": 4}))


def other_ids(corpus: Path, folder: Path) -> None:
    vocab = json.loads((folder / "vocab.json").read_bytes())
    vocab["Ġthe"], vocab["Ġking"] = vocab["Ġking"], vocab["Ġthe"]
    (folder / "vocab.json").write_text(json.dumps(vocab))


def other_corpus(corpus: Path, folder: Path) -> None:
    (corpus / "b.txt").write_text("".join(f"A STORY\n{text}" for text in STORIES[15:40]))


def other_held_out(corpus: Path, folder: Path) -> None:
    text = (corpus / "b.txt").read_text()
    (corpus / "b.txt").write_text(text.replace("Number 20 ", "Number 21 "))


@pytest.mark.parametrize("change", [other_heads, other_ids, other_corpus, other_held_out])
def test_what_a_run_depends_on_makes_another_run(run, corpus, folder, change):
    """The same command after a change trains anew; after a return it gives the first run again."""
    files = [*corpus.iterdir(), folder / "config.json", folder / "vocab.json"]
    kept = {path: path.read_bytes() for path in files}
    assert run(corpus, folder, "--steps", 2)[0] == 0
    first = results(folder)
    change(corpus, folder)
    fresh = copied(folder, "fresh")
    for path in [*fresh.glob("run-*"), fresh / "model.safetensors", fresh / "training.json"]:
        path.unlink()
    assert run(corpus, fresh, "--steps", 2)[0] == run(corpus, folder, "--steps", 2)[0] == 0
    assert results(folder) == results(fresh) != first
    for path, data in kept.items():
        path.write_bytes(data)
    assert run(corpus, folder, "--steps", 2)[0] == 0
    assert results(folder) == first


def test_other_code_of_a_step_and_another_rate_make_another_run(run, corpus, folder, monkeypatch):
    real_step, calls = train.train_step, []

    def other_step(*arguments, **options):
        calls.append(options)
        return real_step(*arguments, **options)

    assert run(corpus, folder, "--steps", 2)[0] == 0
    monkeypatch.setattr(train, "train_step", other_step)
    assert run(corpus, folder, "--steps", 2)[0] == 0
    assert run(corpus, folder, "--steps", 2, "--peak", 0.001)[0] == 0
    assert calls == [{"peak": 0.002}] * 2 + [{"peak": 0.001}] * 2
    assert len(list(folder.glob("run-*.pt"))) == 3


def test_ctrl_c_says_in_one_line_that_the_same_command_goes_on(corpus, folder):
    process = start("train", corpus, folder, "--steps", "100000")
    shown = b""
    while not re.search(rb"\d(it/s|s/it)", shown):  # a step is done
        shown += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    *bar, last, end = (shown + err).replace(b"\r", b"\n").split(b"\n")
    assert (last, end) == (b"train.py: the same command goes on with this run", b"")
    assert all(b"/100000" in line for line in bar if line.strip())


def test_too_few_stories_are_an_error(run, corpus, folder):
    (corpus / "b.txt").write_text("".join(f"A STORY\n{text}" for text in STORIES[15:19]))
    status, err = run(corpus, folder)
    assert status == 2 and "Traceback" not in err
    message = err.splitlines()[-1]
    assert message.startswith("train.py: error: ") and f"{corpus}: fewer than 20 stories" in message
    assert not (folder / "training.json").exists()


def no_config(corpus: Path, folder: Path) -> str:
    (folder / "config.json").unlink()
    return f"{folder}/config.json: FileNotFoundError"


def no_folder(corpus: Path, folder: Path) -> str:
    shutil.rmtree(folder)
    return f"{folder}/config.json: FileNotFoundError"


def half_a_vocabulary(corpus: Path, folder: Path) -> str:
    (folder / "vocab.json").write_bytes((folder / "vocab.json").read_bytes()[:1000])
    return f"{folder}/vocab.json: JSONDecodeError"


def no_end_of_text(corpus: Path, folder: Path) -> str:
    (folder / "vocab.json").write_text('{"a": 0}')
    return f"{folder}/vocab.json: KeyError: '{END}'"


def not_utf8(corpus: Path, folder: Path) -> str:
    (corpus / "a.txt").write_bytes("A STORY\nNumber 1 ç".encode("latin-1"))
    return f"{corpus}: UnicodeDecodeError: 'utf-8'"


def no_corpus(corpus: Path, folder: Path) -> str:
    shutil.rmtree(corpus)
    return "fewer than 20 stories"


@pytest.mark.parametrize(
    "spoil", [no_config, no_folder, half_a_vocabulary, no_end_of_text, not_utf8, no_corpus]
)
def test_bad_input_is_one_line_and_nothing_is_written(run, corpus, folder, spoil):
    word = spoil(corpus, folder)
    before = set(folder.parent.rglob("*"))
    status, err = run(corpus, folder)
    lines = [line for line in err.splitlines() if not line.startswith("usage")]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("train.py: error: ")
    assert word in lines[0]
    assert set(folder.parent.rglob("*")) == before


def no_weights(folder: Path, other: Path) -> str:
    return f"{other}: FileNotFoundError"


def no_weights_at_all(folder: Path, other: Path) -> str:
    shutil.rmtree(other)
    return f"{other}: "


def damaged_weights(folder: Path, other: Path) -> str:
    (other / "model.safetensors").write_bytes(b"not weights")
    return f"{other}: SafetensorError"


def weights_that_do_not_fit_their_config(folder: Path, other: Path) -> str:
    """PyTorch says so in several lines, one for each tensor."""
    weights_of_another_shape(folder, other)
    (other / "config.json").write_text(json.dumps(CONFIG | {"n_layer": 1, "n_embd": 16}))
    return f"{other}: RuntimeError: Error(s) in loading state_dict"


def weights_of_another_shape(folder: Path, other: Path) -> str:
    (other / "config.json").write_text(json.dumps(CONFIG | {"n_layer": 1}))
    config = json.loads((other / "config.json").read_text()) | {"vocab_size": N_VOCAB}
    model = gpt2.GPT2(config)
    rows.initialize(model, torch.ones(N_VOCAB))
    rows.save(model, torch.arange(N_VOCAB - 1), N_VOCAB, other / "model.safetensors")
    return f"{other}: ValueError: its config.json is another than that of {folder}"


def half_of_the_weights(folder: Path, other: Path) -> str:
    weights_of_another_shape(folder, other)
    (other / "config.json").write_text(json.dumps(CONFIG))
    return f"{other}: KeyError: 'h.1."


@pytest.mark.parametrize(
    "spoil",
    [
        no_weights,
        no_weights_at_all,
        damaged_weights,
        weights_that_do_not_fit_their_config,
        weights_of_another_shape,
        half_of_the_weights,
    ],
)
def test_weights_to_begin_with_that_do_not_fit_are_refused(run, corpus, folder, spoil):
    other = copied(folder, "other")
    word = spoil(folder, other)
    before = set(folder.parent.rglob("*"))
    status, err = run(corpus, folder, "--start", other, "--steps", 1)
    lines = [line for line in err.splitlines() if not line.startswith("usage")]
    assert status == 2 and len(lines) == 1 and lines[0].startswith("train.py: error: ")
    assert word in lines[0] and set(folder.parent.rglob("*")) == before


# --------------------------------------------------------------------------- the model that ships


def test_the_readme_of_the_small_gpt2_says_what_its_records_say():
    readme = (FAIRY / "README.md").read_text()
    names = ("training-1.json", "training-2.json", "training.json")
    first, second, third = (json.loads((FAIRY / name).read_text()) for name in names)
    steps, peak, seed = re.search(
        r"--start SECOND --steps (\d+) --peak (\S+) --seed (\d+)\n", readme
    ).groups()
    assert (int(steps), float(peak), int(seed)) == (
        len(third["loss"]),
        third["peak"],
        third["seed"],
    )
    again = re.search(r"--start FIRST --steps (\d+)\s--peak (\S+)`", readme).groups()
    assert (int(again[0]), float(again[1])) == (len(second["loss"]), second["peak"])
    measured = third["bits_per_byte"]
    assert list(measured["held_out_stories"]) == [str(n) for n in range(250, int(steps) + 1, 250)]
    assert f"**{measured['held_out_stories'][steps]:.3f} bits per byte**" in readme
    assert f"**{measured['held_out_books'][steps]:.3f} bits per byte**" in readme
    assert f"{first['held_out_bits_per_byte']['4500']:.3f} after the first round" in readme
    before = {name: bits[again[0]] for name, bits in second["bits_per_byte"].items()}
    assert f"{before['held_out_stories']:.3f} after the second" in readme
    assert f"{before['held_out_books']:.3f} after the second round" in readme
    assert len(first["loss"]) * 8 * 512 == 18_432_000
    assert "4,500 steps × 8 pieces × 512 tokens = 18.4 million" in readme
    assert len(second["loss"]) == len(third["loss"]) == 1500
    assert "1,500 × 8 × 512 = 6.1 million in each of the others" in readme
    assert third["sha256"]["trained_on"] in readme


def test_the_small_gpt2_is_small_and_has_rows_for_the_tokens_of_its_stories_alone():
    readme = (FAIRY / "README.md").read_text()
    assert (FAIRY / "model.safetensors").stat().st_size < 25e6
    tensors = load_file(FAIRY / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    _, kind, count = tensors["wte.weight"].unique(dim=0, return_inverse=True, return_counts=True)
    alike = count.max().item()
    assert f"{len(kind) - alike:,} tokens that occur at least twenty times" in readme
    assert f"{alike:,} rows are equal" in readme
    assert has_own_row(tensors["wte.weight"]).sum() > 0.99 * (len(kind) - alike)
    assert f"{sum(tensor.numel() for tensor in tensors.values()) / 1e6:.1f} million par" in readme

"""src/gemma3_chat.py: what is read in a conversation, and what comes of it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from jinja2 import Environment

import gemma3
import gemma3_chat

SRC = Path(__file__).resolve().parents[1] / "src"
MARK = re.compile("(<bos>|<start_of_turn>|<end_of_turn>)")
# The template that Google's models come with, without its parts for images and system messages.
TEMPLATE = """\
{{ '<bos>' }}
{%- for message in messages -%}
    {%- if message['role'] == 'assistant' -%}
        {%- set role = 'model' -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\\n' }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor -%}
{{- '<start_of_turn>model\\n' }}"""


def by_template(tokenizer: Any, *texts: str) -> list[int]:
    """Token ids of a conversation, whose texts are by the user and by the model in turn."""
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts)]
    text = Environment().from_string(TEMPLATE).render(messages=messages)
    ids = []
    for part in MARK.split(text):
        ids += [tokenizer.special[part]] if MARK.fullmatch(part) else tokenizer.encode(part)
    return ids


@pytest.fixture(scope="module")
def model(tiny_gemma3):
    return gemma3.load(tiny_gemma3)


@pytest.fixture
def read(monkeypatch):
    """What is read: pairs of the first position, and the ids from there on."""
    calls = []
    original = gemma3.read

    def spy(config, params, ids, cache, start):
        calls.append((start, ids[0].tolist()))
        return original(config, params, ids, cache, start)

    monkeypatch.setattr(gemma3, "read", spy)
    return calls


def say(monkeypatch, *answers: list[int]) -> None:
    """Make the model draw these ids, whatever it thinks."""
    drawn = iter([i for answer in answers for i in answer])
    monkeypatch.setattr(gemma3, "draw", lambda *_: jnp.array([[next(drawn)]]))


def converse(conversation, text: str, *options: Any, **more: Any) -> list[int]:
    conversation.hear(text)
    return list(conversation.answer(*options, **more))


def test_what_is_read_is_the_template_of_the_whole_conversation(model, read, monkeypatch):
    tokenizer = model[-1]
    said = ["  the hen, \n\n and the ant\n", "in the den", "An", "the end", "he\nin"]
    end = tokenizer.special["<end_of_turn>"]
    say(monkeypatch, *([*tokenizer.encode(text), end] for text in said[1::2]), [1])
    conversation = gemma3_chat.Conversation(*model)
    for text in said[::2]:
        converse(conversation, text, 50)
    ids = [i for _, part in read for i in part]
    assert ids == conversation.ids == by_template(tokenizer, *said)


def test_each_position_is_read_once(model, read):
    conversation = gemma3_chat.Conversation(*model)
    for text in ("the hen", "the ant", "the end"):
        converse(conversation, text, 12)
    n = 0
    for start, part in read:
        assert start == n
        n += len(part)
    assert conversation.n_read == n == len(conversation.ids) - 1  # the last was only drawn


@pytest.mark.parametrize("sampling", [(), (3.0, 50, 0.9, 7)])
def test_answers_are_those_of_a_whole_conversation_read_anew(model, sampling):
    """Far beyond the local layers' window of 8, and beyond the 1,031 places of their rings."""
    config, params, tokenizer = model
    conversation = gemma3_chat.Conversation(*model)
    answers = []
    for text in ("the hen", "an ant in " * 300, "the end", "he"):
        conversation.hear(text)
        ids = list(conversation.ids)
        answers.append(list(conversation.answer(30, *sampling)))
        anew = [i for [i] in gemma3.generate(config, params, ids, 30, *sampling)]
        assert answers[-1] == anew
    assert len(conversation.ids) > 1100 and len({*map(tuple, answers)}) > 1


def test_a_mark_that_the_user_types_is_plain_characters(model):
    tokenizer = model[-1]
    conversation = gemma3_chat.Conversation(*model)
    conversation.hear("the<end_of_turn>\n<start_of_turn>model\n<bos>")
    special = tokenizer.special
    marks = ("<start_of_turn>", "<end_of_turn>", "<bos>")
    assert [conversation.ids.count(special[mark]) for mark in marks] == [2, 1, 1]
    assert "the<end_of_turn>" in "".join(tokenizer.decode(conversation.ids))


@pytest.mark.parametrize("moment", ["read", "draw"])
def test_an_interrupted_answer_leaves_a_conversation(model, monkeypatch, moment):
    config, params, tokenizer = model
    conversation = gemma3_chat.Conversation(*model)
    converse(conversation, "the hen", 5)
    n, original = 0, getattr(gemma3, moment)

    def interrupted(*arguments):
        nonlocal n
        n += 1
        result = original(*arguments)
        if n == 4:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(gemma3, moment, interrupted)
    conversation.hear("an ant")
    ids = list(conversation.ids)
    with pytest.raises(KeyboardInterrupt):
        list(conversation.answer(20))
    monkeypatch.undo()
    begun = conversation.ids[len(ids) :]
    assert len(begun) == 3
    conversation.hear("the end")
    special = tokenizer.special
    expected = ids + begun + [special["<end_of_turn>"], *tokenizer.encode("\n")]
    expected += by_template(tokenizer, "the end")[1:]
    assert conversation.ids == expected
    anew = [i for [i] in gemma3.generate(config, params, expected, 20)]
    assert list(conversation.answer(20)) == anew


def test_an_answer_ends_with_the_context(model, read):
    config, params, tokenizer = model
    small = config._replace(context=60)
    conversation = gemma3_chat.Conversation(small, params, tokenizer)
    assert len(converse(conversation, "the hen", 500)) > 10
    assert len(conversation.ids) == 60 and conversation.n_read == 59
    assert converse(conversation, "the ant", 500) == []
    assert conversation.n_read == 59


# ------------------------------------------------------------------------------ as a program


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


INTERRUPTIBLE = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # `make test &` ignores it
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def program(typed: str, *arguments: Any) -> tuple[int, str, str]:
    command = [sys.executable, SRC / "gemma3_chat.py", *map(str, arguments)]
    done = subprocess.run(
        command, input=typed, capture_output=True, encoding="utf-8", env=environment(), timeout=120
    )
    return done.returncode, done.stdout, done.stderr


REMARK = "gemma3_chat.py: this model was not made for conversations\n"


def test_each_line_is_answered_until_an_empty_one(tiny_gemma3, model):
    typed = ["the hen", "  an ant ", "/new", "the hen"]
    options = ("--model", tiny_gemma3, "--temperature", 0, "--tokens", 7)
    status, out, err = program("\n".join([*typed, "", "never answered"]), *options)
    assert (status, err) == (0, REMARK)
    tokenizer, expected = model[-1], []
    for texts in (typed[:2], typed[3:]):
        conversation = gemma3_chat.Conversation(*model)
        for text in texts:
            expected.append("".join(tokenizer.decode(converse(conversation, text, 7))))
    assert out == "".join(f"{text}\n" for text in expected)
    assert expected[0] == expected[2]


def test_a_full_context_is_said_and_ends_the_conversation(tiny_gemma3, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(tiny_gemma3, copy)
    config = json.loads((copy / "config.json").read_bytes()) | {"max_position_embeddings": 50}
    (copy / "config.json").write_text(json.dumps(config))
    status, out, err = program("the hen\nthe ant\n", "--model", copy)
    assert status == 0 and err == REMARK + "gemma3_chat.py: the context is full\n"
    assert out.endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--model", "/none"], "/none"), (["--top-k", "0"], "--top-k"), (["--tokens", "x"], "x")],
)
def test_errors_are_one_line(arguments, word):
    status, out, err = program("the\n", *arguments)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("gemma3_chat.py: ") and word in err


def test_a_model_for_conversations_is_one_by_its_files(tiny_gemma3, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(tiny_gemma3, copy)
    (copy / "generation_config.json").write_text('{"eos_token_id": [1, 106]}')
    assert program("", "--model", copy) == (0, "", "")


def test_ctrl_c_ends_an_answer_and_then_the_conversation(tiny_gemma3):
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", INTERRUPTIBLE, SRC / "gemma3_chat.py"]
    command += ["--model", tiny_gemma3, "--tokens", "15000"]
    variables = environment() | {"PYTHONPATH": str(SRC)}
    process = subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, stderr=pipe)
    process.stdin.write(b"the hen\n")
    process.stdin.flush()
    assert process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.readline()
    while not rest.endswith(b"\n"):
        rest = process.stdout.readline()
    assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err.decode()) == (130, REMARK)
    assert len(out) < 30_000


def test_the_prompt_is_shown_at_a_terminal_only(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("the hen\n"))
    assert gemma3_chat.ask() == "the hen" and gemma3_chat.ask() == ""
    assert capsys.readouterr().out == "> > "
    monkeypatch.setattr(sys, "stdin", io.StringIO("the ant\n"))
    assert gemma3_chat.ask() == "the ant"
    assert capsys.readouterr().out == ""

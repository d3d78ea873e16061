"""What `make bench` makes of its measurements: which rows, when it is done, and its verdicts."""

import sys

import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "tests/bench"))

import machine  # noqa: E402
import table  # noqa: E402


def test_rows_are_chosen_by_name_or_by_the_beginning_of_one():
    assert table.chosen([]) == table.LINES
    assert {line.row for line in table.chosen(["decode", "gemma-word"])} == {"decode", "gemma-word"}
    assert {line.row for line in table.chosen(["gemma"])} == {
        row for row in table.ASKED if row.startswith("gemma-")
    }
    with pytest.raises(ValueError, match="no row gem, nothing"):
        table.chosen(["gem", "decode", "nothing"])


def test_each_row_has_a_mark_and_each_job_comes_once():
    assert {line.row for line in table.LINES} == set(table.ASKED)
    jobs = table.jobs_of(table.LINES)
    assert len(jobs) == len(set(jobs)) and "machine torch read" in jobs


@pytest.mark.parametrize("unit, values, agree", [
    ("tokens/s", [100, 98, 50], True),
    ("tokens/s", [50, 100, 90], False),
    ("tokens/s", [100], False),
    ("s", [2, 1, 1.02], True),
    ("s", [2, 2, 1], False),
    ("× weights", [1.1, 1.3, 1.31], True),
    ("× weights", [1.1, 1.1, 1.3], False),
    ("other ids", [0], True),
    ("s", [], False),
])
def test_rounds_agree_when_the_two_best_do(unit, values, agree):
    assert table.settled(unit, values) == agree


@pytest.mark.parametrize("value, sign, mark, goal, reached", [
    (1.5, "≥", 1, 1.5, "goal"),
    (1.49, "≥", 1, 1.5, "mark"),
    (0.5, "≥", 1, 1.5, "missed"),
    (1.004, "≤", 1.2, 1, "goal"),  # it is printed as 1
    (1.01, "≤", 1.2, 1, "mark"),
    (0, "≤", 0, None, "mark"),
])
def test_verdicts_are_about_what_is_printed(value, sign, mark, goal, reached):
    assert table.verdict(value, sign, mark, goal) == reached


def test_the_best_peer_is_compared_and_disagreement_shown():
    lines = table.chosen(["gemma-prompt", "gemma-start", "gemma-first"])
    found = {
        "gemma ours prompt": [90, 100, 99],
        "gemma transformers prompt": [50, 50],
        "gemma transformers prompt bfloat16": [20, 80, 80],
        "gemma ours start": [2, 3],
        "gemma transformers start": [4, 4],
        "gemma transformers start bfloat16": [5, 5],
    }

    def figures(unit, job):
        return found.get(job, [])

    assert table.unsettled(lines, figures) == [lines[1]]
    head, prompt, start, first = table.rows(lines, figures)
    assert head.split()[:3] == ["Gemma", "3", "270M"]
    assert prompt.split()[-10:] == "100 80 transformers bfloat16 1.25 ratio ≥ 1 1.3 mark".split()
    assert start.endswith("mark, but noisy") and first.endswith("failed")


def test_figures_come_from_results():
    tensors = {"wte.weight": 600, "wpe.weight": 400}
    result = {"rate": 2e6, "peak": 3500}
    assert table.figure("GB/s", result, tensors) == 1.2  # of the positions one row is read
    assert table.figure("× weights", result, tensors, imported=1000) == 2.5
    assert table.figure("GB/s", {"bytes a second": 3e9}) == 3
    assert table.figure("ms", {"rate": 50}) == 20


def test_the_machine_is_named_and_its_cache_found(tmp_path):
    info = "model name\t: A Processor\nflags\t\t: fpu avx2 amx_tile\n"
    assert machine.processor(info) == "A Processor (avx2 amx_tile)"
    for index, size in enumerate(("48K", "2048K", "480M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(f"{size}\n")
    assert machine.largest_cache(tmp_path) == 480 * 2**20
    assert machine.largest_cache(tmp_path / "nothing") == 0
    assert machine.free_memory("MemTotal: 9 kB\nMemAvailable:   1000 kB\n") == 1_024_000


def test_what_others_took_is_counted():
    before = machine.ticks("cpu  100 0 50 800 50 0 0 0 0 0\n")
    after = machine.ticks("cpu  200 0 50 1000 50 0 0 100 0 0\n")
    assert before == (150, 1000) and after == (350, 1400)
    hertz = machine.os.sysconf("SC_CLK_TCK")
    assert machine.others(before, after, 100 / hertz) == pytest.approx(0.25)

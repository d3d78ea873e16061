"""book/_kit/stages.py: the program that is meant by some keys, and what differs between two."""

from __future__ import annotations

import pytest

from stages import difference, specialize

SOURCE = '''
"""A docstring."""
def helper(x):
    return -x


def other(x):
    return x


class Thing:
    def __init__(self, keys):
        self.keys = keys
        self.size = 1 if "a" in keys else 2
        if "b" not in keys:
            self.extra = 3

    def use(self, x, y):
        if "a" in self.keys and x > 0:
            x = helper(x)
        elif "b" in self.keys or y:
            x = other(x)
        if not ("a" in self.keys):
            return x
        return x + 1
'''


def body(*keys: str) -> str:
    return specialize(SOURCE, keys)


def test_tests_of_keys_are_decided():
    assert "self.size = 1\n" in body("a") and "self.size = 2\n" in body()
    assert "self.extra = 3" in body("a") and "self.extra" not in body("b")
    assert "in keys" not in body("a", "b") and "in self.keys" not in body("a", "b")


def test_of_a_test_only_what_is_open_remains():
    assert "if x > 0:\n            x = helper(x)\n        elif y:" in body("a")
    assert "if y:\n            x = other(x)" in body()
    assert "if y" not in body("b") and "        x = other(x)\n" in body("b")


def test_what_stands_behind_a_return_is_dropped():
    assert body().rstrip().endswith("return x") and body("a").rstrip().endswith("return x + 1")


def test_what_nobody_uses_any_more_is_dropped():
    assert "def helper" in body("a") and "def helper" not in body()
    assert "def other" in body("a") and "class Thing" in body()


def test_a_block_that_loses_all_its_lines_passes():
    source = 'def f(keys):\n    if "a" in keys:\n        print()\n'
    assert specialize(source, ()) == "def f(keys):\n    pass\n"


@pytest.mark.parametrize("line", ['x = "a" in names', "x = a in keys", 'x = "a" in "b" in keys'])
def test_other_tests_stay(line):
    assert line in specialize(line, ("a",)).replace("'", '"')


def test_other_values_are_not_taken_for_outcomes():
    assert specialize("if 1:\n    f()\n", ()) == "if 1:\n    f()\n"
    assert specialize('x = "a" in keys and 0\n', ("a",)) == "x = 0\n"


@pytest.mark.parametrize("keys", [(), ("a",), ("b",), ("a", "b")])
def test_the_program_does_the_same(keys):
    one, other = {}, {}
    exec(SOURCE, one)
    exec(specialize(SOURCE, keys), other)
    things = [space["Thing"](keys) for space in (one, other)]
    assert vars(things[0]) == vars(things[1])
    for x in (-2, 0, 2):
        for y in (0, 1):
            assert things[0].use(x, y) == things[1].use(x, y)


def test_a_difference_has_its_parts_at_the_margin():
    before = "def f():\n    if x:\n        a\n        b\n\n\n\n\ndef g():\n    c\n"
    after = before.replace("        b", "        b2").replace("    c", "    c\n    d")
    assert difference(before, after) == " a\n-b\n+b2\n ⋯\n c\n+d"
    assert difference(before, before) == ""

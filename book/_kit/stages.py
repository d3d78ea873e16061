"""Show what a switch in a program changes: the program as it is without the switch.

A program that asks ``"rotary" in keys`` is several programs in one. ``specialize`` writes the one
that is meant by some keys, ``difference`` shows what differs between two of them.
"""

from __future__ import annotations

import ast
import difflib
import textwrap
from collections.abc import Collection


class Resolver(ast.NodeTransformer):
    """Decide all that depends on keys alone, and drop what is then never executed."""

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = keys

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """Replace a test of one key by its outcome."""
        self.generic_visit(node)
        match node:
            case ast.Compare(ast.Constant(str(key)), [ast.In() | ast.NotIn() as test], [where]):
                name = where.attr if isinstance(where, ast.Attribute) else None
                if isinstance(where, ast.Name):
                    name = where.id
                if name == "keys":
                    return ast.Constant((key in self.keys) == isinstance(test, ast.In))
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """Decide ``not``."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and is_decided(node.operand):
            return ast.Constant(not node.operand.value)
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Decide ``and`` and ``or``, or drop those of their parts that decide nothing."""
        self.generic_visit(node)
        decisive = isinstance(node.op, ast.Or)  # one true part decides "or", a false one "and"
        values = []
        for value in node.values:
            if is_decided(value) and value.value != decisive:
                continue
            values.append(value)
            if is_decided(value):
                break
        if not values:
            return ast.Constant(not decisive)
        if len(values) == 1 or is_decided(values[0]):
            return values[0]
        return ast.BoolOp(node.op, values)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """Choose between two values."""
        self.generic_visit(node)
        if is_decided(node.test):
            return node.body if node.test.value else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        """Keep the branch that is executed."""
        self.generic_visit(node)
        if is_decided(node.test):
            return node.body if node.test.value else node.orelse
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit all parts; leave no block empty, and nothing behind what ends it."""
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            ends = (i for i, part in enumerate(body, 1) if isinstance(part, ast.Return | ast.Raise))
            del body[next(ends, len(body)) :]
            if not body and not isinstance(node, ast.Module):
                body.append(ast.Pass())
        return node


def is_decided(node: ast.expr) -> bool:
    """Tell whether a test has an outcome already."""
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def unused(tree: ast.Module) -> set[str]:
    """Name the functions and classes that nothing else in the module mentions."""
    defined = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    used = {
        node.id
        for statement in tree.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and node.id != getattr(statement, "name", None)
    }
    return set(defined) - used


def specialize(source: str, keys: Collection[str]) -> str:
    """Give the program with every test of ``keys`` decided, and without what nobody uses then.

    Comments and blank lines are gone, as ``ast.unparse`` knows neither.
    """
    tree = ast.parse(source)
    spare = unused(tree)  # what nobody uses anyway is not our matter
    tree = Resolver(frozenset(keys)).visit(tree)
    while gone := unused(tree) - spare:
        tree.body = [node for node in tree.body if getattr(node, "name", None) not in gone]
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def difference(before: str, after: str, context: int = 1) -> str:
    """Give a unified diff without its headers.

    Each part begins at the left margin, and ``⋯`` stands between parts far from each other.
    """
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=context, lineterm="")
    hunks: list[list[str]] = []
    for line in list(lines)[2:]:
        if line.startswith("@@"):
            hunks.append([])
        else:
            hunks[-1].append(line)
    parts = []
    for hunk in hunks:
        code = textwrap.dedent("\n".join(line[1:] for line in hunk)).split("\n")
        parts.append("\n".join(line[0] + text for line, text in zip(hunk, code)).rstrip())
    return "\n ⋯\n".join(parts)

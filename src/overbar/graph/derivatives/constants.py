"""What the program calls the numbers and arrays that are no nodes: λ for 0.1, scale for a closure's array."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.extend.core import Literal

from overbar.graph.model import Node
from overbar.graph.paths import path_of
from overbar.graph.symbols import symbol

MODULES = {"jnp", "np", "jax", "lax", "nn", "math", "numpy", "jsp"}


@dataclass(frozen=True)
class Constants:
    """Names, by the number; for arrays by the very object."""

    numbers: dict[float, str] = field(default_factory=dict)
    arrays: dict[int, str] = field(default_factory=dict)


def constants_of(node: Node, eqns: Sequence[Any]) -> Constants:
    """The names in a node's expression, given to the literals of its equations, in the order of both."""
    try:
        tree = ast.parse(node.operation, mode="eval").body
    except SyntaxError:
        return Constants()
    literals = [v.val for eqn in eqns for v in eqn.invars if isinstance(v, Literal) and _is_float(v.val)]
    operands = list(_operands(tree, node))
    found = Constants()
    if len(operands) == len(literals) and all(map(_fits, operands, literals)):
        pairs = [(o, v) for o, v in zip(operands, literals, strict=True) if isinstance(o, str)]
    else:
        names = set(_names(tree, node))
        written = {float(n.value) for n in ast.walk(tree) if _is_number(n)}  # type: ignore[attr-defined]
        unnamed = {id(v): v for v in literals if np.ndim(v) or not any(_same(v, w) for w in written)}
        numbers = {float(v) for v in unnamed.values() if not np.ndim(v)}
        if len(names) != 1 or len(numbers) + sum(bool(np.ndim(v)) for v in unnamed.values()) != 1:
            return found
        pairs = [(*names, *list(unnamed.values())[:1])]
    for name, value in pairs:
        if np.ndim(value):
            found.arrays[id(value)] = symbol(name)
        else:
            found.numbers[float(value)] = symbol(name)
    return found


def _operands(tree: ast.AST, node: Node) -> Iterator[str | float]:
    """The names and numbers beside the signs of an expression, in the order of evaluation."""
    for child in ast.iter_child_nodes(tree):
        yield from _operands(child, node)
    if not isinstance(tree, ast.BinOp):
        return
    for side in (tree.left, tree.right):
        if _is_number(side):
            if not isinstance(tree.op, ast.Pow) or side is tree.left or not float(side.value).is_integer():  # type: ignore[attr-defined]
                yield float(side.value)  # type: ignore[attr-defined]
        elif (name := _name(side, node)) is not None:
            yield name


def _names(tree: ast.AST, node: Node) -> Iterator[str]:
    """All the names in an expression that are no nodes, no modules and no functions that are called."""
    if (name := _name(tree, node)) is not None:
        yield name
        return
    if isinstance(tree, ast.expr) and path_of(tree) is not None:
        return
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.Call) and child is tree.func):
            yield from _names(child, node)


def _name(tree: ast.AST, node: Node) -> str | None:
    path = path_of(tree)
    if path is None or path in node.graph or any(p.name.startswith(path) for p in node.parents):
        return None
    base = path.split(".")[0].split("[")[0]
    return None if base in MODULES or base in node.graph else path


def _is_number(tree: ast.AST) -> bool:
    return isinstance(tree, ast.Constant) and type(tree.value) in (int, float)


def _is_float(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "fV"


def _fits(operand: str | float, value: Any) -> bool:
    return isinstance(operand, str) or (not np.ndim(value) and _same(value, operand))


def _same(value: Any, number: float) -> bool:
    return bool(np.float32(value) == np.float32(number))

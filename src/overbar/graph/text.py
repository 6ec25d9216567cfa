"""A graph as text: the lecture's two columns, forward and backward in bar notation."""

from __future__ import annotations

import ast
import unicodedata
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.graph.model import Node
from overbar.graph.symbols import barred, symbol

if TYPE_CHECKING:
    from overbar.graph import Graph

WIDEST = 60  # of the forward column


def columns(graph: Graph, *, depth: int = 1, most: int = 60, width: int | None = None) -> str:
    """The nodes in order on the left; on the right, to be read from below, how each gets its bar."""
    values = graph.is_concrete
    bars = values and graph.bars_or_why()[0]
    rows: list[tuple[str, str | None]] = [("forward", "backward"), ("", "")]
    open_groups: tuple[Any, ...] = ()
    waiting: list[tuple[str, str | Node | None]] = []  # a node's line is written only if it is shown
    for node, groups in _placed(graph):
        shared = _shared(open_groups, groups)
        for level, group in enumerate(groups[shared:], start=shared):
            waiting.append(("  " * level + f"▾ {group.name}", ""))
        open_groups = groups
        margin = "  " * len(groups)
        waiting.append((margin, node))
        if depth:
            for name, inner in node.inner.items():
                waiting += _opened(node, name, inner, margin + "  ", depth, width)
    if len(waiting) > most:
        half = most // 2
        note = f"… {len(waiting) - 2 * half} more; graph.text(most=...) shows them"
        waiting = [*waiting[:half], (note, ""), *waiting[len(waiting) - half :]]
    for left, right in waiting:
        if isinstance(right, Node):
            made = forward_text(right, values, WIDEST - len(left))
            rows.append((left + made, backward_text(right, bars)))
        else:
            rows.append((left, right))
    column = max(_width(left) for left, right in rows if right is not None)
    lines = [
        (left + " " * max(column - _width(left) + 3, 1) + (right or "")).rstrip() for left, right in rows
    ]
    if width is not None and max(map(_width, lines)) > width:
        lines = [line for left, right in rows for line in _stacked(left, right or "")]
    return "\n".join(lines)


def _stacked(left: str, right: str) -> list[str]:
    """The two columns of a row below each other, where they do not fit beside each other."""
    margin = " " * (len(left) - len(left.lstrip()) + 4)
    return [left, margin + right] if right else [left]


def _placed(graph: Graph) -> list[tuple[Node, tuple[Any, ...]]]:
    """The nodes with the groups they are shown in: an input that a call is the first to use stands in it."""
    placed: list[tuple[Node, tuple[Any, ...]]] = []
    after: tuple[Any, ...] = ()
    for node in reversed(graph.order):
        after = after if node.kind == "input" else node.groups
        placed.append((node, after))
    placed.reverse()
    before: tuple[Any, ...] = ()
    for i, (node, groups) in enumerate(placed):
        if node.kind == "input":
            placed[i] = (node, groups[: _shared(before, groups)])
        before = placed[i][1]
    return placed


def _shared(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
    """How many of the outermost groups are the same."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] is other[shared]:
        shared += 1
    return shared


def _opened(
    node: Node, name: str, inner: Graph, margin: str, depth: int, width: int | None
) -> list[tuple[str, str | Node | None]]:
    """The body of a loop, branch or call, with columns of its own."""
    times = f", {node.trips} times" if node.trips is not None else ""
    title = f"{margin}▾ {name}{times}"
    room = None if width is None else width - _width(margin) - 2
    body = columns(inner, depth=depth - 1, width=room).split("\n")
    body = body[body.index("") + 1 :]  # without the headings
    return [(title, None), *((margin + "  " + line, None) for line in body)]


def forward_text(node: Node, values: bool, widest: int = WIDEST) -> str:
    """z = w * x + b = 2.5, or an input with its value; a type where there is no value."""
    made = f" = {spoken(node.operation)}" if node.operation else ""
    shown = "" if node.several else _shown(node, node.value if values else None)
    room = max(widest - _width(node.symbol) - _width(shown), 16)
    if len(made) > room:
        made = made[: room - 1] + "…"
    return node.symbol + made + shown


def backward_text(node: Node, values: bool) -> str:
    """z̄ = ȳ y (1 − y) = 0.3; what needs no gradient says so."""
    if not node.is_float:
        return "(no bar: not float)" if node.kind != "part" else ""
    if node.several:
        return ""
    if not node.needs_bar and node.kind != "input":
        return f"{barred(node.symbol)}: not needed"
    equation = node.equation
    shown = _shown(node, node.bar if values else None)
    return f"{barred(node.symbol)} = {equation}{'' if shown == f' = {equation}' else shown}"


def spoken(operation: str) -> str:
    """An expression with its names as a person writes them.

    >>> spoken("L + lam * params.w1")
    'L + λ * params.w₁'
    """
    try:
        tree = ast.parse(operation, mode="eval")
    except SyntaxError:
        return operation
    return " ".join(ast.unparse(_Spoken().visit(tree)).split())


class _Spoken(ast.NodeTransformer):
    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(symbol(node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        visited = self.visit(node.value)
        return ast.Attribute(visited, symbol(node.attr), node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.Call:
        """What is called keeps its name: jnp.gamma(x)."""
        given = [self.visit(a) for a in node.args]
        named = [ast.keyword(k.arg, self.visit(k.value)) for k in node.keywords]
        func = node.func
        if isinstance(func, ast.Attribute):  # but lam.sum() is λ.sum()
            func = ast.Attribute(self.visit(func.value), func.attr, func.ctx)
        return ast.Call(func, given, named)


def _shown(node: Node, value: Any) -> str:
    """The value if it is a number, else the type with, if it is known, the norm."""
    kind = f"{node.dtype}[{','.join(map(str, node.shape))}]"
    if value is None:
        return f" : {kind}"
    if jnp.issubdtype(node.dtype, jax.dtypes.prng_key):
        return f" : {kind}"
    array = np.asarray(value)
    if array.ndim == 0:
        return f" = {number(array)}"
    if not node.is_float or array.size == 0:
        return f" : {kind}"
    wide = array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
    with np.errstate(all="ignore"):
        return f" : {kind} ‖{number(np.linalg.norm(wide.ravel()))}‖"


def number(value: Any) -> str:
    """Four digits of a number.

    >>> number(0.25), number(123456.0), number(True)
    ('0.25', '1.235e+05', 'True')
    """
    if np.asarray(value).dtype.kind in "biu":
        return str(np.asarray(value)[()])
    return f"{np.asarray(value, dtype=None)[()]:.4g}"


def _width(text: str) -> int:
    return sum(not unicodedata.combining(c) for c in text)

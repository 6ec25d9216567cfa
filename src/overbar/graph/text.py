"""A graph as text: the lecture's two columns, forward and backward in bar notation."""

from __future__ import annotations

import ast
import itertools
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.graph.derivatives.constants import MODULES
from overbar.graph.model import Node
from overbar.graph.symbols import barred, symbol

if TYPE_CHECKING:
    from overbar.graph import Graph

WIDEST = 60  # of the forward column


Row = tuple[str, "str | Node | None"]  # a node's line is written only if it is shown


def columns(graph: Graph, *, depth: int = 1, most: int = 60, width: int | None = None) -> str:
    """The nodes in order on the left; on the right, to be read from below, how each gets its bar."""
    values = graph.is_concrete
    bars = values and graph.bars_or_why()[0]
    rows: list[tuple[list[str], str | None]] = [(["forward"], "backward"), ([""], "")]
    for left, right in _cut(_rows(graph, depth, most, width), most):
        if isinstance(right, Node):
            lines = _folded(forward_parts(right, values), min(WIDEST, width or WIDEST) - _width(left))
            rows.append(([left + line for line in lines], backward_text(right, bars)))
        else:
            rows.append(([left], right))
    column = max(_width(line) for lefts, right in rows if right is not None for line in lefts)
    found = []
    for lefts, right in rows:
        found.append((lefts[0] + " " * max(column - _width(lefts[0]) + 3, 1) + (right or "")).rstrip())
        found += lefts[1:]
    if width is not None and max(map(_width, found)) > width:
        found = [line for lefts, right in rows for line in _stacked(lefts, right or "")]
    return "\n".join(found)


def _rows(graph: Graph, depth: int, most: int, width: int | None) -> list[Row]:
    """A row for each node, and for each group that begins; of too many, the inner groups are closed."""
    rows: list[Row] = []
    placed = _placed(graph)
    level = _levels_open(placed, most)
    open_groups: tuple[Any, ...] = ()
    for groups, together in itertools.groupby(placed, key=lambda row: row[1][: level + 1]):
        nodes = [node for node, _ in together]
        closed = len(groups) > level and len(nodes) > 1
        for i in range(_shared(open_groups, groups), len(groups)):
            shut = closed and i == level
            rows.append(
                ("  " * i + f"{'▸' if shut else '▾'} {groups[i].name}{f', {len(nodes)} nodes to' * shut}", "")
            )
        open_groups = groups
        margin = "  " * len(groups)
        for node in nodes[-1:] if closed else nodes:
            rows.append((margin, node))
            if depth and len(rows) < 4 * most:
                for name, inner in node.inner.items():
                    rows += _opened(node, name, inner, margin + "  ", depth, width)
    return rows


def _levels_open(placed: Sequence[tuple[Node, tuple[Any, ...]]], most: int) -> int:
    """How many levels of groups are shown open, so that there are no more rows than `most` if possible."""
    deepest = max((len(groups) for _, groups in placed), default=0)
    if len(placed) + len({groups for _, groups in placed}) <= most:
        return deepest
    for level in range(deepest - 1, -1, -1):
        rows = {groups[: level + 1] if len(groups) > level else node for node, groups in placed}
        if 2 * len(rows) <= most:
            return level
    return 0


def _cut(rows: list[Row], most: int) -> list[Row]:
    """No more than so many rows: what lies between is told by its number."""
    if len(rows) <= most:
        return rows
    half = most // 2
    note = f"… {len(rows) - 2 * half} more; graph.text(most=...) shows them"
    return [*rows[:half], (note, ""), *rows[len(rows) - half :]]


def _stacked(lefts: list[str], right: str) -> list[str]:
    """The two columns of a row below each other, where they do not fit beside each other."""
    margin = " " * (len(lefts[0]) - len(lefts[0].lstrip()) + 4)
    return [*lefts, margin + right] if right else lefts


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


def _opened(node: Node, name: str, inner: Graph, margin: str, depth: int, width: int | None) -> list[Row]:
    """The body of a loop, branch or call, with columns of its own."""
    times = f", {node.trips} times" if node.trips is not None else ""
    title = f"{margin}▾ {name}{times}"
    room = None if width is None else width - _width(margin) - 2
    body = columns(inner, depth=depth - 1, width=room).split("\n")
    body = body[body.index("") + 1 :]  # without the headings
    return [(title, None), *((margin + "  " + line, None) for line in body)]


def forward_text(node: Node, values: bool) -> str:
    """z = w * x + b = 2.5, or an input with its value; a type where there is no value."""
    return "".join(forward_parts(node, values))


def forward_parts(node: Node, values: bool) -> tuple[str, str]:
    """z = w * x + b, and what it is."""
    made = f" = {spoken(node.operation)}" if node.operation else ""
    return node.symbol + made, "" if node.several else _shown(node, node.value if values else None)


def _folded(parts: tuple[str, str], widest: int) -> list[str]:
    """A long statement over several lines, folded between words; what it is stays in one piece."""
    words = [word for word in parts[0].split(" ") if word]
    lines = [words[0]]
    for word in [" " + word for word in words[1:]] + [parts[1]] * bool(parts[1]):
        if _width(lines[-1] + word) <= max(widest, 24):
            lines[-1] += word
        else:
            lines.append("    " + word.lstrip())
    return lines


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

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in MODULES:
            return ast.Name("π") if node.attr == "pi" else node
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
    if jnp.issubdtype(node.dtype, jax.dtypes.prng_key) or node.dtype == jax.dtypes.float0:
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

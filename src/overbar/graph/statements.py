"""The statements of a file of the user's, as parsed, by the lines they stand on."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterator
from dataclasses import dataclass

# First line, first column, last line, last column (in bytes), as ast has them.
Position = tuple[int, int, int, int]


@dataclass(eq=False)
class Statement:
    """One statement of a file, as parsed.

    Attributes:
      file: the file's name.
      node: the parsed statement.
      loops: the for and while statements around it, within its function, the outermost first.
      is_last: whether no work is left to do after it in its function.
      is_alone: whether it is all that is done in a turn of its loop.
    """

    file: str
    node: ast.stmt
    loops: tuple[ast.stmt, ...]
    is_last: bool = True
    is_alone: bool = True

    @functools.cached_property
    def value(self) -> ast.expr | None:
        """The expression it evaluates, if it has one."""
        if isinstance(self.node, ast.Expr) and isinstance(call := self.node.value, ast.Call):
            appends = isinstance(call.func, ast.Attribute) and call.func.attr == "append"
            return call.args[0] if appends and len(call.args) == 1 else call
        if (
            isinstance(self.node, ast.Assign)
            and _nested(target := self.node.targets[0])
            and _alike(target, self.node.value)
        ):
            return ast.copy_location(ast.Tuple(_flattened(self.node.value), ast.Load()), self.node.value)
        if isinstance(self.node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.Return | ast.Expr):
            return self.node.value
        for name in ("test", "iter"):
            if isinstance(found := getattr(self.node, name, None), ast.expr):
                return found
        return None

    @functools.cached_property
    def targets(self) -> tuple[str | None, ...] | str | None:
        """The variable it assigns to; a tuple where it unpacks into several; None for neither."""
        if isinstance(self.node, ast.Assign):
            if _nested(self.node.targets[0]) and _alike(self.node.targets[0], self.node.value):
                return self.leaves
            return _target(self.node.targets[0])
        if isinstance(self.node, ast.AnnAssign | ast.AugAssign):
            return _target(self.node.target)
        return None

    @functools.cached_property
    def leaves(self) -> tuple[str | None, ...]:
        """The variables it unpacks into, those of inner tuples too: c, h and ys in (c, h), ys = ..."""
        target = self.node.targets[0] if isinstance(self.node, ast.Assign) else None
        names = [_target(e) for e in _flattened(target)] if target is not None else []
        return tuple(name if isinstance(name, str) else None for name in names)

    @functools.cached_property
    def aliases(self) -> tuple[str, ...]:
        """The other variables that take the same value: b in a = b = x."""
        targets = self.node.targets[1:] if isinstance(self.node, ast.Assign) else []
        return tuple(name for target in targets if isinstance(name := _target(target), str))

    @functools.cached_property
    def expressions(self) -> dict[Position, ast.expr]:
        """Its expressions by position; of several at one position the innermost."""
        found = {}
        for node in _own_nodes(self.node):
            if isinstance(node, ast.expr):
                found[position_of(node)] = node
        return found

    @functools.cached_property
    def element(self) -> ast.expr | None:
        """What a comprehension that is its whole value makes of each item: f(w) in [f(w) for w in ws]."""
        value = self.value
        if isinstance(value, ast.Call) and len(value.args) == 1 and ast.unparse(value.func) in _GATHERING:
            value = value.args[0]
        if isinstance(value, ast.DictComp):
            found = value.value
        elif isinstance(value, ast.ListComp | ast.GeneratorExp):
            found = value.elt
        else:
            return None
        inside = [n for n in ast.walk(found) if isinstance(n, _REPEATING) or is_loop_itself(n)]
        return None if inside else found

    def generators_at(self, position: Position) -> list[ast.comprehension]:
        """The `for w in ws` of the comprehensions around a position, the innermost first."""
        around = [
            e for at, e in self.expressions.items() if isinstance(e, _REPEATING) and within(position, at)
        ]
        around.sort(key=position_of, reverse=True)
        return [g for e in around for g in e.generators]

    def expression_at(self, position: Position) -> ast.expr | None:
        if (exact := self.expressions.get(position)) is not None:
            return exact
        # From Python 3.12 on, a call of a chain over several lines starts at the last attribute's name.
        ends = [e for at, e in self.expressions.items() if at[2:] == position[2:] and at[:2] <= position[:2]]
        return max(ends, key=lambda e: position_of(e)[:2], default=None)

    def repeats_at(self, position: Position) -> bool:
        """Whether the position stands in a comprehension, which evaluates it several times."""
        return any(
            isinstance(node, _REPEATING) and within(position, position_of(node))
            for node in self.expressions.values()
        )

    def loops_itself_at(self, position: Position) -> bool:
        """Whether the call there is one that works through several values: sum, map, tree.map."""
        node = self.expression_at(position)
        return node is not None and is_loop_itself(node)


_GATHERING = ("list", "tuple")
_REPEATING = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def is_loop_itself(node: ast.AST) -> bool:
    """Whether it calls what works through several values."""
    name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return name.split(".")[-1] in {"sum", "map", "reduce", "max", "min", "tree_map", "list", "tuple"}


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement without those of the statements inside it."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def _flattened(node: ast.expr) -> list[ast.expr]:
    """The items of a tuple, and of the tuples in it."""
    if not isinstance(node, ast.Tuple | ast.List):
        return [node]
    return [leaf for item in node.elts for leaf in _flattened(item)]


def _nested(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple | ast.List) and any(
        isinstance(e, ast.Tuple | ast.List) for e in node.elts
    )


def _alike(target: ast.expr, value: ast.expr) -> bool:
    """Whether tuples in tuples are taken apart as they were put together: a, (b, c) = x, (y, z)."""
    if not isinstance(target, ast.Tuple | ast.List):
        return True
    if not isinstance(value, ast.Tuple | ast.List) or len(value.elts) != len(target.elts):
        return False
    return all(map(_alike, target.elts, value.elts))


def _target(node: ast.expr) -> tuple[str | None, ...] | str | None:
    if isinstance(node, ast.Tuple | ast.List):
        if any(isinstance(e, ast.Starred) for e in node.elts):
            return None
        names = [_target(e) for e in node.elts]
        return tuple(name if isinstance(name, str) else None for name in names)
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        key = node.slice.value
        return key if isinstance(key, str) and key.isidentifier() else None
    return None


def position_of(node: ast.expr | ast.stmt) -> Position:
    return (node.lineno, node.col_offset, node.end_lineno or 0, node.end_col_offset or 0)


def within(inner: Position, outer: Position) -> bool:
    return outer[:2] <= inner[:2] and inner[2:] <= outer[2:]


@functools.lru_cache(maxsize=256)
def _statements(file: str, text: str) -> dict[int, list[Statement]]:
    """Line -> the statements on it, the innermost last; a compound one stands on its header's lines."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, list[Statement]] = {}
    waiting: list[tuple[ast.AST, tuple[ast.stmt, ...], bool, bool]] = [(tree, (), True, True)]
    while waiting:
        node, loops, is_last, is_alone = waiting.pop()
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno if body else node.end_lineno or node.lineno
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                statement = Statement(file, node, loops, is_last, is_alone)
                for line in range(node.lineno, last + 1):
                    found.setdefault(line, []).append(statement)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            loops, is_last, is_alone = (), True, True
        is_alone = is_alone or isinstance(node, ast.For | ast.While)
        inside = (*loops, node) if isinstance(node, ast.For | ast.While) else loops
        header = {id(x) for x in (getattr(node, "iter", None),)}
        followed, preceded = _beside_work(node, 1), _beside_work(node, -1)
        waiting += [
            (
                child,
                loops if id(child) in header else inside,
                is_last and id(child) not in followed,
                is_alone and id(child) not in followed | preceded,
            )
            for child in ast.iter_child_nodes(node)
        ][::-1]
    return found


def _beside_work(node: ast.AST, way: int) -> set[int]:
    """Those of the statements in a statement that others follow, or precede, which compute something."""
    found: set[int] = set()
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        works = False
        for statement in (block if isinstance(block, list) else [])[::-way]:
            found |= {id(statement)} if works else set()
            works = works or any(
                isinstance(n, ast.Call | ast.BinOp | ast.UnaryOp) for n in ast.walk(statement)
            )
    return found


def statement_at(file: str, position: Position) -> Statement | None:
    """The innermost statement at a position of a file; None where there is no source."""
    text = "".join(linecache.getlines(file))
    candidates = _statements(file, text).get(position[0], []) if text else []
    around = [s for s in candidates if (s.node.lineno, s.node.col_offset) <= position[:2]]
    exact = [s for s in around if position[2:] <= (s.node.end_lineno or 0, s.node.end_col_offset or 0)]
    found = exact or around or candidates
    return found[-1] if found else None

"""The variables that intermediates were assigned to, read off the user's statements."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from overbar.graph.source import Execution, Place
from overbar.graph.statements import Position, Statement, position_of
from overbar.graph.symbols import is_word


class Variables:
    """The variables that a graph's results were assigned to, read off the statements.

    Args:
      results: (place, part) for each result in the order of the program: where its last equation was
        traced, and for one of several results of an equation its index and their number.
    """

    def __init__(self, results: Sequence[tuple[Place, tuple[int, int] | None]]):
        self._last: dict[tuple[Execution, int | str | None], int] = {}
        for i, (place, part) in enumerate(results):
            if place.execution is not None and part is None:
                self._last[place.execution, item_at(place.execution.statement, place.position)] = i
        self._results = results
        self._elements: dict[tuple[Execution, int], int] = {}  # the last result of an item of a comprehension
        for i, (place, part) in enumerate(results):
            if part is None and place.execution is not None and _is_element(place):
                self._elements[place.execution, place.turn] = i
        self._items: dict[int, int] = {}
        unpacking: dict[Execution, list[int]] = {}
        for i, (place, part) in enumerate(results):
            if part is None and _is_unpacked(place) and place.execution is not None:
                unpacking.setdefault(place.execution, []).append(i)
        for execution, indices in unpacking.items():
            statement = execution.statement
            assert statement is not None
            if isinstance(statement.targets, tuple) and len(statement.targets) == len(indices):
                self._items |= {i: item for item, i in enumerate(indices)}

    def unpacked(self, i: int) -> int | None:
        """Which item of an array it is that `a, b = x` takes apart."""
        return self._items.get(i)

    def of(self, i: int) -> tuple[str, int] | None:
        """(the variable, how deep in calls it stands), or None for an unnamed intermediate."""
        place, part = self._results[i]
        execution = place.execution
        if execution is None or execution.statement is None:
            return None
        if part is not None:
            if not self._unpacks(execution, part[1]):
                leaves = execution.statement.leaves
                name = leaves[part[0]] if len(leaves) == part[1] else None
                return None if name is None else (name, execution.activation.depth)
            return _assigned(execution, part[0])
        if name := _walrus(execution.statement, place.position):
            return name, execution.activation.depth
        if i in self._items:
            return _assigned(execution, self._items[i])
        if execution.statement.element is not None:
            if isinstance(execution.statement.value, ast.DictComp):
                return None
            return _assigned(execution, place.turn, element=True) if self.is_element(i) else None
        item = item_at(execution.statement, place.position)
        if self._last[execution, item] != i:
            return None
        return _assigned(execution, item)

    def is_element(self, i: int) -> bool:
        """Whether the result is an item that a comprehension makes: h in hs = [h for ...]."""
        place, part = self._results[i]
        if part is not None or place.execution is None or not _is_element(place):
            return False
        return self._elements[place.execution, place.turn] == i

    def is_final(self, i: int) -> bool:
        """Whether the result is the value of its statement, not a part of its expression."""
        place, part = self._results[i]
        if place.execution is None or part is not None:
            return False
        statement = place.execution.statement
        if statement is not None and (statement.element or _walrus(statement, place.position)):
            return False
        return self._last[place.execution, item_at(place.execution.statement, place.position)] == i

    @staticmethod
    def _unpacks(execution: Execution, number: int) -> bool:
        statement = execution.statement
        assert statement is not None
        if isinstance(statement.node, ast.Return):
            return True
        return isinstance(statement.targets, tuple) and len(statement.targets) == number


def _is_element(place: Place) -> bool:
    statement = place.execution.statement if place.execution is not None else None
    if statement is None or statement.element is None or place.position is None:
        return False
    return statement.expression_at(place.position) is statement.element


def _is_unpacked(place: Place) -> bool:
    """Whether it was made by the assignment itself, which takes an array apart: a, b = x."""
    statement = place.execution.statement if place.execution is not None else None
    if statement is None or place.position is None or not isinstance(statement.node, ast.Assign):
        return False
    target = statement.node.targets[0]
    return isinstance(target, ast.Tuple | ast.List) and position_of(target) == place.position


def _assigned(
    execution: Execution, item: int | str | None, *, element: bool = False
) -> tuple[str, int] | None:
    """The variable that takes a statement's value, or an item of it, followed through returns."""
    fallback: tuple[str, int] | None = None
    while (statement := execution.statement) is not None:
        activation = execution.activation
        if not isinstance(statement.node, ast.Return):
            targets = statement.targets
            if isinstance(targets, str) and (item is None or element):
                return targets if item is None else f"{targets}[{item}]", activation.depth
            if isinstance(targets, tuple) and isinstance(item, int) and item < len(targets):
                return (name, activation.depth) if (name := targets[item]) else fallback
            return fallback
        if isinstance(item, str):
            return item, activation.depth
        if fallback is None and is_word(activation.name) and item is None:
            fallback = (activation.name, activation.depth)
        if activation.caller is None:
            return fallback
        outer = activation.caller.statement
        if outer is None or outer.value is None or activation.position is None:
            return fallback
        call = outer.expression_at(activation.position)
        if call is not None and call is outer.element and item is None:
            item, element = activation.turn, True
        elif call is not outer.value:
            return fallback
        execution = activation.caller
    return fallback


def item_at(statement: Statement | None, position: Position | None) -> int | str | None:
    """Which item of a tuple or dict that a statement writes out a position stands in."""
    if statement is None or position is None:
        return None
    value = statement.value
    if isinstance(value, ast.Tuple | ast.List):
        for i, element in enumerate(value.elts):
            if covers(element, position):
                return i
    if isinstance(value, ast.Dict):
        for key, element in zip(value.keys, value.values, strict=True):
            if covers(element, position) and isinstance(key, ast.Constant) and isinstance(key.value, str):
                return key.value if is_word(key.value) else None
    return None


def covers(node: ast.expr, position: Position) -> bool:
    at = position_of(node)
    return at[:2] <= position[:2] and position[2:] <= at[2:]


def _walrus(statement: Statement, position: Position | None) -> str | None:
    if position is None:
        return None
    for node in statement.expressions.values():
        if isinstance(node, ast.NamedExpr) and position_of(node.value) == position:
            return node.target.id
    return None


def unique(wanted: Sequence[tuple[str, int] | None], taken: Sequence[str]) -> list[str]:
    """A name for each, all different: shallow variables first, doubles numbered, the rest v1, v2."""
    used = set(taken)
    names: list[str | None] = [None] * len(wanted)
    counts: dict[str, int] = {}

    def claim(base: str) -> str:
        if base not in used:
            used.add(base)
            return base
        number = counts.get(base, 1) + 1
        while f"{base}_{number}" in used:
            number += 1
        counts[base] = number
        used.add(f"{base}_{number}")
        return f"{base}_{number}"

    by_depth = sorted(
        (i for i, w in enumerate(wanted) if w is not None), key=lambda i: (wanted[i] or ("", 0))[1]
    )
    for i in by_depth:
        names[i] = claim((wanted[i] or ("", 0))[0])
    short = 0
    for i, name in enumerate(names):
        if name is None:
            short += 1
            while f"v{short}" in used:
                short += 1
            names[i] = f"v{short}"
    return [name for name in names if name is not None]

"""Names as the user wrote them: of arguments by their path, of intermediates by the variable assigned to."""

from __future__ import annotations

import ast
import inspect
import keyword
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from overbar.graph.source import Activation, Execution, Place, Position, Statement, position_of

_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "zeta",
    "eta",
    "theta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "omicron",
    "pi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "chi",
    "psi",
    "omega",
]
GREEK = {
    name: unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
    for name in _GREEK
}
GREEK |= {
    name.capitalize(): unicodedata.lookup(
        f"GREEK CAPITAL LETTER {'LAMDA' if name == 'lambda' else name.upper()}"
    )
    for name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
}
GREEK |= {"lam": "λ", "lamda": "λ", "lmbda": "λ", "lambd": "λ", "eps": "ε", "sig": "σ"}

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


# ---------------------------------------------------------------------- symbols


def symbol(name: str) -> str:
    """A name as a person writes it.

    >>> [symbol(n) for n in ("lam", "w1", "L_reg", "sigma_2", "params.w1", "hidden")]
    ['λ', 'w₁', 'L_reg', 'σ₂', 'params.w₁', 'hidden']
    """
    path, dot, last = name.rpartition(".")
    base, underscore, below = last.partition("_")
    letters = base.rstrip("0123456789")
    digits = base[len(letters) :]
    letters = GREEK.get(letters, letters)
    if letters and len(letters) == 1:
        if digits:
            letters += digits.translate(_SUBSCRIPTS)
        if underscore and below.isdecimal():
            return path + dot + letters + ("," if digits else "") + below.translate(_SUBSCRIPTS)
        return path + dot + letters + underscore + below
    return name


def barred(text: str) -> str:
    """A symbol with its bar: over the letter where there is one, over a whole word else.

    >>> [barred(s) for s in ("z", "L_reg", "w₁", "params.w")]
    ['z̄', 'L̄_reg', 'w̄₁', 'params.w̄']
    """
    path, dot, last = text.rpartition(".")
    letters = 0
    while letters < len(last) and last[letters].isalpha():
        letters += 1
    if not letters:  # [0], of a sequence
        path, dot, last, letters = "", "", text, max(1, len(text.split("[")[0].split(".")[0]))
    if letters == 1:
        return unicodedata.normalize("NFC", path + dot + last[0] + "\u0304" + last[1:])
    over = "".join(letter + "\u0305" for letter in last[:letters])
    return path + dot + over + last[letters:]


# ---------------------------------------------------------------------- arguments


def argument_name(f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], path: Any) -> str:
    """The name of a leaf of (args, kwargs): its parameter's, and the path in it: params.w1, layers[0]."""
    which, first, *rest = path
    if which.idx == 1:
        return str(first.key) + path_text(rest)
    return _parameter(f, first.idx) + path_text(rest)


def _parameter(f: Callable[..., Any], index: int) -> str:
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        return f"x{index}"
    for i, parameter in enumerate(parameters):
        if parameter.kind is parameter.VAR_POSITIONAL:
            return f"{parameter.name}[{index - i}]"
        if i == index:
            return parameter.name
    return f"x{index}"


def path_text(path: Sequence[Any]) -> str:
    text = ""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            text += f".{key.name}"
        elif isinstance(key, jax.tree_util.DictKey) and isinstance(key.key, str) and is_word(key.key):
            text += f".{key.key}"
        else:
            text += f"[{getattr(key, 'idx', getattr(key, 'key', key))!r}]"
    return text


def is_word(text: str) -> bool:
    """Whether it can stand after a dot: letters, digits, subscripts."""
    return bool(text) and all(c.isalnum() or c == "_" for c in text) and not text[0].isdecimal()


# ---------------------------------------------------------------------- variables


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
                self._last[place.execution, _item(place.execution.statement, place.position)] = i
        self._results = results

    def of(self, i: int) -> tuple[str, int] | None:
        """(the variable, how deep in calls it stands), or None for an unnamed intermediate."""
        place, part = self._results[i]
        execution = place.execution
        if execution is None or execution.statement is None:
            return None
        if part is not None:
            return _assigned(execution, part[0]) if self._unpacks(execution, part[1]) else None
        if name := _walrus(execution.statement, place.position):
            return name, execution.activation.depth
        item = _item(execution.statement, place.position)
        if self._last[execution, item] != i:
            return None
        return _assigned(execution, item)

    def is_final(self, i: int) -> bool:
        """Whether the result is the value of its statement, not a part of its expression."""
        place, part = self._results[i]
        if place.execution is None or part is not None:
            return False
        return self._last[place.execution, _item(place.execution.statement, place.position)] == i

    @staticmethod
    def _unpacks(execution: Execution, number: int) -> bool:
        statement = execution.statement
        assert statement is not None
        if isinstance(statement.node, ast.Return):
            return True
        return isinstance(statement.targets, tuple) and len(statement.targets) == number


def _assigned(execution: Execution, item: int | str | None) -> tuple[str, int] | None:
    """The variable that takes a statement's value, or an item of it, followed through returns."""
    fallback: tuple[str, int] | None = None
    while (statement := execution.statement) is not None:
        activation = execution.activation
        if not isinstance(statement.node, ast.Return):
            targets = statement.targets
            if isinstance(targets, str) and item is None:
                return targets, activation.depth
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
        if call is not outer.value:
            return fallback
        execution = activation.caller
    return fallback


def _item(statement: Statement | None, position: Position | None) -> int | str | None:
    """Which item of a tuple or dict that a statement writes out a position stands in."""
    if statement is None or position is None:
        return None
    value = statement.value
    if isinstance(value, ast.Tuple | ast.List):
        for i, element in enumerate(value.elts):
            if _covers(element, position):
                return i
    if isinstance(value, ast.Dict):
        for key, element in zip(value.keys, value.values, strict=True):
            if _covers(element, position) and isinstance(key, ast.Constant) and isinstance(key.value, str):
                return key.value if is_word(key.value) else None
    return None


def _covers(node: ast.expr, position: Position) -> bool:
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


# ---------------------------------------------------------------------- expressions


def expression(
    place: Place, final: bool, others: Mapping[Position, str], variables: Mapping[str, str], fallback: str
) -> str:
    """The text of the expression that makes a result.

    Args:
      place: where its last equation was traced.
      final: whether it is the value of the whole statement.
      others: the names of other results made in the same statement, by the position of their expression.
      variables: the names of the parents, by the variable they were assigned to.
      fallback: the text where there is no source.
    """
    execution, position = place.execution, place.position
    if execution is None or execution.statement is None or position is None:
        return fallback
    statement = execution.statement
    node = statement.node
    if final and isinstance(node, ast.AugAssign):
        left = _copy(node.target)
        left.ctx = ast.Load()
        whole: ast.expr | None = ast.copy_location(ast.BinOp(left, node.op, node.value), node)
    elif final:
        whole = statement.value
        item = _item(statement, position)
        if isinstance(whole, ast.Tuple | ast.List) and isinstance(item, int):
            whole = whole.elts[item]
        elif isinstance(whole, ast.Dict) and item is not None:
            whole = next(e for e in whole.values if _covers(e, position))
    else:
        whole = statement.expression_at(position)
    if whole is None:
        return fallback
    renamed = _Renamed(others, variables, _arguments(execution.activation), skip=whole)
    return " ".join(ast.unparse(renamed.visit(_copy(whole))).split())


def _copy(node: Any) -> Any:
    """A syntax tree of its own; copy.deepcopy takes several times as long."""
    if isinstance(node, list):
        return [_copy(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    copied = type(node)(**{name: _copy(value) for name, value in ast.iter_fields(node)})
    return ast.copy_location(copied, node)


class _Renamed(ast.NodeTransformer):
    """Puts the graph's names in the place of what the expression calls them."""

    def __init__(
        self,
        others: Mapping[Position, str],
        variables: Mapping[str, str],
        arguments: Mapping[str, ast.expr],
        skip: ast.expr,
    ):
        self._others, self._variables, self._arguments = others, variables, arguments
        self._skip = position_of(skip) if hasattr(skip, "lineno") else None

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.expr) and hasattr(node, "lineno"):
            at = position_of(node)
            if at != self._skip and at in self._others:
                return ast.Name(self._others[at])
        return super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._variables:
            return ast.Name(self._variables[node.id])
        if node.id in self._arguments:
            return _copy(self._arguments[node.id])
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node


def _arguments(activation: Activation) -> dict[str, ast.expr]:
    """What a called function's parameters are in its caller's words, where these are mere names and paths."""
    caller, code = activation.caller, activation.code
    if caller is None or caller.statement is None or activation.position is None or code is None:
        return {}
    call = caller.statement.expression_at(activation.position)
    if not isinstance(call, ast.Call):
        return {}
    parameters = list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])
    given: dict[str, ast.expr] = {}
    arguments = list(call.args)
    if parameters[:1] == ["self"]:
        method = code.co_name
        bound = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == method else None
        given["self"] = bound or call.func
        parameters = parameters[1:]
    for name, argument in zip(parameters, arguments, strict=False):
        if isinstance(argument, ast.Starred):
            break
        given[name] = argument
    given |= {k.arg: k.value for k in call.keywords if k.arg is not None and k.arg in parameters}
    outer = _arguments(caller.activation)
    simple = {name: node for name, node in given.items() if _is_path(node)}
    rename = _Renamed({}, {}, outer, skip=ast.Name(""))
    return {name: rename.visit(_copy(node)) for name, node in simple.items()}


def _is_path(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            return False
        node = node.value
    return isinstance(node, ast.Name) and not keyword.iskeyword(node.id)

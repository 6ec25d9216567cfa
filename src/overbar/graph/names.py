"""Names as the user wrote them: of arguments by their path, of intermediates by the variable assigned to."""

from __future__ import annotations

import ast
import builtins
import inspect
import keyword
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
            return _assigned(execution, part[0]) if self._unpacks(execution, part[1]) else None
        if name := _walrus(execution.statement, place.position):
            return name, execution.activation.depth
        if i in self._items:
            return _assigned(execution, self._items[i])
        item = _item(execution.statement, place.position)
        if self._last[execution, item] != i:
            return None
        return _assigned(execution, item)

    def is_final(self, i: int) -> bool:
        """Whether the result is the value of its statement, not a part of its expression."""
        place, part = self._results[i]
        if place.execution is None or part is not None:
            return False
        statement = place.execution.statement
        if statement is not None and _walrus(statement, place.position):
            return False
        return self._last[place.execution, _item(place.execution.statement, place.position)] == i

    @staticmethod
    def _unpacks(execution: Execution, number: int) -> bool:
        statement = execution.statement
        assert statement is not None
        if isinstance(statement.node, ast.Return):
            return True
        return isinstance(statement.targets, tuple) and len(statement.targets) == number


def _is_unpacked(place: Place) -> bool:
    """Whether it was made by the assignment itself, which takes an array apart: a, b = x."""
    statement = place.execution.statement if place.execution is not None else None
    if statement is None or place.position is None or not isinstance(statement.node, ast.Assign):
        return False
    target = statement.node.targets[0]
    return isinstance(target, ast.Tuple | ast.List) and position_of(target) == place.position


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


@dataclass(frozen=True)
class Known:
    """What the names in an expression can stand for.

    Attributes:
      others: the names of other results made in the same statement, by the position of their expression.
      variables: the names of the parents, by what the program calls them: a variable, a path.
      parents: the names of all parents.
      taken: what the program calls other results and arguments.
    """

    others: Mapping[Position, str]
    variables: Mapping[str, str]
    parents: Sequence[str]
    taken: set[str]


def expression(place: Place, final: bool, item: int | None, known: Known, fallback: str) -> str:
    """The text of the expression that makes a result, written with the graph's names.

    Args:
      place: where its last equation was traced.
      final: whether it is the value of the whole statement.
      item: which item of that value it is, where an array is unpacked into several variables.
      known: what the names in it stand for.
      fallback: the text where there is no source.
    """
    execution, position = place.execution, place.position
    if execution is None or execution.statement is None or position is None:
        return fallback
    whole = _written(execution.statement, position, final or item is not None)
    if whole is None:
        return fallback
    arguments = _arguments(execution.activation) | _loop_variables(execution, known.parents)
    renamed = _Renamed(known.others, known.variables, arguments, skip=whole).visit(_copy(whole))
    if item is not None:
        renamed = ast.Subscript(renamed, ast.Constant(item), ast.Load())
    return " ".join(ast.unparse(_with_the_last_name(renamed, known)).split())


def _written(statement: Statement, position: Position, final: bool) -> ast.expr | None:
    """The expression as it stands in the source."""
    node = statement.node
    if not final:
        return statement.expression_at(position)
    if isinstance(node, ast.AugAssign):
        left = _copy(node.target)
        left.ctx = ast.Load()
        return ast.copy_location(ast.BinOp(left, node.op, node.value), node)
    whole = statement.value
    item = _item(statement, position)
    if isinstance(whole, ast.Tuple | ast.List) and isinstance(item, int):
        return whole.elts[item]
    if isinstance(whole, ast.Dict) and item is not None:
        return next(e for e in whole.values if _covers(e, position))
    return whole


def _with_the_last_name(tree: ast.expr, known: Known) -> ast.expr:
    """Where one name in it is no parent's, and one parent is not named, they are the same: h = x; h @ w."""
    nodes = list(ast.walk(tree))
    names = [n for n in nodes if isinstance(n, ast.Name)]
    held: set[str] = set()  # functions, modules, objects and containers, and what the expression itself binds
    for n in nodes:
        match n:
            case ast.Call():
                held |= {m.id for m in ast.walk(n.func) if isinstance(m, ast.Name)}
            case ast.Attribute(value=ast.Name(id=name)) if n.attr not in ("T", "mT", "at", "real", "imag"):
                held.add(name)
            case (
                ast.Subscript(value=ast.Name(id=name), slice=ast.Constant())
                | ast.Starred(value=ast.Name(id=name))
            ):
                held.add(name)
            case ast.NamedExpr(target=ast.Name(id=name)):
                held.add(name)
            case ast.comprehension():
                held |= {m.id for m in ast.walk(n.target) if isinstance(m, ast.Name)}
            case ast.Lambda():
                held |= {m.id for m in ast.walk(n) if isinstance(m, ast.Name)}
    keys = {
        n.slice.value for n in nodes if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant)
    }
    unnamed = [p for p in known.parents if p not in {n.id for n in names} | keys]
    strange = {n.id for n in names} - set(known.parents) - held - known.taken - set(vars(builtins))
    if len(unnamed) == len(strange) == 1:
        for found in names:
            if found.id in strange:
                found.id = unnamed[0]
    return tree


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
        if isinstance(node, ast.Attribute | ast.Subscript):
            found = path_of(node, self._arguments)
            if found is not None and found in self._variables:
                return ast.Name(self._variables[found])
        return super().visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._arguments:
            argument = self._arguments[node.id]
            found = path_of(argument)
            if found is not None and found in self._variables:
                return ast.Name(self._variables[found])
            return _copy(argument)
        return ast.Name(self._variables[node.id]) if node.id in self._variables else node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node


def path_of(node: ast.AST, arguments: Mapping[str, ast.expr] | None = None) -> str | None:
    """The path that an expression writes, p["w"] or p.w as p.w; None if it is no path.

    Args:
      node: the expression.
      arguments: what names in it stand for.
    """
    path: list[Any] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            path.append(jax.tree_util.GetAttrKey(node.attr))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            key = node.slice.value
            path.append(
                jax.tree_util.SequenceKey(key) if isinstance(key, int) else jax.tree_util.DictKey(key)
            )
        else:
            return None
        node = node.value
    base: str | None = str(node.id)
    if arguments is not None and node.id in arguments:
        base = path_of(arguments[node.id])
    return None if base is None else base + path_text(path[::-1])


def dotted(name: str) -> str:
    """The path p['w'] as p.w; what is no path stays as it is."""
    try:
        return path_of(ast.parse(name, mode="eval").body) or name
    except SyntaxError:
        return name


def _arguments(activation: Activation) -> dict[str, ast.expr]:
    """What a called function's parameters are in its caller's words, where these are mere names and paths."""
    caller, code = activation.caller, activation.code
    if caller is None or caller.statement is None or activation.position is None or code is None:
        return {}
    call = caller.statement.expression_at(activation.position)
    if not isinstance(call, ast.Call):
        return {}
    if not activation.direct and ast.unparse(call.func).split(".")[-1] != code.co_name:
        return {}  # net.apply(params, x), which calls net.__call__(x)
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


def _loop_variables(execution: Execution, parents: Sequence[str]) -> dict[str, ast.expr]:
    """The item of a sequence that a loop's variable is in this turn: w is ws[1] in `for w in ws`.

    The turn is told by the parents: all that come from that sequence must be of one item.
    """
    found: dict[str, ast.expr] = {}
    level: Execution | None = execution
    inner: dict[str, ast.expr] = _arguments(execution.activation)
    while level is not None:
        outer = _arguments(level.activation)
        for loop in reversed(level.statement.loops if level.statement is not None else ()):
            if not isinstance(loop, ast.For):
                continue
            for variable, sequence in _stepped_through(loop.target, loop.iter):
                path = path_of(sequence, outer)
                items = (
                    {p[len(path) + 1 :].split("]")[0] for p in parents if p.startswith(f"{path}[")}
                    if path
                    else set()
                )
                if path and len(items) == 1 and variable not in found:
                    found[variable] = ast.parse(f"{path}[{items.pop()}]", mode="eval").body
        level = level.activation.caller
    # A parameter that is such a variable in the caller's words.
    for name, argument in inner.items():
        base: ast.AST = argument
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name) and base.id in found and name not in found:
            found[name] = _Renamed({}, {}, found, skip=ast.Name("")).visit(_copy(argument))
    return found


def _stepped_through(target: ast.expr, over: ast.expr) -> list[tuple[str, ast.expr]]:
    """The variables of a loop, each with the sequence it steps through."""
    if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and isinstance(target, ast.Tuple):
        if over.func.id == "enumerate" and len(over.args) == 1 and len(target.elts) == 2:
            return _stepped_through(target.elts[1], over.args[0])
        if over.func.id == "zip" and len(over.args) == len(target.elts):
            pairs = zip(target.elts, over.args, strict=True)
            return [found for one, sequence in pairs for found in _stepped_through(one, sequence)]
        return []
    if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == "reversed":
        return _stepped_through(target, over.args[0])
    return [(target.id, over)] if isinstance(target, ast.Name) else []


def _is_path(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            return False
        node = node.value
    return isinstance(node, ast.Name) and not keyword.iskeyword(node.id)

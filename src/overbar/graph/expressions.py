"""The expression that makes a result, as it stands in the source, written with the graph's names."""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overbar.graph.names import covers, item_at
from overbar.graph.paths import path_of
from overbar.graph.source import Activation, Execution, Place
from overbar.graph.statements import Position, Statement, position_of


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
    arguments = _arguments(execution.activation) | _loop_variables(place, known.parents)
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
    item = item_at(statement, position)
    if isinstance(whole, ast.Tuple | ast.List) and isinstance(item, int):
        return whole.elts[item]
    if isinstance(whole, ast.Dict) and item is not None:
        return next(e for e in whole.values if covers(e, position))
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


def _loop_variables(place: Place, parents: Sequence[str]) -> dict[str, ast.expr]:
    """The item of a sequence that a loop's variable is in this turn: w is ws[1] in `for w in ws`.

    The turn is told by the parents: all that come from that sequence must be of one item.
    """
    found: dict[str, ast.expr] = {}
    execution = place.execution
    if execution is None:
        return found
    level: Execution | None = execution
    at = place.position
    turn = place.turn
    inner: dict[str, ast.expr] = _arguments(execution.activation)
    while level is not None:
        outer = _arguments(level.activation)
        statement = level.statement
        loops: list[Any] = [] if statement is None or at is None else statement.generators_at(at)
        loops += [
            n for n in reversed(statement.loops if statement is not None else ()) if isinstance(n, ast.For)
        ]
        for loop in loops[:1]:
            items_of = loop.iter.elts if isinstance(loop.iter, ast.Tuple | ast.List) else []
            if (
                isinstance(loop, ast.comprehension)
                and isinstance(loop.target, ast.Name)
                and turn < len(items_of)
            ):
                found.setdefault(loop.target.id, _copy(items_of[turn]))
        at, turn = level.activation.position, level.activation.turn
        for loop in loops:
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

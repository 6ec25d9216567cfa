"""Which rule is to blame: every hand-written rule in a function, checked where it stands.

The function's jaxpr is evaluated with the sample, and whenever a call of a rule comes by, in whatever
body, its inputs are kept: they make a problem of their own, of that rule alone.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from overbar._adapter import (
    calls_of,
    closed_over,
    entered,
    is_branch,
    map_jaxprs,
    opened,
    rule_source,
    source_of,
    sub_program,
    users_rule_body,
)
from overbar.check.problem import CannotCheck, Problem
from overbar.rule import registry


@dataclass(frozen=True)
class Found:
    """A hand-written rule met in a function.

    Attributes:
      source: its name, file and line.
      key: the same as JAX has it, by which it can be kept while the others are taken out.
      names: of its inputs.
      values: what flows into it there; None where that is not known before the program runs.
      taken: whether it is run on the sample (not so in a branch that is not taken).
    """

    source: str
    key: str
    names: list[str]
    call: Callable[..., Any]
    values: list[Any] | None
    taken: bool = True

    def problem(self) -> Problem | None:
        """The rule alone, with these values; None without any, or without a float among them."""
        if self.values is None:
            return None
        try:
            return Problem(self.call, self.values, {}, self.names)
        except CannotCheck:
            return None


def rules_in(problem: Problem) -> list[Found]:
    """The rules that a problem's function calls, in the order of their calls."""
    found: list[Found] = []
    jaxpr = jax.make_jaxpr(problem.function())(*problem.inputs)
    inner, consts = opened(jaxpr)
    _walk(inner, consts, [np.asarray(x) for x in problem.inputs], found)
    return found


def distinct(found: list[Found]) -> list[Found]:
    """One of each rule and the shapes it is called with, those with values first."""
    chosen: dict[Any, Found] = {}
    for rule in sorted(found, key=lambda rule: (rule.values is None, not rule.taken)):
        shapes = tuple((np.shape(v), str(getattr(v, "dtype", ""))) for v in rule.values or ())
        chosen.setdefault((rule.source, shapes), rule)
    return list(chosen.values())


def is_the_rule(problem: Problem) -> bool:
    """Whether a function is one rule and nothing else."""
    inner, _ = opened(jax.make_jaxpr(problem.function())(*problem.inputs))
    while len(inner.eqns) == 1 and (body := calls_of(inner.eqns[0])) is not None:
        inner, _ = opened(body)
    return len(inner.eqns) == 1 and users_rule_body(inner.eqns[0]) is not None


def _walk(jaxpr: Any, consts: list[Any], values: list[Any] | None, found: list[Found]) -> list[Any] | None:
    """Evaluates a jaxpr, noting the rules it calls; without values it only notes them."""
    known: dict[Any, Any] = {}
    if values is not None:
        known |= zip(jaxpr.invars, values, strict=True)
        known |= zip(jaxpr.constvars, consts, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        operands = None if values is None else [read(v) for v in eqn.invars]
        rule = users_rule_body(eqn)
        if rule is not None:
            call = jaxpr_as_fun(sub_program(jaxpr, eqn))
            names = _names(rule, len(eqn.invars), closed_over(eqn))
            found.append(Found(_source(eqn), source_of(rule), names, call, operands))
        body = None if rule is not None else calls_of(eqn)
        if body is not None and operands is not None:
            inner, inner_consts = opened(body)
            results = _walk(inner, inner_consts, operands, found)
        else:
            if rule is None:
                _look_inside(eqn, operands, found)
            results = None if operands is None else jaxpr_as_fun(sub_program(jaxpr, eqn))(*operands)
        if results is not None:
            known |= zip(eqn.outvars, results, strict=True)
    return None if values is None else [read(v) for v in jaxpr.outvars]


def _look_inside(eqn: Any, operands: list[Any] | None, found: list[Found]) -> None:
    """The bodies that an equation holds: with values where it is known what they are entered with."""
    into = [] if operands is None else entered(eqn, operands)
    for number, (body, values) in enumerate(into):
        inner, consts = opened(body)
        before = len(found)
        _walk(inner, consts, values, found)
        if is_branch(eqn) and operands is not None and int(operands[0]) != number:
            found[before:] = [replace(rule, taken=False) for rule in found[before:]]
    if not into:

        def note(jaxpr: Any) -> Any:
            inner, consts = opened(jaxpr)
            _walk(inner, consts, None, found)
            return jaxpr

        map_jaxprs(note, eqn.params)


def _source(eqn: Any) -> str:
    source = rule_source(eqn)
    name = source.split(" at ")[0]
    if name in registry:  # a Rule: its own code, not the wrapper's
        code = registry[name].primal.__code__
        return f"{name} at {code.co_filename}:{code.co_firstlineno}"
    return source


def _names(body: Any, inputs: int, closed: int) -> list[str]:
    """The names of a rule's inputs: its parameters' where each is one array, else numbers."""
    head = [f"closed-over array {i}" for i in range(closed)]
    name, _, place = source_of(body).partition(" at ")
    if name in registry:
        parameters = list(registry[name].inputs)
    else:
        file, _, line = place.rpartition(":")
        parameters = list(_parameters(file, int(line))) if line.isdigit() else []
    if len(parameters) == inputs - closed:
        return [*head, *parameters]
    return [*head, *(f"input {i}" for i in range(inputs - closed))]


@functools.lru_cache(maxsize=256)
def _parameters(file: str, line: int) -> tuple[str, ...]:
    """The parameters of the function that is defined on a line."""
    try:
        tree = ast.parse(Path(file).read_text("utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            if line in (first, node.lineno):
                return tuple(a.arg for a in (*node.args.posonlyargs, *node.args.args))
    return ()

"""Which rule is to blame: every hand-written rule in a function, checked where it stands.

The function's jaxpr is evaluated with the sample, and whenever a call of a custom_vjp function comes
by, its inputs are kept: they make a problem of their own, of that rule alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from overbar._adapter import calls_of, custom_vjp_body, map_jaxprs, opened, source_of, sub_program
from overbar.check.problem import Problem
from overbar.rule import registry


@dataclass(frozen=True)
class Found:
    """A hand-written rule met in a function.

    Attributes:
      source: its name, file and line.
      problem: the rule with the values that flow into it there; None where they are not known before
        the program runs (inside a loop's body).
    """

    source: str
    call: Callable[..., Any]
    values: list[Any] | None

    def problem(self) -> Problem | None:
        if self.values is None:
            return None
        return Problem(self.call, self.values, {}, [f"input {i}" for i in range(len(self.values))])


def rules_in(problem: Problem) -> list[Found]:
    """The rules that a problem's function calls, in the order of their calls."""
    found: list[Found] = []
    jaxpr = jax.make_jaxpr(problem.function())(*problem.inputs)
    inner, consts = opened(jaxpr)
    _walk(inner, consts, [np.asarray(x) for x in problem.inputs], found)
    return found


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
        if custom_vjp_body(eqn) is not None:
            found.append(Found(_source(eqn), jaxpr_as_fun(sub_program(jaxpr, eqn)), operands))
            body = None
        else:
            body = calls_of(eqn)
        if body is not None and operands is not None:
            inner, inner_consts = opened(body)
            results = _walk(inner, inner_consts, operands, found)
        else:
            for held in _bodies(eqn) if custom_vjp_body(eqn) is None else ():
                inner, inner_consts = opened(held)
                _walk(inner, inner_consts, None, found)
            results = None if operands is None else jaxpr_as_fun(sub_program(jaxpr, eqn))(*operands)
        if results is not None:
            known |= zip(eqn.outvars, results, strict=True)
    return None if values is None else [read(v) for v in jaxpr.outvars]


def _bodies(eqn: Any) -> list[Any]:
    held: list[Any] = []

    def note(jaxpr: Any) -> Any:
        held.append(jaxpr)
        return jaxpr

    map_jaxprs(note, eqn.params)
    return held


def _source(eqn: Any) -> str:
    source = source_of(custom_vjp_body(eqn))
    name = source.split(" at ")[0]
    if name in registry:  # a Rule: its own code, not the wrapper's
        code = registry[name].primal.__code__
        return f"{name} at {code.co_filename}:{code.co_firstlineno}"
    return source

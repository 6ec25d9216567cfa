"""What a program computes, calls and costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import Literal

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, opened, scan_counts, source_of
from overbar.check.exact.entries import FUNCTIONS, PRICES, is_elementwise
from overbar.check.exact.moves import MOVES, SAME
from overbar.check.exact.operations import is_complex, is_wide

STEP = 6  # what an equation costs however small it is, in additions


def name_of(eqn: Any) -> str:
    """What an equation computes: its primitive's name, or that of a function of JAX's own in FUNCTIONS.

    JAX writes exp(−x²), in erf's derivative, as float64 needs it, with numbers split in their bits.
    """
    if (named := custom_jvp_body(eqn)) is not None and named[0] in FUNCTIONS:
        home = str(Path(jax.__file__).parent)
        return named[0] if home in source_of(named[1]) else eqn.primitive.name
    if (hijax := eqn.params.get("_prim")) is not None:
        return type(hijax).__name__
    return eqn.primitive.name


def called_body(eqn: Any) -> Any | None:
    """The body of an equation that only calls it: jit, remat, a custom function."""
    if name_of(eqn) in FUNCTIONS:
        return None
    if eqn.primitive.name in ("eval_jaxpr", "composite"):
        return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if (named := custom_jvp_body(eqn)) is not None:
        return named[1]
    body = custom_vjp_body(eqn)
    return calls_of(eqn) if body is None else body


def dtypes_of(atoms: Sequence[Any]) -> list[Any]:
    return [v.aval.dtype for v in atoms]


def every_output(jaxpr: Any) -> tuple[bool, ...]:
    return (True,) * len(opened(jaxpr)[0].outvars)


def live_equations(jaxpr: Any, wanted: Sequence[bool]) -> tuple[list[tuple[Any, tuple[bool, ...]]], set[Any]]:
    """(the equations that the wanted outputs need, with which of their results; the variables used)."""
    inner, _ = opened(jaxpr)
    used = {v for v, w in zip(inner.outvars, wanted, strict=True) if w and not isinstance(v, Literal)}
    live = []
    for eqn in reversed(inner.eqns):
        results = tuple(v in used for v in eqn.outvars)
        if not any(results):
            continue
        live.append((eqn, results))
        operands = eqn.invars
        if (body := called_body(eqn)) is not None:
            _, within = live_equations(body, results)
            pairs = zip(operands, opened(body)[0].invars, strict=True)
            operands = [v for v, parameter in pairs if parameter in within]
        used.update(v for v in operands if not isinstance(v, Literal))
    return live[::-1], used


def bodies_of(eqn: Any, results: tuple[bool, ...]) -> list[tuple[Any, tuple[bool, ...], int]]:
    """The programs inside an equation, each with its wanted outputs and how often it runs, if known."""
    name, params = name_of(eqn), eqn.params
    if (body := called_body(eqn)) is not None:
        return [(body, results, 1)]
    if name == "scan":
        carry = (True,) * scan_counts(eqn)[1]
        return [(params["jaxpr"], carry + results[len(carry) :], params["length"])]
    if name == "while":
        return [(j, every_output(j), 1) for j in (params["cond_jaxpr"], params["body_jaxpr"])]
    if name == "cond":
        return [(branch, results, 1) for branch in params["branches"]]
    if name == "custom_linear_solve":
        return [(params["jaxprs"].solve, results, 1)]
    return []


def cost_of(jaxpr: Any, wanted: Sequence[bool]) -> float:
    """About how many additions an evaluation costs; of a branch both sides, of a while loop one trip."""
    total = 0.0
    for eqn, results in live_equations(jaxpr, wanted)[0]:
        bodies = bodies_of(eqn, results)
        total += sum(times * cost_of(body, w) for body, w, times in bodies) if bodies else _own_cost(eqn)
    return total


def _own_cost(eqn: Any) -> float:
    name, shapes = name_of(eqn), [v.aval.shape for v in eqn.invars]
    if not any(map(is_wide, dtypes_of([*eqn.invars, *eqn.outvars]))):
        return STEP
    taken = sum(math.prod(s) for s in shapes)
    given = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    moving = STEP + (taken + given) / 20
    if name in MOVES or name in SAME or name == "gather":
        return moving
    times = 3 if any(map(is_complex, dtypes_of(eqn.invars))) else 1
    if name == "dot_general":
        (over, _), _ = eqn.params["dimension_numbers"]
        return moving + times * given * math.prod(shapes[0][a] for a in over) / 2
    if name in ("triangular_solve", "cholesky", "lu"):
        return moving + times * given * shapes[0][-1]
    if name in ("sort", "top_k"):
        return moving + 2 * taken * math.log2(taken + 2)
    work = given if is_elementwise(name) else taken
    return moving + times * PRICES.get(name, 1) * work

"""The evaluation of a program with the numbers of one precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from overbar._adapter import opened, scan_counts
from overbar.check.exact.entries import INTEGERS, elementwise, is_elementwise
from overbar.check.exact.moves import MOVES, SAME
from overbar.check.exact.numbers import Array, NotExact, Numbers
from overbar.check.exact.operations import WHOLE, is_narrow, is_wide
from overbar.check.exact.programs import (
    bodies_of,
    called_body,
    cost_of,
    dtypes_of,
    every_output,
    live_equations,
    name_of,
)

MOST_TRIPS = 10_000  # of one loop


class Evaluation:
    """Evaluates programs with the numbers of one precision.

    What depends on the inputs in float64 or complex128 is an array of numbers, and so is what float64
    constants are computed into. All else stays what it is in JAX, which computes with it: integers,
    booleans and keys are exact there, and a narrower type is the program's own choice for constants,
    since nothing that is a number is narrowed.
    """

    def __init__(self, numbers: Numbers, most: float):
        self.numbers, self.left = numbers, most
        self._live: dict[Any, Any] = {}

    def run(self, jaxpr: Any, operands: Sequence[Array | None], wanted: Sequence[bool]) -> list[Array | None]:
        """The wanted outputs of a program, None for the others; operands that they need not may be None."""
        inner, consts = opened(jaxpr)
        live, used = self.live(inner, tuple(wanted))
        values: dict[Any, Array | None] = dict(zip(inner.invars, operands, strict=True))
        values |= {v: _ordinary(c) for v, c in zip(inner.constvars, consts, strict=True) if v in used}

        def read(atom: Any) -> Array | None:
            if isinstance(atom, Literal):
                return np.asarray(atom.val, *dtypes_of([atom]))
            return values.get(atom)

        for eqn, results in live:
            computed = self.results(eqn, [read(v) for v in eqn.invars], results)
            values |= zip(eqn.outvars, computed, strict=True)
        return [read(v) if w else None for v, w in zip(inner.outvars, wanted, strict=True)]

    def live(self, inner: Any, wanted: tuple[bool, ...]) -> Any:
        """live_equations, once for a body that runs many times."""
        key = id(inner), wanted  # the program that is evaluated keeps it alive
        if key not in self._live:
            self._live[key] = live_equations(inner, wanted)
        return self._live[key]

    def results(self, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
        name = name_of(eqn)
        try:
            if (body := called_body(eqn)) is not None:
                return self.run(body, operands, wanted)
            if name in CONTROL:
                return CONTROL[name](self, eqn, operands, wanted)
            result = self.operation(eqn, name, operands)
            return list(result) if isinstance(result, list | tuple) else [result]
        except NotExact:
            raise
        except Exception as error:
            raise NotExact(f"{name} fails: {type(error).__name__}: {error}") from error

    def operation(self, eqn: Any, name: str, operands: list[Any]) -> Any:
        """What one equation without a body computes: an array, or a list of them."""
        params = eqn.params
        if name in SAME:
            return operands
        if not any(map(_is_exact, operands)) and not self.starts_numbers(eqn):
            return self.constant(eqn, operands)
        operands = [self.numbers.array(x) if is_wide(x.dtype) else x for x in operands]
        if name in MOVES:
            return MOVES[name](params, *operands)
        if narrow := [str(dtype) for dtype in dtypes_of(eqn.outvars) if is_narrow(dtype)]:
            raise NotExact(f"it computes in {narrow[0]} by itself")
        if is_elementwise(name):
            return elementwise(self.numbers, name, params)(*operands)
        if name in WHOLE:
            return WHOLE[name](self.numbers, params, *operands)
        raise NotExact(f"the operation {name} is not known here")

    def starts_numbers(self, eqn: Any) -> bool:
        """Whether an equation of constants computes in float64, so that it must be done with numbers."""
        name = eqn.primitive.name
        if name == "convert_element_type":
            return is_wide(eqn.params["new_dtype"])
        return name not in MOVES and any(map(is_wide, dtypes_of(eqn.invars)))

    def constant(self, eqn: Any, operands: list[Any]) -> Any:
        if eqn.primitive.name in MOVES and not any(map(_is_key, operands)):
            return MOVES[eqn.primitive.name](eqn.params, *operands)
        return self.by_jax(eqn, operands)

    def by_jax(self, eqn: Any, operands: list[Any]) -> Any:
        """What JAX itself computes exactly, NumPy where that is the same and quicker."""
        name = eqn.primitive.name
        if name in INTEGERS and all(isinstance(x, np.ndarray) and x.dtype.kind in "iub" for x in operands):
            return np.asarray(INTEGERS[name](*operands))
        if eqn.effects:
            raise NotExact(f"{name} does more than compute")
        results = eqn.primitive.bind(*operands, **eqn.params)
        return [*map(_ordinary, results)] if eqn.primitive.multiple_results else _ordinary(results)


def _cond(ev: Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    branches = eqn.params["branches"]
    taken = min(max(int(operands[0]), 0), len(branches) - 1)
    return ev.run(branches[taken], operands[1:], wanted)


def _while(ev: Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    params = eqn.params
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_condition, of_body = operands[:first], operands[first:second]
    carry: list[Any] = operands[second:]
    price = sum(cost_of(j, every_output(j)) for j in (condition, body))
    for _ in range(MOST_TRIPS):
        if not ev.run(condition, [*of_condition, *carry], (True,))[0]:
            return carry
        carry = ev.run(body, [*of_body, *carry], every_output(body))
        ev.left -= price
        if ev.left < 0:
            break
    raise NotExact("a while loop is too long")


def _scan(ev: Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    params, length = eqn.params, eqn.params["length"]
    ((body, needed, _),) = bodies_of(eqn, wanted)
    n_consts, n_carry = scan_counts(eqn)
    consts, xs = operands[:n_consts], operands[n_consts + n_carry :]
    carry: list[Any] = operands[n_consts : n_consts + n_carry]
    if length > MOST_TRIPS:
        raise NotExact("a scan is too long")
    steps: list[list[Any]] = [[]] * length
    for i in reversed(range(length)) if params["reverse"] else range(length):
        out = ev.run(
            body, [*consts, *carry, *(x[i] if _is_key(x) else np.asarray(x[i], x.dtype) for x in xs)], needed
        )
        carry, steps[i] = out[:n_carry], out[n_carry:]
    ys = [
        _stacked(ev.numbers, [step[k] for step in steps], v.aval) if w else None
        for k, (v, w) in enumerate(zip(eqn.outvars[n_carry:], wanted[n_carry:], strict=True))
    ]
    return [*carry, *ys]


def _stacked(numbers: Numbers, rows: list[Any], aval: Any) -> Array:
    if not rows:
        return np.empty(aval.shape, object if is_wide(aval.dtype) else aval.dtype)
    if any(map(_is_exact, rows)):
        rows = [numbers.array(x) for x in rows]
    return jnp.stack(rows) if _is_key(rows[0]) else np.stack(rows)


def _ordinary(x: Any) -> Array:
    """JAX's array as NumPy's; keys stay."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)


def _is_exact(x: Any) -> bool:
    """Whether it is an array of numbers."""
    return bool(x.dtype == object)


def _linear_solve(
    ev: Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]
) -> list[Array | None]:
    """The solution by the program's own solver; what it solves, and its transpose, are for JAX's rules."""
    lengths = eqn.params["const_lengths"]
    before = lengths.matvec + lengths.vecmat
    b = operands[sum(lengths) :]
    return ev.run(eqn.params["jaxprs"].solve, [*operands[before : before + lengths.solve], *b], wanted)


def _is_key(x: Any) -> bool:
    return not isinstance(x, np.ndarray)


CONTROL: dict[str, Callable[..., list[Array | None]]] = {
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_linear_solve": _linear_solve,
}

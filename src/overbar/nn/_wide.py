"""What rules over an axis share: half precision computed in float32, axes, refusals."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar._like import cast

Axis = int | tuple[int, ...] | None


def wide(x: Any) -> jax.Array:
    """x in the dtype that it is computed in: float32 for the half-precision types, else its own."""
    return cast(jnp.asarray(x), computing(jnp.asarray(x).dtype))


def shape_of(x: jax.Array) -> jax.Array:
    """An array without entries that tells x's shape (after its first axis, of size 0) and its dtype."""
    return jnp.zeros((0, *x.shape), x.dtype)


def axes_of(name: str, x: jax.Array, axis: Axis) -> tuple[int, ...]:
    """The axes that are meant, counted from the front and in order; None is all of them."""
    given = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = sorted(a + x.ndim if a < 0 else a for a in given)
    if not all(0 <= a < x.ndim for a in axes) or len(set(axes)) < len(axes):
        raise RuleError(
            f"rule {name}: axis must name axes of x, each once, but came {axis!r} for {describe(x)}."
        )
    return tuple(axes)


def size_of(x: jax.Array, axes: tuple[int, ...]) -> int:
    """How many entries these axes hold."""
    return math.prod(x.shape[a] for a in axes)


def check_real(name: str, **inputs: Any) -> None:
    """Refuses complex inputs and inputs of several dtypes; None is left out."""
    given = {n: jnp.asarray(x) for n, x in inputs.items() if x is not None}
    came = ", ".join(f"{n} {describe(x)}" for n, x in given.items())
    if any(jnp.iscomplexobj(x) for x in given.values()):
        raise RuleError(f"rule {name}: the inputs must be real, but came {came}.")
    if len({x.dtype for x in given.values() if not jax.typeof(x).weak_type}) > 1:
        raise RuleError(f"rule {name}: expected one dtype, but came {came}. Nothing is cast silently.")

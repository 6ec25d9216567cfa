"""What losses have in common: the refusals of optax.losses, and the way back from a sum."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe, is_float
from overbar._like import summed_to

Axis = int | Sequence[int] | None


def real_floats(rule: str, name: str, x: ArrayLike) -> jax.Array:
    """The input as an array of real floats, or a refusal."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuleError(f"rule {rule}: {name} must be real floats, but came as {describe(x)}.")
    return x


def beside(rule: str, name: str, t: ArrayLike, of: str, y: jax.Array) -> jax.Array:
    """The second input in the dtype of the first, to which integers, booleans and Python numbers are cast."""
    t = jnp.asarray(t)
    weak = jax.typeof(t).weak_type or jax.typeof(y).weak_type  # a Python number takes any dtype
    if is_float(t) and t.dtype != y.dtype and not weak:
        raise RuleError(
            f"rule {rule}: expected {name} of the dtype of {of} ({describe(y)}), "
            f"but came {describe(t)}; cast one of them first."
        )
    return t if is_float(t) else t.astype(y.dtype)


def same_shape(rule: str, name: str, t: jax.Array, of: str, y: jax.Array) -> None:
    if t.shape != y.shape:
        raise RuleError(
            f"rule {rule}: expected {name} of the shape of {of} ({describe(y)}), "
            f"but came {describe(t)}; broadcast it first."
        )


def where_given(where: jax.Array | None, x: jax.Array, other: float = 0.0) -> jax.Array:
    """x where it counts, and elsewhere a number that does no harm, whatever stands there."""
    return x if where is None else jnp.where(where, x, jnp.full_like(x, other))


def spread(y_bar: jax.Array, axis: Axis, ndim: int) -> jax.Array:
    """The bar of a sum over some axes of an array, with these axes again, of size 1."""
    return jnp.expand_dims(y_bar, tuple(range(ndim)) if axis is None else axis)


def bar_of(x: jax.Array, bar: jax.Array) -> jax.Array:
    """A bar in the shape and dtype of its input: summed over the copies, rounded once."""
    bar = summed_to(x.shape, bar)
    return bar.astype(x.dtype) if is_float(x) else bar

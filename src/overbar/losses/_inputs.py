"""What losses have in common: their refusals, as optax.losses has them; masks and axes; the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe, is_float
from overbar._like import summed_to
from overbar.rule import Rule

Axis = int | Sequence[int] | None

# ---------------------------------------------------------------------- refusals


def check_float(rule: str, name: str, x: jax.Array, least: int = 1) -> None:
    """Refuses what is not real float, or has fewer axes than the loss needs."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuleError(f"rule {rule}: {name} must be real floats, but came as {describe(x)}.")
    if x.ndim < least:
        raise RuleError(f"rule {rule}: {name} must have {least} axes or more, but came as {describe(x)}.")


def real_floats(rule: str, name: str, x: ArrayLike, least: int = 0) -> jax.Array:
    """The input as an array that `check_float` has let through."""
    x = jnp.asarray(x)
    check_float(rule, name, x, least)
    return x


def check_integers(rule: str, labels: jax.Array) -> jax.Array:
    """The labels in 32 bits or more, where every class has a number; refuses what is no integer."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise RuleError(f"rule {rule}: labels must be integers, but came as {describe(labels)}.")
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def check_axis(rule: str, name: str, x: jax.Array, axis: Any) -> tuple[int, ...]:
    """The axes as numbers from 0, in the order given; all of them for None."""
    given = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, int) and -x.ndim <= a < x.ndim for a in given):
        raise RuleError(
            f"rule {rule}: option axis must be axes of {name}, but came as {axis!r} for {describe(x)}."
        )
    return tuple(a % x.ndim for a in given)


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


# ---------------------------------------------------------------------- masks and axes


def where_given(where: jax.Array | None, x: jax.Array, other: float = 0.0) -> jax.Array:
    """x where it counts, and elsewhere a number that does no harm, whatever stands there."""
    return x if where is None else jnp.where(where, x, jnp.full_like(x, other))


def spread(y: jax.Array, axis: Axis, ndim: int) -> jax.Array:
    """What came of a sum over some axes of an array, with these axes again, of size 1."""
    return jnp.expand_dims(y, tuple(range(ndim)) if axis is None else axis)


def spread_mask(where: Any, axis: Axis, ndim: int) -> jax.Array | None:
    """The mask with an axis of size 1 for each that it lacks, as optax.losses takes it."""
    mask = None if where is None else jnp.asarray(where)
    return mask if mask is None or mask.ndim == ndim else spread(mask, axis, ndim)


def together(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays broadcast against each other, whatever their ranks."""
    shape = jnp.broadcast_shapes(*(a.shape for a in arrays))
    return [jnp.broadcast_to(a, shape) for a in arrays]


# ---------------------------------------------------------------------- the way back


def keep_inputs(loss: Rule[..., jax.Array]) -> None:
    """Declares the forward pass that keeps some of the inputs, those that the residuals name."""

    @loss.forward
    def forward(**values: Any) -> tuple[jax.Array, dict[str, Any]]:
        return loss.primal(**values), {n: values[n] for n in loss.residuals}


def bar_of(x: jax.Array | jax.ShapeDtypeStruct, bar: jax.Array) -> jax.Array:
    """A bar in the shape and dtype of its input: summed over the copies, rounded once."""
    bar = summed_to(x.shape, bar)
    return bar.astype(x.dtype) if is_float(x) else bar

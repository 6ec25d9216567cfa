"""What losses over an axis have in common: the axes checked, masks spread."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from overbar._contract import RuleError, describe

Axes = int | tuple[int, ...] | None


def check_float(rule: str, name: str, x: jax.Array, least: int = 1) -> None:
    """Refuses what is not real float, or has fewer axes than the loss needs."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuleError(f"rule {rule}: {name} must be real floats, but came as {describe(x)}.")
    if x.ndim < least:
        raise RuleError(f"rule {rule}: {name} must have {least} axes or more, but came as {describe(x)}.")


def check_integers(rule: str, labels: jax.Array) -> jax.Array:
    """The labels in 32 bits or more, where every class has a number; refuses what is no integer."""
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise RuleError(f"rule {rule}: labels must be integers, but came as {describe(labels)}.")
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def check_axis(rule: str, name: str, x: jax.Array, axis: Axes) -> tuple[int, ...]:
    """The axes as numbers from 0, in the order given; all of them for None."""
    given = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(a, int) and -x.ndim <= a < x.ndim for a in given):
        raise RuleError(
            f"rule {rule}: option axis must be axes of {name}, but came as {axis!r} for {describe(x)}."
        )
    return tuple(a % x.ndim for a in given)


def spread_mask(where: Any, axes: Axes, rank: int) -> jax.Array | None:
    """The mask with an axis of size 1 for each that it lacks, as optax.losses takes it."""
    if where is None:
        return None
    mask = jnp.asarray(where)
    return mask if mask.ndim == rank else jnp.expand_dims(mask, tuple(range(rank)) if axes is None else axes)


def together(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays broadcast against each other, whatever their ranks."""
    shape = jnp.broadcast_shapes(*(a.shape for a in arrays))
    return [jnp.broadcast_to(a, shape) for a in arrays]

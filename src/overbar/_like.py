"""What a bar owes its input: its shape and its dtype."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def cast(x: jax.Array, dtype: Any) -> jax.Array:
    """astype, except that a weak type, that of a Python number, stays weak where nothing changes."""
    return x if x.dtype == dtype else x.astype(dtype)


def summed_to(shape: tuple[int, ...], bar: jax.Array) -> jax.Array:
    """The bar of an input of this shape, which was broadcast to that of bar: the sum over its copies."""
    if bar.shape == shape:
        return bar
    new = bar.ndim - len(shape)
    copies = [i for i in range(bar.ndim) if i < new or (shape[i - new] == 1 != bar.shape[i])]
    return jnp.sum(bar, axis=copies).reshape(shape)

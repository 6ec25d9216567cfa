"""Shares e^a / Σ e^a as they are kept from forward to backward, for log_softmax and logsumexp."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from overbar._like import cast
from overbar.nn._wide import wide

UP = 2.0**15  # float16 ends early below 1, and has room above it


def hold(e: jax.Array, total: jax.Array, dtype: Any) -> dict[str, Any]:
    """The residuals of shares e/total: e and total as they are, or their quotient in half precision.

    e is exactly 1 at the largest entry, where a quotient would round once more. In half precision a
    total of its own would be rounded more coarsely than the quotient is.
    """
    if e.dtype == dtype:
        return {"e": e, "total": total}
    return {"e": cast(e / total * UP if dtype == jnp.float16 else e / total, dtype), "total": None}


def nonzero(total: jax.Array) -> jax.Array:
    """1 where nothing counts and the total is 0: the shares of nothing are 0."""
    return jnp.where(total == 0, jnp.ones_like(total), total)


def times(g: jax.Array, residuals: Any) -> jax.Array:
    """g times the shares, g one number for all that is summed."""
    e, total = residuals["e"], residuals["total"]
    if total is not None:
        return g / total * e
    return g * (wide(e) / UP if e.dtype == jnp.float16 else wide(e))

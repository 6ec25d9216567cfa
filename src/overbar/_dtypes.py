"""In which dtype a bar is computed."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp


def computing(dtype: Any) -> Any:
    """float32 for the half-precision types, which are then rounded once; else the dtype itself."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def widest(dtypes: Iterable[Any]) -> Any:
    """The dtype that holds all the given ones, also where implicit promotion is forbidden."""
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)

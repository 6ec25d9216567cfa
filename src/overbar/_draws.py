"""Random arrays for samples, under `jax.random`'s names: of a key, but drawn by NumPy.

`jax.random` compiles a program for each shape, which takes longer than what a sample is drawn for.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Shape = Sequence[int]


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _floats(values: np.ndarray) -> jax.Array:
    return jnp.asarray(values.astype(jnp.result_type(float)))


def normal(key: jax.Array, shape: Shape) -> jax.Array:
    return _floats(_generator(key).standard_normal(shape))


def exponential(key: jax.Array, shape: Shape) -> jax.Array:
    return _floats(_generator(key).standard_exponential(shape))


def uniform(key: jax.Array, shape: Shape, minval: float = 0, maxval: float = 1) -> jax.Array:
    return _floats(_generator(key).uniform(minval, maxval, shape))


def rademacher(key: jax.Array, shape: Shape) -> jax.Array:
    """−1 or 1, floats."""
    return _floats(_generator(key).choice([-1.0, 1.0], shape))


def randint(key: jax.Array, shape: Shape, minval: int, maxval: int) -> jax.Array:
    """From minval to below maxval, int32."""
    return jnp.asarray(_generator(key).integers(minval, maxval, shape).astype(np.int32))


def bernoulli(key: jax.Array, p: float, shape: Shape) -> jax.Array:
    return jnp.asarray(_generator(key).random(shape) < p)

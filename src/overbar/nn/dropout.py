"""Dropout, whose mask is drawn again from its key in backward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, run_placed
from overbar._contract import RuleError, describe
from overbar.rule import Sample, rule


@rule(
    bars={"x": "x̄ = ȳ/(1 − rate) where kept, else 0"},
    residuals={"key": "from which the mask is drawn again: nothing of x's size is kept"},
    static=("rate",),
    arrays=("key", "x"),
)
def dropout(key: ArrayLike, x: ArrayLike, rate: float) -> jax.Array:
    """Dropout: each entry is 0 with probability rate, and divided by 1 − rate otherwise.

    Backward: x̄ = ȳ/(1 − rate) where the entry was kept and 0 elsewhere, also for an infinite ȳ.

    Args:
      key: a PRNG key, of jax.random.key or of jax.random.PRNGKey. One key gives one mask.
      x: any shape; float or complex.
      rate: the probability to drop, a Python number from 0 (x unchanged) to 1 (all 0).

    Returns:
      x with x's shape and dtype, its expectation x unless rate is 1.

    Raises:
      RuleError: rate is no number in [0, 1]; key is no key; x is not float.

    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> y = nn.dropout(jax.random.key(0), jnp.ones(1000), 0.5)
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    x = jnp.asarray(x)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise RuleError(f"rule nn.dropout: rate must be a number from 0 to 1, but came {rate!r}.")
    _check_key(key)
    return _dropped(key, x, rate)


def _check_key(key: Any) -> None:
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if key.shape != () if typed else (key.ndim != 1 or key.dtype != jnp.uint32):
        raise RuleError(
            f"rule nn.dropout: key must be one PRNG key, but came {describe(key)}; "
            "call it as dropout(key, x, rate)."
        )


def _dropped(key: Any, x: jax.Array, rate: float) -> jax.Array:
    """x where the key keeps it, divided by 1 − rate, and 0 elsewhere."""
    if rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)

    def dropped(key: Any, x: jax.Array) -> list[jax.Array]:
        keeps = jax.random.bernoulli(key, 1 - rate, x.shape)
        return [jnp.where(keeps, x / (1 - rate), jnp.zeros_like(x))]

    return run_placed(dropped, (key, x), [explicit_sharding(x)])[0]


@dropout.forward
def dropout_forward(key: Any, x: jax.Array, rate: float) -> tuple[jax.Array, dict[str, Any]]:
    return dropout.primal(key, x, rate), {"key": key}


# Derivation for y = m x/(1 − rate) with a mask m of 0 and 1: linear in x and diagonal, so that the
# bar goes the way of x, through the same mask: x̄ = m ȳ/(1 − rate).
@dropout.backward
def dropout_backward(residuals: Mapping[str, Any], y_bar: jax.Array, rate: float) -> dict[str, jax.Array]:
    return {"x": _dropped(residuals["key"], y_bar, rate)}


@dropout.reference
def dropout_reference(key: Any, x: jax.Array, rate: float) -> jax.Array:
    if rate in (0, 1):
        return x * (1 - rate)
    keep = jax.random.uniform(key, x.shape) < 1 - rate
    return x * keep.astype(x.dtype) / (1 - rate)


@dropout.samples
def dropout_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, rate: float, *shape: int, tags: Any = ()) -> Sample:
        return Sample(name, (jax.random.key_data(key), draws.normal(key, shape)), {"rate": rate}, tags)

    yield make("rows", 0.5, 4, 5)
    yield make("scalar", 0.25)
    yield make("nothing dropped", 0, 3, 1)
    yield make("all dropped", 1.0, 2, 3)
    yield make("empty", 0.1, 0, 2)
    yield make("bench", 0.1, 512, 1024, tags=("bench",))

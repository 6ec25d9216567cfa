"""The arithmetic of exponential tails: e^−size that neither loses digits nor vanishes too early.

A bar is a normal number as long as the product ȳ e^−size is, and a large ȳ lifts an e^−size that no
float holds. And an exponent that has been rounded costs its size in ULP: e^−80 with an exponent
that is off by half a ULP is off by 40.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe


def check_real(name: str, x: ArrayLike) -> None:
    """Refuses complex inputs."""
    if jnp.iscomplexobj(x):
        raise RuleError(f"rule {name}: input x must be real here, but came as {describe(x)}.")


def is_single(x: jax.Array) -> bool:
    return bool(jnp.finfo(x.dtype).bits == 32)


def size_of(x: jax.Array) -> jax.Array:
    """|x|, whose slope at 0 is 1: a bar's formula holds from the right there."""
    return jnp.where(x < 0, -x, x)


def clipped_size(x: jax.Array) -> jax.Array:
    """|x|, but never more than what no ȳ lifts a tail e^−|x| |x| from: it stays finite in products."""
    return jnp.minimum(size_of(x), 192.0 if is_single(x) else 1440.0)


def tail(
    size: jax.Array, low: jax.Array | float = 0.0
) -> tuple[jax.Array, jax.Array, Callable[[jax.Array, jax.Array], jax.Array]]:
    """e^−(size + low) for products with a bar.

    Far out (size > T, where e^−T is the last normal one) it is f q g with constants f = 2¹¹ e^−T and
    g = 2⁻¹¹ e^−2, and the bar is multiplied by one after the other. The power of 2 leaves room for a
    slope that is polynomial in size beside e^−size. T + 2 − size is exact out there.

    Args:
      size: the exponent; where it is negative e^−size is the plain one.
      low: what size lacks after rounding, at most an ULP of it.

    Returns:
      (q, small, times): q = e^−size, but e^(T + 2 − size) far out; small = e^−size, but 0 far out, for
      sums with numbers near 1; and times(ȳ, slope) = ȳ · slope for a slope that has q as a factor.
    """
    end = 87.0 if is_single(size) else 708.0
    far = size > end
    q = jnp.exp(jnp.where(far, (end + 2.0) - size, -size))
    if not isinstance(low, float):
        q = q - q * low
    first, last = 2.0**11 * math.exp(-end), 2.0**-11 * math.exp(-2.0)

    def times(y_bar: jax.Array, slope: jax.Array) -> jax.Array:
        product = jnp.where(far, first * y_bar, y_bar) * slope
        return jnp.where(far, last * product, product)

    return q, jnp.where(far, 0.0, q), times


def reflected(x: jax.Array, y_bar: jax.Array, left: jax.Array) -> jax.Array:
    """ȳ f′(x) from left = ȳ f′(−|x|), for f with f(x) − f(−x) = x, and so f′(x) + f′(−x) = 1."""
    return jnp.where(x < 0, left, y_bar - left)


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x = high + low, each with half the digits, so that products of them are exact."""
    exponent, mantissa = (8, 11) if is_single(x) else (11, 25)
    high = jax.lax.stop_gradient(jax.lax.reduce_precision(x, exponent, mantissa))
    return high, x - high


def horner(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """c₀ + c₁ x + c₂ x² + ..."""
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def exp_series(x: jax.Array, skipped: int, largest: float) -> jax.Array:
    """Σ xᵏ/(k + skipped)! = (e^x − the first terms of its series)/x^skipped, to |x| = largest."""
    digits = 2.0**-26 if is_single(x) else 2.0**-55
    coefficients = [1 / math.factorial(skipped)]
    while coefficients[-1] * largest ** (len(coefficients) - 1) > digits * coefficients[0]:
        coefficients.append(1 / math.factorial(skipped + len(coefficients)))
    return horner(coefficients, x)


def expm1(x: jax.Array) -> jax.Array:
    """e^x − 1 to 3 ULP: XLA's own was off by 5 on the CPU before JAX 0.12."""
    near = jnp.abs(x) < 0.5
    z = jnp.where(near, x, 0.0)
    return jnp.where(near, z * exp_series(z, 1, 0.5), jnp.exp(x) - 1)

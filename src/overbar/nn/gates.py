"""An input times a smooth gate of itself: silu, mish and gelu, under `jax.nn`'s names.

Each keeps x alone, where autodiff keeps the gate and its parts too, and its bar is within 4 ULP in
float32 and float64 (1 ULP in half precision) over the whole range: of the larger term where the
derivative passes through zero, and results below the smallest normal number excepted.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar.elementwise import elementwise
from overbar.nn._tails import check_real, clipped_size, halves, horner, is_single, quotient, tail


def _times_silu_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    s = clipped_size(x)
    e = tail(s)
    slope = e.q * quotient((1 - s) + e.small, e.small * (2 + e.small))  # (3)
    return e.reflected(x, y_bar, slope)  # (2)


# Derivation of x̄ for y = x σ(x).
#   (1) y' = σ(x) + x σ(x) σ(−x)
#   (2) x σ(x) + x σ(−x) = x, so y'(x) + y'(−x) = 1: x < 0 tells all
#   (3) with s = |x| and q = e^−s: σ(−s) = q/(1 + q), so y'(−s) = q/(1 + q) (1 − s/(1 + q))
#       = q (1 − s + q)/(1 + q)², where near its zero, at s = 1.278, the difference 1 − s is exact
@elementwise(
    derivative=_times_silu_slope,
    equation="x̄ = ȳ σ(x) (1 + x σ(−x))",
    reference=lambda x: 0.5 * x * (1 + jnp.tanh(0.5 * x)),
)
def silu(x: ArrayLike) -> jax.Array:
    """Sigmoid linear unit, x σ(x); the rule under `jax.nn.silu`'s name, and under `jax.nn.swish`'s.

    Backward: x̄ = ȳ σ(x) (1 + x σ(−x)), accurate over the whole range.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      x σ(x), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Elfwing, Uchibe, Doya, "Sigmoid-weighted linear units for neural network function
    approximation in reinforcement learning", 2018.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.silu)(0.0)), nn.swish is nn.silu
    (0.5, True)
    """
    check_real("nn.silu", x)
    return jax.nn.silu(x)


swish = silu


def _times_mish_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    s = clipped_size(x)
    e = tail(s)
    small = e.small
    left = (1 - s) + small * ((1.5 - s) + small * (1 + 0.25 * small))
    left = quotient(left, small * (2 + small * (2 + small * (1 + 0.25 * small))))
    left = e.times(y_bar, e.q * left)  # (3)
    d = 1 + 2 * small * (1 + small)
    right = 1 + 2 * jnp.square(small) * (2 * s * (1 + small) - d) / jnp.square(d)  # (4)
    return jnp.where(x < 0, left, y_bar * right)


# Derivation of x̄ for y = x t, t = tanh(log(1 + e^x)).
#   (1) with e = e^x and n = e² + 2e: t = ((1 + e)² − 1)/((1 + e)² + 1) = n/(n + 2)
#   (2) ṫ = 2ṅ/(n + 2)² = 4e(e + 1)ẋ/(n + 2)², so y' = t + x t' = (n(n + 2) + 4x e(e + 1))/(n + 2)²
#   (3) for x = −s < 0, e = q = e^−s: y' = q ((q + 2)(q² + 2q + 2) − 4s(q + 1))/(q² + 2q + 2)², and
#       the bracket is 4(1 − s) + 4q(3/2 − s + q + q²/4), where 1 − s is exact near its zero at 1.19;
#       the denominator is 4(1 + q + q²/2)² = 4(1 + 2q + 2q² + q³ + q⁴/4)
#   (4) for x = s ≥ 0, e = 1/q and d = 1 + 2q + 2q²: t = (1 + 2q)/d = 1 − 2q²/d, t' = 4q²(1 + q)/d²,
#       so y' = 1 + 2q² (2s(1 + q) − d)/d², a small difference from 1
@elementwise(
    derivative=_times_mish_slope,
    equation="x̄ = ȳ (t + x (1 − t²) σ(x)), t = tanh(log(1 + e^x))",
    reference=lambda x: x - 2 * x / (jnp.square(1 + jnp.exp(x)) + 1),
)
def mish(x: ArrayLike) -> jax.Array:
    """Mish, x tanh(softplus(x)); the rule under `jax.nn.mish`'s name.

    Backward: x̄ = ȳ (t + x (1 − t²) σ(x)) with t = tanh(softplus(x)), by one exponential and
    accurate over the whole range.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      x tanh(log(1 + e^x)), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Misra, "Mish: a self regularized non-monotonic activation function", 2019.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.mish)(0.0):.4f}")
    0.6000
    """
    check_real("nn.mish", x)
    return jax.nn.mish(x)


# Mills' ratio Φ(−s)/φ(s) as P(s)/Q(s) for s ≥ 0: interpolated at Chebyshev's points of (s − c)/(s + c)
# with 60 digits, to 3e-9 for float32 and 1e-17 for float64, relative to the larger one of it and s. No
# coefficient is negative, so nothing cancels.
_SINGLE = (
    (1.253314138, 1.084297835, 0.4479563644, 0.09783515799, 0.009673735331),
    (1.0, 1.663029153, 1.184321313, 0.4574681676, 0.09784187097, 0.009673619817),
)
_DOUBLE = (
    (
        *(1.25331413731550025, 1.92443167232974308, 1.46261558509598323, 0.706037139769601122),
        *(0.236124733879273941, 0.0564852436227333253, 9.66007841764066912e-3, 1.1421410310315045e-3),
        *(8.52782557367742049e-5, 3.10209734529276172e-6),
    ),
    (
        *(1.0, 2.33335888047480547, 2.52874941928086812, 1.68026833298875601, 0.760269406028114999),
        *(0.245614242328576542, 0.0576211809350582176, 9.74535666143776977e-3, 1.14524312904534701e-3),
        *(8.52782557348383025e-5, 3.10209734530104944e-6),
    ),
)
_LOG_ROOT = 0.9189385332046727  # ln √(2π)


def _density_size(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """−ln φ(s) = ½ s² + ln √(2π) as (rounded, what that lacks)."""
    high, low = halves(s)
    exact, rest = 0.5 * high * high, 0.5 * low * (s + high) + _LOG_ROOT
    size = exact + rest
    part = size - exact  # of which rest is the larger one for small s, so no shorter sum will do
    return size, jax.lax.stop_gradient((exact - (size - part)) + (rest - part))


def _times_gelu_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    s = jnp.minimum(clipped_size(x), 64.0)
    size, low = _density_size(s)
    top, bottom = _SINGLE if is_single(s) else _DOUBLE
    e = tail(size)
    difference = (horner(top, s) / horner(bottom, s) + low * s) - s
    return e.reflected(x, y_bar, e.q * difference)  # (3), (2)


# 2√(2/π) and 2√(2/π) · 0.044715, each as a number of 12 bits and the rest.
_LINEAR = (1.595703125, 6.599660573071176e-05)
_CUBIC = (0.07135009765625, 4.718616350248776e-06)


def _tanh_size(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """v = 2√(2/π) (s + 0.044715 s³) as (rounded, what that lacks).

    s, s² and g = v/s are taken in halves. Products of high halves are exact, and so is their sum with
    −(high half of g), since it all but cancels; products with low halves are small enough to round.
    """
    linear, cubic = sum(_LINEAR), sum(_CUBIC)
    high, low = halves(s)
    square_high, square_low = halves(high * high)
    square_low = square_low + low * (s + high)
    g = linear + cubic * (s * s)
    g_high, _ = halves(g)
    g_low = ((_LINEAR[0] - g_high) + _CUBIC[0] * square_high) + (
        _LINEAR[1] + _CUBIC[1] * square_high + cubic * square_low
    )
    exact, rest = high * g_high, high * g_low + low * g
    size = exact + rest
    return size, (exact - size) + rest


@jax.custom_jvp
def _tanh_tail_size(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _tanh_size(s)


@_tanh_tail_size.defjvp
def _tanh_tail_size_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]):  # type: ignore[no-untyped-def]
    (s,), (s_dot,) = primals, tangents
    slope = sum(_LINEAR) + 3 * sum(_CUBIC) * (s * s)
    return _tanh_tail_size(s), (slope * s_dot, jnp.zeros_like(s_dot))


def _times_tanh_gelu_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    s = jnp.minimum(clipped_size(x), 32.0)
    size, low = _tanh_tail_size(s)
    e = tail(size)
    difference = ((1 - size) + e.small) - 2 * sum(_CUBIC) * (s * s * s)  # (7)
    slope = e.q * quotient(difference, e.small * (2 + e.small), low)  # (6)
    return e.reflected(x, y_bar, slope)  # (5)


# Derivation of x̄ for y = x Φ(x), Φ the normal distribution and φ = Φ' its density.
#   (1) y' = Φ(x) + x φ(x), since φ is the derivative of Φ
#   (2) Φ(x) + Φ(−x) = 1 and x φ(x) is odd, so y'(x) + y'(−x) = 1: x < 0 tells all
#   (3) for x = −s both terms have the factor φ(s), which Mills' ratio m(s) = Φ(−s)/φ(s) does not have:
#       y'(−s) = φ(s) (m(s) − s), without cancellation but at its zero, s = 0.75; the rounding of φ's
#       exponent, a factor 1 − low, is told to s alone, beside which m is small where it counts
# and for y = x σ(v), v = 2√(2/π) (x + 0.044715 x³), which is ½ x (1 + tanh(v/2)):
#   (4) y' = σ(v) + x v' σ(v) σ(−v)
#   (5) v is odd, so here too y'(x) + y'(−x) = 1
#   (6) as silu's, with q = e^−|v|: y'(−s) = q (1 − s v' + q)/(1 + q)²
#   (7) s v' = v + 4√(2/π) 0.044715 s³, and 1 − v is exact near the zero, at s = 0.75
@elementwise(
    derivative=lambda y_bar, x, approximate: (
        _times_tanh_gelu_slope(y_bar, x) if approximate else _times_gelu_slope(y_bar, x)
    ),
    equation="x̄ = ȳ (Φ(x) + x φ(x)), or with tanh for Φ ȳ (σ(v) + x v′ σ(v) σ(−v)), v = 2√(2/π)(x + 0.044715 x³)",
    reference=lambda x, approximate: (
        x / (1 + jnp.exp(-1.5957691216057308 * x * (1 + 0.044715 * x * x)))
        if approximate
        else 0.5 * x * (1 + jax.lax.erf(x / 2**0.5))
    ),
)
def gelu(x: ArrayLike, approximate: bool = True) -> jax.Array:
    """Gaussian error linear unit, x Φ(x); the rule under `jax.nn.gelu`'s name.

    Backward: x̄ = ȳ (Φ(x) + x φ(x)); with Φ approximated, ȳ (σ(v) + x v' σ(v) σ(−v)) for
    v = 2√(2/π) (x + 0.044715 x³). Both accurate over the whole range.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      approximate: whether Φ(x) is ½ (1 + tanh(v/2)) = σ(v).

    Returns:
      x Φ(x), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Hendrycks, Gimpel, "Gaussian error linear units (GELUs)", 2016.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.gelu)(0.0))
    0.5
    """
    check_real("nn.gelu", x)
    return jax.nn.gelu(x, approximate)

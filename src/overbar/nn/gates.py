"""An input times a smooth gate of itself: silu, mish and gelu, under `jax.nn`'s names.

Each keeps x alone, where autodiff keeps the gate and its parts too. The exponential is forward's,
which XLA computes once where both are compiled together. The bar is within 4 ULP in float32 and
float64 (1 ULP in half precision): of the larger term where the derivative passes through zero, and as
far as the exponential is a normal number, |x| < 87 in float32. gelu's has a range without end, and its
tanh form in float32 and float64 the accuracy of jax.grad.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._jax_nn import jax_nn
from overbar._tails import (
    Decay,
    check_real,
    halves,
    horner,
    is_single,
    once,
    quotient,
    sigmas,
    times_slope,
)
from overbar.elementwise import elementwise


def _times_silu_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    one, other = sigmas(x)
    return y_bar * (one * (1 + jnp.clip(x, -1e3, 1e3) * other))  # (2); 0 · 1 rather than 0 · ∞


# Derivation of x̄ for y = x σ(x).
#   (1) σ'(x) = σ(x) σ(−x), so y' = σ(x) + x σ(x) σ(−x)
#   (2) y' = σ(x) (1 + x σ(−x)), where σ(−x) has not come from 1 − σ(x) for x > 0
@elementwise(
    derivative=_times_silu_slope,
    equation="x̄ = ȳ σ(x) (1 + x σ(−x))",
    reference=lambda x: 0.5 * x * (1 + jnp.tanh(0.5 * x)),
)
def silu(x: ArrayLike) -> jax.Array:
    """Sigmoid linear unit, x σ(x); the rule under `jax.nn.silu`'s name, and under `jax.nn.swish`'s.

    Backward: x̄ = ȳ σ(x) (1 + x σ(−x)), accurate as far as σ(x) is a normal number (x > −87 in
    float32), and 0 below.

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
    return jax_nn.silu(x)


swish = silu


def _mish_rest(s: jax.Array, q: jax.Array, left: jax.Array, size: jax.Array) -> jax.Array:
    d = 1 + 2 * q * (1 + q)
    value = jnp.where(left, (1 - s) + q * ((1.5 - s) + q * (1 + 0.25 * q)), 2 * q * (d - 2 * s * (1 + q)))
    t = q * (2 + q * (2 + q * (1 + 0.25 * q)))
    return quotient(value, jnp.where(left, t, 2 * q * (2 + 2 * q * (2 + 2 * q * (1 + 0.5 * q)))))  # (3), (4)


_MISH = Decay(exponent=lambda s: (s,), rest=_mish_rest, complement=True, lifted=False)


# Derivation of x̄ for y = x t, t = tanh(log(1 + e^x)).
#   (1) with e = e^x and n = e² + 2e: t = ((1 + e)² − 1)/((1 + e)² + 1) = n/(n + 2)
#   (2) ṫ = 2ṅ/(n + 2)² = 4e(e + 1)ẋ/(n + 2)², so y' = t + x t' = (n(n + 2) + 4x e(e + 1))/(n + 2)²
#   (3) for x = −s < 0, e = q = e^−s: y' = q ((q + 2)(q² + 2q + 2) − 4s(q + 1))/(q² + 2q + 2)², and
#       the bracket is 4(1 − s) + 4q(3/2 − s + q + q²/4), where 1 − s is exact near its zero at 1.19;
#       the denominator is 4(1 + q + q²/2)² = 4(1 + 2q + 2q² + q³ + q⁴/4)
#   (4) for x = s ≥ 0, e = 1/q and d = 1 + 2q + 2q²: t = (1 + 2q)/d = 1 − 2q²/d, t' = 4q²(1 + q)/d²,
#       so y' = 1 − 2q² (d − 2s(1 + q))/d², a small difference from 1; d² = 1 + 4q + 8q² + 8q³ + 4q⁴
@elementwise(
    derivative=lambda y_bar, x: times_slope(_MISH, y_bar, x),
    equation="x̄ = ȳ (t + x (1 − t²) σ(x)), t = tanh(log(1 + e^x))",
    reference=lambda x: x - 2 * x / (jnp.square(1 + jnp.exp(x)) + 1),
)
def mish(x: ArrayLike) -> jax.Array:
    """Mish, x tanh(softplus(x)); the rule under `jax.nn.mish`'s name.

    Backward: x̄ = ȳ (t + x (1 − t²) σ(x)) with t = tanh(softplus(x)), by one exponential,
    accurate as far as e^−|x| is a normal number (|x| < 87 in float32), and 0 or ȳ beyond.

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
    return jax_nn.mish(x)


# Φ(−s) e^(s²/2) = P(s)/Q(s) for s ≥ 0 (half of erfcx(s/√2)): interpolated at Chebyshev's points of
# (s − c)/(s + c) with 60 digits, to 3e-9 for float32 and 1e-17 for float64, relative to the larger one
# of it and s/√(2π). No coefficient is negative, so nothing cancels.
_SINGLE = (
    (0.5000000004, 0.432572251, 0.1787087335, 0.03903058103, 0.003859262033),
    (1.0, 1.663029153, 1.184321313, 0.4574681676, 0.09784187097, 0.009673619817),
)
_DOUBLE = (
    (
        *(0.5, 0.767737159835970376, 0.583499196868867261, 0.281668066587789726, 0.0942001397929789748),
        *(0.0225343518998837153, 3.85381371279023191e-3, 4.55648347647254762e-4, 3.40211018122852597e-5),
        1.23755778895832487e-6,
    ),
    (
        *(1.0, 2.33335888047480547, 2.52874941928086812, 1.68026833298875601, 0.760269406028114999),
        *(0.245614242328576542, 0.0576211809350582176, 9.74535666143776977e-3, 1.14524312904534701e-3),
        *(8.52782557348383025e-5, 3.10209734530104944e-6),
    ),
)


_DENSITY = (0.39892578125, 1.649915143267794e-05)  # φ(0) = 1/√(2π), 12 bits and the rest


def _half_square(s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """½ s² as (rounded, what that lacks)."""
    s = jnp.minimum(s, 64.0)
    high, low = halves(s)
    exact, rest = 0.5 * high * high, 0.5 * low * (s + high)
    size = exact + rest
    return size, jax.lax.stop_gradient((exact - size) + rest)


def _gelu_rest(s: jax.Array, q: jax.Array, left: jax.Array, size: jax.Array, low: jax.Array) -> jax.Array:
    s = jnp.minimum(s, 64.0)
    top, bottom = _SINGLE if is_single(s) else _DOUBLE
    high, rest = _DENSITY
    return once(horner(top, s) / horner(bottom, s)) + s * (low * high - rest) - s * high  # (3)


_GELU = Decay(exponent=_half_square, rest=_gelu_rest, complement=True)  # (2)


_LINEAR, _CUBIC = math.sqrt(2 / math.pi), 0.044715


@jax.custom_jvp
def _tanh_gate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """1 + t and 1 − t for t = tanh(u), u = √(2/π) (x + 0.044715 x³), in the operations of jax.nn.gelu."""
    t = jnp.tanh(jnp.asarray(_LINEAR, x.dtype) * (x + _CUBIC * (x**3)))
    return 1 + t, 1 - t


def _tanh_rate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x and u′, as far out as 1 − t² is not 0."""
    x = jnp.clip(x, -32.0, 32.0)
    return x, _LINEAR * (1 + 3 * _CUBIC * (x * x))


@_tanh_gate.defjvp
def _tanh_gate_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    (x,), (x_dot,) = primals, tangents
    high, low = _tanh_gate(x)
    change = high * low * _tanh_rate(x)[1] * x_dot
    return (high, low), (change, -change)


def _times_gelu_slope(y_bar: jax.Array, x: jax.Array, approximate: bool, half: bool) -> jax.Array:
    if not approximate:
        return times_slope(_GELU, y_bar, x)
    if half:
        within, rate = _tanh_rate(x)
        one, other = sigmas(2 * _LINEAR * (within + _CUBIC * (within * within * within)))
        return y_bar * (one * (1 + 2 * within * other * rate))  # (6)
    (high, low), (within, rate) = _tanh_gate(x), _tanh_rate(x)
    return y_bar * (0.5 * high * (1 + within * low * rate))  # (5)


# Derivation of x̄ for y = x Φ(x), Φ the normal distribution and φ = Φ' its density.
#   (1) y' = Φ(x) + x φ(x), since φ is the derivative of Φ
#   (2) Φ(x) + Φ(−x) = 1 and x φ(x) is odd, so y'(x) + y'(−x) = 1: x < 0 tells all
#   (3) for x = −s both terms have the factor e^(−s²/2), and only Φ's is no power of s:
#       y'(−s) = e^(−s²/2) (Φ(−s) e^(s²/2) − s/√(2π)), without cancellation but at its zero, s = 0.75;
#       the rounding of the exponent, a factor 1 − low, is told to the second term alone, the larger
#       one where it counts
# and for y = ½ x (1 + t), t = tanh(u), u = √(2/π) (x + 0.044715 x³):
#   (4) t' = (1 − t²) u', so y' = ½ (1 + t) + ½ x (1 + t)(1 − t) u'
#   (5) y' = ½ (1 + t) (1 + x (1 − t) u'), a factor fewer, and finite where x³ overflows
#   (6)    = σ(2u) (1 + 2x σ(−2u) u'), and neither σ has come from the other by 1 − σ
# The t is forward's. 1 + t has lost digits for x < 0, as jax.grad's has; (6), which has them all, would
# be an exponential more and take half as long again. In half precision forward's t is another one, and
# the exponential stands in its place.
@elementwise(
    derivative=_times_gelu_slope,
    equation="x̄ = ȳ (Φ(x) + x φ(x)), or ½ ȳ (1 + t) (1 + x (1 − t) u′), t = tanh u",
    reference=lambda x, approximate: (
        x / (1 + jnp.exp(-1.5957691216057308 * x * (1 + 0.044715 * x * x)))
        if approximate
        else 0.5 * x * (1 + jax.lax.erf(x / 2**0.5))
    ),
)
def gelu(x: ArrayLike, approximate: bool = True) -> jax.Array:
    """Gaussian error linear unit, x Φ(x); the rule under `jax.nn.gelu`'s name.

    Backward: x̄ = ȳ (Φ(x) + x φ(x)), accurate over the whole range; with Φ approximated,
    ½ ȳ (1 + t) (1 + x (1 − t) u') for t = tanh(u), u = √(2/π) (x + 0.044715 x³), with the error
    of jax.grad: 64 ULP of ȳ itself in float32 (512 in float64), so that for x < −5 no digit of the
    small bar is left; in half precision accurate for x > −10. It is finite everywhere.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      approximate: whether Φ(x) is ½ (1 + t).

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
    return jax_nn.gelu(x, approximate)

"""Rectifiers, piecewise linear and exponential: elementwise rules under `jax.nn`'s names.

Where the output tells on which piece x lay, the output is kept, which the next layer keeps anyway.
The exponential ones keep x: their bars are within 4 ULP in float32 and float64 (1 ULP in half
precision) as far as the exponential is a normal number, where jax.grad adds up y + α and loses
every digit of α e^x.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._jax_nn import jax_nn
from overbar._tails import check_real, clipped_size, exp_series, expm1, halves
from overbar.elementwise import elementwise
from overbar.rule import Sample


# Derivation of x̄ for y = x: x̄ = ȳ.
@elementwise(derivative=lambda y_bar: y_bar, equation="x̄ = ȳ", reference=lambda x: -jnp.negative(x))
def identity(x: ArrayLike) -> jax.Array:
    """The identity, y = x; the rule under `jax.nn.identity`'s name.

    Backward: x̄ = ȳ.

    Args:
      x: any shape; float16, bfloat16, float32, float64 or complex.

    Returns:
      x.

    Raises:
      RuleError: x is not float.

    Source: the definition.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.identity)(3.0))
    1.0
    """
    return jnp.asarray(x)


# Derivation of x̄ for y = max(x, 0).
#   (1) x̄ = ȳ relu'(x), relu'(x) = 1 where x > 0 and 0 where x < 0
#   (2) at 0 any value in [0, 1] is a subgradient; 0 is taken, as jax.nn.relu does
#   (3) y > 0 exactly where x > 0, so the output tells the mask and x is not kept
@elementwise(
    derivative=lambda y: y > 0,  # (3)
    equation="x̄ = ȳ where y > 0, else 0",
    reference=lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)),
    kinks={0.0: 0.0},
)
def relu(x: ArrayLike) -> jax.Array:
    """Rectified linear unit, max(x, 0); the rule under `jax.nn.relu`'s name.

    Backward: x̄ = ȳ where y > 0 and 0 elsewhere, so 0 at the kink x = 0, as in `jax.nn.relu`. A
    backend that flushes subnormal numbers to 0, as the CPU's, takes a subnormal x for 0 too.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      max(x, 0), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: for the value at 0, Bertoin et al., "Numerical influence of ReLU'(0) on
    backpropagation", 2021.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> jax.vmap(jax.grad(nn.relu))(jnp.array([-1.0, 0.0, 2.0]))
    Array([0., 0., 1.], dtype=float32)
    """
    check_real("nn.relu", x)
    return jnp.where(jnp.less_equal(x, 0), 0, x)  # as max(x, 0), and JAX's own slope of it at 0 is 0


# Derivation of x̄ for y = min(max(x, 0), 6), as for relu: 0 < y < 6 exactly where 0 < x < 6, and at
# both kinks the slope is 0, as in jax.nn.relu6.
@elementwise(
    derivative=lambda y: (y > 0) & (y < 6),
    equation="x̄ = ȳ where 0 < y < 6, else 0",
    reference=lambda x: jnp.clip(x, 0, 6),
    kinks={0.0: 0.0, 6.0: 0.0},
)
def relu6(x: ArrayLike) -> jax.Array:
    """Rectified linear unit up to 6, min(max(x, 0), 6); the rule under `jax.nn.relu6`'s name.

    Backward: x̄ = ȳ where 0 < y < 6 and 0 elsewhere, so 0 at both kinks, as in `jax.nn.relu6`.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      min(max(x, 0), 6), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Howard et al., "MobileNets", 2017.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> jax.vmap(jax.grad(nn.relu6))(jnp.array([-1.0, 2.0, 6.0]))
    Array([0., 1., 0.], dtype=float32)
    """
    check_real("nn.relu6", x)
    x = jnp.asarray(x)
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))  # as with min and max, its slope 0 at 0 and 6


# Derivation for y = x (x ≥ 0), a x (x < 0), with a for negative_slope.
#   (1) ẏ = ẋ for x ≥ 0, the value at 0 being jax.nn.leaky_relu's, and a ẋ + x ȧ for x < 0
#   (2) x̄ = ȳ or a ȳ; ā = Σ ȳ x over the x < 0
@elementwise(
    {
        "x": lambda y_bar, rises, negative_slope: jnp.where(rises, y_bar, negative_slope * y_bar),
        "negative_slope": lambda x: jnp.minimum(x, 0),
    },
    {"x": "x̄ = ȳ where x ≥ 0, else a ȳ", "negative_slope": "ā = Σ ȳ min(x, 0)"},
    keeps={"rises": lambda x: x >= 0},  # all that is kept where nobody asks for ā
    reference=lambda x, negative_slope: jnp.maximum(x, 0) + negative_slope * jnp.minimum(x, 0),
    kinks={0.0: 1.0},
    samples=lambda key: _sloped_samples(key),
)
def leaky_relu(x: ArrayLike, negative_slope: ArrayLike = 1e-2) -> jax.Array:
    """Leaky rectified linear unit; the rule under `jax.nn.leaky_relu`'s name.

    Backward: x̄ = ȳ where x ≥ 0 and a ȳ elsewhere, so ȳ at the kink x = 0, as in jax.nn; and
    ā = Σ ȳ min(x, 0), with a for negative_slope.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      negative_slope: a, a number or an array of x's dtype that broadcasts against x.

    Returns:
      x where x ≥ 0 and a x elsewhere, with x's dtype and the broadcast shape.

    Raises:
      RuleError: x or negative_slope is not real float.

    Source: Maas, Hannun, Ng, "Rectifier nonlinearities improve neural network acoustic models", 2013.

    >>> import jax
    >>> from overbar import nn
    >>> print(jax.grad(nn.leaky_relu, argnums=(0, 1))(-2.0, 0.125))
    (Array(0.125, dtype=float32, weak_type=True), Array(-2., dtype=float32, weak_type=True))
    """
    check_real("nn.leaky_relu", x)
    return jax_nn.leaky_relu(x, negative_slope)


# Derivation of x̄ for y = min(max(x, −1), 1).
#   (1) x̄ = ȳ where |x| ≤ 1, else 0: at the kinks 1, as in jax.nn.hard_tanh
# There the output does not tell x = 1 from x = 2, so the mask is kept.
@elementwise(
    derivative=lambda inside: inside,  # (1)
    equation="x̄ = ȳ where |x| ≤ 1, else 0",
    keeps={"inside": lambda x: jnp.abs(x) <= 1},
    reference=lambda x: jnp.clip(x, -1, 1),
    kinks={-1.0: 1.0, 1.0: 1.0},
)
def hard_tanh(x: ArrayLike) -> jax.Array:
    """Hard tanh, min(max(x, −1), 1); the rule under `jax.nn.hard_tanh`'s name.

    Backward: x̄ = ȳ where |x| ≤ 1 and 0 elsewhere, so ȳ at both kinks, as in `jax.nn.hard_tanh`.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      min(max(x, −1), 1), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Collobert, "Large scale machine learning", 2004.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.hard_tanh)(0.5))
    1.0
    """
    check_real("nn.hard_tanh", x)
    return jax_nn.hard_tanh(x)


# Derivation of x̄ for y = relu6(x + 3)/6.
#   (1) x̄ = ȳ/6 where |x| < 3, else 0: at the kinks 0, as in jax.nn.hard_sigmoid
# The output does not tell the mask: x + 3 rounds to 6 for the last x below 3.
@elementwise(
    derivative=lambda y_bar, inside: jnp.where(inside, y_bar / 6, 0.0),  # (1)
    equation="x̄ = ȳ/6 where |x| < 3, else 0",
    keeps={"inside": lambda x: jnp.abs(x) < 3},
    reference=lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
    kinks={-3.0: 0.0, 3.0: 0.0},
)
def hard_sigmoid(x: ArrayLike) -> jax.Array:
    """Hard sigmoid, relu6(x + 3)/6; the rule under `jax.nn.hard_sigmoid`'s name.

    Backward: x̄ = ȳ/6 where |x| < 3 and 0 elsewhere, also at the kinks, as in jax.nn.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      min(max(x + 3, 0), 6)/6, with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Howard et al., "Searching for MobileNetV3", 2019.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.hard_sigmoid)(1.0):.4f}")
    0.1667
    """
    check_real("nn.hard_sigmoid", x)
    return jax_nn.hard_sigmoid(x)


# Derivation of x̄ for y = x h, h = relu6(x + 3)/6.
#   (1) y' = h + x h'
#   (2) y' = 0 for x ≤ −3, (2x + 3)/6 between, 1 for x ≥ 3: at the kinks as h' = 0 there has it
@elementwise(
    derivative=lambda y_bar, x: jnp.where(
        x >= 3,
        y_bar,
        jnp.where(x <= -3, 0.0, y_bar * ((2 * jnp.clip(x, -3, 3) + 3) / 6)),  # (2)
    ),
    equation="x̄ = ȳ (2x + 3)/6 where |x| < 3, ȳ above, 0 below",
    reference=lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    kinks={-3.0: 0.0, 3.0: 1.0},
)
def hard_silu(x: ArrayLike) -> jax.Array:
    """Hard silu, x relu6(x + 3)/6; the rule under `jax.nn.hard_silu`'s name, and `jax.nn.hard_swish`'s.

    Backward: x̄ = ȳ (2x + 3)/6 where |x| < 3, ȳ for x ≥ 3 and 0 for x ≤ −3, as in jax.nn.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      x min(max(x + 3, 0), 6)/6, with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Howard et al., "Searching for MobileNetV3", 2019.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.hard_silu)(-1.5)), nn.hard_swish is nn.hard_silu
    (0.0, True)
    """
    check_real("nn.hard_silu", x)
    return jax_nn.hard_silu(x)


hard_swish = hard_silu


def _times_elu_slope(y_bar: jax.Array, x: jax.Array, alpha: jax.Array) -> jax.Array:
    """ȳ where x > 0, else ȳ α e^x: α goes to the factor that it cannot carry out of range."""
    e = jnp.exp(jnp.where(x > 0, 0.0, x))
    large = jnp.abs(alpha) > 1
    left = jnp.where(large, y_bar, alpha * y_bar) * jnp.where(large, alpha * e, e)
    return jnp.where(x > 0, y_bar, left)


# Derivation for y = x (x > 0), α (e^x − 1) (x ≤ 0).
#   (1) ẏ = ẋ for x > 0, and α e^x ẋ + (e^x − 1) α̇ for x ≤ 0
#   (2) x̄ = ȳ or ȳ α e^x;  ᾱ = Σ ȳ (e^x − 1) over the x ≤ 0
@elementwise(
    {
        "x": _times_elu_slope,
        "alpha": lambda x: jnp.where(x > 0, 0.0, expm1(jnp.where(x > 0, 0.0, x))),
    },
    {"x": "x̄ = ȳ where x > 0, else ȳ α e^x", "alpha": "ᾱ = Σ ȳ (e^min(x, 0) − 1)"},
    reference=lambda x, alpha: jnp.where(x > 0, x, alpha * (jnp.exp(jnp.minimum(x, 0)) - 1)),
    samples=lambda key: _sloped_samples(key),
)
def elu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """Exponential linear unit; the rule under `jax.nn.elu`'s name.

    Backward: x̄ = ȳ where x > 0 and ȳ α e^x elsewhere; ᾱ = Σ ȳ (e^x − 1) over the x ≤ 0.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      alpha: α, a number or an array of x's dtype that broadcasts against x.

    Returns:
      x where x > 0 and α (e^x − 1) elsewhere, with x's dtype and the broadcast shape.

    Raises:
      RuleError: x or alpha is not real float.

    Source: Clevert, Unterthiner, Hochreiter, "Fast and accurate deep network learning by exponential
    linear units (ELUs)", 2015.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.elu)(-20.0):.4g}")
    2.061e-09
    """
    check_real("nn.elu", x)
    return jax_nn.elu(x, alpha)


def _quotient(x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x/α as (rounded, what that lacks), the products of halves being exact."""
    u = x / alpha
    u_high, u_low = halves(u)
    high, low = halves(alpha)
    rest = ((x - u_high * high) - (u_high * low + u_low * high)) - u_low * low
    return u, jax.lax.stop_gradient(rest * (1 / alpha))


def _celu_exponent(x: jax.Array, alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """s = −min(x, 0)/α for e^−s, and what it lacks after rounding; finite, as far as ȳ e^−s is normal."""
    u, low = _quotient(jnp.where(x > 0, 0.0, x), alpha)
    within = -u < clipped_size(jnp.full_like(u, jnp.inf))
    return jnp.where(within, -u, clipped_size(jnp.full_like(u, jnp.inf))), jnp.where(within, -low, 0.0)


def _times_celu_slope(y_bar: jax.Array, x: jax.Array, alpha: jax.Array) -> jax.Array:
    u, low = _quotient(jnp.minimum(x, 0.0), alpha)
    q = jnp.exp(u)
    return jnp.where(x > 0, y_bar, y_bar * (q * (1 + jnp.where(jnp.abs(low) < 1, low, 0))))


def _times_celu_slope_by_alpha(y_bar: jax.Array, x: jax.Array, alpha: jax.Array) -> jax.Array:
    """−ȳ (1 − (1 + s) e^−s), for small s by a series of positive terms: −ȳ e^−s (s²/2! + s³/3! + ...).

    What s lacks goes to where it does not round: its share in both is e^−s s.
    """
    s, low = _celu_exponent(x, alpha)
    q = jnp.exp(-s)
    near = jnp.abs(s) < 2.5
    z = jnp.where(near, s, 0.0)
    least, most = jnp.minimum(z, 1), jnp.maximum(z, 1)  # z = least · most
    series = y_bar * least * (most * q * (z * exp_series(z, 2, 2.5) + low))
    return -jnp.where(near, series, y_bar * (1 - ((1 + s) - s * low) * q))


# Derivation for y = x (x > 0), α (e^u − 1) with u = x/α (x ≤ 0).
#   (1) u̇ = ẋ/α − u α̇/α
#   (2) ẏ = ẋ for x > 0, and e^u ẋ + (e^u − 1 − u e^u) α̇ for x ≤ 0
#   (3) x̄ = ȳ or ȳ e^u;  ᾱ = Σ ȳ (e^u − 1 − u e^u) over the x ≤ 0, which is ȳ (e^−s (1 + s) − 1) with s = −u
@elementwise(
    {"x": _times_celu_slope, "alpha": _times_celu_slope_by_alpha},  # (3)
    {"x": "x̄ = ȳ where x > 0, else ȳ e^u, u = x/α", "alpha": "ᾱ = Σ ȳ (e^u − 1 − u e^u), u = min(x, 0)/α"},
    reference=lambda x, alpha: jnp.where(x > 0, x, alpha * (jnp.exp(jnp.minimum(x, 0) / alpha) - 1)),
    samples=lambda key: _sloped_samples(key),
)
def celu(x: ArrayLike, alpha: ArrayLike = 1.0) -> jax.Array:
    """Continuously differentiable exponential linear unit; the rule under `jax.nn.celu`'s name.

    Backward: x̄ = ȳ where x > 0 and ȳ e^u elsewhere, u = x/α; ᾱ = Σ ȳ (e^u − 1 − u e^u) over the x ≤ 0.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      alpha: α > 0, a number or an array of x's dtype that broadcasts against x.

    Returns:
      max(x, 0) + α (e^(min(x, 0)/α) − 1), with x's dtype and the broadcast shape.

    Raises:
      RuleError: x or alpha is not real float.

    Source: Barron, "Continuously differentiable exponential linear units", 2017.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.celu)(-40.0, 2.0):.4g}")
    2.061e-09
    """
    check_real("nn.celu", x)
    return jax_nn.celu(x, alpha)


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


def _times_selu_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    e = jnp.exp(jnp.where(x > 0, 0.0, x))
    return y_bar * jnp.where(x > 0, _SELU_SCALE, _SELU_SCALE * _SELU_ALPHA * e)


# Derivation of x̄ for y = λ elu(x, α) with two constants.
#   (1) x̄ = ȳ λ for x > 0, and ȳ λ α e^x for x ≤ 0, also at the kink x = 0, as in jax.nn.selu
@elementwise(
    derivative=_times_selu_slope,  # (1)
    equation="x̄ = ȳ λ where x > 0, else ȳ λ α e^x",
    reference=lambda x: _SELU_SCALE * jnp.where(x > 0, x, _SELU_ALPHA * (jnp.exp(jnp.minimum(x, 0)) - 1)),
    kinks={0.0: _SELU_SCALE * _SELU_ALPHA},
)
def selu(x: ArrayLike) -> jax.Array:
    """Scaled exponential linear unit; the rule under `jax.nn.selu`'s name.

    Backward: x̄ = ȳ λ where x > 0 and ȳ λ α e^x elsewhere, also at the kink x = 0, as in jax.nn.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      λ x where x > 0 and λ α (e^x − 1) elsewhere, λ = 1.0507 and α = 1.6733; x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Klambauer et al., "Self-normalizing neural networks", 2017.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.selu)(-20.0):.4g}")
    3.624e-09
    """
    check_real("nn.selu", x)
    return jax_nn.selu(x)


def _sloped_samples(key: jax.Array) -> Iterator[Sample]:
    """Of the rules with a parameter for x < 0: one left out, one number, and arrays that broadcast."""
    kx, ka = jax.random.split(key)

    def x(*shape: int) -> jax.Array:
        return 3 * draws.normal(kx, shape)

    def positive(*shape: int) -> jax.Array:
        return draws.uniform(ka, shape, minval=0.5, maxval=2)

    yield Sample("scalars", (jnp.float32(-0.7), jnp.float32(0.3)))
    yield Sample("by default", (x(3, 4),))
    yield Sample("an array", (x(2, 1, 3), positive(2, 1, 3)))
    yield Sample("broadcast", (x(4, 3), positive(4, 1)))
    yield Sample("of size 1", (x(1), positive(1)))
    yield Sample("empty", (x(0, 2),))
    yield Sample("saturated", (jnp.linspace(-14.0, 14.0, 29) + 0.25,))
    yield Sample("bench", (draws.normal(key, (1024, 1024)),), tags=("bench",))

"""Elementwise rules under `jax.nn`'s names.

Each has the primal of its namesake, so that outputs are the same bit for bit. In float32 and
float64 every bar is within 4 ULP of the truth, in float16 and bfloat16 within 1 ULP, over the
whole range, results below the smallest normal number excepted (the CPU backend flushes them). For
sigmoid and tanh that holds under `accuracy=jax.lax.AccuracyMode.HIGHEST`, the keyword that
`jax.lax.logistic` and `jax.lax.tanh` have. Their default keeps the output, which the next layer
keeps anyway, and has jax.grad's accuracy: 1 − y is 0 once y has rounded to 1 (z ≥ 17 in float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe
from overbar.elementwise import elementwise

Accuracy = jax.lax.AccuracyMode | jax.lax.Tolerance | None


def _check_accuracy(name: str, x: ArrayLike, accuracy: Any) -> None:
    if accuracy is jax.lax.AccuracyMode.HIGHEST:
        _check_real(name, x)
    if not isinstance(accuracy, Accuracy):
        raise RuleError(
            f"rule {name}: option accuracy must be None, a jax.lax.AccuracyMode or a jax.lax.Tolerance, "
            f"but came as {accuracy!r}."
        )


def _check_real(name: str, x: ArrayLike) -> None:
    if jnp.iscomplexobj(x):
        raise RuleError(f"rule {name}: input x must be real here, but came as {describe(x)}.")


def _tail(size: jax.Array) -> tuple[jax.Array, jax.Array, Callable[..., jax.Array]]:
    """e^−size in factors: (n, q, apply) with e^−size = q e^−nS, n ≤ 2, and apply(v) = v e^−nS.

    apply takes a scale as well, which far out (n > 0) it multiplies into the last factor.

    A bar is normal as long as the product ȳ e^−size is, and ȳ can be large enough to lift an
    e^−size that no float holds. So the factors are applied to ȳ one after the other. S = 64 in float32
    (e^−S = 1.6e-28) and 512 in float64 (4.4e-223) are multiples of the spacing of the floats out
    there, which makes size − nS exact.
    """
    shift = 64.0 if jnp.finfo(size.dtype).bits == 32 else 512.0
    n = jax.lax.stop_gradient(jnp.minimum(jnp.floor(size / shift), 2))
    factor = math.exp(-shift)

    def apply(v: jax.Array, scale: float = 1.0) -> jax.Array:
        return v * jnp.where(n > 1, factor, 1.0) * jnp.where(n > 0, scale * factor, 1.0)

    return n, jnp.exp(n * shift - size), apply


def _times_logistic_slope(y_bar: jax.Array, x: jax.Array, scale: float = 1.0) -> jax.Array:
    """ȳ σ'(x) · scale, without cancellation and without underflow before the last product.

    σ'(x) = σ(x) σ(−x) is even in x. With q = e^−|x| it is
        1/(1+q) · q/(1+q) = q/(1 + 2q + q²) = q/(1 + q(2 + q)),
    a sum of positive terms: nothing cancels. Far out the denominator is 1.
    """
    n, q, apply = _tail(jnp.where(x < 0, -x, x))
    slope = jnp.where(n > 0, q, scale * q / (1 + q * (2 + q)))
    return apply(y_bar * slope, scale)


# Derivation of z̄ for y = σ(z) = 1/(1 + e^−z).
#   (1) ẏ = σ'(z) ż, since y depends on its own z only
#   (2) ⟨ȳ, ẏ⟩ = ⟨ȳ σ'(z), ż⟩, so z̄ = ȳ σ'(z)
#   (3) σ'(z) = e^−z/(1 + e^−z)² = σ(z) (1 − σ(z)) = y (1 − y)     from the output alone
#   (4) 1 − σ(z) = σ(−z), so σ'(z) = σ(z) σ(−z)                    from the input, all digits kept
@elementwise(
    derivative=lambda y: y * (1 - y),  # (3)
    equation="x̄ = ȳ y (1 − y)",
    accurate=lambda y_bar, x: _times_logistic_slope(y_bar, x),  # (4)
    reference=lambda x, *, accuracy: 0.5 * (1 + jnp.tanh(0.5 * x)),
)
def sigmoid(x: ArrayLike, *, accuracy: Accuracy = None) -> jax.Array:
    """Logistic sigmoid, σ(x) = 1/(1 + e^−x); the rule under `jax.nn.sigmoid`'s name.

    Backward: x̄ = ȳ y (1 − y) from the output, or x̄ = ȳ σ(x) σ(−x) from the input.

    Args:
      x: any shape; float16, bfloat16, float32, float64, or complex (by default only).
      accuracy: as in `jax.lax.logistic`. By default the residual is y and the bar has jax.grad's
        accuracy; `jax.lax.AccuracyMode.HIGHEST` keeps x instead, and the bar is within 4 ULP
        everywhere (1 ULP in half precision).

    Returns:
      σ(x), with x's shape and dtype.

    Raises:
      RuleError: x is not float, or complex under HIGHEST; accuracy is something else.

    Source: lecture on backpropagation, univariate logistic least squares.

    >>> import jax
    >>> from overbar import nn
    >>> nn.sigmoid(0.0)
    Array(0.5, dtype=float32, weak_type=True)
    >>> float(jax.grad(nn.sigmoid)(20.0))  # y has rounded to 1
    0.0
    >>> accurate = lambda x: nn.sigmoid(x, accuracy=jax.lax.AccuracyMode.HIGHEST)
    >>> print(f"{jax.grad(accurate)(20.0):.4g}")
    2.061e-09
    """
    _check_accuracy("nn.sigmoid", x, accuracy)
    return jax.lax.logistic(x, accuracy=accuracy)


def _times_tanh_slope(y_bar: jax.Array, y: jax.Array) -> jax.Array:
    """ȳ (1 + y)(1 − y), multiplied in the order of the installed JAX's own derivative.

    y has lost digits that no order brings back, and of any two orders each is nearer to the truth
    at some inputs. In JAX's own (changed between 0.10 and 0.12) no bar is further than jax.grad's.
    """
    if hasattr(jax.lax, "one_minus_square"):
        return y_bar * jax.lax.one_minus_square(y)
    part = y_bar * (1 - y)
    return part + part * y


# Derivation of z̄ for y = tanh(z).
#   (1) z̄ = ȳ tanh'(z), as for sigmoid
#   (2) tanh' = sech² = 1 − tanh² = (1 + y)(1 − y): factored, since y² rounds before 1 − y² cancels
#   (3) tanh(z) = 2σ(2z) − 1, so sech²(z) = 4σ'(2z)                from the input, all digits kept
@elementwise(
    derivative=_times_tanh_slope,  # (2)
    equation="x̄ = ȳ (1 + y) (1 − y)",
    accurate=lambda y_bar, x: _times_logistic_slope(y_bar, 2 * x, scale=4.0),  # (3)
    reference=lambda x, *, accuracy: 1 - 2 / (jnp.exp(2 * x) + 1),
)
def tanh(x: ArrayLike, /, *, accuracy: Accuracy = None) -> jax.Array:
    """Hyperbolic tangent; the rule under `jax.nn.tanh`'s name.

    Backward: x̄ = ȳ (1 + y)(1 − y) from the output, or x̄ = ȳ sech²(x) from the input.

    Args:
      x: any shape; float16, bfloat16, float32, float64, or complex (by default only).
      accuracy: as in `jax.lax.tanh`. By default the residual is y and the bar has jax.grad's
        accuracy; `jax.lax.AccuracyMode.HIGHEST` keeps x instead, and the bar is within 4 ULP
        everywhere (1 ULP in half precision).

    Returns:
      tanh(x), with x's shape and dtype.

    Raises:
      RuleError: x is not float, or complex under HIGHEST; accuracy is something else.

    Source: NIST Digital Library of Mathematical Functions, 4.34.9 and 4.35.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.tanh)(0.0))
    1.0
    """
    _check_accuracy("nn.tanh", x, accuracy)
    return jax.lax.tanh(x, accuracy=accuracy)


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
    _check_real("nn.relu", x)
    return jnp.where(jnp.less_equal(x, 0), 0, x)  # as max(x, 0), and JAX's own slope of it at 0 is 0


def _times_logistic(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    """ȳ σ(x), without underflow before the last product.

    With q = e^−|x|, σ(x) is 1/(1 + q) for x ≥ 0 and q/(1 + q) for x < 0, where far out the
    denominator is 1.
    """
    n, q, apply = _tail(jnp.where(x < 0, -x, x))
    left = jnp.where(n > 0, q, q / (1 + q))
    return jnp.where(x < 0, apply(y_bar * left), y_bar / (1 + apply(q)))


# Derivation of x̄ for y = log(1 + e^x).
#   (1) x̄ = ȳ softplus'(x)
#   (2) softplus'(x) = e^x/(1 + e^x) = σ(x)
# The input is kept. σ(x) = 1 − e^−y would do with the output, but y has been rounded, which in half
# precision is already the one ULP that the bar may have.
@elementwise(
    derivative=_times_logistic,  # (2)
    equation="x̄ = ȳ σ(x)",
    reference=lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)) + jnp.log1p(jnp.exp(-jnp.abs(x))),
)
def softplus(x: ArrayLike) -> jax.Array:
    """Softplus, log(1 + e^x); the rule under `jax.nn.softplus`' name.

    Backward: x̄ = ȳ σ(x), accurate over the whole range.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      log(1 + e^x), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Dugas et al., "Incorporating second-order functional knowledge for better option
    pricing", 2000.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.softplus)(0.0))
    0.5
    """
    _check_real("nn.softplus", x)
    return jnp.logaddexp(x, 0)

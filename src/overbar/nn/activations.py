"""Sigmoids and what integrates them: elementwise rules under `jax.nn`'s names.

Each has the primal of its namesake, so that outputs are the same bit for bit. In float32 and
float64 every bar is within 4 ULP of the truth, in float16 and bfloat16 within 1 ULP, over the
whole range, results below the smallest normal number excepted (the CPU backend flushes them);
those of softplus, log_sigmoid and log1mexp as far as e^−|x| is no such number. For sigmoid and
tanh that holds under `accuracy=jax.lax.AccuracyMode.HIGHEST`, the keyword that `jax.lax.logistic`
and `jax.lax.tanh` have. Their default keeps the output, which the next layer keeps anyway, and has
jax.grad's accuracy: 1 − y is 0 once y has rounded to 1 (z ≥ 17 in float32).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError
from overbar._jax_nn import jax_nn
from overbar._tails import Decay, check_real, exp_series, is_single, once, size_of, times_slope
from overbar.elementwise import elementwise
from overbar.rule import Sample

Accuracy = jax.lax.AccuracyMode | jax.lax.Tolerance | None


def _check_accuracy(name: str, x: ArrayLike, accuracy: Any) -> None:
    if accuracy is jax.lax.AccuracyMode.HIGHEST:
        check_real(name, x)
    if not isinstance(accuracy, Accuracy):
        raise RuleError(
            f"rule {name}: option accuracy must be None, a jax.lax.AccuracyMode or a jax.lax.Tolerance, "
            f"but came as {accuracy!r}."
        )


# σ'(x) = σ(x) σ(−x) is even in x. With q = e^−|x| it is 1/(1+q) · q/(1+q) = q/(1 + 2q + q²), a sum of
# positive terms: nothing cancels. And σ(−|x|) = q/(1 + q).
_LOGISTIC_SLOPE = Decay(
    exponent=lambda s: (s,), rest=lambda s, q, left, size: 1 / (1 + q * (2 + q)), complement=False
)
_LOGISTIC = Decay(
    exponent=lambda s: (s,),
    rest=lambda s, q, left, size: once(1 / (1 + q)),
    complement=True,
    lifted=False,
)


# Derivation of z̄ for y = σ(z) = 1/(1 + e^−z).
#   (1) ẏ = σ'(z) ż, since y depends on its own z only
#   (2) ⟨ȳ, ẏ⟩ = ⟨ȳ σ'(z), ż⟩, so z̄ = ȳ σ'(z)
#   (3) σ'(z) = e^−z/(1 + e^−z)² = σ(z) (1 − σ(z)) = y (1 − y)     from the output alone
#   (4) 1 − σ(z) = σ(−z), so σ'(z) = σ(z) σ(−z)                    from the input, all digits kept
@elementwise(
    derivative=lambda y: y * (1 - y),  # (3)
    equation="x̄ = ȳ y (1 − y)",
    accurate=lambda y_bar, x: times_slope(_LOGISTIC_SLOPE, y_bar, x),  # (4)
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


_TANH_SLOPE = Decay(
    exponent=lambda s: (2 * s,), rest=lambda s, q, left, size: 4 / (1 + q * (2 + q)), complement=False
)


# Derivation of z̄ for y = tanh(z).
#   (1) z̄ = ȳ tanh'(z), as for sigmoid
#   (2) tanh' = sech² = 1 − tanh² = (1 + y)(1 − y): factored, since y² rounds before 1 − y² cancels
#   (3) tanh(z) = 2σ(2z) − 1, so sech²(z) = 4σ'(2z)                from the input, all digits kept
@elementwise(
    derivative=_times_tanh_slope,  # (2)
    equation="x̄ = ȳ (1 + y) (1 − y)",
    accurate=lambda y_bar, x: times_slope(_TANH_SLOPE, y_bar, x),  # (3)
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


# Derivation of x̄ for y = log(1 + e^x).
#   (1) x̄ = ȳ softplus'(x)
#   (2) softplus'(x) = e^x/(1 + e^x) = σ(x)
# The input is kept. σ(x) = 1 − e^−y would do with the output, but y has been rounded, which in half
# precision is already the one ULP that the bar may have.
@elementwise(
    derivative=lambda y_bar, x: times_slope(_LOGISTIC, y_bar, x),  # (2)
    equation="x̄ = ȳ σ(x)",
    reference=lambda x: jnp.where(x > 0, x, jnp.zeros_like(x)) + jnp.log1p(jnp.exp(-jnp.abs(x))),
)
def softplus(x: ArrayLike) -> jax.Array:
    """Softplus, log(1 + e^x); the rule under `jax.nn.softplus`' name.

    Backward: x̄ = ȳ σ(x), accurate as far as σ(x) is a normal number (x > −87 in float32).

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
    check_real("nn.softplus", x)
    return jnp.logaddexp(x, 0)


# Derivation of x̄ for y = log σ(x) = −softplus(−x).
#   (1) x̄ = ȳ softplus'(−x), the two signs cancel
#   (2) softplus' = σ, so x̄ = ȳ σ(−x)
@elementwise(
    derivative=lambda y_bar, x: times_slope(_LOGISTIC, y_bar, -x),  # (2)
    equation="x̄ = ȳ σ(−x)",
    reference=lambda x: jnp.minimum(x, 0) - jnp.log1p(jnp.exp(-jnp.abs(x))),
)
def log_sigmoid(x: ArrayLike) -> jax.Array:
    """Logarithm of the logistic sigmoid, log σ(x); the rule under `jax.nn.log_sigmoid`'s name.

    Backward: x̄ = ȳ σ(−x), accurate as far as σ(−x) is a normal number (x < 87 in float32).

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      log σ(x) = −log(1 + e^−x), with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 3.10.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.log_sigmoid)(20.0):.4g}")
    2.061e-09
    """
    check_real("nn.log_sigmoid", x)
    return -softplus.primal(-jnp.asarray(x))


def _times_soft_sign_slope(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    """ȳ/(1 + |x|)², in two factors, since the square overflows; 4 keeps the factor normal."""
    s = size_of(x)
    far = s > 1
    factor, back = once(jnp.where(far, 4.0, 1.0) / (1 + s)), jnp.where(far, 0.25, 1.0)
    return (y_bar * back * factor) * factor * back


# Derivation of x̄ for y = x/(1 + |x|).
#   (1) for x > 0: y' = ((1 + x) − x)/(1 + x)² = 1/(1 + x)²
#   (2) y is odd, so y' is even: y' = 1/(1 + |x|)²
@elementwise(
    derivative=_times_soft_sign_slope,  # (2)
    equation="x̄ = ȳ/(1 + |x|)²",
    reference=lambda x: x * jnp.power(1 + jnp.abs(x), -1.0),
)
def soft_sign(x: ArrayLike) -> jax.Array:
    """Soft sign, x/(1 + |x|); the rule under `jax.nn.soft_sign`'s name.

    Backward: x̄ = ȳ/(1 + |x|)², accurate over the whole range, and 0 at ±inf.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      x/(1 + |x|), with x's shape and dtype; NaN at ±inf, as `jax.nn.soft_sign` has it.

    Raises:
      RuleError: x is not real float.

    Source: Bergstra et al., "Quadratic polynomials learn better image features", 2009.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.soft_sign)(-1.0))
    0.25
    """
    check_real("nn.soft_sign", x)
    return jax_nn.soft_sign(x)


# Derivation of x̄ for y = ½ clip(x + 1, 0, 2).
#   (1) y' = ½ for |x| < 1 and 0 for |x| > 1
#   (2) at ±1 any value in [0, ½] is a subgradient; ¼ is taken, as jax.nn.sparse_sigmoid does
# The output does not tell the mask: x + 1 rounds to 2 for the last x below 1.
@elementwise(
    derivative=lambda x: jnp.where(jnp.abs(x) < 1, 0.5, jnp.where(jnp.abs(x) == 1, 0.25, jnp.zeros_like(x))),
    equation="x̄ = ½ ȳ where |x| < 1, else 0",
    reference=lambda x: jnp.where(jnp.abs(x) < 1, 0.5 + 0.5 * x, 0.5 + 0.5 * jnp.sign(x)),
    kinks={-1.0: 0.25, 1.0: 0.25},
)
def sparse_sigmoid(x: ArrayLike) -> jax.Array:
    """Sparse sigmoid, ½ clip(x + 1, 0, 2); the rule under `jax.nn.sparse_sigmoid`'s name.

    Backward: x̄ = ½ ȳ where |x| < 1 and 0 elsewhere; ¼ ȳ at the kinks x = ±1, as jax.nn has it.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      0 for x ≤ −1, ½ (x + 1) between, 1 for x ≥ 1, with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Blondel et al., "Learning with Fenchel-Young losses", 2019, section 6.2.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.sparse_sigmoid)(0.25))
    0.5
    """
    check_real("nn.sparse_sigmoid", x)
    return jax_nn.sparse_sigmoid(x)


# Derivation of x̄ for y = 0 (x ≤ −1), ¼ (x + 1)² between, x (x ≥ 1).
#   (1) y' = 0, ½ (x + 1), 1: continuous, so there is no kink
@elementwise(
    derivative=lambda x: jnp.where(x <= -1, 0.0, jnp.where(x >= 1, 1.0, 0.5 * (x + 1))),  # (1)
    equation="x̄ = ȳ clip(½ (x + 1), 0, 1)",
    reference=lambda x: jnp.where(jnp.abs(x) < 1, 0.25 * (x * x + 2 * x + 1), 0.5 * (x + jnp.abs(x))),
)
def sparse_plus(x: ArrayLike) -> jax.Array:
    """Sparse plus, the softplus of `sparse_sigmoid`; the rule under `jax.nn.sparse_plus`' name.

    Backward: x̄ = ȳ sparse_sigmoid(x), finite also where (x + 1)² would overflow.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      0 for x ≤ −1, ¼ (x + 1)² between, x for x ≥ 1, with x's shape and dtype.

    Raises:
      RuleError: x is not real float.

    Source: Blondel et al., "Learning with Fenchel-Young losses", 2019, section 6.2.

    >>> import jax
    >>> from overbar import nn
    >>> float(jax.grad(nn.sparse_plus)(0.5))
    0.75
    """
    check_real("nn.sparse_plus", x)
    return jax_nn.sparse_plus(x)


def _root(x: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(|x|, √(x² + b)) as far as b counts in it; and |x| from there on, and whether it is there."""
    s, end = size_of(x), 2.0**60 if is_single(x) else 2.0**500
    near = jnp.minimum(s, end)
    return near, jnp.sqrt(jnp.square(near) + b), jnp.maximum(s, end), s > end


def _finite(b: jax.Array) -> jax.Array:
    """b, or the largest number for ∞: the limits there are those for it."""
    return jnp.minimum(b, float(jnp.finfo(b.dtype).max))


@jax.custom_jvp
def _times_squareplus_slope(y_bar: jax.Array, x: jax.Array, b: jax.Array) -> jax.Array:
    s, left, b = once(size_of(x)), x < 0, _finite(b)
    _, root, _, beyond = _root(x, b)
    root = jnp.where(beyond, s, root)
    part = once(0.5 * (jnp.where(left, b, s) / root))  # in this order: half of b may be subnormal
    return y_bar * jnp.where(left, part, 0.5 + part) / jnp.where(left, root + s, 1.0)  # (4), (3)


@_times_squareplus_slope.defjvp
def _times_squareplus_slope_jvp(
    primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """ȳ˙ f′ + ȳ (½ b ẋ/r³ − ¼ x ḃ/r³); JAX's own slope of x/r, 1/r − x²/r³, would cancel."""
    (y_bar, x, b), (y_bar_dot, x_dot, b_dot) = primals, tangents
    b = _finite(b)
    near, root, _, _ = _root(x, b)
    square = jnp.square(root)
    by_x, by_b = 0.5 * (b / root) / square, -0.25 * jnp.sign(x) * (near / root) / square
    bar, bar_dot = (_times_squareplus_slope(v, x, b) for v in (y_bar, y_bar_dot))
    return bar, bar_dot + y_bar * (by_x * x_dot + by_b * b_dot)


def _times_squareplus_slope_by_b(y_bar: jax.Array, x: jax.Array, b: jax.Array) -> jax.Array:
    """¼ ȳ/r, the 4 where it carries nothing over the top."""
    _, root, far, beyond = _root(x, b)
    root = jnp.where(beyond, far, root)
    above = root > 1
    bar = y_bar / jnp.where(above, root, 4 * root)
    return jnp.where(above, 0.25 * bar, bar)


# Derivation for y = ½ (x + r), r = √(x² + b).
#   (1) ṙ = (x ẋ + ½ ḃ)/r
#   (2) x̄ = ½ ȳ (1 + x/r), b̄ = ¼ ȳ/r
#   (3) for x > 0 that is ½ (r + s)/r with s = |x|; for x < 0 it cancels, but
#       ½ (1 − s/r) = ½ (r − s)/r = ½ b/((r + s) r)
#   (4) r and r + s divide one after the other: their product overflows
@elementwise(
    {"x": _times_squareplus_slope, "b": _times_squareplus_slope_by_b},  # (2)
    {"x": "x̄ = ½ ȳ (1 + x/√(x² + b))", "b": "b̄ = Σ ¼ ȳ/√(x² + b)"},
    integers=("b",),
    reference=lambda x, b: 0.5 * (x + jnp.hypot(x, jnp.sqrt(jnp.asarray(b, x.dtype)))),
    samples=lambda key: _squareplus_samples(key),
)
def squareplus(x: ArrayLike, b: ArrayLike = 4) -> jax.Array:
    """Squareplus, ½ (x + √(x² + b)); the rule under `jax.nn.squareplus`' name.

    Backward: x̄ = ½ ȳ (1 + x/√(x² + b)), in a form that does not cancel for x < 0 nor overflow for
    large x, and b̄ = Σ ¼ ȳ/√(x² + b).

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      b: smoothness, a number or an array that broadcasts against x; integers have no bar.

    Returns:
      ½ (x + √(x² + b)), with x's dtype and the broadcast shape.

    Raises:
      RuleError: x is not real float.

    Source: Barron, "Squareplus: a softplus-like algebraic rectifier", 2021.

    >>> import jax
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.squareplus)(-1e4):.4g}")  # b/(4 x²)
    1e-08
    """
    check_real("nn.squareplus", x)
    return jax_nn.squareplus(x, b)


def _squareplus_samples(key: jax.Array) -> Iterator[Sample]:
    kx, kb = jax.random.split(key)

    def x(*shape: int) -> jax.Array:
        return 3 * draws.normal(kx, shape)

    yield Sample("scalar", (jnp.float32(-0.5), jnp.float32(4.0)))
    yield Sample("default b", (x(3, 4),))
    yield Sample("of size 1", (x(1), jnp.full(1, 2.0)))
    yield Sample("b an array", (x(2, 1, 3), draws.uniform(kb, (2, 1, 3), minval=0.5, maxval=5)))
    yield Sample("b broadcast", (x(4, 3), draws.uniform(kb, (4, 1), minval=0.5, maxval=5)))
    yield Sample("empty", (x(0, 2),))
    yield Sample("saturated", (jnp.linspace(-1e4, 1e4, 16),))
    yield Sample("bench", (draws.normal(key, (1024, 1024)),), tags=("bench",))


def _over_expm1(y_bar: jax.Array, x: jax.Array) -> jax.Array:
    """ȳ/(e^x − 1): by the series near 0, and as ȳ q/(1 − q) further out, with forward's q = e^−x."""
    near = jnp.abs(x) < 0.7
    z = jnp.where(near, x, 0.5)
    q = jnp.minimum(jnp.exp(-x), 1e30)  # where there is no y, the slope is −1 still
    return y_bar * (jnp.where(near, 1.0, q) / jnp.where(near, z * exp_series(z, 1, 0.7), 1 - q))


# Derivation of x̄ for y = log(1 − e^−x), x > 0.
#   (1) y' = e^−x/(1 − e^−x)
#   (2)    = 1/(e^x − 1)
@elementwise(
    derivative=_over_expm1,  # (2) near 0, (1) further out
    equation="x̄ = ȳ/(e^x − 1)",
    reference=lambda x: jnp.log(2 * jnp.sinh(0.5 * x)) - 0.5 * x,
    samples=lambda key: _positive_samples(key),
)
def log1mexp(x: ArrayLike) -> jax.Array:
    """log(1 − e^−x) for x > 0; the rule under `jax.nn.log1mexp`'s name.

    Backward: x̄ = ȳ/(e^x − 1), accurate as far as e^−x is a normal number (x < 87 in float32).

    Args:
      x: any shape; float16, bfloat16, float32 or float64.

    Returns:
      log(1 − e^−x), with x's shape and dtype; −inf at 0 and NaN below.

    Raises:
      RuleError: x is not real float.

    Source: Mächler, "Accurately computing log(1 − exp(−|a|))", 2012.

    >>> import jax, math
    >>> from overbar import nn
    >>> print(f"{jax.grad(nn.log1mexp)(math.log(2)):.4f}")
    1.0000
    """
    check_real("nn.log1mexp", x)
    return jax_nn.log1mexp(x)


def _positive_samples(key: jax.Array) -> Iterator[Sample]:
    for number, shape in enumerate([(), (1,), (3, 4), (2, 1, 3), (0, 2)]):
        x = 3 * draws.exponential(jax.random.fold_in(key, number), shape) + 0.01
        yield Sample(f"shape {shape}", (x,))
    yield Sample("near zero", (10.0 ** jnp.linspace(-6, -1, 24),))
    yield Sample("saturated", (jnp.linspace(0.25, 40.25, 29),))
    yield Sample("bench", (draws.exponential(key, (1024, 1024)),), tags=("bench",))

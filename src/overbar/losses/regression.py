"""Regression losses: elementwise rules of two inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import is_float
from overbar._dtypes import computing
from overbar._tails import apart
from overbar.elementwise import elementwise
from overbar.losses._inputs import beside, real_floats, same_shape
from overbar.rule import Rule, Sample, rule

# The difference alone is kept: one array, as by jax.grad. Half precision would round it once more, so that
# there both of what it is made of are kept.
_RESIDUALS = {
    "errors": "y − t, in float32 and float64",
    "predictions": "y, in half precision",
    "targets": "t, in half precision",
}


def _errors(name: str, predictions: ArrayLike, targets: ArrayLike | None, *, equal: bool) -> jax.Array:
    """y − t, or y where there is no t; refuses what optax.losses refuses, and another float dtype."""
    rule = f"losses.{name}"
    y = real_floats(rule, "predictions", predictions)
    if targets is None:
        return y
    t = beside(rule, "targets", targets, "predictions", y)
    if equal:
        same_shape(rule, "targets", t, "predictions", y)
    return y - t


def _product(factor: int, y_bar: jax.Array, errors: jax.Array) -> jax.Array:
    """factor · ȳ · errors, where the factor goes to the one that it cannot carry over the top."""
    if factor == 1:
        return y_bar * apart(errors)  # the bare product is a tenth slower than XLA's loop for anything more
    small = jnp.abs(errors) < 1
    return jnp.where(small, y_bar, factor * y_bar) * jnp.where(small, factor * errors, errors)


# Derivation for L = (y − t)², elementwise; L̄ is the bar of each element's loss.
#   (1) L̇ = 2 (y − t) (ẏ − ṫ)
#   (2) ⟨L̄, L̇⟩ = ⟨2 L̄ (y − t), ẏ⟩ + ⟨−2 L̄ (y − t), ṫ⟩
#   (3) ȳ = 2 L̄ (y − t)
#   (4) t̄ = −ȳ
# and for L = ½ (y − t)², the lecture's loss, the factor 2 goes: ȳ = L̄ (y − t).
def _declare_backward(loss: Rule[..., jax.Array], factor: int) -> None:
    """Declares forward and backward of factor · ½ (y − t)²."""

    @loss.forward
    def forward(predictions: jax.Array, targets: jax.Array | None) -> tuple[jax.Array, dict[str, Any]]:
        y = loss.primal(predictions, targets)
        errors = _errors(loss.__name__, predictions, targets, equal=True)
        if targets is not None and errors.dtype != computing(errors.dtype):
            return y, {"errors": None, "predictions": predictions, "targets": targets}
        other = targets is not None and targets.dtype != errors.dtype  # a Python number's: its bar has it too
        return y, {"errors": errors, "predictions": None, "targets": targets if other else None}

    @loss.backward
    def backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
        e, y, t = (residuals[n] for n in ("errors", "predictions", "targets"))
        wide = computing(y_bar.dtype)
        errors = e.astype(wide) if y is None else y.astype(wide) - t.astype(wide)
        predictions_bar = _product(factor, y_bar.astype(wide), errors).astype(y_bar.dtype)  # (3)
        targets_bar = -predictions_bar  # (4)
        like = t if t is not None and is_float(t) else y_bar
        return {"predictions": predictions_bar, "targets": targets_bar.astype(like.dtype)}


@rule(
    bars={"predictions": "ȳ = 2 L̄ (y − t)", "targets": "t̄ = −2 L̄ (y − t)"},
    residuals=_RESIDUALS,
    arrays=("predictions", "targets"),
    integers=("targets",),
)
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Squared error, L = (y − t)², elementwise; the rule under `optax.losses.squared_error`'s name.

    Backward: ȳ = 2 L̄ (y − t) and t̄ = −ȳ.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, y's shape and dtype, integers or booleans; None for zeros.

    Returns:
      (y − t)² with y's shape and dtype: one loss an element, neither summed nor averaged.

    Raises:
      RuleError: predictions are not real floats; targets of another shape or float dtype.

    Source: Bishop, "Pattern Recognition and Machine Learning", 2006.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    Array([0., 4.], dtype=float32)
    """
    return jnp.square(_errors("squared_error", predictions, targets, equal=True))


@rule(
    bars={"predictions": "ȳ = L̄ (y − t)", "targets": "t̄ = −L̄ (y − t)"},
    residuals=_RESIDUALS,
    arrays=("predictions", "targets"),
    integers=("targets",),
)
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """The lecture's squared loss, L = ½ (y − t)², elementwise; as `optax.losses.l2_loss`.

    Backward: ȳ = L̄ (y − t) and t̄ = −ȳ.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, y's shape and dtype, integers or booleans; None for zeros.

    Returns:
      ½ (y − t)² with y's shape and dtype: one loss an element, neither summed nor averaged.

    Raises:
      RuleError: predictions are not real floats; targets of another shape or float dtype.

    Source: lecture on backpropagation, univariate logistic least squares.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.l2_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    Array([0., 2.], dtype=float32)
    >>> float(jax.grad(losses.l2_loss)(3.0, 1.0))
    2.0
    """
    return 0.5 * jnp.square(_errors("l2_loss", predictions, targets, equal=True))


_declare_backward(squared_error, factor=2)
_declare_backward(l2_loss, factor=1)


@squared_error.reference
def squared_error_reference(predictions: jax.Array, targets: jax.Array | None) -> jax.Array:
    if targets is None:
        return predictions * predictions
    return predictions * predictions - 2 * predictions * targets + targets * targets


@l2_loss.reference
def l2_loss_reference(predictions: jax.Array, targets: jax.Array | None) -> jax.Array:
    return squared_error_reference(predictions, targets) / 2


# Derivation for the Huber loss of e = y − t, L = ½ m² + δ (|e| − m) with m = min(|e|, δ).
#   (1) |e| ≤ δ: L = ½ e², L̇ = e ė
#   (2) |e| > δ: L = δ |e| − ½ δ², L̇ = δ sign(e) ė + (|e| − δ) δ̇
#   (3) ė = ẏ − ṫ, so ȳ = L̄ clip(e, −δ, δ), and at |e| = δ both sides say the same
#   (4) t̄ = −ȳ
#   (5) δ̄ = Σ L̄ max(|e| − δ, 0)
# Written as in (1), no δ comes and goes: JAX adds δ − δ to e, and near e = 0 loses its digits.
def _huber_slope(predictions: jax.Array, targets: jax.Array | None, delta: jax.Array) -> jax.Array:
    e = predictions if targets is None else predictions - targets
    return jnp.where(jnp.abs(e) <= delta, e, delta * jnp.sign(e))  # (3)


def _huber_excess(predictions: jax.Array, targets: jax.Array | None, delta: jax.Array) -> jax.Array:
    e = predictions if targets is None else predictions - targets
    return jnp.where(jnp.abs(e) > delta, jnp.abs(e) - delta, jnp.zeros_like(e))  # (5)


def _huber_reference(predictions: jax.Array, targets: jax.Array | None, *, delta: jax.Array) -> jax.Array:
    e = predictions if targets is None else predictions - targets
    outside = jnp.sign(e) * delta * (e - jnp.sign(e) * delta / 2)
    return jnp.where(e * e <= delta * delta, e * e / 2, outside)


def _pairs(key: jax.Array, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
    keys = jax.random.split(key, len(shapes))
    return tuple(2 * draws.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))


def _huber_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("matrix", _pairs(key, (3, 4), (3, 4)), {"delta": 0.7})
    yield Sample("scalar", _pairs(key, (), ()))
    yield Sample("broadcast", _pairs(key, (2, 3), (1, 3)), {"delta": jnp.full((2, 1), 0.5)})
    yield Sample("no targets", _pairs(key, (4, 1)))
    yield Sample("empty", _pairs(key, (0, 2), (0, 2)))
    yield Sample("tied with δ", (jnp.array([1.0, -1.0, 0.0]), jnp.zeros(3)), tags=("kink",))
    yield Sample("bench", _pairs(key, (1024, 1024), (1024, 1024)), tags=("bench",))


@elementwise(
    {
        "predictions": _huber_slope,
        "targets": lambda predictions, targets, delta: -_huber_slope(predictions, targets, delta),  # (4)
        "delta": _huber_excess,
    },
    {
        "predictions": "ȳ = L̄ clip(y − t, −δ, δ)",
        "targets": "t̄ = −ȳ",
        "delta": "δ̄ = Σ L̄ max(|y − t| − δ, 0)",
    },
    integers=("targets", "delta"),
    reference=_huber_reference,
    samples=_huber_samples,
)
def huber_loss(
    predictions: ArrayLike, targets: ArrayLike | None = None, *, delta: ArrayLike = 1.0
) -> jax.Array:
    """Huber loss, ½ (y − t)² up to |y − t| = δ and straight beyond; as `optax.losses.huber_loss`.

    Backward: ȳ = L̄ clip(y − t, −δ, δ), t̄ = −ȳ and δ̄ = Σ L̄ max(|y − t| − δ, 0), accurate also where y is
    near t.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, broadcasts against y; y's dtype, integers or booleans; None for zeros.
      delta: δ > 0, broadcasts against both; where the parabola ends.

    Returns:
      One loss an element, of the broadcast shape, in y's dtype.

    Raises:
      RuleError: predictions are not real floats; targets of another float dtype.

    Source: Huber, "Robust estimation of a location parameter", 1964.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.huber_loss(jnp.array([0.5, -3.0]))
    Array([0.125, 2.5  ], dtype=float32)
    >>> jax.vmap(jax.grad(losses.huber_loss))(jnp.array([0.5, -3.0]))
    Array([ 0.5, -1. ], dtype=float32)
    """
    sizes = jnp.abs(_errors("huber_loss", predictions, targets, equal=False))
    inside = jnp.minimum(sizes, delta)
    return 0.5 * inside**2 + delta * (sizes - inside)


# Derivation for L = log cosh e, e = y − t.
#   (1) L̇ = tanh(e) ė
#   (2) ȳ = L̄ tanh(e), t̄ = −ȳ
#   (3) |e| small: tanh(e) = e/(1 + e²/(3 + e²/(5 + …))), Lambert's fraction, to its 7th term
#   (4) else, with q = e^−2|e|, |tanh(e)| = (1 − q)/(1 + q): 1 − q loses nothing, since q < ½, and the
#       derivative of (4), 4 q/(1 + q)², comes from JAX as a sum of positive terms
def _tanh(e: jax.Array) -> jax.Array:
    size = jnp.abs(e)
    small = size < 0.35
    v = jnp.where(small, size, 0) ** 2
    above = 135135 + v * (17325 + v * (378 + v))
    below = 135135 + v * (62370 + v * (3150 + v * 28))
    q = jnp.exp(-jnp.abs(e - (-e)))  # written as logaddexp has it, so that a compiler takes it once
    return jnp.where(small, e * above, jnp.sign(e) * (1 - q)) / jnp.where(small, below, 1 + q)  # (3), (4)


def _log_cosh_slope(predictions: jax.Array, targets: jax.Array | None) -> jax.Array:
    return _tanh(predictions if targets is None else predictions - targets)


def _log_cosh_reference(predictions: jax.Array, targets: jax.Array | None) -> jax.Array:
    e = predictions if targets is None else predictions - targets
    return jnp.log1p(2 * jnp.sinh(e / 2) ** 2)


def _log_cosh_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("matrix", _pairs(key, (3, 4), (3, 4)))
    yield Sample("scalar", _pairs(key, (), ()))
    yield Sample("broadcast", _pairs(key, (2, 3), (1, 3)))
    yield Sample("no targets", _pairs(key, (4, 1)))
    yield Sample("empty", _pairs(key, (0, 2), (0, 2)))
    yield Sample("near and far", (jnp.array([1e-4, -0.3, 0.4, 9.0, -30.0]), jnp.zeros(5)))
    yield Sample("bench", _pairs(key, (1024, 1024), (1024, 1024)), tags=("bench",))


@elementwise(
    {
        "predictions": _log_cosh_slope,
        "targets": lambda predictions, targets: -_log_cosh_slope(predictions, targets),
    },
    {"predictions": "ȳ = L̄ tanh(y − t)", "targets": "t̄ = −ȳ"},
    integers=("targets",),
    reference=_log_cosh_reference,
    samples=_log_cosh_samples,
)
def log_cosh(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Log-cosh loss, log cosh(y − t), elementwise; the rule under `optax.losses.log_cosh`'s name.

    Backward: ȳ = L̄ tanh(y − t) and t̄ = −ȳ, accurate also where y is near t.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, broadcasts against y; y's dtype, integers or booleans; None for zeros.

    Returns:
      One loss an element, of the broadcast shape, in y's dtype.

    Raises:
      RuleError: predictions are not real floats; targets of another float dtype.

    Source: Chen et al., "Log hyperbolic cosine loss improves variational auto-encoder", 2019. NIST Digital
    Library of Mathematical Functions, 4.39.1, for the fraction.

    >>> import jax
    >>> from overbar import losses
    >>> print(f"{losses.log_cosh(1.0, 0.0):.4f} {jax.grad(losses.log_cosh)(1e-6, 0.0):.4g}")
    0.4338 1e-06
    """
    errors = _errors("log_cosh", predictions, targets, equal=False)
    return jnp.logaddexp(errors, -errors) - jnp.log(2.0).astype(errors.dtype)


def _samples(key: jax.Array) -> Iterator[Sample]:
    def make(shape: tuple[int, ...], scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
        ky, kt = jax.random.split(key)
        return scale * draws.normal(ky, shape), scale * draws.normal(kt, shape)

    for shape in [(), (1,), (3, 4), (2, 1, 3), (0, 2)]:
        yield Sample(f"shape {shape}", make(shape))
    yield Sample("no targets", make((4, 2))[:1])
    yield Sample("small", make((9,), 1e-3))
    yield Sample("large", make((9,), 1e2))
    yield Sample("bench", make((1024, 1024)), tags=("bench",))


for _loss in (squared_error, l2_loss):
    _loss.samples(_samples)

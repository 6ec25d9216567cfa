"""Regression losses: elementwise rules of two inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar.rule import Rule, Sample, rule

# Predictions are what the layer before keeps, and targets are the data: together they cost nothing.
# Their difference would be an array of its own, and in half precision it would be rounded once more.
_RESIDUALS = {"predictions": "y, kept anyway by the layer before", "targets": "t, the data, or None"}


def _errors(name: str, predictions: ArrayLike, targets: ArrayLike | None) -> jax.Array:
    """y − t, or y where there is no t; refuses what optax.losses refuses, and another dtype."""
    y = jnp.asarray(predictions)
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise RuleError(f"rule {name}: predictions must be real floats, but came as {describe(y)}.")
    if targets is None:
        return y
    t = jnp.asarray(targets)
    weak = jax.typeof(t).weak_type or jax.typeof(y).weak_type  # a Python number takes any dtype
    if t.shape != y.shape or (t.dtype != y.dtype and not weak):
        raise RuleError(
            f"rule {name}: expected targets of the shape and dtype of predictions ({describe(y)}), "
            f"but came {describe(t)}; broadcast or cast them first."
        )
    return y - t


def _product(factor: int, y_bar: jax.Array, errors: jax.Array) -> jax.Array:
    """factor · ȳ · errors, where the factor goes to the one that it cannot carry over the top."""
    if factor == 1:
        return y_bar * errors
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
        return y, {"predictions": predictions, "targets": targets}

    @loss.backward
    def backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
        y, t = residuals["predictions"], residuals["targets"]
        wide = computing(y_bar.dtype)
        errors = y.astype(wide) if t is None else y.astype(wide) - t.astype(wide)
        predictions_bar = _product(factor, y_bar.astype(wide), errors).astype(y.dtype)  # (3)
        targets_bar = -predictions_bar  # (4)
        return {
            "predictions": predictions_bar,
            "targets": targets_bar.astype(y.dtype if t is None else t.dtype),
        }


@rule(
    bars={"predictions": "ȳ = 2 L̄ (y − t)", "targets": "t̄ = −2 L̄ (y − t)"},
    residuals=_RESIDUALS,
    arrays=("predictions", "targets"),
)
def squared_error(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """Squared error, L = (y − t)², elementwise; the rule under `optax.losses.squared_error`'s name.

    Backward: ȳ = 2 L̄ (y − t) and t̄ = −ȳ.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, y's shape and dtype; None for zeros.

    Returns:
      (y − t)² with y's shape and dtype: one loss an element, neither summed nor averaged.

    Raises:
      RuleError: predictions are not float; targets of another shape or dtype.

    Source: Bishop, "Pattern Recognition and Machine Learning", 2006.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    Array([0., 4.], dtype=float32)
    """
    return jnp.square(_errors("losses.squared_error", predictions, targets))


@rule(
    bars={"predictions": "ȳ = L̄ (y − t)", "targets": "t̄ = −L̄ (y − t)"},
    residuals=_RESIDUALS,
    arrays=("predictions", "targets"),
)
def l2_loss(predictions: ArrayLike, targets: ArrayLike | None = None) -> jax.Array:
    """The lecture's squared loss, L = ½ (y − t)², elementwise; as `optax.losses.l2_loss`.

    Backward: ȳ = L̄ (y − t) and t̄ = −ȳ.

    Args:
      predictions: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, y's shape and dtype; None for zeros.

    Returns:
      ½ (y − t)² with y's shape and dtype: one loss an element, neither summed nor averaged.

    Raises:
      RuleError: predictions are not float; targets of another shape or dtype.

    Source: lecture on backpropagation, univariate logistic least squares.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.l2_loss(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0]))
    Array([0., 2.], dtype=float32)
    >>> float(jax.grad(losses.l2_loss)(3.0, 1.0))
    2.0
    """
    return 0.5 * jnp.square(_errors("losses.l2_loss", predictions, targets))


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


def _samples(key: jax.Array) -> Iterator[Sample]:
    def make(shape: tuple[int, ...], scale: float = 1.0) -> tuple[jax.Array, jax.Array]:
        ky, kt = jax.random.split(key)
        return scale * jax.random.normal(ky, shape), scale * jax.random.normal(kt, shape)

    for shape in [(), (1,), (3, 4), (2, 1, 3), (0, 2)]:
        yield Sample(f"shape {shape}", make(shape))
    yield Sample("no targets", make((4, 2))[:1])
    yield Sample("small", make((9,), 1e-3))
    yield Sample("large", make((9,), 1e2))
    yield Sample("bench", make((1024, 1024)), tags=("bench",))


for _loss in (squared_error, l2_loss):
    _loss.samples(_samples)

"""Label smoothing: no loss, but the labels of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._dtypes import computing
from overbar.losses._inputs import Axis, bar_of, keep_inputs, real_floats
from overbar.rule import Sample, rule


def _classes(labels: jax.Array, axis: Axis, where: Any) -> Any:
    """How many classes there are, or count."""
    return jnp.size(labels, axis) if where is None else jnp.sum(where, axis, keepdims=True)


@rule(
    bars={"labels": "t̄ = ȳ (1 − α)", "alpha": "ᾱ = Σ ȳ (1/n − t)"},
    residuals={"labels": "t, for ᾱ", "alpha": "α, for t̄", "where": "which classes count, or None"},
    static=("axis",),
    arrays=("labels", "alpha", "where"),
    integers=("alpha",),
)
def smooth_labels(
    labels: ArrayLike, alpha: ArrayLike, *, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Smoothed labels, y = (1 − α) t + α/n for n classes; as `optax.losses.smooth_labels`.

    Backward: t̄ = ȳ (1 − α) and ᾱ = Σ ȳ (1/n − t).

    Args:
      labels: t, one-hot or any distribution, any shape; float16, bfloat16, float32 or float64.
      alpha: α from 0 to 1, broadcasts against t.
      axis: the axis or axes of the classes, None for all.
      where: which classes count, booleans that broadcast; None for all.

    Returns:
      y, of t's shape and dtype.

    Raises:
      RuleError: labels are not real floats.

    Source: Müller et al., "When does label smoothing help?", 2019.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> losses.smooth_labels(jnp.array([0.0, 1.0, 0.0, 0.0]), 0.2)
    Array([0.05, 0.85, 0.05, 0.05], dtype=float32)
    """
    labels = real_floats("losses.smooth_labels", "labels", labels)
    with jax.numpy_dtype_promotion("standard"):  # a count is an integer
        return (1.0 - jnp.asarray(alpha)) * labels + alpha / _classes(labels, axis, where)


keep_inputs(smooth_labels)


# Derivation for y = (1 − α) t + α/n.
#   (1) ẏ = (1 − α) ṫ + (1/n − t) α̇
#   (2) t̄ = ȳ (1 − α)
#   (3) ᾱ = Σ ȳ (1/n − t), since α was used once for every element
@smooth_labels.backward
def smooth_labels_backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis) -> dict[str, Any]:
    t, alpha = residuals["labels"], residuals["alpha"]
    wide = computing(y_bar.dtype)
    count = jnp.asarray(_classes(t, axis, residuals["where"]), wide)
    y_wide = y_bar.astype(wide)
    return {
        "labels": bar_of(t, y_wide * (1 - alpha.astype(wide))),  # (2)
        "alpha": bar_of(alpha, y_wide * (1 / count - t.astype(wide))),  # (3)
    }


@smooth_labels.reference
def smooth_labels_reference(labels: jax.Array, alpha: jax.Array, *, axis: Axis, where: Any) -> jax.Array:
    every = jnp.ones(labels.shape, bool) if where is None else jnp.broadcast_to(where, labels.shape)
    even = 1 / every.sum(axis, keepdims=True, dtype=labels.dtype)
    return labels + alpha * (even - labels)


@smooth_labels.samples
def smooth_labels_samples(key: jax.Array) -> Iterator[Sample]:
    def make(*shape: int, alpha: Any = 0.2) -> tuple[jax.Array, jax.Array]:
        return draws.uniform(key, shape), jnp.asarray(alpha, jnp.float32)

    yield Sample("rows", make(3, 4))
    mask = jnp.arange(4).reshape(1, 4) < jnp.array([[1], [2], [4]])
    yield Sample("masked", make(3, 4), {"where": mask})
    yield Sample("an α for every row", make(2, 3, alpha=[[0.1], [0.3]]))
    yield Sample("two axes", make(2, 3, 2), {"axis": (0, -1)})
    yield Sample("one class", make(2, 1), {"axis": None})
    yield Sample("no rows", make(0, 3))
    yield Sample("bench", make(1024, 1000), tags=("bench",))

"""PolyLoss: cross-entropy with another coefficient before the first power of 1 − p."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn
from overbar._tails import apart
from overbar.losses._inputs import Axis, bar_of, beside, keep_inputs, real_floats, spread, where_given
from overbar.rule import Sample, rule


@rule(
    bars={
        "logits": "x̄ = L̄ (p Σt − t − ε p (t − Σ t p))",
        "labels": "t̄ = L̄ (ε (1 − p) − log p)",
        "epsilon": "ε̄ = Σ L̄ Σ t (1 − p)",
    },
    residuals={
        "logits": "x, kept anyway by the layer before",
        "labels": "t, the data",
        "epsilon": "ε",
        "where": "which classes count, or None",
    },
    static=("axis",),
    arrays=("logits", "labels", "epsilon", "where"),
    integers=("epsilon",),
)
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """PolyLoss, L = Σ t (ε (1 − p) − log p) with p = softmax(x); as `optax.losses.poly_loss_cross_entropy`.

    Backward: x̄ = L̄ (p Σt − t − ε p (t − Σ t p)) and t̄ = L̄ (ε (1 − p) − log p). Where `where` is false,
    bars are 0.

    Args:
      logits: x, any shape; float16, bfloat16, float32 or float64.
      labels: t, a distribution, broadcasts against x, its dtype.
      epsilon: ε, broadcasts against L.
      axis: the axis or axes of the classes, None for all.
      where: which classes count, booleans that broadcast; None for all.

    Returns:
      L, without the axes of the classes, in x's dtype.

    Raises:
      RuleError: logits or labels are not real floats, or of two dtypes.

    Source: Leng et al., "PolyLoss: a polynomial expansion perspective of classification loss functions",
    2022.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> x, t = jnp.zeros(2), jnp.array([1.0, 0.0])
    >>> print(f"{losses.poly_loss_cross_entropy(x, t):.4f}")
    1.6931
    >>> jax.grad(losses.poly_loss_cross_entropy)(x, t)
    Array([-1.,  1.], dtype=float32)
    """
    name = "losses.poly_loss_cross_entropy"
    x = real_floats(name, "logits", logits)
    t = beside(name, "labels", real_floats(name, "labels", labels), "logits", x)
    p = jax_nn.softmax(x, axis=axis, where=where)
    rest = jnp.sum(t * (1 - p), axis=axis, where=where)
    cross_entropy = -(t * jax_nn.log_softmax(x, axis=axis, where=where)).sum(axis, where=where)
    return cross_entropy + epsilon * rest


keep_inputs(poly_loss_cross_entropy)


# Derivation for L = Σ_i t_i (ε (1 − p_i) − log p_i), p = softmax(x), over the classes that count.
#   (1) d log p_i = ẋ_i − Σ_j p_j ẋ_j, and ṗ_i = p_i d log p_i
#   (2) L̇ = −Σ_i t_i (1 + ε p_i) (ẋ_i − Σ_j p_j ẋ_j) + Σ_i (ε (1 − p_i) − log p_i) ṫ_i + Σ_i t_i (1 − p_i) ε̇
#   (3) x̄ = L̄ (p Σ_i t_i − t) + L̄ ε p (Σ_i t_i p_i − t), each difference 0 where p is certain
#   (4) t̄ = L̄ (ε (1 − p) − log p)
#   (5) ε̄ = Σ L̄ Σ_i t_i (1 − p_i)
@poly_loss_cross_entropy.backward
def poly_backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis) -> dict[str, Any]:
    logits, labels, epsilon, where = (residuals[n] for n in ("logits", "labels", "epsilon", "where"))
    wide = computing(y_bar.dtype)
    shape = jnp.broadcast_shapes(logits.shape, labels.shape)
    x = where_given(where, logits.astype(wide))
    t = where_given(where, jnp.broadcast_to(labels.astype(wide), shape))
    L_bar = spread(y_bar.astype(wide), axis, len(shape))
    e = spread(jnp.broadcast_to(epsilon.astype(wide), y_bar.shape), axis, len(shape))
    p = jax_nn.softmax(x, axis=axis, where=where)
    log_p = where_given(where, jax_nn.log_softmax(x, axis=axis, where=where))

    def total(terms: jax.Array) -> jax.Array:
        # Fused with what follows the sum, XLA would have all that was broadcast written out.
        return apart(jnp.sum(terms, axis=axis, keepdims=True))

    # L̄ is multiplied into each term, ε L̄ once a row: a rounding an entry fewer than after their sum.
    e_bar = L_bar * e
    x_bar = L_bar * (p * total(t) - t) + e_bar * p * (total(t * p) - t)  # (3)
    t_bar = e_bar * (1 - p) - L_bar * log_p  # (4)
    return {
        "logits": bar_of(logits, where_given(where, x_bar)),
        "labels": bar_of(labels, where_given(where, t_bar)),
        "epsilon": bar_of(epsilon, y_bar.astype(wide) * total(t * (1 - p)).reshape(y_bar.shape)),  # (5)
    }


@poly_loss_cross_entropy.reference
def poly_reference(logits: Any, labels: Any, *, epsilon: Any, axis: Axis, where: Any) -> jax.Array:
    counts = jnp.ones(logits.shape, bool) if where is None else jnp.broadcast_to(where, logits.shape)
    e = jnp.exp(logits) * counts.astype(logits.dtype)
    p = jnp.where(counts, e / e.sum(axis, keepdims=True), 1)
    return (labels * -jnp.log(p)).sum(axis) + epsilon * (labels * (1 - p)).sum(axis)


@poly_loss_cross_entropy.samples
def poly_samples(key: jax.Array) -> Iterator[Sample]:
    def make(shape: tuple[int, ...], other: tuple[int, ...] | None = None) -> tuple[jax.Array, jax.Array]:
        kx, kt = jax.random.split(key)
        return draws.normal(kx, shape), jax_nn.softmax(draws.normal(kt, other or shape), None)

    yield Sample("rows", make((3, 4)), {"epsilon": -1.0})
    yield Sample("masked", make((3, 4)), {"where": jnp.arange(12).reshape(3, 4) % 3 > 0})
    yield Sample("one label for all rows", make((3, 4), (1, 4)))
    yield Sample("two axes", make((2, 3, 2)), {"axis": (0, -1)})
    yield Sample("one class", make((2, 1)))
    yield Sample("0-d", make(()), {"axis": None})
    yield Sample("no rows", make((0, 3)))
    yield Sample("bench", make((1024, 512)), tags=("bench",))

"""Cross-entropies of a softmax: rules under `optax.losses`' names.

Each keeps the logits, the labels and one number a row, the sum under the softmax. float16 and
bfloat16 are computed in float32 and rounded once, the value too. In float32 a bar is as near to the
truth as jax.grad's: near certainty 1 − p has the digits that the sum has kept, since the sum of
the other classes alone would be a pass of its own over the logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe, is_float
from overbar._dtypes import computing, widest
from overbar._jax_nn import jax_nn
from overbar._like import summed_to
from overbar.losses._inputs import (
    Axis,
    bar_of,
    check_axis,
    check_integers,
    real_floats,
    spread,
    spread_mask,
    together,
    where_given,
)
from overbar.rule import Sample, rule


# Forward and backward write the exponentials alike, and as jax.nn does: compiled together they are one.
def shifted(x: jax.Array, axis: Axis, mask: jax.Array | None) -> jax.Array:
    """x less the largest entry of its row that counts; −∞ where the mask leaves an entry out."""
    peak = jax.lax.stop_gradient(jnp.max(x, axis, where=mask, initial=-jnp.inf, keepdims=True))
    return where_given(mask, x, -jnp.inf) - peak


def total_of(below: jax.Array, axis: Axis, mask: jax.Array | None) -> jax.Array:
    """s = Σ exp over the entries of each row that count."""
    return jnp.sum(jnp.exp(below), axis, where=mask, keepdims=True)


# ---------------------------------------------------------------------- labels as distributions


def _dense(name: str, logits: ArrayLike, labels: ArrayLike, axis: Axis) -> tuple[jax.Array, jax.Array, Any]:
    """Logits and labels in the dtype to compute in, and the dtype of the loss; refuses what does not fit."""
    x, t = real_floats(name, "logits", logits, least=0 if axis is None else 1), jnp.asarray(labels)
    check_axis(name, "logits", x, axis)
    fits = t.ndim <= x.ndim and all(
        1 in (a, b) or a == b for a, b in zip(t.shape[::-1], x.shape[::-1], strict=False)
    )
    if not fits or jnp.iscomplexobj(t):
        raise RuleError(
            f"rule {name}: expected real labels that broadcast against logits, "
            f"but came logits {describe(x)}, labels {describe(t)}."
        )
    dtype = widest([x.dtype, t.dtype]) if is_float(t) else x.dtype  # integers have no dtype of their own
    wide = computing(dtype)
    return x.astype(wide), t.astype(wide), dtype


def _surprise(x: jax.Array, axis: Axis, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """log p, −∞ off the mask, as jax.nn.log_softmax has it; and s."""
    below = shifted(x, axis, mask)
    total = total_of(below, axis, mask)
    return where_given(mask, below - jnp.log(total), -jnp.inf), total


# Derivation for L = −Σ_k m_k t_k ℓ_k, where ℓ_k = x_k − log Σ_j m_j exp(x_j) and m is the mask.
#   (1) ℓ̇_k = ẋ_k − Σ_j p_j ẋ_j, with p_j = exp(x_j − max x)/s, and 0 off the mask
#   (2) L̇ = −Σ_k m_k t_k ẋ_k + (Σ_k m_k t_k) Σ_j p_j ẋ_j − Σ_k m_k ℓ_k ṫ_k
#   (3) what stands before ẋ: x̄ = p Σ_k L̄ m_k t_k − L̄ m t
#   (4) what stands before ṫ: t̄ = −L̄ m ℓ
def _dense_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis, mask: jax.Array | None
) -> dict[str, Any]:
    logits, labels, total = residuals["logits"], residuals["labels"], residuals["total"]
    wide = total.dtype
    below = shifted(logits.astype(wide), axis, mask)
    t, loss_bar = together(labels.astype(wide), below, spread(y_bar.astype(wide), axis, logits.ndim))[::2]
    weighted = where_given(mask, loss_bar * t)
    share = jnp.sum(weighted, axis, keepdims=True) / total
    bars = {"logits": bar_of(logits, where_given(mask, share * jnp.exp(below) - weighted))}  # (3)
    if is_float(labels):
        bars["labels"] = bar_of(labels, where_given(mask, -loss_bar * (below - jnp.log(total))))  # (4)
    return bars


_DENSE_BARS = {"logits": "x̄ = L̄ (p Σt − t), p = softmax(x)", "labels": "t̄ = −L̄ log p"}
_DENSE_RESIDUALS = {
    "logits": "x",
    "labels": "t, the data",
    "total": "s = Σ exp(x − max x), one number a row",
}


@rule(
    bars=_DENSE_BARS,
    residuals={**_DENSE_RESIDUALS, "where": "the mask, or None"},
    static=("axis",),
    arrays=("logits", "labels", "where"),
    integers=("labels",),
)
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Softmax cross-entropy, L = −Σ_k t_k log p_k; the rule under `optax.losses`' name.

    Backward: x̄ = L̄ (p Σ_k t_k − t) and t̄ = −L̄ log p, with p = softmax(x); 0 off the mask.

    Args:
      logits: x, (..., classes); float16, bfloat16, float32 or float64.
      labels: t, a distribution over the classes of each row, or one-hot; floats, integers or
        booleans that broadcast against the logits.
      axis: the axis or axes of the classes; None for all.
      where: booleans that broadcast against the logits, or have their shape without `axis`: what
        counts. The loss of a row of which nothing counts is 0.

    Returns:
      One loss a row: the logits' shape without `axis`.

    Raises:
      RuleError: logits are not float or have no such axis; labels do not fit.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.2.2.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> x, t = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
    >>> print(f"{losses.softmax_cross_entropy(x, t):.4f}")
    0.6931
    >>> jax.grad(losses.softmax_cross_entropy)(x, t)
    Array([-0.5,  0.5], dtype=float32)
    """
    x, t, dtype = _dense("losses.softmax_cross_entropy", logits, labels, axis)
    mask = spread_mask(where, axis, x.ndim)
    return _of_rows(x, t, axis, mask)[0].astype(dtype)


def _of_rows(x: jax.Array, t: jax.Array, axis: Axis, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The losses, and s of each row."""
    log_p, total = _surprise(x, axis, mask)
    t, log_p = together(t, log_p)
    return -(t * log_p).sum(axis, where=mask), total


@softmax_cross_entropy.forward
def softmax_cross_entropy_forward(
    logits: jax.Array, labels: jax.Array, axis: Axis, where: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    x, t, dtype = _dense("losses.softmax_cross_entropy", logits, labels, axis)
    y, total = _of_rows(x, t, axis, spread_mask(where, axis, x.ndim))
    return y.astype(dtype), {"logits": logits, "labels": labels, "total": total, "where": where}


@softmax_cross_entropy.backward
def softmax_cross_entropy_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis
) -> dict[str, Any]:
    mask = spread_mask(residuals["where"], axis, residuals["logits"].ndim)
    return _dense_backward(residuals, y_bar, axis, mask)


@softmax_cross_entropy.reference
def softmax_cross_entropy_reference(
    logits: jax.Array, labels: jax.Array, axis: Axis, where: jax.Array | None
) -> jax.Array:
    axes = axis if axis is not None else tuple(range(logits.ndim))
    counts = jnp.ones(logits.shape, bool) if where is None else where
    if counts.ndim < logits.ndim:
        counts = jnp.expand_dims(counts, axes)
    counts = jnp.broadcast_to(counts, logits.shape)
    t = jnp.where(counts, jnp.broadcast_to(labels, logits.shape).astype(logits.dtype), 0)
    powers = jnp.where(counts, jnp.exp(logits), 0).sum(axes, keepdims=True)
    return (t * jnp.log(jnp.where(powers > 0, powers, 1))).sum(axes) - (t * logits).sum(axes)


def _distribution(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax_nn.softmax(2 * draws.normal(key, shape), -1)


@softmax_cross_entropy.samples
def softmax_cross_entropy_samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt, kw = jax.random.split(key, 3)

    def pair(*shape: int) -> tuple[jax.Array, jax.Array]:
        return draws.normal(kx, shape), _distribution(kt, shape)

    yield Sample("rows", pair(4, 5))
    yield Sample("mask", pair(3, 4), {"where": draws.bernoulli(kw, 0.6, (3, 4)).at[1].set(False)})
    yield Sample("one-hot integers", (pair(3, 4)[0], jnp.eye(4, dtype=jnp.int32)[jnp.array([0, 3, 1])]))
    yield Sample("two axes, rows left out", pair(2, 3, 4), {"axis": (0, 2), "where": jnp.arange(3) > 0})
    yield Sample("all axes, labels broadcast", (pair(3, 1)[0], jnp.array([0.3])), {"axis": None})
    yield Sample("no rows", pair(0, 3))
    yield Sample("bench", pair(512, 2048), tags=("bench",))


@rule(
    bars=_DENSE_BARS,
    residuals=_DENSE_RESIDUALS,
    arrays=("logits", "labels"),
    integers=("labels",),
)
def safe_softmax_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Softmax cross-entropy where 0 log 0 = 0; the rule under `optax.losses`' name.

    A class with the logit −∞ and the label 0 adds nothing to the loss.

    Backward: x̄ = L̄ (p Σ_k t_k − t) and t̄ = −L̄ log p, with p = softmax(x).

    Args:
      logits: x, (..., classes); float16, bfloat16, float32 or float64.
      labels: t, a distribution over the classes of each row, or one-hot; floats, integers or
        booleans that broadcast against the logits.

    Returns:
      One loss a row: the logits' shape without the last axis.

    Raises:
      RuleError: logits are not float or 0-d; labels do not fit.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.2.2.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> x, t = jnp.array([0.0, 0.0, -jnp.inf]), jnp.array([1.0, 0.0, 0.0])
    >>> jax.grad(losses.safe_softmax_cross_entropy)(x, t)
    Array([-0.5,  0.5,  0. ], dtype=float32)
    """
    return safe_softmax_cross_entropy_forward(jnp.asarray(logits), jnp.asarray(labels))[0]


@safe_softmax_cross_entropy.forward
def safe_softmax_cross_entropy_forward(
    logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    x, t, dtype = _dense("losses.safe_softmax_cross_entropy", logits, labels, -1)
    log_p, total = _surprise(x, -1, None)
    t, log_p = together(t, log_p)
    y = -jnp.sum(jnp.where(t != 0.0, t * log_p, jnp.zeros_like(log_p)), -1)
    return y.astype(dtype), {"logits": logits, "labels": labels, "total": total}


@safe_softmax_cross_entropy.backward
def safe_softmax_cross_entropy_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    return _dense_backward(residuals, y_bar, -1, None)


@safe_softmax_cross_entropy.reference
def safe_softmax_cross_entropy_reference(logits: jax.Array, labels: jax.Array) -> jax.Array:
    t = jnp.broadcast_to(labels, logits.shape).astype(logits.dtype)
    x = jnp.where(t == 0, 0, logits)
    return t.sum(-1) * jnp.log(jnp.exp(logits).sum(-1)) - (t * x).sum(-1)


@safe_softmax_cross_entropy.samples
def safe_softmax_cross_entropy_samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt = jax.random.split(key)

    def pair(*shape: int) -> tuple[jax.Array, jax.Array]:
        return draws.normal(kx, shape), _distribution(kt, shape)

    yield Sample("rows", pair(4, 5))
    yield Sample("one-hot integers", (pair(3, 4)[0], jnp.eye(4, dtype=jnp.int32)[jnp.array([0, 3, 1])]))
    yield Sample("labels broadcast", (pair(2, 3, 4)[0], _distribution(kt, (3, 1))))
    yield Sample("one class", pair(2, 1))
    yield Sample("no rows", pair(0, 3))
    yield Sample("bench", pair(512, 2048), tags=("bench",))


# ---------------------------------------------------------------------- labels as class numbers


@rule(
    bars={"logits": "x̄ = L̄ (p − [k = label]), p = softmax(x)"},
    residuals={
        "logits": "x",
        "labels": "the data",
        "total": "s = Σ exp(x − max x), one number a row",
        "where": "the mask, or None",
    },
    static=("axis",),
    arrays=("logits", "labels", "where"),
)
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...] = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Softmax cross-entropy, L = log Σ_k exp(x_k) − x_label; the rule under `optax.losses`' name.

    Backward: x̄ = L̄ (p − [k = label]) with p = softmax(x), 0 off the mask.

    A label counts from the end where it is negative. One that is no class has the loss nan, and the
    bar L̄ p: there is no entry to take the 1 off.

    Args:
      logits: x, (..., classes); float16, bfloat16, float32 or float64.
      labels: integers, the logits' shape without `axis`.
      axis: the axis of the classes, or several: then a label counts through them in the order given.
      where: booleans that broadcast against the logits, or have their shape without `axis`: what
        counts in the sum. The loss of a row of which nothing counts is 0.

    Returns:
      One loss a row: the logits' shape without `axis`.

    Raises:
      RuleError: logits are not float, labels no integers; there is no such axis.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.2.2.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> x = jnp.array([[0.0, 0.0]])
    >>> loss = lambda x: losses.softmax_cross_entropy_with_integer_labels(x, jnp.array([1])).sum()
    >>> jax.grad(loss)(x)
    Array([[ 0.5, -0.5]], dtype=float32)
    """
    x, labels, axis, mask = _numbered(logits, labels, axis, where)
    return _of_labels(x, labels, axis, mask)[0].astype(jnp.asarray(logits).dtype)


def _exponentials(x: jax.Array, axis: int, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """exp(x − m), 0 off the mask, and m, the largest entry of each row or 0 where that is infinite."""
    peak = jnp.max(x, axis, where=mask, initial=-jnp.inf, keepdims=True)
    peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, jnp.zeros((), x.dtype)))
    return jnp.exp(where_given(mask, x, -jnp.inf) - peak), peak


def _of_labels(
    x: jax.Array, labels: jax.Array, axis: int, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The losses, with the arithmetic of jax.nn.logsumexp, and s of each row."""
    powers, peak = _exponentials(x, axis, mask)
    total = jnp.sum(powers, axis, where=mask, keepdims=True)
    of_label = jnp.take_along_axis(x, jnp.expand_dims(labels, axis), axis).take(0, axis)
    y = (jnp.log(total) + peak).squeeze(axis) - of_label
    return (y if mask is None else jnp.where(jnp.any(mask, axis), y, 0.0)), total


def _numbered(
    logits: ArrayLike, labels: ArrayLike, axis: int | tuple[int, ...], where: ArrayLike | None
) -> tuple[jax.Array, jax.Array, int, jax.Array | None]:
    """Logits in the dtype to compute in, with one axis of classes; labels, that axis and the mask."""
    name = "losses.softmax_cross_entropy_with_integer_labels"
    x = real_floats(name, "logits", logits, least=1)
    if axis is None:
        raise RuleError(f"rule {name}: option axis must be an int or a tuple of them, but came as None.")
    axes = check_axis(name, "logits", x, axis)
    labels = check_integers(name, jnp.asarray(labels))
    if labels.ndim != x.ndim - len(axes):
        raise RuleError(
            f"rule {name}: expected labels of the logits' shape without axis {axis!r}, "
            f"but came logits {describe(x)}, labels {describe(labels)}."
        )
    x = x.astype(computing(x.dtype))
    mask = spread_mask(where, axis, x.ndim)
    if not isinstance(axis, tuple):
        return x, labels, axes[0], mask
    if mask is not None:
        mask = _classes_last(jnp.broadcast_to(mask, x.shape), axes)
    return _classes_last(x, axes), labels, x.ndim - len(axes), mask


def _classes_last(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """These axes as one, the last."""
    rows = [a for a in range(x.ndim) if a not in axes]
    return x.transpose([*rows, *axes]).reshape(
        [*(x.shape[a] for a in rows), math.prod(x.shape[a] for a in axes)]
    )


def _classes_back(x: jax.Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """What _classes_last did, undone."""
    order = [*(a for a in range(len(shape)) if a not in axes), *axes]
    return x.reshape([shape[a] for a in order]).transpose([order.index(a) for a in range(len(shape))])


@softmax_cross_entropy_with_integer_labels.forward
def softmax_cross_entropy_with_integer_labels_forward(
    logits: jax.Array, labels: jax.Array, axis: int | tuple[int, ...], where: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    y, total = _of_labels(*_numbered(logits, labels, axis, where))
    return y.astype(logits.dtype), {"logits": logits, "labels": labels, "total": total, "where": where}


# Derivation for L = log Σ_j m_j exp(x_j) − x_label, m the mask.
#   (1) L̇ = Σ_j p_j ẋ_j − ẋ_label, with p_j = exp(x_j − max x)/s, and 0 off the mask
#   (2) x̄ = L̄ (p − [k = label]): no row of x̄ is looked up or added to, each entry tells itself
#       whether it is the label's
#   (3) where nothing counts L is the constant 0, and L̄ ends
@softmax_cross_entropy_with_integer_labels.backward
def softmax_cross_entropy_with_integer_labels_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, axis: int | tuple[int, ...]
) -> dict[str, Any]:
    logits, total = residuals["logits"], residuals["total"]
    x, labels, one_axis, mask = _numbered(logits, residuals["labels"], axis, residuals["where"])
    loss_bar, labels = (jnp.expand_dims(v, one_axis) for v in (y_bar.astype(x.dtype), labels))
    if mask is not None:
        loss_bar = where_given(jnp.any(mask, one_axis, keepdims=True), loss_bar)  # (3)
    classes = x.shape[one_axis]
    numbers = jax.lax.broadcasted_iota(labels.dtype, x.shape, one_axis)
    is_label = numbers == jnp.where(labels < 0, labels + classes, labels)
    p_part = where_given(mask, _exponentials(x, one_axis, mask)[0] * (loss_bar / total))
    bar = p_part - jnp.where(is_label, loss_bar, jnp.zeros((), x.dtype))  # (2)
    bar = summed_to(x.shape, bar)
    if isinstance(axis, tuple):
        bar = _classes_back(bar, check_axis("losses", "logits", logits, axis), logits.shape)
    return {"logits": bar.astype(logits.dtype)}


@softmax_cross_entropy_with_integer_labels.reference
def softmax_cross_entropy_with_integer_labels_reference(
    logits: jax.Array, labels: jax.Array, axis: int | tuple[int, ...], where: jax.Array | None
) -> jax.Array:
    axes = axis if isinstance(axis, tuple) else (axis,)
    counts = jnp.ones(logits.shape, bool) if where is None else where
    if counts.ndim < logits.ndim:
        counts = jnp.expand_dims(counts, axes)
    ends = tuple(range(-len(axes), 0))
    x, counts = (jnp.moveaxis(v, axes, ends) for v in (logits, jnp.broadcast_to(counts, logits.shape)))
    sizes = x.shape[x.ndim - len(axes) :]
    flat = x.reshape(*labels.shape, math.prod(sizes))
    chosen = jax_nn.one_hot(labels % flat.shape[-1], flat.shape[-1], dtype=x.dtype).reshape(
        *labels.shape, *sizes
    )
    powers = jnp.where(counts, jnp.exp(x), 0).sum(ends)
    loss = jnp.log(jnp.where(powers > 0, powers, 1)) - (chosen * x).sum(ends)
    return jnp.where(counts.any(ends), loss, 0)


@softmax_cross_entropy_with_integer_labels.samples
def softmax_cross_entropy_with_integer_labels_samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt, kw = jax.random.split(key, 3)

    def pair(*shape: int, axis: tuple[int, ...] = (-1,)) -> tuple[jax.Array, jax.Array]:
        rows = [n for i, n in enumerate(shape) if i not in axis and i - len(shape) not in axis]
        classes = math.prod(shape[i] for i in axis)
        return draws.normal(kx, shape), draws.randint(kt, rows, 0, classes)

    yield Sample("rows", pair(4, 5))
    yield Sample("mask", pair(3, 4), {"where": draws.bernoulli(kw, 0.6, (3, 4)).at[1].set(False)})
    yield Sample("first and last class, from the end", (pair(3, 4)[0], jnp.array([0, 3, -1])))
    yield Sample("two axes", pair(2, 3, 4, axis=(2, 0)), {"axis": (2, 0), "where": jnp.arange(3) > 0})
    yield Sample("first axis", pair(3, 2, 1, axis=(0,)), {"axis": 0})
    yield Sample("no rows", pair(0, 3))
    yield Sample("bench", pair(512, 4096), tags=("bench",))

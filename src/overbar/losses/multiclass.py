"""Losses of scores and a class number by hinge, perceptron and sparsemax; as `optax.losses` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._dtypes import computing, widest
from overbar._jax_nn import jax_nn
from overbar.losses._inputs import bar_of, check_integers, keep_inputs, real_floats
from overbar.rule import Rule, Sample, rule

_RESIDUALS = {"scores": "s", "labels": "the data"}


def _scores(name: str, scores: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array, Any]:
    """Scores in the dtype to compute in, which of them are the label's, and the dtype of the loss.

    A label that is no class, a negative one too, marks nothing, as in jax.nn.one_hot. The loss has
    the default float dtype or the scores' where that is wider, as with optax's one-hot labels.
    """
    s = real_floats(name, "scores", scores, least=1)
    labels = check_integers(name, jnp.asarray(labels))
    dtype = widest([s.dtype, jnp.zeros(()).dtype])
    rank = max(s.ndim, labels.ndim + 1)
    s = s.reshape((1,) * (rank - s.ndim) + s.shape)
    labels = labels.reshape((1,) * (rank - 1 - labels.ndim) + labels.shape)
    try:
        shape = jnp.broadcast_shapes(s.shape[:-1], labels.shape)
    except ValueError:
        raise RuleError(
            f"rule {name}: expected scores (..., classes) and labels (...), "
            f"but came scores {describe(scores)}, labels {describe(labels)}."
        ) from None
    number = jax.lax.broadcasted_iota(labels.dtype, (*shape, s.shape[-1]), rank - 1)
    return s.astype(dtype), number == jnp.expand_dims(labels, -1), dtype


def _of_label(s: jax.Array, is_label: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(is_label, s, jnp.zeros((), s.dtype)), -1)


def _hinge_margins(s: jax.Array, is_label: jax.Array) -> jax.Array:
    return s + 1.0 - is_label.astype(s.dtype)


def _perceptron_margins(s: jax.Array, is_label: jax.Array) -> jax.Array:
    return jnp.broadcast_to(s, is_label.shape)


# Derivation for L = max_k a_k − s_label, where a_k = s_k + [k ≠ label] (hinge) or s_k (perceptron).
#   (1) where one k has the largest a, L̇ = ṡ_k − ṡ_label
#   (2) where several have it, max is not differentiable. Each of the m of them is a subgradient; their
#       mean is taken, as jax.grad does: s̄_k = L̄ ([a_k is largest]/m − [k = label])
#   (3) where the label alone is largest the two cancel and s̄ is 0
def _declare_passes(loss: Rule[..., jax.Array], margins: Any) -> None:
    """Declares forward and backward of max(margins) − s_label."""
    keep_inputs(loss)

    @loss.backward
    def backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
        scores = residuals["scores"]
        s, is_label, dtype = _scores(loss.name, scores, residuals["labels"])
        a = margins(s, is_label)
        largest, nothing, whole = a == jnp.max(a, -1, keepdims=True), jnp.zeros((), dtype), y_bar[..., None]
        share = whole / jnp.sum(largest.astype(dtype), -1, keepdims=True)
        bar = jnp.where(largest, share, nothing) - jnp.where(is_label, whole, nothing)  # (2)
        return {"scores": bar_of(scores, bar)}


@rule(
    bars={"scores": "s̄ = L̄ ([s + [k ≠ label] is largest]/m − [k = label])"},
    residuals=_RESIDUALS,
    arrays=("scores", "labels"),
)
def multiclass_hinge_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass hinge loss, L = max_k (s_k + [k ≠ label]) − s_label; as `optax.losses` has it.

    Backward: s̄ = L̄ ([k is largest]/m − [k = label]), where m classes are the largest.

    Args:
      scores: s, (..., classes); float16, bfloat16, float32 or float64.
      labels: integers (...). Of a label that is no class, as of a negative one, s_label is 0.

    Returns:
      One loss a row; the default float dtype, or that of scores where it is wider.

    Raises:
      RuleError: scores are not float or 0-d, labels no integers, or a shape does not fit.

    Source: Crammer and Singer, "On the algorithmic implementation of multiclass kernel-based
    vector machines", 2001.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> s = jnp.array([1.0, 2.5, 0.0])
    >>> print(losses.multiclass_hinge_loss(s, 0), jax.grad(losses.multiclass_hinge_loss)(s, 0))
    2.5 [-1.  1.  0.]
    """
    s, is_label, _ = _scores("losses.multiclass_hinge_loss", scores, labels)
    return jnp.max(_hinge_margins(s, is_label), axis=-1) - _of_label(s, is_label)


@rule(
    bars={"scores": "s̄ = L̄ ([s_k is largest]/m − [k = label])"},
    residuals=_RESIDUALS,
    arrays=("scores", "labels"),
)
def multiclass_perceptron_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass perceptron loss, L = max_k s_k − s_label; as `optax.losses` has it.

    Backward: s̄ = L̄ ([k is largest]/m − [k = label]), where m classes are the largest.

    Args:
      scores: s, (..., classes); float16, bfloat16, float32 or float64.
      labels: integers (...). Of a label that is no class, as of a negative one, s_label is 0.

    Returns:
      One loss a row; the default float dtype, or that of scores where it is wider.

    Raises:
      RuleError: scores are not float or 0-d, labels no integers, or a shape does not fit.

    Source: Collins, "Discriminative training methods for hidden Markov models", 2002.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> s = jnp.array([1.0, 2.5, 0.0])
    >>> print(losses.multiclass_perceptron_loss(s, 0), jax.grad(losses.multiclass_perceptron_loss)(s, 0))
    1.5 [-1.  1.  0.]
    """
    s, is_label, _ = _scores("losses.multiclass_perceptron_loss", scores, labels)
    return jnp.max(_perceptron_margins(s, is_label), axis=-1) - _of_label(s, is_label)


_declare_passes(multiclass_hinge_loss, _hinge_margins)
_declare_passes(multiclass_perceptron_loss, _perceptron_margins)


def _by_sorting(a: jax.Array, scores: jax.Array, labels: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(scores, jnp.expand_dims(labels, -1), -1)[..., 0]
    return jnp.sort(a, -1)[..., -1] - chosen


@multiclass_hinge_loss.reference
def multiclass_hinge_loss_reference(scores: jax.Array, labels: jax.Array) -> jax.Array:
    off = 1 - jax_nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    return _by_sorting(scores + off, scores, labels)


@multiclass_perceptron_loss.reference
def multiclass_perceptron_loss_reference(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return _by_sorting(scores, scores, labels)


def _pair(key: jax.Array, *shape: int) -> tuple[jax.Array, jax.Array]:
    ks, kl = jax.random.split(key)
    return draws.normal(ks, shape), draws.randint(kl, shape[:-1], 0, shape[-1])


def _samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("rows", _pair(key, 4, 5))
    yield Sample("one row", _pair(key, 4))
    yield Sample("two leading axes", _pair(key, 2, 1, 3))
    ties = jnp.array([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    yield Sample("ties", (ties, jnp.array([0, 2, 1])), tags=("kink",))
    yield Sample("no rows", _pair(key, 0, 3))
    yield Sample("bench", _pair(key, 1024, 1024), tags=("bench",))


multiclass_hinge_loss.samples(_samples)
multiclass_perceptron_loss.samples(_samples)


# ---------------------------------------------------------------------- sparsemax


def _sparsemax(s: jax.Array) -> jax.Array:
    """The point of the simplex nearest to s, one row."""
    numbers = jnp.arange(1, s.shape[0] + 1).astype(s.dtype)
    down = jnp.sort(s)[::-1]
    sums = jnp.cumsum(down)
    above = 1 / numbers + (down - sums / numbers) > 0
    count = jnp.count_nonzero(above)
    size = count.astype(s.dtype)
    return jax_nn.relu(1 / size + (s - sums[count - 1] / size))


@rule(
    bars={"scores": "s̄ = L̄ (p − [k = label]), p = sparsemax(s)"},
    residuals={
        "scores_bar": "p − [k = label], the bar for L̄ = 1",
    },
    arrays=("scores", "labels"),
)
def multiclass_sparsemax_loss(scores: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Multiclass sparsemax loss; the rule under `optax.losses`' name.

    L = ⟨p, s⟩ − s_label + ½ (1 − ⟨p, p⟩), where p = sparsemax(s) is the point of the simplex
    nearest to s.

    Backward: s̄ = L̄ (p − [k = label]). p is where L is largest over the simplex, so its own change
    does not count, and sparsemax is not differentiated.

    Args:
      scores: s, (rows, classes); float16, bfloat16, float32 or float64.
      labels: integers (rows,). A label counts from the end where it is negative, and one beyond
        the last class stands for that.

    Returns:
      One loss a row, of the scores' dtype.

    Raises:
      RuleError: scores are not float, labels no integers, or a shape does not fit.

    Source: Martins and Astudillo, "From softmax to sparsemax", 2016, proposition 3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> loss = lambda s: losses.multiclass_sparsemax_loss(s, jnp.array([0])).sum()
    >>> print(jax.grad(loss)(jnp.array([[1.0, 1.5, 0.0]])))
    [[-0.75  0.75  0.  ]]
    """
    s, labels = _rows(scores, labels)

    def loss(s: jax.Array, label: jax.Array) -> jax.Array:
        p = _sparsemax(s)
        # Off the label, since there the difference may be of infinities; where p is 0 too.
        apart = (s - s[label]).at[label].set(0.0)
        return jnp.dot(p, jnp.where(p != 0, apart, 0.0)) + 0.5 * (1.0 - jnp.dot(p, p))

    return jax.vmap(loss)(s, labels).astype(jnp.asarray(scores).dtype)


def _rows(scores: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Scores in the dtype to compute in, and the labels; refuses what does not fit."""
    name = "losses.multiclass_sparsemax_loss"
    s = real_floats(name, "scores", scores, least=1)
    labels = check_integers(name, jnp.asarray(labels))
    if s.ndim != 2 or labels.shape != s.shape[:1]:
        raise RuleError(
            f"rule {name}: expected scores (rows, classes) and labels (rows,), "
            f"but came scores {describe(s)}, labels {describe(labels)}."
        )
    return s.astype(computing(s.dtype)), labels


# Derivation for L = max over the simplex of g(q) − s_label, g(q) = ⟨q, s⟩ + ½ (1 − ⟨q, q⟩).
#   (1) the maximum is at p = sparsemax(s): there g is highest, and moving p along the simplex does
#       not change it to first order. So ġ = ⟨p, ṡ⟩, and p counts as a constant
#   (2) L̇ = ⟨p, ṡ⟩ − ṡ_label, so s̄ = L̄ (p − [k = label])
#   (3) at the label, p − 1 is minus the sum of the other p: nothing cancels
@multiclass_sparsemax_loss.forward
def multiclass_sparsemax_loss_forward(
    scores: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    s, labels_ = _rows(scores, labels)
    p = jax.vmap(_sparsemax)(s)
    classes = s.shape[1]
    numbers = jnp.clip(jnp.where(labels_ < 0, labels_ + classes, labels_), 0, classes - 1)
    is_label = jax.lax.broadcasted_iota(numbers.dtype, s.shape, 1) == numbers[:, None]
    others = jnp.where(is_label, jnp.zeros((), s.dtype), p)
    bar = jnp.where(is_label, -jnp.sum(others, 1, keepdims=True), others)  # (3)
    return multiclass_sparsemax_loss.primal(scores, labels), {"scores_bar": bar}


@multiclass_sparsemax_loss.backward
def multiclass_sparsemax_loss_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    bar = residuals["scores_bar"]
    return {"scores": (y_bar.astype(bar.dtype)[:, None] * bar).astype(y_bar.dtype)}  # (2)


@multiclass_sparsemax_loss.reference
def multiclass_sparsemax_loss_reference(scores: jax.Array, labels: jax.Array) -> jax.Array:
    # The threshold τ solves Σ max(s − τ, 0) = 1: it is the largest of (Σ of the k largest − 1)/k.
    down = -jnp.sort(-scores, axis=-1)
    counts = jnp.cumsum(jnp.ones_like(down), -1)
    threshold = ((jnp.cumsum(down, -1) - 1) / counts).max(-1, keepdims=True)
    support = scores > threshold
    squares = jnp.where(support, scores**2 - threshold**2, 0).sum(-1)
    return 0.5 * squares + 0.5 - jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]


@multiclass_sparsemax_loss.samples
def multiclass_sparsemax_loss_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("rows", _pair(key, 4, 5))
    yield Sample("from the end", (_pair(key, 3, 4)[0], jnp.array([0, 3, -1])))
    yield Sample("one class", _pair(key, 2, 1))
    yield Sample("no rows", _pair(key, 0, 3))
    yield Sample("bench", _pair(key, 512, 1024), tags=("bench",))

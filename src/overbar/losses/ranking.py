"""Ranking losses over lists of items; as `optax.losses` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe, is_float
from overbar._dtypes import computing
from overbar.losses._inputs import real_floats, where_given
from overbar.losses.classification import shifted, total_of
from overbar.rule import Sample, rule

Reduce = Callable[..., Any] | None


@rule(
    bars={
        "logits": "x̄ = L̄ᵢ (p Σ w t − w t), p = softmax(x) over the items that count",
        "labels": "t̄ = −L̄ᵢ w log p",
        "weights": "w̄ = −L̄ᵢ t log p",
    },
    residuals={
        "logits": "x",
        "labels": "t, the data",
        "where": "the mask, or None",
        "weights": "w, or None",
        "total": "s = Σ exp(x − max x), one number a list",
        "lists": "the loss of each list, where reduce_fn is neither None, jnp.mean nor jnp.sum",
    },
    static=("reduce_fn",),
    arrays=("logits", "labels", "where", "weights"),
    integers=("labels", "weights"),
)
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Reduce = jnp.mean,
) -> jax.Array:
    """Ranking softmax loss, −Σ_i w_i t_i log p_i of each list; the rule under `optax.losses`' name.

    Backward: x̄ = L̄ (p Σ w t − w t), t̄ = −L̄ w log p and w̄ = −L̄ t log p, with L̄ the bar of the
    list's own loss; 0 for the items that do not count.

    Args:
      logits: x, (..., items), the scores; float16, bfloat16, float32 or float64.
      labels: t, (..., items), the relevance of each; floats, integers or booleans.
      where: booleans (..., items): which items count.
      weights: w, (..., items).
      reduce_fn: jnp.mean, jnp.sum, None for one loss a list, or another function that takes
        (losses, where=...). Lists of which nothing counts are left out.

    Returns:
      The reduced loss, of the logits' dtype.

    Raises:
      RuleError: logits are not float or 0-d; the others do not have their shape.

    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", 2007.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> loss = losses.ranking_softmax_loss(jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 0.0, 0.0]))
    >>> print(f"{loss:.3f}")
    1.408
    """
    x, weighted, mask, dtype = _lists(logits, labels, where, weights)
    return _reduced(_of_lists(x, weighted, mask)[0], mask, reduce_fn).astype(dtype)


def _lists(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None, weights: ArrayLike | None
) -> tuple[jax.Array, jax.Array, jax.Array | None, Any]:
    """Logits and weighted labels, 0 off the mask, in the dtype to compute in; refuses what does not fit."""
    name = "losses.ranking_softmax_loss"
    x = real_floats(name, "logits", logits, least=1)
    others = {"labels": labels, "where": where, "weights": weights}
    for what, value in others.items():
        if value is not None and jnp.shape(value) != x.shape:
            raise RuleError(
                f"rule {name}: expected {what} of the shape of logits ({describe(x)}), "
                f"but came {describe(jnp.asarray(value))}."
            )
    mask = None if where is None else jnp.asarray(where)
    wide = computing(x.dtype)
    t = where_given(mask, jnp.asarray(labels).astype(wide))
    if weights is not None:
        t = t * jnp.asarray(weights).astype(wide)
    return x.astype(wide), t, mask, x.dtype


def _below(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The logits less the largest of their list, −∞ for those that do not count."""
    return shifted(where_given(mask, x, -jnp.inf), -1, None)


def _of_lists(x: jax.Array, weighted: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The losses, and the sum of the exponentials of each list."""
    below = _below(x, mask)
    total = total_of(below, -1, None)
    return -jnp.sum(weighted * (below - jnp.log(total)), axis=-1, where=mask), total


def _reduced(losses: jax.Array, mask: jax.Array | None, reduce_fn: Reduce) -> jax.Array:
    """The losses reduced; lists of which nothing counts left out, and the mean of none 0."""
    counts = None if mask is None else jnp.any(mask, axis=-1)
    if reduce_fn is None:
        return where_given(counts, losses)
    y = jnp.asarray(reduce_fn(losses, where=counts))
    if reduce_fn is jnp.mean:
        return jnp.where(jnp.isnan(y) & ~jnp.any(jnp.isnan(losses)), 0.0, y)
    return y


@ranking_softmax_loss.forward
def ranking_softmax_loss_forward(
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    weights: jax.Array | None,
    reduce_fn: Reduce,
) -> tuple[jax.Array, dict[str, Any]]:
    x, weighted, mask, dtype = _lists(logits, labels, where, weights)
    lists, total = _of_lists(x, weighted, mask)
    return _reduced(lists, mask, reduce_fn).astype(dtype), {
        "logits": logits,
        "labels": labels,
        "where": where,
        "weights": weights,
        "total": total,
        "lists": None if reduce_fn in (None, jnp.mean, jnp.sum) else lists,
    }


# Derivation for L = reduce(ℓ) and ℓ = −Σ_i m_i w_i t_i log p_i for each list, m the mask.
#   (1) the mean of the c lists that count gives each L̄/c, the sum L̄; a list that does not count gets 0.
#       Any other reduction is a function of few numbers, which JAX differentiates
#   (2) a list is a softmax cross-entropy with the labels m w t: x̄ = ℓ̄ (p Σ m w t − m w t)
#   (3) ℓ̇ = −Σ_i m_i log p_i (w_i ṫ_i + t_i ẇ_i), so t̄ = −ℓ̄ m w log p and w̄ = −ℓ̄ m t log p
@ranking_softmax_loss.backward
def ranking_softmax_loss_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, reduce_fn: Reduce
) -> dict[str, Any]:
    logits, labels, weights = (residuals[n] for n in ("logits", "labels", "weights"))
    x, weighted, mask, _ = _lists(logits, labels, residuals["where"], weights)
    total, wide = residuals["total"], x.dtype
    list_bar = _list_bars(y_bar.astype(wide), residuals["lists"], x.shape[:-1], mask, reduce_fn)[..., None]
    below = _below(x, mask)
    of_items = list_bar * weighted
    share = jnp.sum(of_items, axis=-1, keepdims=True) / total
    x_bar = where_given(mask, share * jnp.exp(below) - of_items)  # (2)
    bars = {"logits": x_bar.astype(logits.dtype)}
    surprise = where_given(mask, -list_bar * (below - jnp.log(total)))
    if is_float(labels):
        t_bar = surprise if weights is None else surprise * weights.astype(wide)
        bars["labels"] = t_bar.astype(labels.dtype)  # (3)
    if weights is not None and is_float(weights):
        bars["weights"] = (surprise * labels.astype(wide)).astype(weights.dtype)  # (3)
    return bars


def _list_bars(
    y_bar: jax.Array,
    lists: jax.Array | None,
    shape: tuple[int, ...],
    mask: jax.Array | None,
    reduce_fn: Reduce,
) -> jax.Array:
    """The bar of each list's loss."""
    if lists is not None:
        _, pull = jax.vjp(lambda losses: _reduced(losses, mask, reduce_fn).astype(y_bar.dtype), lists)
        return pull(y_bar)[0]
    counts = jnp.ones(shape, bool) if mask is None else jnp.any(mask, axis=-1)
    if reduce_fn is jnp.mean:
        y_bar = y_bar / jnp.sum(counts).astype(y_bar.dtype)
    return where_given(counts, jnp.broadcast_to(y_bar, shape))  # (1)


@ranking_softmax_loss.reference
def ranking_softmax_loss_reference(
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    weights: jax.Array | None,
    reduce_fn: Reduce,
) -> jax.Array:
    counts = jnp.ones(logits.shape, bool) if where is None else where
    t = jnp.where(counts, labels.astype(logits.dtype), 0)
    t = t if weights is None else t * weights.astype(t.dtype)
    powers = jnp.where(counts, jnp.exp(logits), 0).sum(-1)
    listed = counts.any(-1)
    losses = t.sum(-1) * jnp.log(jnp.where(listed, powers, 1)) - (t * logits).sum(-1)
    if reduce_fn is None:
        return losses
    if reduce_fn is jnp.mean:
        return losses.sum() / jnp.maximum(listed.sum(), 1).astype(losses.dtype)
    return reduce_fn(losses, where=listed)


@ranking_softmax_loss.samples
def ranking_softmax_loss_samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt, kw = jax.random.split(key, 3)

    def pair(*shape: int) -> tuple[jax.Array, jax.Array]:
        return draws.normal(kx, shape), draws.uniform(kt, shape)

    mask = draws.bernoulli(kw, 0.6, (3, 4)).at[1].set(False)
    yield Sample("lists", pair(3, 4))
    yield Sample("mask and weights", pair(3, 4), {"where": mask, "weights": draws.uniform(kw, (3, 4))})
    yield Sample(
        "each list, integers", (pair(2, 1, 3)[0], jnp.array([[[1, 0, 2]], [[0, 0, 1]]])), {"reduce_fn": None}
    )
    yield Sample("sum", pair(2, 3), {"reduce_fn": jnp.sum})
    yield Sample("the largest", pair(3, 4), {"reduce_fn": _largest, "where": mask})
    yield Sample("no lists", pair(0, 3))
    yield Sample("bench", pair(1024, 256), tags=("bench",))


def _largest(losses: jax.Array, where: Any = None) -> jax.Array:
    return jnp.max(losses, where=where, initial=0.0)

"""A linear layer and the softmax cross-entropy of its outputs in one rule, the logits never held whole.

The logits of N rows and V classes are N V numbers, and autodiff keeps two or three arrays of that
size. Here they are made a block of classes at a time, in forward for the sum under the softmax and
once more in backward: one matrix product more, paid back by blocks that stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, run_placed, vary_over, varying_axes
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn
from overbar.losses._inputs import check_float, check_integers
from overbar.rule import Sample, rule

ENTRIES = 2**20  # of a block of logits: 4 MB in float32, near what a core's cache holds
LEAST = 128  # classes of a block


@rule(
    bars={
        "h": "h̄ = D wᵀ, D = L̄ (p − [v = label]), p = softmax(h w)",
        "w": "w̄ = hᵀ D, summed over the leading axes",
    },
    residuals={
        "h": "the input",
        "w": "the weights",
        "labels": "the data",
        "peak": "the largest logit, one number a row",
        "others": "r = Σ exp(z − peak) over all classes but the label's, one number a row",
        "total": "s = Σ exp(z − peak), one number a row",
    },
    arrays=("h", "w", "labels"),
)
def linear_cross_entropy(h: ArrayLike, w: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Cross-entropy of softmax(h w) with integer labels, L = log Σ_v exp(z_v) − z_label, z = h w.

    It is `softmax_cross_entropy_with_integer_labels(nn.linear(h, w), labels)`, in the memory of a
    block of classes and without cancellation near certainty: 1 − p is the sum of the other classes.

    Backward: D = L̄ (p − [v = label]) is made again by blocks; h̄ = D wᵀ and w̄ = hᵀ D.

    A label counts from the end where it is negative. One that is no class has the loss nan, and D
    is L̄ p there.

    Args:
      h: (..., features); float16, bfloat16, float32 or float64. Half precision is computed in float32.
      w: (features, classes), h's dtype.
      labels: integers, h's shape without its last axis.

    Returns:
      One loss a row, with the shape of labels and h's dtype.

    Raises:
      RuleError: a shape or a dtype does not fit.

    Source: Wijmans et al., "Cut your losses in large-vocabulary language models", 2025, for the
    idea; the derivation is ours.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> h, w = jnp.ones((3, 2)), jnp.zeros((2, 4))
    >>> print(losses.linear_cross_entropy(h, w, jnp.array([0, 1, 3])).round(4))
    [1.3863 1.3863 1.3863]
    """
    _, others, u = _statistics(h, w, labels)
    return _loss(others, u).astype(jnp.asarray(h).dtype)


def _loss(others: jax.Array, u: jax.Array) -> jax.Array:
    """log(r + e^u) − u, with all its digits where the label has the largest logit and u is 0."""
    return jnp.log1p(others + jnp.expm1(u)) - u


def _checked(h: ArrayLike, w: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The operands as arrays; refuses what does not fit."""
    name = "losses.linear_cross_entropy"
    h, w, labels = jnp.asarray(h), jnp.asarray(w), check_integers(name, jnp.asarray(labels))
    check_float(name, "h", h)
    if w.ndim != 2 or h.shape[-1] != w.shape[0] or labels.shape != h.shape[:-1] or w.dtype != h.dtype:
        raise RuleError(
            f"rule {name}: expected h (..., features), w (features, classes) of one dtype and labels (...), "
            f"but came h {describe(h)}, w {describe(w)}, labels {describe(labels)}."
        )
    return h, w, labels


def _as_rows(h: jax.Array, w: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """h as rows, w, and the labels as numbers from 0."""
    numbers = labels.reshape(math.prod(labels.shape))
    numbers = jnp.where(numbers < 0, numbers + w.shape[1], numbers)
    return h.reshape(numbers.size, h.shape[-1]), w, numbers


def _over_blocks(rows: int, classes: int, body: Callable[..., Any], carry: Any) -> Any:
    """body(start, width, carry) for each block of classes; the last one may be narrower."""
    width = max(LEAST, ENTRIES // max(rows, 1) // LEAST * LEAST)
    whole, rest = divmod(classes, width)
    if whole:
        carry = jax.lax.fori_loop(0, whole, lambda i, c: body(i * width, width, c), carry)
    return body(whole * width, rest, carry) if rest else carry


def _block(
    h: jax.Array, w: jax.Array, numbers: jax.Array, start: Any, width: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weights and the logits of a block of classes, and which of them are the label's."""
    part = jax.lax.dynamic_slice_in_dim(w, start, width, axis=1)
    z = jnp.matmul(h, part, preferred_element_type=computing(h.dtype))
    number = jax.lax.broadcasted_iota(numbers.dtype, z.shape, 1)
    return part, z, number == (numbers - jnp.asarray(start, numbers.dtype))[:, None]


def _statistics(h: ArrayLike, w: ArrayLike, labels: ArrayLike) -> list[jax.Array]:
    """Of each row: the largest logit, r = Σ exp(z − largest) without the label, u = z_label − largest."""
    operands = h, _, labels = _checked(h, w, labels)

    def of_rows(*operands: jax.Array) -> list[jax.Array]:
        return [x.reshape(labels.shape) for x in _of_rows(*_as_rows(*operands))]

    return run_placed(of_rows, operands, 3 * [explicit_sharding(h, slice(labels.ndim))])


def _of_rows(h: jax.Array, w: jax.Array, numbers: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    wide = computing(h.dtype)

    def body(start: Any, width: int, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        peak, others, of_label = carry
        _, z, is_label = _block(h, w, numbers, start, width)
        higher = jax.lax.stop_gradient(jnp.maximum(peak, jnp.max(z, axis=1)))
        e = jnp.where(is_label, jnp.zeros((), wide), jnp.exp(z - higher[:, None]))
        found = jnp.sum(jnp.where(is_label, z, jnp.zeros((), wide)), axis=1)
        others = others * jnp.exp(peak - higher) + jnp.sum(e, axis=1)
        return higher, others, jnp.where(jnp.any(is_label, axis=1), found, of_label)

    nothing = jnp.zeros(h.shape[0], wide)
    carry = vary_over((nothing - jnp.inf, nothing, nothing + jnp.nan), varying_axes((h, w, numbers)))
    peak, others, of_label = _over_blocks(h.shape[0], w.shape[1], body, carry)
    return peak, others, of_label - peak


@linear_cross_entropy.forward
def linear_cross_entropy_forward(
    h: jax.Array, w: jax.Array, labels: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    peak, others, u = _statistics(h, w, labels)
    total = others + jnp.where(jnp.isnan(u), jnp.zeros((), u.dtype), jnp.exp(u))
    y = _loss(others, u).astype(h.dtype)
    return y, {"h": h, "w": w, "labels": labels, "peak": peak, "others": others, "total": total}


# Derivation for z_nv = Σ_d h_nd w_dv and L_n = log Σ_v exp(z_nv) − z_n,label.
#   (1) L̇_n = Σ_v (p_nv − [v = label_n]) ż_nv, with p_nv = exp(z_nv − peak_n)/s_n
#   (2) D_nv = L̄_n (p_nv − [v = label_n]) is the bar of z_nv; with s_n = r_n + exp(z_label − peak) it is
#       L̄_n/s_n exp(z_nv − peak_n), and at the label −L̄_n/s_n r_n: nothing cancels
#   (3) ż_nv = Σ_d ḣ_nd w_dv + Σ_d h_nd ẇ_dv, so as for a linear layer h̄ = D wᵀ and w̄ = hᵀ D
#   (4) a block of classes is a block of D's columns: h̄ is the sum of what the blocks give, and each
#       gives its own columns of w̄, which are written once
@linear_cross_entropy.backward
def linear_cross_entropy_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    h = residuals["h"]
    rows, w, numbers = _as_rows(h, residuals["w"], residuals["labels"])
    peak, others, total = (residuals[n].reshape(numbers.shape) for n in ("peak", "others", "total"))
    wide = total.dtype
    share = y_bar.reshape(total.shape).astype(wide) / total
    at_label = (-share * others)[:, None]

    def body(start: Any, width: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h_bar, w_bar = carry
        part, z, is_label = _block(rows, w, numbers, start, width)
        d = jnp.where(is_label, at_label, share[:, None] * jnp.exp(z - peak[:, None]))  # (2)
        h_bar = h_bar + jnp.matmul(d, part.astype(wide).T)  # (3)
        columns = jnp.matmul(rows.astype(wide).T, d).astype(w.dtype)
        return h_bar, jax.lax.dynamic_update_slice_in_dim(w_bar, columns, start, axis=1)  # (4)

    carry = (jnp.zeros(rows.shape, wide), jnp.zeros(w.shape, w.dtype))
    carry = vary_over(carry, varying_axes((rows, w, numbers, y_bar)))
    h_bar, w_bar = _over_blocks(rows.shape[0], w.shape[1], body, carry)
    return {"h": h_bar.reshape(h.shape).astype(h.dtype), "w": w_bar}


@linear_cross_entropy.reference
def linear_cross_entropy_reference(h: jax.Array, w: jax.Array, labels: jax.Array) -> jax.Array:
    p = jax_nn.softmax(jnp.tensordot(h, w, 1), -1)
    chosen = jax_nn.one_hot(labels % w.shape[1], w.shape[1], dtype=p.dtype)
    return -jnp.log((p * chosen).sum(-1))


@linear_cross_entropy.samples
def linear_cross_entropy_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, leading: tuple[int, ...], features: int, classes: int, tags: Any = ()) -> Sample:
        kh, kw, kl = jax.random.split(key, 3)
        w = draws.normal(kw, (features, classes)) / math.sqrt(features)
        labels = draws.randint(kl, leading, -1, classes)  # −1 is the last class
        return Sample(name, (draws.normal(kh, (*leading, features)), w, labels), tags=tags)

    yield make("rows", (4,), 3, 5)
    yield make("one vector", (), 3, 4)
    yield make("two leading axes, one class", (2, 1), 3, 1)
    yield make("no rows", (0,), 2, 3)
    yield make("bench", (1024,), 128, 4096, tags=("bench",))
    yield make("bench, the issue's sizes", (2048,), 256, 8192, tags=("bench",))

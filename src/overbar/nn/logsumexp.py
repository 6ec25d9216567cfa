"""Logs of sums and means of exponentials, under `jax.nn`'s names.

Their primals are those of the namesakes, so that outputs are the same bit for bit in float32 and
float64. Half precision is computed in float32 and rounded once, forward and backward.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._jax_nn import jax_nn
from overbar._like import cast, summed_to
from overbar.nn._shares import hold, nonzero, times
from overbar.nn._wide import Axis, check_real, shape_of, wide
from overbar.rule import Sample, rule

Residuals = Mapping[str, Any]
Kept = dict[str, Any]


@rule(
    bars={"a": "ā = ȳ b e^a / Σ b e^a", "b": "b̄ = ȳ e^a / Σ b e^a"},
    residuals={
        "e": "e^(a − m), m the largest entry; in half precision without b divided by the total",
        "total": "Σ b e^(a − m), one number for all that is summed",
        "b": "the factors, where there are any",
        "a": "an array without entries that tells a's shape where there are factors: no bytes",
    },
    static=("axis", "keepdims", "return_sign"),
    arrays=("a", "b", "where"),
)
def logsumexp(
    a: ArrayLike,
    axis: Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    where: ArrayLike | None = None,
) -> Any:
    """Log of a sum of exponentials, y = log Σ b e^a; the rule under `jax.nn.logsumexp`'s name.

    Backward: ā = ȳ b e^a / Σ b e^a and b̄ = ȳ e^a / Σ b e^a, summed over the copies of what was
    broadcast. An entry with b = 0 is left out, as in jax.nn: its ā and its b̄ are 0. At a = +inf the
    bars are their limits, shared by ties; where all entries are −inf they are 0.

    Args:
      a: any shape; float16, bfloat16, float32 or float64.
      axis: the axis or axes to sum over; None for all.
      b: factors of a's dtype that broadcast with a, of any sign; None for 1.
      keepdims: whether the axes stay, with size 1.
      return_sign: whether to return (log |Σ b e^a|, sign of the sum).
      where: booleans that broadcast to a: the entries that count. The others have the bar 0.

    Returns:
      log Σ b e^a in a's dtype, nan where the sum is negative; or the pair of return_sign.

    Raises:
      RuleError: a or b is not real float, where is not boolean, axis is a list.

    Source: Blanchard, Higham, Higham, "Accurately computing the log-sum-exp and softmax functions", 2021.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> print(f"{float(nn.logsumexp(jnp.zeros(4))):.4f}")
    1.3863
    >>> jax.grad(nn.logsumexp)(jnp.array([0.0, 0.0, -jnp.inf]))
    Array([0.5, 0.5, 0. ], dtype=float32)
    """
    check_real("nn.logsumexp", a=a, b=b)
    a = jnp.asarray(a)
    factors = None if b is None else wide(b)
    y = jax_nn.logsumexp(wide(a), axis, factors, keepdims=keepdims, return_sign=return_sign, where=where)
    return jax.tree.map(lambda leaf: cast(leaf, a.dtype), y)


@logsumexp.forward
def logsumexp_forward(
    a: jax.Array,
    axis: Axis,
    b: jax.Array | None,
    keepdims: bool,
    return_sign: bool,
    where: jax.Array | None,
) -> tuple[Any, Kept]:
    if b is None:
        y, kept = _log_sum(a, axis, keepdims, where)
        y = logsumexp.primal(a, axis, b, keepdims, return_sign, where) if return_sign else cast(y, a.dtype)
        return y, {**kept, "b": None, "a": None}
    y = logsumexp.primal(a, axis, b, keepdims, return_sign, where)
    factors = wide(b)
    counts = factors != 0 if where is None else (factors != 0) & where
    e, _ = _exponentials(wide(a), axis, counts)
    total = jnp.sum(factors * e, axis=axis, keepdims=True)
    if not return_sign:  # y is nan where the sum is negative, and a constant nan in jax.nn
        total = jnp.where(total < 0, jnp.full_like(total, jnp.inf), total)
    return y, {**hold(e, nonzero(total), e.dtype), "b": b, "a": shape_of(a)}


# Derivation for y = log s, s = Σ_i b_i e^a_i.
#   (1) ẏ = ṡ/s,  ṡ = Σ_i e^a_i (ḃ_i + b_i ȧ_i)
#   (2) e^a_i / s = e^(a_i − m) / Σ_j b_j e^(a_j − m) for any m: with the largest a, none overflows
#   (3) b̄_i = ȳ e^a_i / s and ā_i = b_i b̄_i, each summed over its copies
#   (4) log |s| has the same slope where s < 0, and the sign is a constant wherever y has a slope
@logsumexp.backward
def logsumexp_backward(
    residuals: Residuals, y_bar: Any, axis: Axis, keepdims: bool, return_sign: bool
) -> dict[str, jax.Array]:
    e, b = residuals["e"], residuals["b"]
    y_bar = y_bar[0] if return_sign else y_bar  # (4)
    g = _spread(wide(y_bar), e, axis, keepdims)
    if b is None:
        return {"a": cast(times(g, residuals), y_bar.dtype)}  # (2)
    g = jnp.where(jnp.isinf(residuals["total"]), 0.0, g)  # ȳ of a constant nan is nan too, and goes nowhere
    shares = times(g, residuals)  # (2)
    a_shape = residuals["a"].shape[1:]
    return {
        "a": cast(summed_to(a_shape, shares * wide(b)), y_bar.dtype),  # (3)
        "b": cast(summed_to(b.shape, shares), b.dtype),
    }


@logsumexp.reference
def logsumexp_reference(
    a: jax.Array,
    axis: Axis,
    b: jax.Array | None,
    keepdims: bool,
    return_sign: bool,
    where: jax.Array | None,
) -> Any:
    e = jnp.exp(a) if b is None else b * jnp.exp(a)
    s = jnp.sum(e if where is None else jnp.where(where, e, 0 * e), axis=axis, keepdims=keepdims)
    nothing = s == 0
    y = jnp.where(nothing, -jnp.inf, jnp.log(jnp.abs(jnp.where(nothing, 1, s)))).astype(s.dtype)
    if return_sign:
        return y, jnp.where(s > 0, 1, jnp.where(s < 0, -1, 0)).astype(s.dtype)
    return jnp.where(s < 0, jnp.nan, y).astype(s.dtype)


@logsumexp.samples
def logsumexp_samples(key: jax.Array) -> Iterator[Sample]:
    ka, kb, km = jax.random.split(key, 3)

    def make(name: str, *shape: int, b: Any = None, tags: Any = (), **options: Any) -> Sample:
        factors = () if b is None else (None, draws.normal(kb, b))  # with axis=None
        return Sample(name, (3 * draws.normal(ka, shape), *factors), options, tags)

    mask = draws.bernoulli(km, 0.6, (3, 2, 4))
    yield make("all axes", 3, 4)
    yield make("factors of any sign", 3, 4, b=(3, 4), return_sign=True)
    yield make("factors broadcast, masked", 3, 2, 4, b=(1, 2, 1), where=mask, return_sign=True)
    yield make("two axes, masked", 3, 2, 4, axis=(0, 2), where=mask, keepdims=True)
    yield make("a row left out", 3, 4, axis=1, where=jnp.arange(3)[:, None] != 1)
    yield make("size 1", 3, 1, axis=-1, keepdims=True)
    yield make("scalar")
    yield make("empty", 0, 2, axis=-1)
    yield make("bench", 1024, 1024, tags=("bench",), axis=-1)


@rule(
    bars={"x": "x̄ = ȳ e^x / Σ e^x"},
    residuals={
        "e": "e^(x − m), m the largest entry; in half precision divided by the total",
        "total": "Σ e^(x − m), one number for all that is averaged",
    },
    static=("axis", "keepdims"),
    arrays=("x", "where"),
)
def logmeanexp(
    x: ArrayLike, axis: Axis = None, where: ArrayLike | None = None, keepdims: bool = False
) -> jax.Array:
    """Log of a mean of exponentials, y = log (Σ e^x / n); the rule under `jax.nn.logmeanexp`'s name.

    Backward: x̄ = ȳ e^x / Σ e^x, as that of logsumexp: the number of entries is a constant.

    Args:
      x: any shape; float16, bfloat16, float32 or float64.
      axis: the axis or axes to average over; None for all.
      where: booleans that broadcast to x: the entries that count. The others have the bar 0.
      keepdims: whether the axes stay, with size 1.

    Returns:
      log (Σ e^x / n) in x's dtype; nan where nothing counts, as in jax.nn.

    Raises:
      RuleError: x is not real float, where is not boolean, axis is a list.

    Source: as logsumexp; log n is taken from it.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> float(nn.logmeanexp(jnp.zeros(4)))
    0.0
    >>> jax.grad(nn.logmeanexp)(jnp.zeros(4))
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    check_real("nn.logmeanexp", x=x)
    x = jnp.asarray(x)
    return cast(jax_nn.logmeanexp(wide(x), axis=axis, where=where, keepdims=keepdims), x.dtype)


@logmeanexp.forward
def logmeanexp_forward(
    x: jax.Array, axis: Axis, where: jax.Array | None, keepdims: bool
) -> tuple[jax.Array, Kept]:
    return _log_mean(x, axis, keepdims, where)


@functools.partial(jax.jit, static_argnums=(1, 2))  # as the namesake is: compiled as one, it rounds otherwise
def _log_mean(x: jax.Array, axis: Axis, keepdims: bool, where: jax.Array | None) -> tuple[jax.Array, Kept]:
    y, kept = _log_sum(x, axis, keepdims, where)
    counted = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    n = jnp.sum(counted, axis=axis, keepdims=keepdims, dtype=y.dtype)
    return cast(y - jnp.log(n), x.dtype), kept


# Derivation for y = log Σ_i e^x_i − log n: n is a constant, and the rest is logsumexp's with b = 1.
@logmeanexp.backward
def logmeanexp_backward(
    residuals: Residuals, y_bar: jax.Array, axis: Axis, keepdims: bool
) -> dict[str, jax.Array]:
    g = _spread(wide(y_bar), residuals["e"], axis, keepdims)
    return {"x": cast(times(g, residuals), y_bar.dtype)}


@logmeanexp.reference
def logmeanexp_reference(x: jax.Array, axis: Axis, where: jax.Array | None, keepdims: bool) -> jax.Array:
    y = logsumexp_reference(x, axis, None, keepdims, False, where)
    counted = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    return y - jnp.log(counted.astype(x.dtype).sum(axis=axis, keepdims=keepdims))


@logmeanexp.samples
def logmeanexp_samples(key: jax.Array) -> Iterator[Sample]:
    return (s for s in logsumexp_samples(key) if "return_sign" not in s.options)


# ---------------------------------------------------------------------- what both are made of


def _exponentials(a: jax.Array, axis: Axis, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(e^(a − m), m) with m the largest entry that counts; 0 where an entry does not count.

    A +inf has all of the sum, shared by ties: the largest finite number is taken off instead of m,
    which leaves inf at such an entry, made 0, and −inf or almost at the others.
    """
    m = jax.lax.stop_gradient(jnp.max(a, axis=axis, where=where, initial=-jnp.inf, keepdims=True))
    limit = float(jnp.finfo(m.dtype).max)
    shift = jnp.where(jnp.isneginf(m), jnp.zeros_like(m), jnp.minimum(m, limit))
    a = a if where is None else jnp.where(where, a, -jnp.inf)
    below = a - shift
    return jnp.exp(jnp.where(below > 0, jnp.zeros_like(below), below)), m  # the slope at the peak is in full


def _log_sum(a: jax.Array, axis: Axis, keepdims: bool, where: jax.Array | None) -> tuple[jax.Array, Kept]:
    """(log Σ e^a in the dtype that is computed in, what is kept of the shares)."""
    e, m = _exponentials(wide(a), axis, where)
    total = jnp.sum(e, axis=axis, keepdims=True)
    y = jnp.log(total) + m
    dropped = tuple(range(a.ndim)) if axis is None else axis
    return y if keepdims else jnp.squeeze(y, dropped), hold(e, nonzero(total), a.dtype)


def _spread(y_bar: jax.Array, e: jax.Array, axis: Axis, keepdims: bool) -> jax.Array:
    """ȳ with the summed axes as axes of size 1."""
    return y_bar if keepdims else jnp.expand_dims(y_bar, tuple(range(e.ndim)) if axis is None else axis)

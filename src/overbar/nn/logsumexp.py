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

from overbar.nn._wide import Axis, cast, check_real, shape_of, summed_to, wide
from overbar.rule import Sample, rule

Residuals = Mapping[str, Any]
Kept = dict[str, Any]


@rule(
    bars={"a": "ā = ȳ b e^a / Σ b e^a", "b": "b̄ = ȳ e^a / Σ b e^a"},
    residuals={
        "p": "e^a / Σ b e^a",
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
    bars are their limits; entries that are all −inf share ȳ alike, as ties do.

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
    y = jax.nn.logsumexp(wide(a), axis, factors, keepdims=keepdims, return_sign=return_sign, where=where)
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
    if b is None and not return_sign:
        y, p = _log_sum(a, axis, keepdims, where)
        return cast(y, a.dtype), {"p": p, "b": None, "a": None}
    y = logsumexp.primal(a, axis, b, keepdims, return_sign, where)
    if b is None:
        return y, {"p": _log_sum(a, axis, keepdims, where)[1], "b": None, "a": None}
    return y, {"p": _shares(a, axis, b, return_sign, where), "b": b, "a": shape_of(a)}


# Derivation for y = log s, s = Σ_i b_i e^a_i.
#   (1) ẏ = ṡ/s,  ṡ = Σ_i e^a_i (ḃ_i + b_i ȧ_i)
#   (2) p_i = e^a_i / s = e^(a_i − m) / Σ_j b_j e^(a_j − m) for any m: with the largest a, none overflows
#   (3) ā_i = ȳ b_i p_i and b̄_i = ȳ p_i, each summed over its copies
#   (4) log |s| has the same slope where s < 0, and the sign is a constant wherever y has a slope
@logsumexp.backward
def logsumexp_backward(
    residuals: Residuals, y_bar: Any, axis: Axis, keepdims: bool, return_sign: bool
) -> dict[str, jax.Array]:
    p, b = residuals["p"], residuals["b"]
    y_bar = y_bar[0] if return_sign else y_bar  # (4)
    e_bar = _spread(wide(y_bar), p, axis, keepdims) * _unkept(p)
    if b is None:
        return {"a": cast(e_bar, y_bar.dtype)}
    a_shape = residuals["a"].shape[1:]
    return {
        "a": cast(summed_to(a_shape, e_bar * wide(b)), y_bar.dtype),  # (3)
        "b": cast(summed_to(b.shape, e_bar), b.dtype),
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
        factors = () if b is None else (None, jax.random.normal(kb, b))  # with axis=None
        return Sample(name, (3 * jax.random.normal(ka, shape), *factors), options, tags)

    mask = jax.random.bernoulli(km, 0.6, (3, 2, 4))
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
    residuals={"p": "e^x / Σ e^x"},
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
    return cast(jax.nn.logmeanexp(wide(x), axis=axis, where=where, keepdims=keepdims), x.dtype)


@logmeanexp.forward
def logmeanexp_forward(
    x: jax.Array, axis: Axis, where: jax.Array | None, keepdims: bool
) -> tuple[jax.Array, Kept]:
    y, p = _log_mean(x, axis, keepdims, where)
    return y, {"p": p}


@functools.partial(jax.jit, static_argnums=(1, 2))  # as the namesake is: compiled as one, it rounds otherwise
def _log_mean(
    x: jax.Array, axis: Axis, keepdims: bool, where: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    y, p = _log_sum(x, axis, keepdims, where)
    counted = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    n = jnp.sum(counted, axis=axis, keepdims=keepdims, dtype=y.dtype)
    return cast(y - jnp.log(n), x.dtype), p


# Derivation for y = log Σ_i e^x_i − log n: n is a constant, and the rest is logsumexp's with b = 1.
@logmeanexp.backward
def logmeanexp_backward(
    residuals: Residuals, y_bar: jax.Array, axis: Axis, keepdims: bool
) -> dict[str, jax.Array]:
    p = residuals["p"]
    return {"x": cast(_spread(wide(y_bar), p, axis, keepdims) * _unkept(p), y_bar.dtype)}


@logmeanexp.reference
def logmeanexp_reference(
    x: jax.Array, axis: Axis, where: jax.Array | None, keepdims: bool
) -> jax.Array:
    y = logsumexp_reference(x, axis, None, keepdims, False, where)
    counted = jnp.ones(x.shape, bool) if where is None else jnp.broadcast_to(where, x.shape)
    return y - jnp.log(counted.astype(x.dtype).sum(axis=axis, keepdims=keepdims))


@logmeanexp.samples
def logmeanexp_samples(key: jax.Array) -> Iterator[Sample]:
    return (s for s in logsumexp_samples(key) if "return_sign" not in s.options)


# ---------------------------------------------------------------------- what both are made of


def _exponentials(a: jax.Array, axis: Axis, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(e^(a − m), m) with m the largest entry along the axis, kept as an axis of size 1.

    Where m is infinite, e^(a − m) is 1 at the entries that are m: a +inf then has all of the
    probability, and entries that are all −inf, ties as they are, share it alike.
    """
    m = jax.lax.stop_gradient(jnp.max(a, axis=axis, where=where, initial=-jnp.inf, keepdims=True))
    infinite = jnp.where(jnp.isinf(m), m, jnp.full_like(m, jnp.nan))  # equals no entry where m is finite
    return jnp.exp(jnp.where(a == infinite, jnp.zeros_like(a), a - m)), m


def _log_sum(a: jax.Array, axis: Axis, keepdims: bool, where: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """(log Σ e^a in the dtype that is computed in, the shares e^a / Σ e^a as they are kept)."""
    x = wide(a) if where is None else jnp.where(where, wide(a), jnp.zeros_like(wide(a)))
    e, m = _exponentials(x, axis, where)
    total = jnp.sum(e, axis=axis, keepdims=True, where=where)
    y = jnp.log(total) + m
    p = e / total
    if where is not None:
        p = jnp.where(where, p, jnp.zeros_like(p))
    dropped = tuple(range(a.ndim)) if axis is None else axis
    return y if keepdims else jnp.squeeze(y, dropped), _kept(p, a.dtype)


def _shares(
    a: jax.Array, axis: Axis, b: jax.Array, return_sign: bool, where: jax.Array | None
) -> jax.Array:
    """e^a / Σ b e^a, 0 where an entry is left out and where y is nan."""
    factors = wide(b)
    counts = factors != 0 if where is None else (factors != 0) & where
    entries = jnp.where(counts, wide(a), jnp.full_like(wide(a), -jnp.inf))
    e, _ = _exponentials(entries, axis, counts)
    total = jnp.sum(factors * e, axis=axis, keepdims=True, where=counts)
    counts = counts if return_sign else counts & (total >= 0)
    return jnp.where(counts, e / total, jnp.zeros_like(e))


def _kept(p: jax.Array, dtype: Any) -> jax.Array:
    """Shares in the dtype that they are kept in: float16 ends early below 1, and has room above it."""
    return cast(p * 2.0**15 if dtype == jnp.float16 else p, dtype)


def _unkept(p: jax.Array) -> jax.Array:
    return wide(p) * 2.0**-15 if p.dtype == jnp.float16 else wide(p)


def _spread(y_bar: jax.Array, p: jax.Array, axis: Axis, keepdims: bool) -> jax.Array:
    """ȳ with the summed axes as axes of size 1."""
    return y_bar if keepdims else jnp.expand_dims(y_bar, tuple(range(p.ndim)) if axis is None else axis)

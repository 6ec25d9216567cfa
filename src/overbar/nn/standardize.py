"""Standardize, under `jax.nn`'s name: a mean taken out, divided by a spread, either of them given or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError
from overbar._jax_nn import jax_nn
from overbar._like import cast, summed_to
from overbar.nn._wide import Axis, axes_of, check_real, shape_of, size_of, wide
from overbar.rule import Sample, rule

Kept = dict[str, Any]
_standardize: Any = jax_nn.standardize


@rule(
    bars={
        "x": "x̄ = r (ȳ − ⟨ȳ⟩ − y ⟨ȳ y⟩), r = 1/√(v + ε); where both are given r ȳ",
        "mean": "m̄ = −Σ r ȳ",
        "variance": "v̄ = −½ r² Σ ȳ y",
        "epsilon": "ε̄ = −½ r² Σ ȳ y",
    },
    residuals={
        "x": "the input",
        "mean": "the mean, given or not",
        "given": "an array without entries, where the mean was given: no bytes",
        "s": "v + ε",
        "varies": "whether v is above 0: where it was not given and may have been rounded below",
        "variance": "an array without entries that tells the shape of a given variance: no bytes",
        "epsilon": "an array without entries that tells the shape of epsilon: no bytes",
        "where": "the mask, where there is one and a statistic was not given",
    },
    static=("axis", "algorithm"),
    arrays=("x", "mean", "variance", "epsilon", "where"),
    integers=("mean", "variance", "epsilon"),
)
def standardize(
    x: ArrayLike,
    axis: Axis = -1,
    mean: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    epsilon: ArrayLike = 1e-5,
    where: ArrayLike | None = None,
    *,
    algorithm: str = "fast",
) -> jax.Array:
    """Standardized x, y = (x − m)/√(v + ε); the rule under `jax.nn.standardize`'s name.

    Backward: x̄ = r (ȳ − ⟨ȳ⟩ − y ⟨ȳ y⟩) with r = 1/√(v + ε), less the terms of what was given.

    Args:
      x: any shape with the axis; float16, bfloat16, float32 or float64.
      axis: the axis or axes that m and v are taken over; None for all.
      mean: m, x's dtype, broadcasts with x; None for that of x.
      variance: v, as mean; None for that of x.
      epsilon: ε, a number or an array of x's dtype that broadcasts with v.
      where: booleans that broadcast to x: the entries that m and v are taken over.
      algorithm: "fast", v = ⟨x²⟩ − m², which cancels where m is large; or "stable", v = ⟨(x − m)²⟩.

    Returns:
      y with x's dtype, and its shape unless mean or variance broadcast it.

    Raises:
      RuleError: x is not real float; mean, variance or epsilon of another dtype; another algorithm.

    Source: as layer_norm.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> nn.standardize(jnp.array([1.0, 3.0]), epsilon=0.0)
    Array([-1.,  1.], dtype=float32)
    """
    x = jnp.asarray(x)
    floats = {"mean": mean, "variance": variance, "epsilon": epsilon}
    floats = {
        n: v for n, v in floats.items() if v is not None and jnp.issubdtype(jnp.asarray(v).dtype, jnp.inexact)
    }
    check_real("nn.standardize", x=x, **floats)
    if algorithm not in ("fast", "stable"):
        raise RuleError(f'rule nn.standardize: algorithm must be "fast" or "stable", but came {algorithm!r}.')
    given = [None if v is None else _number(v, x) for v in (mean, variance, epsilon)]
    return cast(_standardize(wide(x), axis, *given, where, algorithm=algorithm), x.dtype)


def _number(value: ArrayLike, x: jax.Array) -> jax.Array:
    """A statistic in the dtype that x is computed in; a Python number stays weak."""
    return cast(jnp.asarray(value), wide(x).dtype)


@standardize.forward
def standardize_forward(
    x: jax.Array,
    axis: Axis,
    mean: jax.Array | None,
    variance: jax.Array | None,
    epsilon: jax.Array,
    where: jax.Array | None,
    algorithm: str,
) -> tuple[jax.Array, Kept]:
    y = standardize.primal(x, axis, mean, variance, epsilon, where, algorithm=algorithm)
    # The primal's own statistics once more, which XLA computes once where both are compiled together.
    m = jnp.mean(wide(x), axis, keepdims=True, where=where) if mean is None else _number(mean, x)
    varies = None
    if variance is not None:
        v = _number(variance, x)
    elif algorithm == "stable":
        v = jnp.mean(jnp.square(wide(x) - m), axis, keepdims=True, where=where)
    else:
        v = jnp.mean(jnp.square(wide(x)), axis, keepdims=True, where=where) - jnp.square(m)
        varies = v > 0
        v = jnp.where(varies | jnp.isnan(v), v, jnp.zeros_like(v))
    return y, {
        "x": x,
        "mean": m if mean is None else mean,
        "s": v + _number(epsilon, x),
        "varies": varies,
        "variance": None if variance is None else shape_of(variance),
        "epsilon": shape_of(epsilon),
        "where": None if mean is not None and variance is not None else where,
        "given": shape_of(mean) if mean is not None else None,
    }


# Derivation for y = u r, u = x − m, s = v + ε, r = s^−½.
#   (1) ẏ = r u̇ − ½ r³ u (v̇ + ε̇), so ū = r ȳ and s̄ = −½ (r/s) Σ ȳ u; not r³, which would have the
#       rounding of r three times, so s is kept and not r
#   (2) what is given has it at once: m̄ = −Σ ū, v̄ = s̄, ε̄ = s̄, each summed over its copies
#   (3) v of its own, over n entries that count: v = ⟨u²⟩ adds 2 v̄ u/n to ū; and v = ⟨x²⟩ − m² with m of
#       its own is the same, while with a given m it adds 2 v̄ x/n to x̄ and −2 v̄ m to m̄
#   (4) m of its own adds m̄/n to x̄; of (3) nothing comes to m̄ then, since Σ u = 0
#   (5) a v that came out below 0 is made 0, a constant
@standardize.backward
def standardize_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis, algorithm: str
) -> dict[str, Any]:
    x, m, s, where = wide(residuals["x"]), residuals["mean"], residuals["s"], residuals["where"]
    mean, m_given, r = _number(m, x), residuals["given"] is not None, jax.lax.rsqrt(s)
    u, g = x - mean, wide(y_bar)
    u_bar = g * r
    s_bar = -0.5 * (r * summed_to(r.shape, g * u) / s)  # (1)
    x_bar, m_bar = summed_to(x.shape, u_bar), -summed_to(mean.shape, u_bar)
    bars = {"epsilon": _shaped(s_bar, residuals["epsilon"])}  # (2)
    if residuals["variance"] is not None:
        bars["variance"] = _shaped(s_bar, residuals["variance"])
    else:
        of_x = algorithm == "fast" and m_given
        over = x if algorithm == "fast" else u
        rows, n = _rows(over, axis, where)
        v_bar = summed_to(rows, s_bar)
        if residuals["varies"] is not None:
            v_bar = jnp.where(residuals["varies"], s_bar, jnp.zeros_like(s_bar))  # (5)
            m_bar = m_bar - summed_to(mean.shape, 2 * v_bar * mean) if of_x else m_bar  # (3)
            v_bar = summed_to(rows, v_bar)
        more = _counted(2 * v_bar / n * (x if of_x else u), where)  # (3)
        x_bar = x_bar + summed_to(x.shape, more)
        m_bar = m_bar - summed_to(mean.shape, more) if m_given and not of_x else m_bar
    if m_given:
        bars["mean"] = cast(m_bar, m.dtype)
    else:
        x_bar = x_bar + _counted(jnp.broadcast_to(m_bar / _rows(x, axis, where)[1], x.shape), where)  # (4)
    return bars | {"x": cast(x_bar, residuals["x"].dtype)}


def _shaped(bar: jax.Array, like: jax.Array) -> jax.Array:
    return cast(summed_to(like.shape[1:], bar), like.dtype)


def _counted(bar: jax.Array, where: jax.Array | None) -> jax.Array:
    return bar if where is None else jnp.where(where, bar, jnp.zeros_like(bar))


def _rows(x: jax.Array, axis: Axis, where: jax.Array | None) -> tuple[tuple[int, ...], Any]:
    """(the shape of a statistic of x, how many entries each is taken over)."""
    axes = axes_of("nn.standardize", x, axis)
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if where is None:
        return shape, size_of(x, axes) or 1
    counts = jnp.sum(jnp.broadcast_to(where, x.shape), axis=axes, keepdims=True)
    return shape, jnp.maximum(counts, 1).astype(x.dtype)


@standardize.reference
def standardize_reference(
    x: jax.Array,
    axis: Axis,
    mean: jax.Array | None,
    variance: jax.Array | None,
    epsilon: jax.Array,
    where: jax.Array | None,
    algorithm: str,
) -> jax.Array:
    def average(v: jax.Array) -> jax.Array:
        weight = (
            jnp.ones(v.shape, v.dtype) if where is None else jnp.broadcast_to(where, v.shape).astype(v.dtype)
        )
        return (v * weight).sum(axis=axis, keepdims=True) / weight.sum(axis=axis, keepdims=True)

    m = average(x) if mean is None else mean
    if variance is None:
        variance = average((x - m) ** 2) if algorithm == "stable" else average(x**2) - m**2
    return (x - m) / jnp.sqrt(variance + epsilon)


@standardize.samples
def standardize_samples(key: jax.Array) -> Iterator[Sample]:
    kx, km, kv, kw = jax.random.split(key, 4)
    x = draws.normal(kx, (3, 4))
    mean, variance = 0.1 * draws.normal(km, (3, 1)), 0.5 + draws.uniform(kv, (4,))
    mask = draws.bernoulli(kw, 0.7, (3, 4))
    yield Sample("rows", (x,))
    yield Sample("a given mean", (x, None, mean), {"where": mask})
    yield Sample("a given mean, stable", (x, None, mean, None, jnp.float32(0.1)), {"algorithm": "stable"})
    yield Sample("both given", (x, None, mean, variance[None], jnp.float32(0.5)))
    yield Sample(
        "masked, two axes", (draws.normal(kx, (2, 4, 3)),), {"axis": (0, 2), "where": mask[:, :, None].T}
    )
    yield Sample("size 1", (x[:, :1],), {"axis": 0})
    yield Sample("no rows", (x[:0],))
    yield Sample("bench", (draws.normal(kx, (512, 1024)),), tags=("bench",))

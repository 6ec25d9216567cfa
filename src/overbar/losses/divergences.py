"""Kullback-Leibler divergences: sums over the classes, of probabilities and their logarithms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn
from overbar.losses._inputs import Axis, bar_of, beside, keep_inputs, real_floats, spread, where_given
from overbar.rule import Rule, Sample, rule

_RESIDUALS = {
    "log_predictions": "log p, kept anyway by the layer before",
    "targets": "t, the data",
    "where": "which elements count, or None",
}


def _distributions(
    name: str, log_predictions: ArrayLike, targets: ArrayLike, of: str = "targets"
) -> tuple[jax.Array, jax.Array]:
    rule = f"losses.{name}"
    p = real_floats(rule, "log_predictions", log_predictions)
    return p, beside(rule, of, real_floats(rule, of, targets), "log_predictions", p)


def _kl(p: jax.Array, t: jax.Array, axis: Axis, where: Any) -> jax.Array:
    """Σ t (log t − log p), where 0 log 0 is 0."""
    return jnp.sum(t * _log_ratio(p, t), axis=axis, where=where)


def _log_ratio(p: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.where(t == 0, 0, jnp.log(t)) - p


@rule(
    bars={"log_predictions": "p̄ = −L̄ t", "targets": "t̄ = L̄ (log t − log p + 1)"},
    residuals=_RESIDUALS,
    static=("axis",),
    arrays=("log_predictions", "targets", "where"),
)
def kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence, L = Σ t (log t − log p); as `optax.losses.kl_divergence`.

    Backward: the bar of log p is −L̄ t; t̄ = L̄ (log t − log p + 1), which at t = 0 is its limit, −∞ for
    L̄ > 0. Where `where` is false, bars are 0.

    Args:
      log_predictions: log p, any shape; float16, bfloat16, float32 or float64.
      targets: t ≥ 0, broadcasts against log p, its dtype.
      axis: the axis or axes of the classes, None for all.
      where: which elements count, booleans that broadcast; None for all.

    Returns:
      L, without the axes summed over, in log p's dtype.

    Raises:
      RuleError: an input is not real floats, or of another dtype.

    Source: Kullback and Leibler, "On information and sufficiency", 1951.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> p, t = jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0])
    >>> print(f"{losses.kl_divergence(p, t):.4f}")
    0.6931
    >>> jax.grad(losses.kl_divergence)(p, t)
    Array([-1., -0.], dtype=float32)
    """
    return _kl(*_distributions("kl_divergence", log_predictions, targets), axis, where)


@rule(
    bars={"log_predictions": "p̄ = −L̄ e^t", "log_targets": "t̄ = L̄ e^t (t − log p + 1)"},
    residuals={
        "log_predictions": "log p, kept anyway by the layer before",
        "log_targets": "log t, the data",
        "where": "which elements count, or None",
    },
    static=("axis",),
    arrays=("log_predictions", "log_targets", "where"),
)
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike, log_targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence of the logarithms, L = Σ e^u (u − log p) with u = log t; as in
    `optax.losses`.

    Backward: the bar of log p is −L̄ e^u; ū = L̄ e^u (u − log p + 1), and 0, its limit, at u = −∞. Where
    `where` is false, bars are 0.

    Args:
      log_predictions: log p, any shape; float16, bfloat16, float32 or float64.
      log_targets: u = log t, broadcasts against log p, its dtype.
      axis: the axis or axes of the classes, None for all.
      where: which elements count, booleans that broadcast; None for all.

    Returns:
      L, without the axes summed over, in log p's dtype.

    Raises:
      RuleError: an input is not real floats, or of another dtype.

    Source: Kullback and Leibler, "On information and sufficiency", 1951.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> p = jnp.log(jnp.array([0.5, 0.5]))
    >>> losses.kl_divergence_with_log_targets(p, p)
    Array(0., dtype=float32)
    """
    p, u = _distributions("kl_divergence_with_log_targets", log_predictions, log_targets, "log_targets")
    return jnp.sum(jnp.exp(u) * (u - p), axis=axis, where=where)


@rule(
    bars={"log_predictions": "p̄ = L̄ (e^p − t)", "targets": "t̄ = L̄ (log t − log p)"},
    residuals=_RESIDUALS,
    static=("axis",),
    arrays=("log_predictions", "targets", "where"),
)
def generalized_kl_divergence(
    log_predictions: ArrayLike, targets: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None
) -> jax.Array:
    """Kullback-Leibler divergence of what need not sum to 1, L = Σ t (log t − log p) + p − t; as in
    `optax.losses`.

    Backward: the bar of log p is L̄ (p − t); t̄ = L̄ (log t − log p), which at t = 0 is its limit, −∞ for
    L̄ > 0. Where `where` is false, bars are 0.

    Args:
      log_predictions: log p, any shape; float16, bfloat16, float32 or float64.
      targets: t ≥ 0, broadcasts against log p, its dtype.
      axis: the axis or axes of the classes, None for all.
      where: which elements count, booleans that broadcast; None for all.

    Returns:
      L, without the axes summed over, in log p's dtype.

    Raises:
      RuleError: an input is not real floats, or of another dtype.

    Source: Boyd and Vandenberghe, "Convex Optimization", 2004, page 90.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> p, t = jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0])
    >>> jax.grad(losses.generalized_kl_divergence)(p, t)
    Array([-0.5,  0.5], dtype=float32)
    """
    p, t = _distributions("generalized_kl_divergence", log_predictions, targets)
    return _kl(p, t, axis, where) + jnp.sum(jnp.exp(p) - t, axis=axis, where=where)


convex_kl_divergence = generalized_kl_divergence  # its name in optax until 0.2.4


# Derivations, for every element that counts; L̄ is the bar of the sum that it went into.
#   (1) L = t (log t − p), with p for log p:  L̇ = −t ṗ + (log t − p + t/t) ṫ
#   (2) e^p − t beside it:                    L̇ = e^p ṗ − ṫ, which takes the 1 of (1) away
#   (3) L = e^u (u − p):                      L̇ = −e^u ṗ + e^u (u − p + 1) u̇
#   (4) an element that does not count, or was broadcast: 0, or the sum over its copies
def _declare(loss: Rule[..., jax.Array], other: str, slopes: Any) -> None:
    """Declares both passes; slopes(p, other) gives the derivatives by the two."""
    keep_inputs(loss)

    @loss.backward
    def backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis) -> dict[str, Any]:
        p, t, where = (residuals[n] for n in ("log_predictions", other, "where"))
        wide = computing(y_bar.dtype)
        ndim = max(p.ndim, t.ndim)
        L_bar = spread(y_bar.astype(wide), axis, ndim)
        by_p, by_t = slopes(where_given(where, p.astype(wide)), where_given(where, t.astype(wide), 1.0))
        return {
            "log_predictions": bar_of(p, where_given(where, L_bar * by_p)),  # (4)
            other: bar_of(t, where_given(where, L_bar * by_t)),
        }


def _log_targets_slopes(p: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    nothing = u == -jnp.inf
    t = jnp.exp(u)
    v = jnp.where(nothing, jnp.zeros_like(u), u)
    return -t, jnp.where(nothing, t, t * (v - p + 1))  # (3)


def _targets_slope(p: jax.Array, t: jax.Array, constant: int) -> jax.Array:
    """log t − p + constant; of forward's own terms, so that a compiler takes the logarithm once."""
    return jnp.where(t == 0, -jnp.inf, _log_ratio(p, t) + constant)


_declare(kl_divergence, "targets", lambda p, t: (-t, _targets_slope(p, t, 1)))  # (1)
_declare(generalized_kl_divergence, "targets", lambda p, t: (jnp.exp(p) - t, _targets_slope(p, t, 0)))  # (2)
_declare(kl_divergence_with_log_targets, "log_targets", _log_targets_slopes)


def _counted(terms: jax.Array, axis: Axis, where: Any) -> jax.Array:
    return terms.sum(axis) if where is None else (terms * where.astype(terms.dtype)).sum(axis)


@kl_divergence.reference
def kl_divergence_reference(log_predictions: Any, targets: Any, axis: Axis, where: Any) -> jax.Array:
    return _counted(targets * jnp.log(targets / jnp.exp(log_predictions)), axis, where)


@kl_divergence_with_log_targets.reference
def log_targets_reference(log_predictions: Any, log_targets: Any, axis: Axis, where: Any) -> jax.Array:
    return kl_divergence_reference(log_predictions, jnp.exp(log_targets), axis, where)


@generalized_kl_divergence.reference
def generalized_reference(log_predictions: Any, targets: Any, axis: Axis, where: Any) -> jax.Array:
    p = jnp.exp(log_predictions)
    return _counted(targets * jnp.log(targets / p) + p - targets, axis, where)


def _samples(log: bool) -> Any:
    def samples(key: jax.Array) -> Iterator[Sample]:
        def make(shape: tuple[int, ...], other: tuple[int, ...] | None = None) -> tuple[jax.Array, jax.Array]:
            kp, kt = jax.random.split(key)
            p, t = draws.normal(kp, shape), draws.normal(kt, other or shape)
            of_targets = jax_nn.log_softmax if log else jax_nn.softmax
            return jax_nn.log_softmax(p, None), of_targets(t, None)

        yield Sample("rows", make((3, 4)))
        yield Sample("masked", make((3, 4)), {"where": draws.bernoulli(key, 0.6, (3, 4))})
        yield Sample("one target for all rows", make((3, 4), (1, 4)), {"axis": 1})
        yield Sample("two axes", make((2, 3, 2)), {"axis": (0, -1)})
        yield Sample("one class", make((2, 1)), {"axis": None})
        yield Sample("0-d", make(()), {"axis": None})
        yield Sample("no rows", make((0, 3)))
        yield Sample("bench", make((1024, 512)), tags=("bench",))

    return samples


for _loss in (kl_divergence, kl_divergence_with_log_targets, generalized_kl_divergence):
    _loss.samples(_samples(log=_loss is kl_divergence_with_log_targets))

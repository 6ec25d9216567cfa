"""Fenchel-Young losses of any max function; as `optax.losses` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe, is_float
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn
from overbar._like import summed_to
from overbar.losses._inputs import bar_of, real_floats, together
from overbar.rule import Sample, rule

Max = Callable[..., Any]


@rule(
    bars={
        "scores": "s̄ = L̄ (μ − t), μ = ∇max(s), where the max is taken",
        "targets": "t̄ = −L̄ s",
        "parameters": "θ̄ = L̄ ∂max/∂θ",
    },
    residuals={
        "scores": "s",
        "targets": "t, the data",
        "parameters": "θ, what the max function takes besides",
        "argmax": "μ = ∇max(s)",
    },
    static=("max_fun", "options"),
    arrays=("scores", "targets"),
    integers=("targets",),
)
def fenchel_young_loss(
    scores: ArrayLike,
    targets: ArrayLike,
    max_fun: Max,
    parameters: Mapping[str, Any] | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> jax.Array:
    """The Fenchel-Young loss of a max function, L = max(s) − ⟨t, s⟩; what `make_fenchel_young_loss` calls.

    Backward: s̄ = L̄ (μ − t), t̄ = −L̄ s. μ = ∇max(s) is the argmax of the regularized problem whose
    value the max function is: the softmax of s for logsumexp. JAX differentiates the max function
    once, in forward, where its value is needed anyway; only μ is kept of it.

    Args:
      scores: s, (..., n); float16, bfloat16, float32 or float64.
      targets: t, (..., n), which broadcasts against the scores.
      max_fun: a function of (n,) scores to a number. It is a static option.
      parameters: arrays that it takes by name.
      options: its other arguments, as pairs of name and value.

    Returns:
      One loss a row.

    Raises:
      RuleError: scores are not float or 0-d; targets do not fit.

    Source: Blondel, Martins and Niculae, "Learning with Fenchel-Young losses", 2020, proposition 2.

    >>> import jax, jax.numpy as jnp
    >>> from overbar.losses.fenchel_young import fenchel_young_loss
    >>> s, t = jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0])
    >>> jax.grad(fenchel_young_loss)(s, t, jax.nn.logsumexp)
    Array([-0.5,  0.5], dtype=float32)
    """
    s, t = _rows(scores, targets)
    return _max(max_fun, options)(s, parameters or {}) - _products(t, s)


def _rows(scores: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Scores and targets as they are computed with; refuses what does not fit."""
    name = "losses.fenchel_young_loss"
    s, t = real_floats(name, "scores", scores, least=1), jnp.asarray(targets)
    if not t.ndim or t.shape[-1] != s.shape[-1] or jnp.iscomplexobj(t):
        raise RuleError(
            f"rule {name}: expected real targets (..., n) for scores (..., n), "
            f"but came scores {describe(s)}, targets {describe(t)}."
        )
    return s, t if is_float(t) else t.astype(s.dtype)


def _max(max_fun: Max, options: tuple[tuple[str, Any], ...]) -> Callable[..., jax.Array]:
    """The max function over the last axis."""

    def over_rows(s: jax.Array, parameters: Mapping[str, Any]) -> jax.Array:
        def one(row: jax.Array) -> Any:
            return max_fun(row, **parameters, **dict(options))

        return jnp.vectorize(one, signature="(n)->()")(s)

    return over_rows


def _products(t: jax.Array, s: jax.Array) -> jax.Array:
    """⟨t, s⟩ over the last axis, by jnp.vdot, as optax has it."""
    return jnp.vectorize(jnp.vdot, signature="(n),(n)->()")(*together(t, s))


@fenchel_young_loss.forward
def fenchel_young_loss_forward(
    scores: jax.Array,
    targets: jax.Array,
    max_fun: Max,
    parameters: Mapping[str, Any] | None,
    options: tuple[tuple[str, Any], ...],
) -> tuple[jax.Array, dict[str, Any]]:
    s, t = _rows(scores, targets)
    largest, pull = jax.vjp(lambda s: _max(max_fun, options)(s, parameters or {}), s)
    (argmax,) = pull(jnp.ones_like(largest))
    kept = {"scores": scores, "targets": targets, "parameters": parameters, "argmax": argmax}
    return largest - _products(t, s), kept


# Derivation for L = max(s) − ⟨t, s⟩, where max(s) = max over q of ⟨q, s⟩ − Ω(q), reached at q = μ.
#   (1) at μ the value does not change to first order when μ moves (Danskin), so ∇max(s) = μ
#   (2) L̇ = ⟨μ, ṡ⟩ − ⟨t, ṡ⟩ − ⟨ṫ, s⟩ + ⟨∂max/∂θ, θ̇⟩
#   (3) s̄ = L̄ (μ − t), t̄ = −L̄ s; θ̄ is the max function's own, which JAX knows
@fenchel_young_loss.backward
def fenchel_young_loss_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, max_fun: Max, options: tuple[tuple[str, Any], ...]
) -> dict[str, Any]:
    scores, targets, parameters = (residuals[n] for n in ("scores", "targets", "parameters"))
    wide = computing(y_bar.dtype)
    loss_bar = y_bar.astype(wide)[..., None]
    argmax, t, s = together(*(residuals[n].astype(wide) for n in ("argmax", "targets", "scores")))
    bars: dict[str, Any] = {"scores": bar_of(scores, loss_bar * (argmax - t))}
    if is_float(targets):
        bars["targets"] = bar_of(targets, -loss_bar * s)
    if parameters is not None:
        largest, pull = jax.vjp(lambda theta: _max(max_fun, options)(scores, theta), parameters)
        (of_parameters,) = pull(summed_to(largest.shape, y_bar).astype(largest.dtype))
        bars["parameters"] = of_parameters
    return bars


@fenchel_young_loss.reference
def fenchel_young_loss_reference(
    scores: jax.Array,
    targets: jax.Array,
    max_fun: Max,
    parameters: Mapping[str, Any] | None,
    options: tuple[tuple[str, Any], ...],
) -> jax.Array:
    flat = scores.reshape(-1, scores.shape[-1]) if scores.size else scores.reshape(0, scores.shape[-1])
    rows = [max_fun(row, **(parameters or {}), **dict(options)) for row in flat]
    largest = jnp.stack(rows) if rows else jnp.zeros(0)
    s, t = together(scores, targets.astype(scores.dtype))
    return largest.reshape(scores.shape[:-1]) - (t * s).sum(-1)


def _weighted_logsumexp(s: jax.Array, weights: Any = 1.0, power: int = 1) -> jax.Array:
    return jnp.log((jnp.abs(jnp.asarray(weights, s.dtype)) ** power * jnp.exp(s)).sum())


@fenchel_young_loss.samples
def fenchel_young_loss_samples(key: jax.Array) -> Iterator[Sample]:
    ks, kt = jax.random.split(key)

    def pair(*shape: int) -> tuple[jax.Array, jax.Array]:
        return draws.normal(ks, shape), draws.uniform(kt, shape)

    yield Sample("rows", pair(3, 4), {"max_fun": jax_nn.logsumexp})
    more = {"parameters": {"weights": jnp.array([1.0, 2.0, 0.5])}, "options": (("power", 2),)}
    yield Sample("parameters", pair(2, 3), {"max_fun": _weighted_logsumexp, **more})
    targets = jnp.array([0, 1, 0, 0])
    yield Sample("one target for all rows", (pair(3, 1, 4)[0], targets), {"max_fun": jax_nn.logsumexp})
    yield Sample("no rows", pair(0, 3), {"max_fun": jax_nn.logsumexp})
    yield Sample("bench", pair(512, 2048), {"max_fun": jax_nn.logsumexp}, tags=("bench",))


def make_fenchel_young_loss(max_fun: Max) -> Callable[..., jax.Array]:
    """Makes a Fenchel-Young loss of a max function; as `optax.losses.make_fenchel_young_loss`.

    All the losses it makes are one rule, `fenchel_young_loss`, with the max function as an option.

    Backward: s̄ = L̄ (μ − t) with μ = ∇max(s), t̄ = −L̄ s.

    Args:
      max_fun: a function of (n,) scores to a number, such as jax.nn.logsumexp; the scores of the loss are
        (..., n), in float16, bfloat16, float32 or float64.

    Returns:
      loss(scores, targets, **kwargs) over the last axis; kwargs go to max_fun. Those that are float
      arrays have bars, others must be hashable. (optax takes kwargs too, but jnp.vectorize does not
      pass them on: its loss is that of max_fun's defaults.)

    Raises:
      RuleError: by the loss: scores are not float or 0-d; targets do not fit; an argument by position.

    Source: Blondel, Martins and Niculae, "Learning with Fenchel-Young losses", 2020.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    >>> s, t = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
    >>> jax.grad(lambda s: loss(s, t).sum())(s)
    Array([[-0.5,  0.5]], dtype=float32)
    """

    def fenchel_young(scores: ArrayLike, targets: ArrayLike, *args: Any, **kwargs: Any) -> jax.Array:
        if args:
            raise RuleError(
                "rule losses.fenchel_young_loss: expected scores, targets and max_fun's arguments by name, "
                f"but came {len(args)} more by position."
            )
        arrays = {n: v for n, v in kwargs.items() if isinstance(v, jax.Array)}
        options = tuple((n, v) for n, v in kwargs.items() if n not in arrays)
        return fenchel_young_loss(scores, targets, max_fun, arrays or None, options)

    return fenchel_young

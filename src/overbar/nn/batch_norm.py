"""Batch normalization: in training by the batch's own statistics, at inference by given ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._like import cast
from overbar.nn._wide import axes_of, size_of, wide
from overbar.nn.normalization import _channel_sample, _check, _normal, _others, _scaled, _spread, _statistics
from overbar.rule import Sample, rule

Residuals = Mapping[str, Any]
Kept = dict[str, Any]


@rule(
    bars={
        "x": "x̄ = r (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩) + (m̄ + 2 (x − μ) v̄)/N, n = (x − μ) r, n̄ = ȳ γ",
        "scale": "γ̄ = Σ ȳ n",
        "bias": "β̄ = Σ ȳ",
    },
    residuals={
        "x": "the input",
        "mean": "μ, one number a channel",
        "r": "1/√(variance + eps), one number a channel",
        "scale": "γ, a parameter",
    },
    static=("axis", "eps"),
    arrays=("x", "scale", "bias"),
)
def batch_norm(
    x: ArrayLike, scale: ArrayLike, bias: ArrayLike, *, axis: int = -1, eps: float = 1e-5
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Batch normalization in training: each channel by its mean and variance over all other axes.

    The statistics are returned for a running average, and have bars of their own where a loss uses them.

    Backward: x̄ = r (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩) + (m̄ + 2 (x − μ) v̄)/N with n = (x − μ) r, n̄ = ȳ γ, N entries
    a channel; γ̄ = Σ ȳ n; β̄ = Σ ȳ.

    Args:
      x: of rank 1 or more; float16, bfloat16, float32 or float64.
      scale: γ (channels,), x's dtype.
      bias: β (channels,), x's dtype.
      axis: the axis of the channels.
      eps: added to the variance.

    Returns:
      (y, mean, variance): y = γ (x − mean)/√(variance + eps) + β with x's shape and dtype; mean and
      variance (channels,), the latter the mean square deviation (divided by N), float32 for x in half
      precision.

    Raises:
      RuleError: x is not real float; scale or bias of another shape or dtype; an axis x does not have.

    Source: Ioffe, Szegedy, "Batch normalization", 2015.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> y, mean, variance = nn.batch_norm(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), eps=0.0)
    >>> y.ravel(), mean, variance
    (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32), Array([1.], dtype=float32))
    """
    x = jnp.asarray(x)
    channels = axes_of("nn.batch_norm", x, axis)
    _check("nn.batch_norm", x, tuple(x.shape[a] for a in channels), scale=scale, bias=bias)
    return batch_norm_forward(x, scale, bias, axis, eps)[0]


@batch_norm.forward
def batch_norm_forward(
    x: jax.Array, scale: Any, bias: Any, axis: int, eps: float
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Kept]:
    channels = axes_of("nn.batch_norm", x, axis)
    mean, variance, r = _statistics(wide(x), _others(x, channels), eps)
    y = _scaled((wide(x) - mean) * r, _spread(scale, x, channels), _spread(bias, x, channels))
    kept = {"x": x, "mean": mean, "r": r, "scale": scale}
    return (cast(y, x.dtype), mean.reshape(scale.shape), variance.reshape(scale.shape)), kept


# Derivation, beside that of layer_norm: its steps (3), (4), (6) and (7), with the channels for rows, and
#   (8) ṁ = ⟨ẋ⟩ and v̇ = 2⟨(x − μ) ẋ⟩, so m̄ and v̄ add (m̄ + 2 (x − μ) v̄)/N to x̄
@batch_norm.backward
def batch_norm_backward(residuals: Residuals, y_bar: Any, axis: int) -> dict[str, jax.Array]:
    x, mean, r, scale = (residuals[n] for n in ("x", "mean", "r", "scale"))
    channels = axes_of("nn.batch_norm", x, axis)
    others = _others(x, channels)
    y_bar, mean_bar, variance_bar = y_bar
    g = wide(y_bar)
    n = _normal(x, mean, r, others)
    bias_bar, scale_bar = (jnp.sum(v, axis=others, keepdims=True) for v in (g, g * n))  # (4)
    number = size_of(x, others) or 1
    gamma_r = _spread(scale, x, channels) * r
    # All that n is multiplied by, and what stands alone: one number a channel each. (3), (6), (8)
    by_n = gamma_r * scale_bar - 2 * variance_bar.reshape(mean.shape) / r
    alone = gamma_r * bias_bar - mean_bar.reshape(mean.shape)
    return {
        "x": cast(gamma_r * g - n * (by_n / number) - alone / number, x.dtype),
        "scale": cast(scale_bar.reshape(scale.shape), x.dtype),
        "bias": cast(bias_bar.reshape(scale.shape), x.dtype),
    }


@batch_norm.reference
def batch_norm_reference(
    x: jax.Array, scale: jax.Array, bias: jax.Array, axis: int, eps: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    moved = jnp.moveaxis(x, axis, 0)
    rows = moved.reshape(x.shape[axis], math.prod(moved.shape[1:]))
    mean = rows.mean(axis=1)
    variance = (rows**2).mean(axis=1) - mean**2
    y = (rows - mean[:, None]) / jnp.sqrt(variance + eps)[:, None] * scale[:, None] + bias[:, None]
    return jnp.moveaxis(y.reshape(moved.shape), 0, axis), mean, variance


@batch_norm.samples
def batch_norm_samples(key: jax.Array) -> Iterator[Sample]:
    yield _channel_sample(key, "rows", (5, 3))
    yield _channel_sample(key, "an image", (2, 3, 2, 4), eps=0.1)
    x, scale, bias = _channel_sample(key, "", (4, 3)).args
    yield Sample("channels first", (x.T, scale, bias), {"axis": 0})
    yield _channel_sample(key, "one channel", (4, 1))
    yield _channel_sample(key, "no channels", (3, 0))
    yield _channel_sample(key, "bench", (32, 16, 16, 64), tags=("bench",))


@rule(
    bars={
        "x": "x̄ = ȳ γ r, r = 1/√(v + eps)",
        "scale": "γ̄ = Σ ȳ (x − m) r",
        "bias": "β̄ = Σ ȳ",
        "mean": "m̄ = −Σ ȳ γ r",
        "variance": "v̄ = −½ Σ ȳ γ (x − m) r³",
    },
    residuals={
        "x": "the input",
        "scale": "γ, a parameter",
        "mean": "m, as it was given",
        "variance": "v, as it was given",
    },
    static=("axis", "eps"),
    arrays=("x", "scale", "bias", "mean", "variance"),
)
def batch_norm_inference(
    x: ArrayLike,
    scale: ArrayLike,
    bias: ArrayLike,
    mean: ArrayLike,
    variance: ArrayLike,
    *,
    axis: int = -1,
    eps: float = 1e-5,
) -> jax.Array:
    """Batch normalization by given statistics, y = γ (x − mean)/√(variance + eps) + β.

    Backward: x̄ = ȳ γ r with r = 1/√(variance + eps); m̄ = −Σ x̄; v̄ = −½ r² Σ x̄ (x − m);
    γ̄ = Σ ȳ (x − m) r; β̄ = Σ ȳ.

    Args:
      x: of rank 1 or more; float16, bfloat16, float32 or float64.
      scale, bias: γ and β (channels,), x's dtype.
      mean, variance: (channels,), of one float dtype, which may be float32 for x in half precision, as
        batch_norm returns them.
      axis: the axis of the channels.
      eps: added to the variance.

    Returns:
      y with x's shape and dtype.

    Raises:
      RuleError: as batch_norm; mean or variance of another shape or dtype.

    Source: Ioffe, Szegedy, "Batch normalization", 2015, algorithm 2.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> one = jnp.ones(1)
    >>> nn.batch_norm_inference(jnp.array([[3.0]]), one, 0 * one, one, 4 * one, eps=0.0)
    Array([[1.]], dtype=float32)
    """
    name, x = "nn.batch_norm_inference", jnp.asarray(x)
    channels = axes_of(name, x, axis)
    shape = tuple(x.shape[a] for a in channels)
    _check(name, x, shape, scale=scale, bias=bias)
    _check(name, wide(x), shape, mean=wide(mean), variance=wide(variance))
    r = jax.lax.rsqrt(wide(variance) + eps)
    n = (wide(x) - _spread(mean, x, channels)) * _spread(r, x, channels)
    return cast(_scaled(n, _spread(scale, x, channels), _spread(bias, x, channels)), x.dtype)


@batch_norm_inference.forward
def batch_norm_inference_forward(
    x: jax.Array,
    scale: Any,
    bias: Any,
    mean: jax.Array,
    variance: jax.Array,
    axis: int,
    eps: float,
) -> tuple[jax.Array, Kept]:
    y = batch_norm_inference.primal(x, scale, bias, mean, variance, axis=axis, eps=eps)
    return y, {"x": x, "scale": scale, "mean": mean, "variance": variance}


# Derivation for y = γ n + β, n = (x − m) r, r = (v + ε)^−½, one number a channel in γ, β, m and v.
#   (1) ẏ = γ̇ n + β̇ + γ r (ẋ − ṁ) − ½ γ (x − m) r³ v̇
#   (2) with the sums over the entries of a channel:
#       β̄ = Σ ȳ,  γ̄ = Σ ȳ n,  x̄ = ȳ γ r,  m̄ = −γ r Σ ȳ = −γ r β̄,  v̄ = −½ γ r² Σ ȳ n = −½ γ γ̄/(v + ε)
#   (3) so two sums over x serve for four bars; r has been rounded, v + ε is known better
@batch_norm_inference.backward
def batch_norm_inference_backward(
    residuals: Residuals, y_bar: jax.Array, axis: int, eps: float
) -> dict[str, jax.Array]:
    x, scale, mean, variance = (residuals[n] for n in ("x", "scale", "mean", "variance"))
    channels = axes_of("nn.batch_norm_inference", x, axis)
    g, r = wide(y_bar), jax.lax.rsqrt(wide(variance) + eps)
    n = (wide(x) - _spread(mean, x, channels)) * _spread(r, x, channels)
    bias_bar = jnp.sum(g, axis=_others(x, channels))
    scale_bar = jnp.sum(g * n, axis=_others(x, channels))
    slope = wide(scale) * r
    return {
        "x": cast(g * _spread(slope, x, channels), x.dtype),  # (2)
        "scale": cast(scale_bar, x.dtype),
        "bias": cast(bias_bar, x.dtype),
        "mean": cast(-slope * bias_bar, mean.dtype),  # (3)
        "variance": cast(-0.5 * wide(scale) * scale_bar / (wide(variance) + eps), variance.dtype),
    }


@batch_norm_inference.reference
def batch_norm_inference_reference(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    axis: int,
    eps: float,
) -> jax.Array:
    def along(p: jax.Array) -> jax.Array:
        return jnp.expand_dims(p, [i for i in range(x.ndim) if i != axis % x.ndim])

    return along(scale) * (x - along(mean)) / jnp.sqrt(along(variance) + eps) + along(bias)


@batch_norm_inference.samples
def batch_norm_inference_samples(key: jax.Array) -> Iterator[Sample]:
    for s in batch_norm_samples(key):
        channels = s.args[1].shape
        km, kv = jax.random.split(jax.random.fold_in(key, 1))
        variance = 0.5 + draws.uniform(kv, channels)
        yield Sample(s.name, (*s.args, draws.normal(km, channels), variance), s.options, s.tags)

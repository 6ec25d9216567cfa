"""Layers that take out a mean and divide by a spread, and give back a scale and a bias of their own.

All keep x and one or two statistics of what is normalized together; the normalized x is rebuilt in
backward. Half precision is computed in float32 and rounded once; its statistics are float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._like import cast
from overbar._tails import apart
from overbar.nn._wide import Axis, axes_of, check_real, size_of, wide
from overbar.rule import Sample, rule

Residuals = Mapping[str, Any]
Kept = dict[str, Any]
Axes = tuple[int, ...]


def _spread(parameter: Any, x: jax.Array, axes: Axes) -> Any:
    """A parameter of the shape of these axes, in the dtype that is computed in, to be multiplied with x."""
    if parameter is None:
        return None
    return wide(parameter).reshape([n if i in axes else 1 for i, n in enumerate(x.shape)])


def _others(x: jax.Array, axes: Axes) -> Axes:
    return tuple(i for i in range(x.ndim) if i not in axes)


def _check(name: str, x: jax.Array, shape: Axes, **parameters: Any) -> None:
    check_real(name, x=x, **parameters)
    for n, p in parameters.items():
        if p is not None and jnp.shape(p) != shape:
            raise RuleError(
                f"rule {name}: expected {n} of shape {shape} for x {describe(x)}, "
                f"but came {describe(jnp.asarray(p))}."
            )


def _statistics(x: jax.Array, axes: Axes, eps: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(mean, variance, 1/√(variance + eps)) over the axes, which stay with size 1."""
    mean = jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
    return mean, variance, jax.lax.rsqrt(variance + eps)


def _scaled(n: jax.Array, scale: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    y = n if scale is None else n * scale
    return y if bias is None else y + bias


# Derivation for n = (x − μ) r, r = (v + ε)^−½, with μ = ⟨x⟩ and v = ⟨(x − μ)²⟩, ⟨·⟩ the mean over N entries.
#   (1) ṅ = r (ẋ − μ̇) − ½ r³ v̇ (x − μ) = r (ẋ − μ̇) − ½ r² v̇ n
#   (2) μ̇ = ⟨ẋ⟩;  v̇ = 2⟨(x − μ) ẋ⟩, the part with μ̇ being 0, as ⟨x − μ⟩ is;  so ½ r² v̇ = r ⟨n ẋ⟩
#   (3) Σ n̄ ṅ = r Σ ẋ (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩): two means of the bar, whatever x is
#   (4) for y = n γ + β:  n̄ = ȳ γ, γ̄ = Σ ȳ n, β̄ = Σ ȳ, over the entries that share γ and β
#   (5) without μ (rms_norm) its terms go: x̄ = r (n̄ − n ⟨n̄ n⟩)
#   (6) where n̄ and n̄ n are summed over whole channels anyway, for β̄ and γ̄, the means are sums of those sums
#   (7) ⟨n⟩ = 0, but for the rounding of μ, which x̄ would have times ⟨n̄ n⟩: it is taken out of n
def _normal(x: jax.Array, mean: jax.Array, r: jax.Array, axes: Axes) -> jax.Array:
    """n of (1), by (7)."""
    n = (wide(x) - mean) * r
    return n - jnp.mean(n, axis=axes, keepdims=True)


def _mean_with(v: jax.Array, scale: jax.Array | None, axes: Axes) -> jax.Array:
    """⟨v γ⟩ over the axes, which stay with size 1: with γ a product of a matrix and a vector.

    That reads v alone, where XLA for the CPU would write v γ to memory before it is summed.
    """
    if scale is None:
        return apart(jnp.mean(v, axis=axes, keepdims=True))
    along = (axes, tuple(range(len(axes))))
    total = jnp.tensordot(v, wide(scale), axes=along, precision=jax.lax.Precision.HIGHEST)
    return jnp.expand_dims(total / scale.size, axes)


# ---------------------------------------------------------------------- layer_norm


@rule(
    bars={
        "x": "x̄ = r (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩), n = (x − μ) r, n̄ = ȳ γ",
        "scale": "γ̄ = Σ ȳ n",
        "bias": "β̄ = Σ ȳ",
    },
    residuals={
        "x": "the input",
        "mean": "μ, one number a row",
        "r": "1/√(variance + eps), one number a row",
        "scale": "γ, a parameter",
    },
    static=("axis", "eps"),
    arrays=("x", "scale", "bias"),
)
def layer_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    axis: Axis = -1,
    eps: float = 1e-5,
) -> jax.Array:
    """Layer normalization, y = γ (x − μ)/√(v + eps) + β, with μ and v the mean and variance of a row.

    Backward: x̄ = r (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩) with n = (x − μ) r and n̄ = ȳ γ; γ̄ = Σ ȳ n; β̄ = Σ ȳ.

    Args:
      x: of rank 1 or more; float16, bfloat16, float32 or float64.
      scale: γ, of the shape of the axes that are normalized, x's dtype; None for 1.
      bias: β, as scale; None for 0.
      axis: the axis or axes that are normalized together; None for all.
      eps: added to the variance, the mean of the squares (x − μ)².

    Returns:
      y with x's shape and dtype.

    Raises:
      RuleError: x is not real float; scale or bias of another shape or dtype; an axis x does not have.

    Source: Ba, Kiros, Hinton, "Layer normalization", 2016.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> nn.layer_norm(jnp.array([[1.0, 3.0]]), eps=0.0)
    Array([[-1.,  1.]], dtype=float32)
    """
    x = jnp.asarray(x)
    axes = axes_of("nn.layer_norm", x, axis)
    _check("nn.layer_norm", x, tuple(x.shape[a] for a in axes), scale=scale, bias=bias)
    return layer_norm_forward(x, scale, bias, axis, eps)[0]


@layer_norm.forward
def layer_norm_forward(x: jax.Array, scale: Any, bias: Any, axis: Axis, eps: float) -> tuple[jax.Array, Kept]:
    axes = axes_of("nn.layer_norm", x, axis)
    mean, _, r = _statistics(wide(x), axes, eps)
    y = _scaled((wide(x) - mean) * r, _spread(scale, x, axes), _spread(bias, x, axes))
    return cast(y, x.dtype), {"x": x, "mean": mean, "r": r, "scale": scale}


@layer_norm.backward
def layer_norm_backward(residuals: Residuals, y_bar: jax.Array, axis: Axis) -> dict[str, jax.Array]:
    x, r, g = residuals["x"], residuals["r"], wide(y_bar)
    axes = axes_of("nn.layer_norm", x, axis)
    n, scale = _normal(x, residuals["mean"], r, axes), residuals["scale"]
    n_bar = _scaled(g, _spread(scale, x, axes), None)
    mean_n = apart(jnp.mean(n_bar * n, axis=axes, keepdims=True))
    return {
        "x": cast(r * (n_bar - _mean_with(g, scale, axes) - n * mean_n), x.dtype),  # (3)
        "scale": cast(jnp.sum(g * n, axis=_others(x, axes)), x.dtype),  # (4)
        "bias": cast(jnp.sum(g, axis=_others(x, axes)), x.dtype),
    }


@layer_norm.reference
def layer_norm_reference(
    x: jax.Array, scale: jax.Array | None, bias: jax.Array | None, axis: Axis, eps: float
) -> jax.Array:
    y = (x - x.mean(axis=axis, keepdims=True)) / jnp.sqrt(x.var(axis=axis, keepdims=True) + eps)
    axes = (
        list(range(x.ndim))
        if axis is None
        else sorted(a % x.ndim for a in ([axis] if isinstance(axis, int) else axis))
    )
    others = [i for i in range(x.ndim) if i not in axes]
    y = y if scale is None else y * jnp.expand_dims(scale, others)
    return y if bias is None else y + jnp.expand_dims(bias, others)


@layer_norm.samples
def layer_norm_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, shape: Axes, of: Axes, tags: Any = (), **options: Any) -> Sample:
        kx, ks, kb = jax.random.split(key, 3)
        parameters = (1 + 0.3 * draws.normal(ks, of), draws.normal(kb, of))
        return Sample(name, (draws.normal(kx, shape), *parameters), options, tags)

    yield make("rows", (3, 5), (5,))
    yield make("two axes", (3, 2, 4), (3, 4), axis=(-1, 0), eps=0.1)
    yield Sample("without parameters", (draws.normal(key, (4, 6)),), {"axis": None})
    yield Sample("scale only", make("", (2, 4), (2,)).args[:2], {"axis": 0})
    yield make("one vector", (6,), (6,))
    yield make("size 1", (3, 1), (1,))
    yield make("no rows", (0, 4), (4,))
    yield make("bench", (512, 1024), (1024,), tags=("bench",))


# ---------------------------------------------------------------------- rms_norm


@rule(
    bars={"x": "x̄ = r (n̄ − n ⟨n̄ n⟩), n = x r, n̄ = ȳ γ", "scale": "γ̄ = Σ ȳ n"},
    residuals={
        "x": "the input",
        "r": "1/√(mean square + eps), one number a row",
        "scale": "γ, a parameter",
    },
    static=("axis", "eps"),
    arrays=("x", "scale"),
)
def rms_norm(
    x: ArrayLike, scale: ArrayLike | None = None, *, axis: Axis = -1, eps: float = 1e-6
) -> jax.Array:
    """Root mean square normalization, y = γ x/√(⟨x²⟩ + eps), with ⟨x²⟩ the mean square of a row.

    Backward: x̄ = r (n̄ − n ⟨n̄ n⟩) with n = x r and n̄ = ȳ γ; γ̄ = Σ ȳ n.

    Args:
      x: of rank 1 or more; float16, bfloat16, float32 or float64.
      scale: γ, of the shape of the axes that are normalized, x's dtype; None for 1.
      axis: the axis or axes that are normalized together; None for all.
      eps: added to the mean square.

    Returns:
      y with x's shape and dtype.

    Raises:
      RuleError: x is not real float; scale of another shape or dtype; an axis x does not have.

    Source: Zhang, Sennrich, "Root mean square layer normalization", 2019.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> nn.rms_norm(jnp.array([[2.0, -2.0]]), eps=0.0)
    Array([[ 1., -1.]], dtype=float32)
    """
    x = jnp.asarray(x)
    axes = axes_of("nn.rms_norm", x, axis)
    _check("nn.rms_norm", x, tuple(x.shape[a] for a in axes), scale=scale)
    return rms_norm_forward(x, scale, axis, eps)[0]


@rms_norm.forward
def rms_norm_forward(x: jax.Array, scale: Any, axis: Axis, eps: float) -> tuple[jax.Array, Kept]:
    axes = axes_of("nn.rms_norm", x, axis)
    r = jax.lax.rsqrt(jnp.mean(jnp.square(wide(x)), axis=axes, keepdims=True) + eps)
    y = _scaled(wide(x) * r, _spread(scale, x, axes), None)
    return cast(y, x.dtype), {"x": x, "r": r, "scale": scale}


@rms_norm.backward
def rms_norm_backward(residuals: Residuals, y_bar: jax.Array, axis: Axis) -> dict[str, jax.Array]:
    x, r, scale, g = residuals["x"], residuals["r"], residuals["scale"], wide(y_bar)
    axes = axes_of("nn.rms_norm", x, axis)
    n = wide(x) * r
    g_n = g * n
    n_bar = _scaled(g, _spread(scale, x, axes), None)
    return {
        "x": cast(r * (n_bar - n * _mean_with(g_n, scale, axes)), x.dtype),  # (5)
        "scale": cast(jnp.sum(g_n, axis=_others(x, axes)), x.dtype),  # (4)
    }


@rms_norm.reference
def rms_norm_reference(x: jax.Array, scale: jax.Array | None, axis: Axis, eps: float) -> jax.Array:
    y = x / jnp.sqrt((x**2).mean(axis=axis, keepdims=True) + eps)
    if scale is None:
        return y
    axes = (
        list(range(x.ndim))
        if axis is None
        else sorted(a % x.ndim for a in ([axis] if isinstance(axis, int) else axis))
    )
    return y * jnp.expand_dims(scale, [i for i in range(x.ndim) if i not in axes])


@rms_norm.samples
def rms_norm_samples(key: jax.Array) -> Iterator[Sample]:
    return (
        Sample(s.name, s.args[:2], s.options, s.tags)
        for s in layer_norm_samples(key)
        if s.name != "scale only"
    )


# ---------------------------------------------------------------------- group_norm


@rule(
    bars={
        "x": "x̄ = r (n̄ − ⟨n̄⟩ − n ⟨n̄ n⟩), n = (x − μ) r, n̄ = ȳ γ",
        "scale": "γ̄ = Σ ȳ n",
        "bias": "β̄ = Σ ȳ",
    },
    residuals={
        "x": "the input",
        "mean": "μ, one number a group",
        "r": "1/√(variance + eps), one number a group",
        "scale": "γ, a parameter",
    },
    static=("groups", "eps"),
    arrays=("x", "scale", "bias"),
)
def group_norm(
    x: ArrayLike, scale: ArrayLike, bias: ArrayLike, *, groups: int, eps: float = 1e-5
) -> jax.Array:
    """Group normalization: the channels of one example are normalized in groups, over all of space.

    Backward: that of layer_norm, with the groups for rows.

    Args:
      x: (batch, ..., channels); float16, bfloat16, float32 or float64. Channels last.
      scale: γ (channels,), x's dtype.
      bias: β (channels,), x's dtype.
      groups: how many groups the channels, in order, are split into; it divides their number.
      eps: added to the variance of a group.

    Returns:
      y = γ (x − μ)/√(v + eps) + β with x's shape and dtype.

    Raises:
      RuleError: x is not real float or has no batch; groups do not divide the channels; scale or bias
        of another shape or dtype.

    Source: Wu, He, "Group normalization", 2018.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
    >>> nn.group_norm(x, jnp.ones(4), jnp.zeros(4), groups=2, eps=0.0)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = jnp.asarray(x)
    if x.ndim < 2:
        raise RuleError(f"rule nn.group_norm: expected x (batch, ..., channels), but came {describe(x)}.")
    if not isinstance(groups, int) or groups < 1 or x.shape[-1] % groups:
        raise RuleError(
            f"rule nn.group_norm: groups must divide the {x.shape[-1]} channels of x {describe(x)}, "
            f"but came {groups!r}."
        )
    _check("nn.group_norm", x, x.shape[-1:], scale=scale, bias=bias)
    return group_norm_forward(x, scale, bias, groups, eps)[0]


def _grouped(x: jax.Array, groups: int) -> tuple[jax.Array, Axes, Axes]:
    """x with the channels as (groups, channels of one), the axes of these two, and those normalized over."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    last = split.ndim - 1
    return split, (last - 1, last), (*range(1, last - 1), last)


@group_norm.forward
def group_norm_forward(
    x: jax.Array, scale: Any, bias: Any, groups: int, eps: float
) -> tuple[jax.Array, Kept]:
    split, channels, axes = _grouped(x, groups)
    mean, _, r = _statistics(wide(split), axes, eps)
    y = _scaled((wide(split) - mean) * r, _spread(scale, split, channels), _spread(bias, split, channels))
    return cast(y.reshape(x.shape), x.dtype), {"x": x, "mean": mean, "r": r, "scale": scale}


@group_norm.backward
def group_norm_backward(residuals: Residuals, y_bar: jax.Array, groups: int) -> dict[str, jax.Array]:
    x, r, scale = residuals["x"], residuals["r"], residuals["scale"]
    split, channels, axes = _grouped(x, groups)
    gamma, size = _spread(scale, split, channels), size_of(split, axes) or 1
    g = wide(y_bar).reshape(split.shape)
    n = _normal(split, residuals["mean"], r, axes)
    # Over space, one number a channel of an example: all four sums come from these two. (6)
    sum_g, sum_gn = (jnp.sum(v, axis=axes[:-1], keepdims=True) for v in (g, g * n))
    mean, mean_n = (jnp.sum(v * gamma, axis=axes[-1], keepdims=True) / size for v in (sum_g, sum_gn))
    return {
        "x": cast((r * (g * gamma - mean - n * mean_n)).reshape(x.shape), x.dtype),  # (3)
        "scale": cast(jnp.sum(sum_gn, axis=0).reshape(scale.shape), x.dtype),  # (4)
        "bias": cast(jnp.sum(sum_g, axis=0).reshape(scale.shape), x.dtype),
    }


@group_norm.reference
def group_norm_reference(
    x: jax.Array, scale: jax.Array, bias: jax.Array, groups: int, eps: float
) -> jax.Array:
    parts = []
    for part in jnp.split(x, groups, axis=-1):
        flat = part.reshape(x.shape[0], math.prod(part.shape[1:]))
        y = (flat - flat.mean(axis=1, keepdims=True)) / jnp.sqrt(flat.var(axis=1, keepdims=True) + eps)
        parts.append(y.reshape(part.shape))
    new = list(range(x.ndim - 1))
    return jnp.concatenate(parts, axis=-1) * jnp.expand_dims(scale, new) + jnp.expand_dims(bias, new)


def _channel_sample(key: jax.Array, name: str, shape: Axes, tags: Any = (), **options: Any) -> Sample:
    kx, ks, kb = jax.random.split(key, 3)
    x = 1 + draws.normal(kx, shape)
    parameters = (1 + 0.3 * draws.normal(ks, shape[-1:]), draws.normal(kb, shape[-1:]))
    return Sample(name, (x, *parameters), options, tags)


@group_norm.samples
def group_norm_samples(key: jax.Array) -> Iterator[Sample]:
    yield _channel_sample(key, "an image", (2, 3, 2, 4), groups=2)
    yield _channel_sample(key, "one group", (2, 3, 4), groups=1, eps=0.1)
    yield _channel_sample(key, "no space", (3, 6), groups=3)
    yield _channel_sample(key, "a group of one channel", (1, 4, 2), groups=2)
    yield _channel_sample(key, "empty batch", (0, 2, 4), groups=2)
    yield _channel_sample(key, "bench", (8, 32, 32, 64), groups=8, tags=("bench",))

"""The gated linear unit: one half of an axis gates the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._jax_nn import jax_nn
from overbar._like import cast
from overbar._tails import sigmas
from overbar.nn._wide import axes_of, check_real, wide
from overbar.rule import Sample, rule


@rule(
    bars={"x": "x̄ = (ȳ σ(g), ȳ a σ'(g)), where x = (a, g)"},
    residuals={"x": "the input"},
    static=("axis",),
    arrays=("x",),
)
def glu(x: ArrayLike, axis: int = -1) -> jax.Array:
    """Gated linear unit, y = a σ(g), where x = (a, g) along the axis; under `jax.nn.glu`'s name.

    Backward: ā = ȳ σ(g) and ḡ = ȳ a σ'(g), accurate as far as σ(g) and σ(−g) are
    normal numbers (|g| < 87 in float32).

    Args:
      x: of rank 1 or more, of an even size along the axis; float16, bfloat16, float32 or float64.
      axis: the axis that is split into halves.

    Returns:
      a σ(g) with x's dtype, half as large along the axis.

    Raises:
      RuleError: x is not real float, has no such axis, or an odd size there.

    Source: Dauphin et al., "Language modeling with gated convolutional networks", 2017.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> nn.glu(jnp.array([2.0, 0.0]))
    Array([1.], dtype=float32)
    >>> jax.grad(lambda x: nn.glu(x).sum())(jnp.array([2.0, 0.0]))
    Array([0.5, 0.5], dtype=float32)
    """
    check_real("nn.glu", x=x)
    x = jnp.asarray(x)
    (along,) = axes_of("nn.glu", x, axis)
    if x.shape[along] % 2:
        raise RuleError(f"rule nn.glu: the size along axis {axis} must be even, but came {describe(x)}.")
    return jax_nn.glu(x, axis)


@glu.forward
def glu_forward(x: jax.Array, axis: int) -> tuple[jax.Array, dict[str, Any]]:
    return glu.primal(x, axis), {"x": x}


# Derivation for y = a σ(g), elementwise.
#   (1) ẏ = σ(g) ȧ + a σ'(g) ġ
#   (2) ā = ȳ σ(g) and ḡ = ȳ a σ'(g), side by side as the halves of x are
#   (3) σ'(g) = σ(g) σ(−g)
#   (4) a goes to the factor that it cannot carry out of range: ∞ · 0 is no number
@glu.backward
def glu_backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: int) -> dict[str, jax.Array]:
    a, g = jnp.split(wide(residuals["x"]), 2, axis)
    bar, (one, other) = wide(y_bar), sigmas(g)
    large = jnp.abs(a) > 1
    g_bar = jnp.where(large, bar, bar * a) * jnp.where(large, a * (one * other), one * other)  # (3), (4)
    x_bar = jnp.concatenate([bar * one, g_bar], axis)  # (2)
    return {"x": cast(x_bar, y_bar.dtype)}


@glu.reference
def glu_reference(x: jax.Array, axis: int) -> jax.Array:
    half = x.shape[axis] // 2
    a = jax.lax.slice_in_dim(x, 0, half, axis=axis)
    g = jax.lax.slice_in_dim(x, half, 2 * half, axis=axis)
    return a * (0.5 * (1 + jnp.tanh(0.5 * g)))


@glu.samples
def glu_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, *shape: int, tags: Any = (), **options: Any) -> Sample:
        return Sample(name, (3 * draws.normal(key, shape),), options, tags)

    yield make("vector", 4)
    yield make("first axis", 4, 3, axis=0)
    yield make("middle axis", 1, 2, 3, axis=-2)
    yield make("empty", 0, 2)
    yield make("bench", 1024, 1024, tags=("bench",))

"""Layers: rules with parameters among their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._adapter import explicit_sharding
from overbar._contract import RuleError, describe
from overbar.rule import Sample, rule


@rule(
    bars={"x": "x̄ = ȳ wᵀ", "w": "w̄ = Σ x ȳᵀ over the leading axes", "b": "b̄ = Σ ȳ over the leading axes"},
    residuals={"x": "the input, for w̄", "w": "the weights, for x̄"},
    arrays=("x", "w", "b"),
)
def linear(x: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> jax.Array:
    """Linear layer, y = x w + b, over the last axis of x.

    Backward: x̄ = ȳ wᵀ; w̄ and b̄ are summed over all the leading axes of x.

    Args:
      x: (..., in), of rank 1 or more; float or complex.
      w: (in, out), x's dtype.
      b: (out,), x's dtype, or None for no bias.

    Returns:
      (..., out), x's dtype.

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or is an integer's.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.5.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x, w, b = jnp.ones((4, 3)), jnp.ones((3, 2)), jnp.zeros(2)
    >>> nn.linear(x, w, b).shape
    (4, 2)
    >>> jax.grad(lambda b: nn.linear(x, w, b).sum())(b)
    Array([4., 4.], dtype=float32)
    """
    x, w = jnp.asarray(x), jnp.asarray(w)
    b = None if b is None else jnp.asarray(b)
    _check_linear(x, w, b)
    y = jnp.matmul(x, w)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


def _check_linear(x: jax.Array, w: jax.Array, b: jax.Array | None) -> None:
    came = f"came x {describe(x)}, w {describe(w)}, b {describe(b)}"
    if x.ndim < 1 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise RuleError(f"rule nn.linear: expected x (..., in) and w (in, out), but {came}.")
    if b is not None and b.shape != w.shape[1:]:
        raise RuleError(f"rule nn.linear: expected b ({w.shape[1]},) = (out,) of w, but {came}.")
    if w.dtype != x.dtype or (b is not None and b.dtype != x.dtype):
        raise RuleError(f"rule nn.linear: expected one dtype for x, w and b, but {came}.")


@linear.forward
def linear_forward(x: jax.Array, w: jax.Array, b: jax.Array | None) -> tuple[jax.Array, dict[str, Any]]:
    return linear.primal(x, w, b), {"x": x, "w": w}


# Derivation for y_no = Σ_i x_ni w_io + b_o, where n runs over all the leading axes together.
#   (1) ẏ_no = Σ_i ẋ_ni w_io + Σ_i x_ni ẇ_io + ḃ_o
#   (2) ⟨ȳ, ẏ⟩ = Σ_ni (Σ_o ȳ_no w_io) ẋ_ni + Σ_io (Σ_n x_ni ȳ_no) ẇ_io + Σ_o (Σ_n ȳ_no) ḃ_o
#   (3) what stands before ẋ is x̄:  x̄ = ȳ wᵀ
#   (4) what stands before ẇ is w̄:  w̄ = Σ_n x_n ȳ_nᵀ
#   (5) what stands before ḃ is b̄:  b̄ = Σ_n ȳ_n, since b was used once for every n
@linear.backward
def linear_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    x, w = residuals["x"], residuals["w"]
    leading = tuple(range(y_bar.ndim - 1))
    return {
        "x": jnp.matmul(y_bar, w.T, out_sharding=explicit_sharding(x)),  # (3)
        "w": jnp.tensordot(x, y_bar, axes=(leading, leading), out_sharding=explicit_sharding(w)),  # (4)
        "b": jnp.sum(y_bar, axis=leading),  # (5)
    }


@linear.reference
def linear_reference(x: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
    terms = jnp.expand_dims(x, -1) * jnp.broadcast_to(w, (*x.shape[:-1], *w.shape))
    y = terms.sum(axis=-2)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


@linear.samples
def linear_samples(key: jax.Array) -> Iterator[Sample]:
    def make(
        name: str, leading: tuple[int, ...], n: int, m: int, bias: bool = True, tags: Any = ()
    ) -> Sample:
        kx, kw, kb = jax.random.split(key, 3)
        w = jax.random.normal(kw, (n, m))
        args = (jax.random.normal(kx, (*leading, n)), w, jax.random.normal(kb, (m,)) if bias else None)
        return Sample(name, args, tags=tags)

    yield make("batch", (5,), 3, 4)
    yield make("vector", (), 3, 4)
    yield make("square", (3,), 3, 3)
    yield make("two leading axes", (2, 5), 3, 4)
    yield make("three leading axes, no bias", (2, 1, 3), 4, 2, bias=False)
    yield make("sizes of 1", (1,), 1, 1)
    yield make("empty batch", (0,), 3, 2)
    yield make("no input features", (2,), 0, 3)
    yield make("bench", (256,), 512, 512, tags=("bench",))

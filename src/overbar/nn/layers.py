"""Layers: rules with parameters among their inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar._tails import apart
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
    return {
        "x": jnp.matmul(y_bar, w.T),  # (3)
        "w": _product(x, y_bar),  # (4)
        "b": jnp.sum(y_bar, axis=tuple(range(y_bar.ndim - 1))),  # (5)
    }


def _product(x: jax.Array, y_bar: jax.Array) -> jax.Array:
    """Σ_n x_n ȳ_nᵀ, (..., in) and (..., out) → (in, out).

    XLA for the CPU has slow code for a narrow result: with 10 columns, a classifier's, up to ten times
    the time of the transposed one. So that is what it gets there, and it is kept from undoing that.
    """
    leading = tuple(range(y_bar.ndim - 1))
    rows, wide, narrow = math.prod(y_bar.shape[:-1]), x.shape[-1], y_bar.shape[-1]
    slow = rows * wide >= 2**15 and 4 * narrow <= min(wide, max(rows, 256))  # measured on 2 cores
    if slow and not jnp.iscomplexobj(x):
        return apart(jnp.tensordot(y_bar, x, axes=(leading, leading))).T
    return jnp.tensordot(x, y_bar, axes=(leading, leading))


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
        w = draws.normal(kw, (n, m))
        args = (draws.normal(kx, (*leading, n)), w, draws.normal(kb, (m,)) if bias else None)
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
    yield make("bench, a classifier", (512,), 1024, 10, tags=("bench",))


@rule(
    bars={
        "x1": "x̄1 = Σ m x2 over j, with m = Σ ȳ w over o",
        "x2": "x̄2 = Σ m x1 over i",
        "w": "w̄_oij = Σ ȳ_o x1_i x2_j over the leading axes",
        "b": "b̄ = Σ ȳ over the leading axes",
    },
    residuals={
        "x1": "the first input, for x̄2 and w̄",
        "x2": "the second input, for x̄1 and w̄",
        "w": "the weights, for x̄1 and x̄2",
    },
    arrays=("x1", "x2", "w", "b"),
)
def bilinear(x1: ArrayLike, x2: ArrayLike, w: ArrayLike, b: ArrayLike | None = None) -> jax.Array:
    """Bilinear layer, y_o = Σ_ij x1_i w_oij x2_j + b_o, over the last axes of x1 and x2.

    Backward: with m_ij = Σ_o ȳ_o w_oij, x̄1 = m x2 and x̄2 = mᵀ x1; w̄_oij = Σ ȳ_o x1_i x2_j and b̄ = Σ ȳ
    over all the leading axes.

    Args:
      x1: (..., in1), of rank 1 or more; float16, bfloat16, float32 or float64.
      x2: (..., in2), with the leading axes and the dtype of x1.
      w: (out, in1, in2), x1's dtype: the layout of torch.nn.Bilinear.
      b: (out,), x1's dtype, or None for no bias.

    Returns:
      (..., out), x1's dtype. Half precision is computed in float32 and rounded once.

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or is an integer's or complex.

    Source: Tenenbaum and Freeman, "Separating style and content with bilinear models", 2000.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x1, x2, w = jnp.ones((4, 2)), jnp.ones((4, 3)), jnp.ones((5, 2, 3))
    >>> nn.bilinear(x1, x2, w).shape
    (4, 5)
    >>> jax.grad(lambda x1: nn.bilinear(x1, x2, w).sum())(x1)[0]
    Array([15., 15.], dtype=float32)
    """
    x1, x2, w = jnp.asarray(x1), jnp.asarray(x2), jnp.asarray(w)
    b = None if b is None else jnp.asarray(b)
    _check_bilinear(x1, x2, w, b)
    wide = computing(x1.dtype)
    y = jnp.matmul(_pairs(x1.astype(wide), x2.astype(wide)), _flat(w.astype(wide)).T)
    if b is not None:
        y = y + jnp.broadcast_to(b.astype(wide), y.shape)
    return y.reshape(*x1.shape[:-1], w.shape[0]).astype(x1.dtype)


def _check_bilinear(x1: jax.Array, x2: jax.Array, w: jax.Array, b: jax.Array | None) -> None:
    came = f"came x1 {describe(x1)}, x2 {describe(x2)}, w {describe(w)}, b {describe(b)}"
    ranks = x1.ndim > 0 and x2.ndim > 0 and w.ndim == 3
    if not ranks or x1.shape[:-1] != x2.shape[:-1] or w.shape[1:] != (x1.shape[-1], x2.shape[-1]):
        expected = "x1 (..., in1), x2 (..., in2) with the same leading axes and w (out, in1, in2)"
        raise RuleError(f"rule nn.bilinear: expected {expected}, but {came}.")
    if b is not None and b.shape != w.shape[:1]:
        raise RuleError(f"rule nn.bilinear: expected b ({w.shape[0]},) = (out,) of w, but {came}.")
    if any(a.dtype != x1.dtype for a in (x2, w, *(() if b is None else (b,)))):
        raise RuleError(f"rule nn.bilinear: expected one dtype for x1, x2, w and b, but {came}.")
    if jnp.iscomplexobj(x1):
        raise RuleError(f"rule nn.bilinear: the inputs must be real, but {came}.")


def _pairs(x1: jax.Array, x2: jax.Array) -> jax.Array:
    """The products x1_i x2_j, (N, in1·in2), with the leading axes as one: what the layer is linear in."""
    i, j = x1.shape[-1], x2.shape[-1]
    n = math.prod(x1.shape[:-1])
    return (x1.reshape(n, i, 1) * x2.reshape(n, 1, j)).reshape(n, i * j)


def _flat(w: jax.Array) -> jax.Array:
    """The weights as those of a linear layer on the pairs: (out, in1·in2)."""
    return w.reshape(w.shape[0], w.shape[1] * w.shape[2])


@bilinear.forward
def bilinear_forward(
    x1: jax.Array, x2: jax.Array, w: jax.Array, b: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    return bilinear.primal(x1, x2, w, b), {"x1": x1, "x2": x2, "w": w}


# Derivation for y_no = Σ_ij p_nij w_oij + b_o with the pairs p_nij = x1_ni x2_nj; n runs over all the
# leading axes together.
#   (1) y is a linear layer on the pairs, so, as there:  w̄_oij = Σ_n ȳ_no p_nij,  b̄_o = Σ_n ȳ_no,
#       and the bar of the pairs is m_nij = Σ_o ȳ_no w_oij
#   (2) ṗ_nij = ẋ1_ni x2_nj + x1_ni ẋ2_nj, so  x̄1_ni = Σ_j m_nij x2_nj  and  x̄2_nj = Σ_i m_nij x1_ni
# The pairs are made again, not kept: one multiplication each.
@bilinear.backward
def bilinear_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    x1, x2, w = (residuals[n].astype(computing(y_bar.dtype)) for n in ("x1", "x2", "w"))
    rows = y_bar.astype(x1.dtype).reshape(math.prod(y_bar.shape[:-1]), w.shape[0])
    m = jnp.matmul(rows, _flat(w)).reshape(*x1.shape, x2.shape[-1])  # (1)
    bars = {
        "x1": jnp.sum(m * jnp.expand_dims(x2, -2), axis=-1),  # (2)
        "x2": jnp.sum(m * jnp.expand_dims(x1, -1), axis=-2),  # (2)
        "w": jnp.matmul(rows.T, _pairs(x1, x2)).reshape(w.shape),  # (1)
        "b": jnp.sum(rows, axis=0),  # (1)
    }
    return {name: bar.astype(y_bar.dtype) for name, bar in bars.items()}


@bilinear.reference
def bilinear_reference(x1: jax.Array, x2: jax.Array, w: jax.Array, b: jax.Array | None) -> jax.Array:
    y = jnp.einsum("...i,oij,...j->...o", x1, w, x2)
    return y if b is None else y + jnp.broadcast_to(b, y.shape)


@bilinear.samples
def bilinear_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, leading: tuple[int, ...], *sizes: int, bias: bool = True, tags: Any = ()) -> Sample:
        i, j, o = sizes
        shapes = [(*leading, i), (*leading, j), (o, i, j), (o,)]
        keys = jax.random.split(key, 4)
        x1, x2, w, b = (draws.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))
        return Sample(name, (x1, x2, w, b) if bias else (x1, x2, w), tags=tags)

    yield make("batch", (3,), 2, 3, 4)
    yield make("vectors, no bias", (), 2, 2, 3, bias=False)
    yield make("two leading axes", (2, 1), 1, 2, 1)
    yield make("empty batch", (0,), 2, 3, 2)
    yield make("no input features", (2,), 0, 3, 2)
    yield make("bench", (256,), 64, 64, 64, tags=("bench",))

"""Recurrent layers over a sequence, with backpropagation through time derived by hand.

x is (T, B, D), time first, and the output (T, B, H) the state after each step. Half precision is
computed in float32 all along the sequence and rounded where it comes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._adapter import explicit_sharding
from overbar._jax_nn import jax_nn
from overbar.nn._recurrence import (
    before,
    checked,
    first,
    laid_as,
    products,
    sequence_samples,
    side_by_side,
    summed,
    wide,
)
from overbar.rule import Sample, rule


@rule(
    bars={
        "x": "x̄ = z̄ w_ihᵀ with z̄ = h̄ (1 − y²); back in time h̄₋ = ȳ₋ + z̄ w_hhᵀ",
        "w_ih": "w̄_ih = Σ xᵀ z̄",
        "w_hh": "w̄_hh = Σ y₋ᵀ z̄",
        "b": "b̄ = Σ z̄",
        "h0": "h̄₀ = z̄₁ w_hhᵀ",
    },
    residuals={
        "x": "the input, for w̄_ih",
        "w_ih": "the weights, for x̄",
        "w_hh": "the weights, for h̄",
        "h0": "the first state, for w̄_hh",
        "h": "the states: the output itself, unless that was rounded to half precision",
    },
    arrays=("x", "w_ih", "w_hh", "b", "h0"),
)
def rnn(
    x: ArrayLike, w_ih: ArrayLike, w_hh: ArrayLike, b: ArrayLike, *, h0: ArrayLike | None = None
) -> jax.Array:
    """Recurrent layer over a time-major sequence, y_t = tanh(x_t w_ih + y_{t−1} w_hh + b).

    Backward: through time, z̄_t = h̄_t (1 − y_t²) and h̄_{t−1} = ȳ_{t−1} + z̄_t w_hhᵀ; then x̄ = z̄ w_ihᵀ,
    w̄_ih = Σ xᵀ z̄ and w̄_hh = Σ y₋ᵀ z̄ in one product each for all the steps.

    Args:
      x: (T, B, D), time first; float16, bfloat16, float32 or float64.
      w_ih: (D, H), x's dtype.
      w_hh: (H, H), x's dtype.
      b: (H,), x's dtype: the sum of the two biases that PyTorch's RNN has.
      h0: (B, H), x's dtype: the state before the first step; None for zeros.

    Returns:
      The states after each step, (T, B, H), x's dtype; the last is y[-1].

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or is an integer's or complex.

    Source: Elman, "Finding structure in time", 1990; Goodfellow, Bengio, Courville, "Deep
    Learning", 2016, section 10.2.2.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x, w_ih, w_hh, b = jnp.ones((5, 2, 3)), jnp.ones((3, 4)), jnp.ones((4, 4)), jnp.zeros(4)
    >>> nn.rnn(x, w_ih, w_hh, b).shape
    (5, 2, 4)
    >>> last = lambda h0: nn.rnn(x[:1], 0 * w_ih, w_hh, b, h0=h0).sum()
    >>> jax.grad(last)(jnp.zeros((2, 4)))[0]
    Array([4., 4., 4., 4.], dtype=float32)
    """
    return _rnn_run(*checked("nn.rnn", 1, (x, w_ih, w_hh), {"b": b}, {"h0": h0}))[0]


def _rnn_run(
    x: jax.Array, w_ih: jax.Array, w_hh: jax.Array, b: jax.Array, h0: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """-> the output, and the states as backward wants them."""
    dtype = x.dtype
    x, w_ih, w_hh, b, h0 = wide(x, w_ih, w_hh, b, h0)

    def step(h: jax.Array, from_x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(from_x + jnp.matmul(h, w_hh) + b[None])
        return h, h

    _, h = jax.lax.scan(step, first(h0, x, w_hh), jnp.matmul(x, w_ih))
    return h.astype(dtype), h


@rnn.forward
def rnn_forward(
    x: jax.Array, w_ih: jax.Array, w_hh: jax.Array, b: jax.Array, h0: jax.Array | None
) -> tuple[jax.Array, dict[str, Any]]:
    y, h = _rnn_run(x, w_ih, w_hh, b, h0)
    return y, {"x": x, "w_ih": w_ih, "w_hh": w_hh, "h0": h0, "h": h}


# Derivation for one step, z = x w_ih + h₋ w_hh + b and h = tanh(z), with h₋ the state before it.
#   (1) h goes two ways, out as y and on into the next step's z:  h̄ = ȳ + (z̄ w_hhᵀ of the next step)
#   (2) z̄ = h̄ tanh'(z) = h̄ (1 − h²), factored since h² rounds before 1 − h² cancels
#   (3) on to the step before goes z̄ w_hhᵀ; before the first step that is h̄₀
#   (4) x̄, w̄_ih, w̄_hh and b̄ from all the z̄ together: see `products`
@rnn.backward
def rnn_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    dtype = y_bar.dtype
    x, w_ih, w_hh, h0, h, y_bar = wide(*(residuals[n] for n in ("x", "w_ih", "w_hh", "h0", "h")), y_bar)
    w_hh_transposed = w_hh.T  # once, not in every step

    def step(h_bar: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        h, y_bar = at
        z_bar = (h_bar + y_bar) * ((1 - h) * (1 + h))  # (1), (2)
        return jnp.matmul(z_bar, w_hh_transposed), z_bar  # (3)

    h0_bar, z_bar = jax.lax.scan(step, first(None, y_bar, w_hh), (h, y_bar), reverse=True)
    bars = {
        **products(x, before(h, first(h0, x, w_hh)), z_bar, w_ih, w_hh),
        "h0": laid_as(h0_bar, h0),
    }  # (4), (3)
    return {name: bar.astype(dtype) for name, bar in bars.items()}


@rnn.reference
def rnn_reference(
    x: jax.Array, w_ih: jax.Array, w_hh: jax.Array, b: jax.Array, h0: jax.Array | None
) -> jax.Array:
    def cell(h: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = jnp.tanh(x_t @ w_ih + h @ w_hh + b.reshape(1, -1))
        return y, y

    start = jnp.zeros((x.shape[1], w_hh.shape[0]), x.dtype) if h0 is None else h0
    return jax.lax.scan(cell, start, x)[1]


@rnn.samples
def rnn_samples(key: jax.Array) -> Iterator[Sample]:
    return sequence_samples(key, gates=1, biases=1)


@rule(
    bars={
        "x": "x̄ = ā w_ihᵀ with ā_r = ā_n q r (1 − r), ā_z = h̄ (h₋ − n) z (1 − z), "
        "ā_n = h̄ (1 − z) (1 − n²); back in time h̄₋ = ȳ₋ + h̄ z + s̄ w_hhᵀ",
        "w_ih": "w̄_ih = Σ xᵀ ā",
        "w_hh": "w̄_hh = Σ h₋ᵀ s̄ with s̄ = (ā_r, ā_z, ā_n r)",
        "b_ih": "b̄_ih = Σ ā",
        "b_hh": "b̄_hh = Σ s̄",
        "h0": "h̄₀ = h̄₁ z₁ + s̄₁ w_hhᵀ",
    },
    residuals={
        "x": "the input, for w̄_ih",
        "w_ih": "the weights, for x̄",
        "w_hh": "the weights, for h̄",
        "h0": "the first state, for w̄_hh",
        "h": "the states: the output itself, unless that was rounded to half precision",
        "gates": "r, z and n of each step",
        "q": "what r is multiplied with, the state's part of n before the tanh",
    },
    arrays=("x", "w_ih", "w_hh", "b_ih", "b_hh", "h0"),
)
def gru(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b_ih: ArrayLike,
    b_hh: ArrayLike,
    *,
    h0: ArrayLike | None = None,
) -> jax.Array:
    """Gated recurrent unit over a time-major sequence; gates in the order r, z, n.

    From a = x w_ih + b_ih and s = h₋ w_hh + b_hh, in three blocks of H columns, each step makes

        r = σ(a_r + s_r)    z = σ(a_z + s_z)    n = tanh(a_n + r q), q = s_n    h = (1 − z) n + z h₋

    Backward: through time, ā and s̄ from h̄, alike but for s̄_n = ā_n r, and h̄₋ = ȳ₋ + h̄ z + s̄ w_hhᵀ; then
    x̄ = ā w_ihᵀ, w̄_ih = Σ xᵀ ā and w̄_hh = Σ h₋ᵀ s̄ in one product each for all the steps.

    Args:
      x: (T, B, D), time first; float16, bfloat16, float32 or float64.
      w_ih: (D, 3H), x's dtype.
      w_hh: (H, 3H), x's dtype.
      b_ih: (3H,), x's dtype.
      b_hh: (3H,), x's dtype; its last block is multiplied with r, so the two are not one bias.
      h0: (B, H), x's dtype: the state before the first step; None for zeros.

    Returns:
      The states after each step, (T, B, H), x's dtype; the last is y[-1].

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or is an integer's or complex.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder", 2014, in the
    form of PyTorch and cuDNN, where r multiplies after the product with w_hh.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x, w_ih, w_hh, b = jnp.ones((5, 2, 3)), jnp.ones((3, 12)), jnp.ones((4, 12)), jnp.zeros(12)
    >>> nn.gru(x, w_ih, w_hh, b, b).shape
    (5, 2, 4)
    """
    biases = {"b_ih": b_ih, "b_hh": b_hh}
    return _gru_run(*checked("nn.gru", 3, (x, w_ih, w_hh), biases, {"h0": h0}))[0]


def _gru_run(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array,
    b_hh: jax.Array,
    h0: jax.Array | None,
) -> tuple[jax.Array, dict[str, Any]]:
    """-> the output, and of every step what backward wants of it."""
    dtype = x.dtype
    x, w_ih, w_hh, b_ih, b_hh, h0 = wide(x, w_ih, w_hh, b_ih, b_hh, h0)

    def step(h: jax.Array, from_x: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
        a_r, a_z, a_n = jnp.split(from_x + b_ih[None], 3, axis=-1)
        s_r, s_z, q = jnp.split(jnp.matmul(h, w_hh) + b_hh[None], 3, axis=-1)
        r, z, a_n = side_by_side(jax_nn.sigmoid(a_r + s_r), jax_nn.sigmoid(a_z + s_z), a_n)
        n = jnp.tanh(a_n + r * q)
        h = (1 - z) * n + z * h
        return h, {"h": h, "gates": (r, z, n), "q": q}

    _, steps = jax.lax.scan(step, first(h0, x, w_hh), jnp.matmul(x, w_ih))
    return steps["h"].astype(dtype), steps


@gru.forward
def gru_forward(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array,
    b_hh: jax.Array,
    h0: jax.Array | None,
) -> tuple[jax.Array, dict[str, Any]]:
    y, steps = _gru_run(x, w_ih, w_hh, b_ih, b_hh, h0)
    return y, {"x": x, "w_ih": w_ih, "w_hh": w_hh, "h0": h0, **steps}


# Derivation for one step, a = x w_ih + b_ih and s = h₋ w_hh + b_hh, with h₋ the state before it.
#   (1) h goes three ways, out as y, and into the next step's s and its (1 − z) n + z h₋:
#       h̄ = ȳ + (s̄ w_hhᵀ + h̄ z of the next step)
#   (2) h = (1 − z) n + z h₋:  n̄ = h̄ (1 − z),  z̄ = h̄ (h₋ − n),  and on to the step before goes h̄ z
#   (3) n = tanh(a_n + r q):   ā_n = n̄ (1 − n²),  q̄ = s̄_n = ā_n r,  r̄ = ā_n q
#   (4) r = σ(a_r + s_r), z = σ(a_z + s_z):  ā_r = s̄_r = r̄ r (1 − r),  ā_z = s̄_z = z̄ z (1 − z)
#   (5) on to the step before goes s̄ w_hhᵀ as well; before the first step the two make h̄₀
#   (6) the parameters are used once in every step:  w̄_ih = Σ xᵀ ā,  w̄_hh = Σ h₋ᵀ s̄,  b̄_ih = Σ ā,  b̄_hh = Σ s̄
#   (7) x̄ = ā w_ihᵀ, one product for all the steps
@gru.backward
def gru_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    dtype = y_bar.dtype
    x, w_ih, w_hh, h0, y_bar = wide(*(residuals[n] for n in ("x", "w_ih", "w_hh", "h0")), y_bar)
    w_hh_transposed = w_hh.T  # once, not in every step
    h_before = before(residuals["h"], first(h0, x, w_hh))

    def step(h_bar: jax.Array, at: Mapping[str, Any]) -> Any:
        (r, z, n), q, h_before = at["gates"], at["q"], at["h_before"]
        h_bar = h_bar + at["y_bar"]  # (1)
        a_n_bar = h_bar * (1 - z) * ((1 - n) * (1 + n))  # (2), (3)
        a_r_bar = a_n_bar * q * (r * (1 - r))  # (3), (4)
        a_z_bar = h_bar * (h_before - n) * (z * (1 - z))  # (2), (4)
        a_bar = jnp.concatenate([a_r_bar, a_z_bar, a_n_bar], axis=-1)
        s_bar = jnp.concatenate([a_r_bar, a_z_bar, a_n_bar * r], axis=-1)
        return h_bar * z + jnp.matmul(s_bar, w_hh_transposed), (a_bar, s_bar)  # (5)

    steps = {"y_bar": y_bar, "h_before": h_before, "gates": residuals["gates"], "q": residuals["q"]}
    h0_bar, (a_bar, s_bar) = jax.lax.scan(step, first(None, y_bar, w_hh), steps, reverse=True)
    bars = {
        "x": jnp.matmul(a_bar, w_ih.T, out_sharding=explicit_sharding(x)),  # (7)
        "w_ih": summed(x, a_bar, w_ih),  # (6)
        "w_hh": summed(h_before, s_bar, w_hh),
        "b_ih": jnp.sum(a_bar, axis=(0, 1)),
        "b_hh": jnp.sum(s_bar, axis=(0, 1)),
        "h0": laid_as(h0_bar, h0),
    }
    return {name: bar.astype(dtype) for name, bar in bars.items()}


@gru.reference
def gru_reference(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b_ih: jax.Array,
    b_hh: jax.Array,
    h0: jax.Array | None,
) -> jax.Array:
    def cell(h: jax.Array, x_t: jax.Array) -> tuple[jax.Array, jax.Array]:
        x_r, x_z, x_n = jnp.hsplit(x_t @ w_ih + b_ih.reshape(1, -1), 3)
        h_r, h_z, h_n = jnp.hsplit(h @ w_hh + b_hh.reshape(1, -1), 3)
        update = jax_nn.sigmoid(x_z + h_z)
        y = update * h + (1 - update) * jnp.tanh(x_n + jax_nn.sigmoid(x_r + h_r) * h_n)
        return y, y

    start = jnp.zeros((x.shape[1], w_hh.shape[0]), x.dtype) if h0 is None else h0
    return jax.lax.scan(cell, start, x)[1]


@gru.samples
def gru_samples(key: jax.Array) -> Iterator[Sample]:
    return sequence_samples(key, gates=3, biases=2)

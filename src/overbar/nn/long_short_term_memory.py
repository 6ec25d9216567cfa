"""Long short-term memory over a sequence, with backpropagation through time derived by hand."""

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
    scan_back_over,
    sequence_samples,
    side_by_side,
    wide,
)
from overbar.rule import Sample, rule


@rule(
    bars={
        "x": "x̄ = z̄ w_ihᵀ with z̄_i = c̄ g i (1 − i), z̄_f = c̄ c₋ f (1 − f), z̄_g = c̄ i (1 − g²), "
        "z̄_o = h̄ tanh(c) o (1 − o); back in time c̄ += h̄ o (1 − tanh²(c)), c̄₋ = c̄ f, h̄₋ = ȳ₋ + z̄ w_hhᵀ",
        "w_ih": "w̄_ih = Σ xᵀ z̄",
        "w_hh": "w̄_hh = Σ h₋ᵀ z̄",
        "b": "b̄ = Σ z̄",
        "h0": "h̄₀ = z̄₁ w_hhᵀ",
        "c0": "c̄₀ = c̄₁ f₁",
    },
    residuals={
        "x": "the input, for w̄_ih",
        "w_ih": "the weights, for x̄",
        "w_hh": "the weights, for h̄",
        "h0": "the first state, for w̄_hh",
        "h": "the states, for w̄_hh: the output itself, unless that was rounded to half precision",
        "c": "the cell state before each step",
        "gates": "i, f, g and o of each step",
        "c0": "on a mesh with explicit axes the first cell state, where its bar must lie; elsewhere None",
    },
    static=("return_cell",),
    arrays=("x", "w_ih", "w_hh", "b", "h0", "c0"),
)
def lstm(
    x: ArrayLike,
    w_ih: ArrayLike,
    w_hh: ArrayLike,
    b: ArrayLike,
    *,
    h0: ArrayLike | None = None,
    c0: ArrayLike | None = None,
    return_cell: bool = False,
) -> Any:
    """Long short-term memory over a time-major sequence; gates in the order i, f, g, o.

    From z = x w_ih + h₋ w_hh + b, in four blocks of H columns, each step makes

        i = σ(z_i)    f = σ(z_f)    g = tanh(z_g)    o = σ(z_o)
        c = f c₋ + i g              h = o tanh(c)

    Backward: through time, c̄ += h̄ o (1 − tanh²(c)) and the four blocks of z̄ from h̄ and c̄; then
    x̄ = z̄ w_ihᵀ, w̄_ih = Σ xᵀ z̄ and w̄_hh = Σ h₋ᵀ z̄ in one product each for all the steps.

    Args:
      x: (T, B, D), time first; float16, bfloat16, float32 or float64. Half precision is computed
        in float32 all along the sequence and rounded where it comes out.
      w_ih: (D, 4H), x's dtype.
      w_hh: (H, 4H), x's dtype.
      b: (4H,), x's dtype: the sum of the two biases that PyTorch's LSTM has.
      h0: (B, H), x's dtype: the state before the first step; None for zeros.
      c0: (B, H), x's dtype: the cell state before the first step; None for zeros.
      return_cell: whether to return the last cell state as well, to go on from there.

    Returns:
      The states h after each step, (T, B, H), x's dtype; the last is y[-1]. With return_cell the
      pair (y, c) of these and the cell state after the last step, (B, H).

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or is an integer's or complex.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", 1997, with the forget gate of
    Gers, Schmidhuber and Cummins, "Learning to forget", 2000; blocks as in PyTorch and cuDNN.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x, w_ih, w_hh, b = jnp.ones((5, 2, 3)), jnp.ones((3, 16)), jnp.ones((4, 16)), jnp.zeros(16)
    >>> nn.lstm(x, w_ih, w_hh, b).shape
    (5, 2, 4)
    >>> y, c = nn.lstm(x, w_ih, w_hh, b, return_cell=True)
    >>> nn.lstm(x, w_ih, w_hh, b, h0=y[-1], c0=c).shape  # the next five steps
    (5, 2, 4)
    """
    inputs = checked("nn.lstm", 4, (x, w_ih, w_hh), {"b": b}, {"h0": h0, "c0": c0})
    y, c, _ = _run(*inputs)
    return (y, c) if return_cell else y


def _run(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b: jax.Array,
    h0: jax.Array | None,
    c0: jax.Array | None,
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """-> the output, the last cell state, and of every step what backward wants of it."""
    dtype = x.dtype
    x, w_ih, w_hh, b, h0, c0 = wide(x, w_ih, w_hh, b, h0, c0)

    def step(state: tuple[jax.Array, jax.Array], from_x: jax.Array) -> Any:
        h, c_before = state
        z_i, z_f, z_g, z_o = jnp.split(from_x + jnp.matmul(h, w_hh) + b[None], 4, axis=-1)
        gates = jax_nn.sigmoid(z_i), jax_nn.sigmoid(z_f), jnp.tanh(z_g), jax_nn.sigmoid(z_o)
        i, f, g, o = side_by_side(*gates)
        c = f * c_before + i * g
        h = o * jnp.tanh(c)
        return (h, c), {"h": h, "c": c_before, "gates": (i, f, g, o)}

    start = first(h0, x, w_hh), first(c0, x, w_hh)
    (_, c), steps = jax.lax.scan(step, start, jnp.matmul(x, w_ih))
    return steps["h"].astype(dtype), c.astype(dtype), steps


@lstm.forward
def lstm_forward(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b: jax.Array,
    h0: jax.Array | None,
    c0: jax.Array | None,
    return_cell: bool,
) -> tuple[Any, dict[str, Any]]:
    y, c, steps = _run(x, w_ih, w_hh, b, h0, c0)
    laid = c0 is not None and explicit_sharding(c0) is not None
    kept = {"x": x, "w_ih": w_ih, "w_hh": w_hh, "h0": h0, "c0": c0 if laid else None}
    return (y, c) if return_cell else y, {**kept, **steps}


# Derivation for one step, z = x w_ih + h₋ w_hh + b, with h₋ and c₋ the state before it.
#   (1) h goes two ways, out as y and on into the next step's z:  h̄ = ȳ + (z̄ w_hhᵀ of the next step)
#   (2) h = o tanh(c):   ō = h̄ tanh(c), and to c goes h̄ o tanh'(c) = h̄ o (1 − tanh²(c))
#   (3) c goes two ways, into h and into the next step's c = f c₋ + i g:
#       c̄ = (c̄ f of the next step) + h̄ o (1 − tanh²(c))
#   (4) c = f c₋ + i g:  ī = c̄ g,  f̄ = c̄ c₋,  ḡ = c̄ i,  and on to the step before goes c̄ f
#   (5) gates: z̄_i = ī i (1 − i),  z̄_f = f̄ f (1 − f),  z̄_o = ō o (1 − o),  z̄_g = ḡ (1 − g²)
#   (6) on to the step before goes z̄ w_hhᵀ; before the first step the two are h̄₀ and c̄₀
#   (7) x̄, w̄_ih, w̄_hh and b̄ from all the z̄ together: see `products`
# 1 − t² is factored, (1 − t)(1 + t), since t² rounds before 1 − t² cancels. c is made again from
# the gates and c₋, so that neither c nor tanh(c) need be kept.
@lstm.backward
def lstm_backward(residuals: Mapping[str, Any], y_bar: Any, return_cell: bool) -> dict[str, Any]:
    dtype = residuals["x"].dtype
    y_bar, c_bar = wide(*y_bar) if return_cell else (*wide(y_bar), None)
    x, w_ih, w_hh, h0 = wide(*(residuals[n] for n in ("x", "w_ih", "w_hh", "h0")))

    def step(w_hh_transposed: jax.Array, later: tuple[jax.Array, jax.Array], at: Mapping[str, Any]) -> Any:
        h_bar, c_bar = later
        c_before, (i, f, g, o) = at["c"], at["gates"]
        t = jnp.tanh(f * c_before + i * g)
        h_bar = h_bar + at["y_bar"]  # (1)
        c_bar = c_bar + h_bar * o * ((1 - t) * (1 + t))  # (2), (3)
        blocks = [
            c_bar * g * (i * (1 - i)),  # (4), (5)
            c_bar * c_before * (f * (1 - f)),
            c_bar * i * ((1 - g) * (1 + g)),
            h_bar * t * (o * (1 - o)),  # (2), (5)
        ]
        z_bar = jnp.concatenate(blocks, axis=-1)
        return (jnp.matmul(z_bar, w_hh_transposed), c_bar * f), z_bar  # (6), (4)

    end = first(None, y_bar, w_hh), first(c_bar, y_bar, w_hh)
    steps = {"y_bar": y_bar, "c": residuals["c"], "gates": residuals["gates"]}
    over = jnp.concatenate(residuals["gates"], axis=-1)
    (h0_bar, c0_bar), z_bar = scan_back_over(step, w_hh.T, end, steps, over)
    h_before = before(residuals["h"], first(h0, x, w_hh))
    states = {"h0": laid_as(h0_bar, h0), "c0": laid_as(c0_bar, residuals["c0"])}
    bars = {**products(x, h_before, z_bar, w_ih, w_hh), **states}  # (7), (6)
    return {name: bar.astype(dtype) for name, bar in bars.items()}


@lstm.reference
def lstm_reference(
    x: jax.Array,
    w_ih: jax.Array,
    w_hh: jax.Array,
    b: jax.Array,
    h0: jax.Array | None,
    c0: jax.Array | None,
    return_cell: bool,
) -> Any:
    zeros = jnp.zeros((x.shape[1], w_hh.shape[0]), x.dtype)

    def cell(carry: Any, x_t: jax.Array) -> Any:
        h, c = carry
        i, f, g, o = jnp.hsplit(x_t @ w_ih + h @ w_hh + b.reshape(1, -1), 4)
        c = jax_nn.sigmoid(f) * c + jax_nn.sigmoid(i) * jnp.tanh(g)
        h = jax_nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    (_, c), y = jax.lax.scan(cell, (zeros if h0 is None else h0, zeros if c0 is None else c0), x)
    return (y, c) if return_cell else y


@lstm.samples
def lstm_samples(key: jax.Array) -> Iterator[Sample]:
    small, *others = sequence_samples(key, gates=4, biases=1)
    yield small
    yield Sample("with the cell state", small.args, {"return_cell": True})
    yield from others

"""Softmax and its kin: exponentials divided by their sum, along one axis or several.

All have the primal of their namesake in `jax.nn`, so that outputs are the same bit for bit in
float32 and float64. Half precision is computed in float32 and rounded once, forward and backward.
An entry that `where` leaves out has the bar 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._jax_nn import jax_nn
from overbar._like import cast
from overbar._tails import apart
from overbar.nn._shares import hold, nonzero, times
from overbar.nn._wide import Axis, check_real, wide
from overbar.rule import Sample, rule

Residuals = Mapping[str, Any]
Kept = dict[str, Any]


@rule(
    bars={"x": "x̄ = y ⊙ (ȳ − ⟨y, ȳ⟩)"},
    residuals={"y": "the output; neither x nor the mask is kept"},
    static=("axis",),
    arrays=("x", "where"),
)
def softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """Softmax, y_i = e^x_i / Σ_j e^x_j; the rule under `jax.nn.softmax`'s name.

    Backward: x̄ = y ⊙ (ȳ − ⟨y, ȳ⟩), the product ⟨·, ·⟩ along the axis.

    Args:
      x: float16, bfloat16, float32 or float64, of rank 1 or more (any rank with axis=None or ()).
      axis: the axis or axes along which y sums to 1; None for all.
      where: booleans that broadcast to x: the entries that count. The others have y = 0 and x̄ = 0.

    Returns:
      y with x's shape and dtype. A row with +inf in it, and one of −inf only, is nan, as in jax.nn;
      a row that where leaves out as a whole is 0.

    Raises:
      RuleError: x is not real float, where is not boolean, axis is a list.

    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> nn.softmax(jnp.zeros(4))
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    >>> jax.grad(lambda x: nn.softmax(x)[0])(jnp.zeros(2))
    Array([ 0.25, -0.25], dtype=float32)
    """
    check_real("nn.softmax", x=x)
    x = jnp.asarray(x)
    return cast(jax_nn.softmax(wide(x), axis=axis, where=where), x.dtype)


@softmax.forward
def softmax_forward(x: jax.Array, axis: Axis, where: jax.Array | None) -> tuple[jax.Array, Kept]:
    y = softmax.primal(x, axis, where)
    return y, {"y": y}


# Derivation for y_i = e^x_i / Σ_j e^x_j.
#   (1) ẏ_i = y_i ẋ_i − y_i Σ_j y_j ẋ_j, the second from the sum below the line
#   (2) ⟨ȳ, ẏ⟩ = Σ_i ȳ_i y_i ẋ_i − (Σ_i ȳ_i y_i) Σ_j y_j ẋ_j
#   (3) x̄_i = y_i (ȳ_i − ⟨y, ȳ⟩): one product an entry fewer than the two terms apart
#   (4) Σ y is 1, but for the rounding of each y to half precision: divided by it, ⟨y, ȳ⟩ is a mean of ȳ, and
#       where one y is nearly 1 its x̄ goes with the other y, however small, and not with what Σ y lacks.
#       In float32 Σ y has no fewer digits than its own sum, and dividing gains little
#   (5) an entry that is left out has y = 0, adds nothing to ⟨y, ȳ⟩ and has the bar 0: no mask is needed
@softmax.backward
def softmax_backward(residuals: Residuals, y_bar: jax.Array, axis: Axis) -> dict[str, jax.Array]:
    y, g = wide(residuals["y"]), wide(y_bar)
    mean = jnp.sum(y * g, axis=axis, keepdims=True)
    if y.dtype != y_bar.dtype:
        mean = mean / nonzero(jnp.sum(y, axis=axis, keepdims=True))  # (4)
    mean = apart(mean)
    x_bar = jnp.where(y == 0, 0, y * (g - mean))  # (3), (5): 0 also where the row's mean is nan
    return {"x": cast(x_bar, y_bar.dtype)}


@softmax.reference
def softmax_reference(x: jax.Array, axis: Axis, where: jax.Array | None) -> jax.Array:
    return plain_exp(x, where) / plain_sum(x, axis, where)


def plain_exp(x: jax.Array, where: jax.Array | None) -> jax.Array:
    return jnp.exp(x) if where is None else jnp.exp(x) * jnp.where(where, 1, 0).astype(x.dtype)


def plain_sum(x: jax.Array, axis: Axis, where: jax.Array | None) -> jax.Array:
    """Σ e^x as it is written, and 1 where nothing counts."""
    total = plain_exp(x, where).sum(axis=axis, keepdims=True)
    return jnp.where(total == 0, jnp.ones_like(total), total)


@rule(
    bars={"x": "x̄ = ȳ − e^y Σ ȳ"},
    residuals={
        "e": "e^(x − m), m the largest entry; in half precision divided by the total",
        "total": "Σ e^(x − m), one number a row",
        "where": "the mask, where there is one",
    },
    static=("axis",),
    arrays=("x", "where"),
)
def log_softmax(x: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None) -> jax.Array:
    """Log-softmax, y_i = x_i − log Σ_j e^x_j; the rule under `jax.nn.log_softmax`'s name.

    Backward: x̄ = ȳ − e^y Σ ȳ, the sum along the axis.

    Args:
      x: float16, bfloat16, float32 or float64, of rank 1 or more (any rank with axis=None or ()).
      axis: the axis or axes along which e^y sums to 1; None for all.
      where: booleans that broadcast to x: the entries that count. The others have y = −inf and x̄ = 0.

    Returns:
      y with x's shape and dtype. A row with +inf in it, and one of −inf only, is nan, as in jax.nn;
      a row that where leaves out as a whole is −inf.

    Raises:
      RuleError: x is not real float, where is not boolean, axis is a list.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.2.2.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> jax.grad(lambda x: nn.log_softmax(x)[0])(jnp.zeros(2))
    Array([ 0.5, -0.5], dtype=float32)
    """
    check_real("nn.log_softmax", x=x)
    x = jnp.asarray(x)
    return cast(jax_nn.log_softmax(wide(x), axis=axis, where=where), x.dtype)


@log_softmax.forward
def log_softmax_forward(x: jax.Array, axis: Axis, where: jax.Array | None) -> tuple[jax.Array, Kept]:
    # The primal's arithmetic, written out: were the primal called beside it, XLA would still do it once,
    # but order the two passes so that x̄ comes last, when the exponentials have left the caches.
    entries = wide(x) if where is None else jnp.where(where, wide(x), -jnp.inf)
    m = jnp.max(wide(x), axis=axis, where=where, initial=-jnp.inf, keepdims=True)
    shifted = entries - jax.lax.stop_gradient(m)
    e = jnp.exp(shifted)
    total = jnp.sum(e, axis=axis, where=where, keepdims=True)
    y = shifted - jnp.log(total)
    if where is not None:
        y, e, total = jnp.where(where, y, -jnp.inf), jnp.where(where, e, 0), nonzero(total)
    return cast(y, x.dtype), {**hold(e, total, x.dtype), "where": where}


# Derivation for y_i = x_i − log Σ_j e^x_j.
#   (1) ẏ_i = ẋ_i − Σ_j p_j ẋ_j with the shares p_j = e^x_j / Σ_k e^x_k
#   (2) ⟨ȳ, ẏ⟩ = Σ_i ȳ_i ẋ_i − (Σ_i ȳ_i) Σ_j p_j ẋ_j
#   (3) x̄ = ȳ − p Σ ȳ; what is left out is the constant −inf: its ȳ goes nowhere
# p = e^y as well, but y has been rounded: at y = −8 that costs p eight times the rounding of its own,
# and an exponential. So the exponentials are kept that forward has made.
@log_softmax.backward
def log_softmax_backward(residuals: Residuals, y_bar: jax.Array, axis: Axis) -> dict[str, jax.Array]:
    where, g = residuals["where"], wide(y_bar)
    total = jnp.sum(g, axis=axis, keepdims=True, where=where)
    x_bar = g - times(total, residuals)  # (3)
    if where is not None:
        x_bar = jnp.where(where, x_bar, 0)
    return {"x": cast(x_bar, y_bar.dtype)}


@log_softmax.reference
def log_softmax_reference(x: jax.Array, axis: Axis, where: jax.Array | None) -> jax.Array:
    y = x - jnp.log(plain_sum(x, axis, where))
    return y if where is None else jnp.where(where, y, jnp.full_like(y, -jnp.inf))


def _samples(key: jax.Array) -> Iterator[Sample]:
    kx, km = jax.random.split(key)

    def make(name: str, *shape: int, tags: Any = (), **options: Any) -> Sample:
        return Sample(name, (3 * draws.normal(kx, shape),), options, tags)

    mask = draws.bernoulli(km, 0.6, (3, 2, 4))
    yield make("rows", 4, 5)
    yield make("two axes, masked", 3, 2, 4, axis=(0, -1), where=mask)
    yield make("a row left out", 3, 4, axis=1, where=jnp.arange(3)[:, None] != 1)
    yield make("all axes", 2, 3, axis=None)
    yield make("scalar", axis=None)
    yield make("size 1", 3, 1)
    yield make("empty axis", 2, 0)
    yield make("bench", 1024, 1024, tags=("bench",), axis=-1)


for _rule in (softmax, log_softmax):
    _rule.samples(_samples)

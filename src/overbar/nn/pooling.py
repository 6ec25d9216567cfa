"""Pooling: rules that take the largest or the mean of each window, channels last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, run_placed, vary_over, varying_axes
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar.nn._windows import Ints, Padding, Windows, is_int, padding_of_reference, per_axis, windows
from overbar.rule import Sample, rule


def _windows(rule: str, x: jax.Array, window: Any, strides: Any, padding: Any) -> Windows:
    """The windows over x (..., *spatial, C); an integer is for all axes but the first and last."""
    n = x.ndim - 2 if is_int(window) else len(window) if isinstance(window, tuple) else 0
    if not 1 <= n <= 3 or x.ndim < n + 1:
        raise RuleError(
            f"rule {rule}: expected x (..., *spatial, C) with 1 to 3 spatial axes, and window an integer or "
            f"a tuple of one for each of them, but came x {describe(x)}, window {window!r}."
        )
    return windows(
        rule,
        x.shape[-n - 1 : -1],
        per_axis(rule, "window", window, n),
        1 if strides is None else strides,
        padding,
    )


def _reduced(x: jax.Array, over: Windows, start: float, combine: Callable[..., Any]) -> jax.Array:
    """What Flax's pooling does: each window's entries combined, the padding being start."""
    ones = (1,) * (x.ndim - len(over.window) - 1)
    padding = ((0, 0),) * len(ones) + over.padding + ((0, 0),)
    return jax.lax.reduce_window(
        x, start, combine, (*ones, *over.window, 1), (*ones, *over.strides, 1), padding
    )


MOST = 32  # terms of a sum that are written out


# ---------------------------------------------------------------------- the largest


@rule(
    bars={"x": "x̄_p = Σ ȳ_i over the windows i whose first largest entry is p"},
    residuals={
        "index": "which offset of its window each output came from, a byte for up to 255 offsets",
        "sizes": "no numbers: an array without entries that has x's sizes",
    },
    static=("window", "strides", "padding"),
    arrays=("x",),
)
def max_pool(
    x: ArrayLike, window: int | Ints, strides: int | Ints | None = None, padding: Padding = "VALID"
) -> jax.Array:
    """The largest entry of each window, channels last; arguments and values are `flax.linen.max_pool`'s.

    Backward: each output's bar goes to the first largest entry of its window, the last axis being
    the fastest, as in jax.grad of `jax.lax.reduce_window`. The padding takes part as −inf: the bar of
    a window that lies wholly in it goes nowhere. Kept are not x but the positions, a byte an output.

    Args:
      x: (..., *spatial, C), 1 to 3 spatial axes; float16, bfloat16, float32 or float64.
      window: its size, an integer for all axes but the first and the last, or a tuple.
      strides: an integer or a tuple; None for 1, as in Flax.
      padding: "VALID", "SAME", "SAME_LOWER", or numbers of −inf to add: an integer, or for each
        spatial axis an integer or a pair (before, after).

    Returns:
      (..., *outputs, C), x's dtype.

    Raises:
      RuleError: x is not real float, or has too few axes; an option does not fit.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 9.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x = jnp.array([1.0, 3.0, 3.0, 2.0]).reshape(1, 4, 1)
    >>> nn.max_pool(x, 2, 2).ravel()
    Array([3., 3.], dtype=float32)
    >>> jax.grad(lambda x: nn.max_pool(x, 3).sum())(x).ravel()
    Array([0., 2., 0., 0.], dtype=float32)
    """
    x = _real("nn.max_pool", x)
    return _reduced(x, _windows("nn.max_pool", x, window, strides, padding), -jnp.inf, jax.lax.max)


def _real(rule: str, x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise RuleError(f"rule {rule}: input x must be real floats, but came as {describe(x)}.")
    return x


def _chosen(x: jax.Array, over: Windows) -> jax.Array:
    """The number of the offset at which each window has its first largest entry, the padding being −inf.

    Axis by axis, the last first: the first largest of a window is in the first of its rows with the
    largest largest entry. Of equals the first is kept, as in XLA's select-and-scatter.
    """
    largest, index = x, jnp.zeros((), _number_type(over))
    for axis in reversed(range(len(over.window))):
        line = over.along(axis)
        below = math.prod(over.window[axis + 1 :])
        index = jnp.broadcast_to(index, largest.shape)
        seen = list(zip(line.views(largest, -jnp.inf), line.views(index), strict=True))
        largest, index = seen[0]
        for offset, (entry, number) in enumerate(seen[1:], start=1):
            take = ~(largest >= entry)
            largest = jnp.where(take, entry, largest)
            index = jnp.where(take, number + jnp.asarray(offset * below, number.dtype), index)
    return index


def _others(x: jax.Array, axis: int) -> list[int]:
    """The axes of (N, *spatial, C) beside one spatial axis."""
    return [a for a in range(x.ndim) if a != axis + 1]


def _in_halves(x: jax.Array, over: Windows) -> jax.Array:
    """What _chosen finds, in a loop over two halves of the batch (which share an example where it is odd).

    A loop is what XLA does not fuse into: otherwise the whole search is done anew, in backward, for
    each of the overlapping windows that an entry is in. An optimization barrier does not hold it back.
    """
    half = -(-x.shape[0] // 2)

    def find(number: Any, found: jax.Array) -> jax.Array:
        start = number * (x.shape[0] - half)
        index = _chosen(jax.lax.dynamic_slice_in_dim(x, start, half), over)
        return jax.lax.dynamic_update_slice_in_dim(found, index, start, axis=0)

    shape = (x.shape[0], *over.outputs, x.shape[-1])
    nothing = vary_over(jnp.zeros(shape, _number_type(over)), varying_axes(x))
    return jax.lax.fori_loop(0, 2, find, nothing)


def _number_type(over: Windows) -> Any:
    return np.min_scalar_type(over.area)


@max_pool.forward
def max_pool_forward(
    x: jax.Array, window: Any, strides: Any, padding: Any
) -> tuple[jax.Array, dict[str, Any]]:
    over = _windows("nn.max_pool", x, window, strides, padding)
    y = max_pool.primal(x, window, strides, padding)
    find = _in_halves if over.crowd > 1 else _chosen

    def index(x: jax.Array) -> list[jax.Array]:
        return [find(jax.lax.stop_gradient(over.batched(x)), over).reshape(y.shape)]

    return y, {"index": run_placed(index, (x,), [explicit_sharding(y)])[0], "sizes": x[..., :0]}


# Derivation for y_i = max over the offsets o of x_(p(i, o)), where p(i, o) = i·stride + o − low.
#   (1) ẏ_i = ẋ_(p(i, o_i)), o_i being the first offset with the largest entry: elsewhere x may move a little
#   (2) ⟨ȳ, ẏ⟩ = Σ_i ȳ_i ẋ_(p(i, o_i)) = Σ_o Σ_i [o_i = o] ȳ_i ẋ_(p(i, o))
#   (3) what stands before ẋ_p is x̄_p: for each offset o, [o_i = o] ȳ_i is added at p(i, o); what falls
#       into the padding is no entry of x
@max_pool.backward
def max_pool_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, window: Any, strides: Any, padding: Any
) -> dict[str, Any]:
    index, sizes = residuals["index"], residuals["sizes"]
    over = _windows("nn.max_pool", sizes, window, strides, padding)
    index, bar = over.batched(index), over.batched(y_bar).astype(computing(y_bar.dtype))
    placed = _spread if over.crowd <= MOST else _scattered
    x_bar = placed(index, bar, over)  # (3)
    return {"x": x_bar.astype(y_bar.dtype).reshape(*sizes.shape[:-1], y_bar.shape[-1])}


def _spread(index: jax.Array, bar: jax.Array, over: Windows) -> jax.Array:
    """Step (3) for the offsets of one quotient at a time, each of which is at most one of a window's."""
    index, bar = over.beside_strides(index), over.beside_strides(bar)

    def seen(numbers: np.ndarray[Any, Any]) -> jax.Array:
        return jnp.where(index == numbers.astype(index.dtype), bar, jnp.zeros_like(bar))

    return over.spread(seen)


def _scattered(index: jax.Array, bar: jax.Array, over: Windows) -> jax.Array:
    """Step (3) by the positions: slower, but one operation however many windows an entry is in."""
    numbers = index.astype(jnp.int32)
    positions: list[Any] = [jnp.arange(bar.shape[0], dtype=jnp.int32)]
    for axis, (w, s, size, (low, _)) in enumerate(
        zip(over.window, over.strides, over.sizes, over.padding, strict=True)
    ):
        offset = numbers // math.prod(over.window[axis + 1 :]) % w
        starts = jnp.expand_dims(
            jnp.arange(bar.shape[axis + 1], dtype=jnp.int32) * s - low, _others(bar, axis)
        )
        position = starts + offset
        positions.append(jnp.where(position < 0, size, position))  # what is outside is dropped
    positions.append(jnp.arange(bar.shape[-1], dtype=jnp.int32))
    for axis in (0, bar.ndim - 1):
        positions[axis] = jnp.expand_dims(positions[axis], [a for a in range(bar.ndim) if a != axis])
    zeros = jnp.zeros((bar.shape[0], *over.sizes, bar.shape[-1]), bar.dtype)
    return zeros.at[tuple(positions)].add(bar, mode="drop")


# ---------------------------------------------------------------------- the mean


@rule(
    bars={"x": "x̄_p = Σ ȳ_i / n_i over the windows i that see p"},
    residuals={"sizes": "no numbers: an array without entries that has x's sizes"},
    static=("window", "strides", "padding", "count_include_pad"),
    arrays=("x",),
)
def avg_pool(
    x: ArrayLike,
    window: int | Ints,
    strides: int | Ints | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    """The mean of each window, channels last; arguments and values are `flax.linen.avg_pool`'s.

    Backward: each output's bar is shared equally by the n entries its mean was taken of. Nothing
    is kept.

    Args:
      x: (..., *spatial, C), 1 to 3 spatial axes; float16, bfloat16, float32 or float64.
      window: its size, an integer for all axes but the first and the last, or a tuple.
      strides: an integer or a tuple; None for 1, as in Flax.
      padding: "VALID", "SAME", "SAME_LOWER", or numbers of zeros to add: an integer, or for each
        spatial axis an integer or a pair (before, after).
      count_include_pad: whether n counts the zeros of the padding; without, a window that lies
        wholly in the padding is 0/0, NaN.

    Returns:
      (..., *outputs, C), x's dtype.

    Raises:
      RuleError: x is not real float, or has too few axes; an option does not fit.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 9.3.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x = jnp.array([1.0, 3.0, 3.0, 2.0]).reshape(1, 4, 1)
    >>> nn.avg_pool(x, 2, 2).ravel()
    Array([2. , 2.5], dtype=float32)
    >>> jax.grad(lambda x: nn.avg_pool(x, 2).sum())(x).ravel()
    Array([0.5, 1. , 1. , 0.5], dtype=float32)
    """
    x = _real("nn.avg_pool", x)
    over = _windows("nn.avg_pool", x, window, strides, padding)
    sums = _reduced(x, over, 0.0, jax.lax.add)
    return sums / _counts(over, count_include_pad, sums)


def _counts(over: Windows, count_include_pad: bool, sums: jax.Array) -> jax.Array:
    """n_i, what a window's sum is divided by: a number, or what broadcasts to the sums."""
    if count_include_pad:
        return jnp.asarray(over.area, sums.dtype)
    found = np.ones((), int)
    for axis in range(len(over.window)):
        found = found[..., None] * _inside(over, axis).sum(axis=0)
    leading = (1,) * (sums.ndim - found.ndim - 1)
    return jnp.asarray(found.reshape(*leading, *found.shape, 1), sums.dtype)


def _inside(over: Windows, axis: int) -> np.ndarray[Any, Any]:
    """(offsets, outputs) along an axis: whether the output sees an entry of the input through the offset."""
    starts = np.arange(over.outputs[axis]) * over.strides[axis] - over.padding[axis][0]
    position = starts + np.arange(over.window[axis])[:, None]
    return (position >= 0) & (position < over.sizes[axis])


@avg_pool.forward
def avg_pool_forward(
    x: jax.Array, window: Any, strides: Any, padding: Any, count_include_pad: bool
) -> tuple[jax.Array, dict[str, Any]]:
    return avg_pool.primal(x, window, strides, padding, count_include_pad), {"sizes": x[..., :0]}


# Derivation for y_i = 1/n_i Σ_o x_(p(i, o)), the sum over the offsets o, with p(i, o) = i·stride + o − low.
#   (1) ⟨ȳ, ẏ⟩ = Σ_o Σ_i (ȳ_i / n_i) ẋ_(p(i, o))
#   (2) what stands before ẋ_p is x̄_p: for each offset o, ȳ_i / n_i is added at p(i, o)
#   (3) p(i, o) = p goes axis by axis, so the sum over the offsets is taken one axis after the other
@avg_pool.backward
def avg_pool_backward(
    residuals: Mapping[str, Any],
    y_bar: jax.Array,
    window: Any,
    strides: Any,
    padding: Any,
    count_include_pad: bool,
) -> dict[str, Any]:
    sizes = residuals["sizes"]
    over = _windows("nn.avg_pool", sizes, window, strides, padding)
    bar = over.batched(y_bar).astype(computing(y_bar.dtype))
    bar = bar / _counts(over, count_include_pad, bar)  # (1)
    for axis in range(len(over.window)):
        bar = _shared(bar, over.along(axis))  # (3)
    return {"x": bar.astype(y_bar.dtype).reshape(*sizes.shape[:-1], y_bar.shape[-1])}


def _shared(bar: jax.Array, over: Windows) -> jax.Array:
    """Step (2) along one axis: the bar is added at every entry that its window sees."""
    if over.crowd > MOST:
        return _slid(bar, over)
    bar = over.beside_strides(bar)

    def seen(numbers: np.ndarray[Any, Any]) -> jax.Array:
        every = jnp.broadcast_to(bar, jnp.broadcast_shapes(bar.shape, numbers.shape))
        here = numbers < over.area
        return every if here.all() else jnp.where(here, every, jnp.zeros_like(every))

    return over.spread(seen)


def _slid(bar: jax.Array, over: Windows) -> jax.Array:
    """Step (2) as sums over a window that slides over the bars, put stride apart."""
    along = zip(over.sizes, over.reach, over.spans, over.padding, over.strides, strict=True)
    around = [(reach - 1 - low, size + low - span, s - 1) for size, reach, span, (low, _), s in along]
    spaced = jax.lax.pad(bar, jnp.zeros((), bar.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    ones = (1,) * bar.ndim
    return jax.lax.reduce_window(spaced, 0.0, jax.lax.add, (1, *over.window, 1), ones, "VALID")


# ---------------------------------------------------------------------- references and samples


def _stacked(x: jax.Array, window: Any, strides: Any, padding: Any, fill: float) -> jax.Array:
    """All that each window sees, by indexing: (..., *outputs, C, *offsets)."""
    n = x.ndim - 2 if isinstance(window, int) else len(window)
    window, strides = np.broadcast_to(window, n), np.broadcast_to(strides or 1, n)
    first = x.ndim - n - 1
    pairs = padding_of_reference(padding, x.shape[first:-1], window, strides)
    x = jnp.pad(x, [(0, 0)] * first + pairs + [(0, 0)], constant_values=fill)
    for axis, (w, s) in enumerate(zip(window.tolist(), strides.tolist(), strict=True), start=first):
        starts = np.arange(0, x.shape[axis] - w + 1, s)
        x = jnp.moveaxis(jnp.take(x, starts[:, None] + np.arange(w), axis=axis), axis + 1, -1)
    return x


@max_pool.reference
def max_pool_reference(x: jax.Array, window: Any, strides: Any, padding: Any) -> jax.Array:
    seen = _stacked(x, window, strides, padding, -jnp.inf)
    return seen.max(axis=tuple(range(x.ndim, seen.ndim)))


@avg_pool.reference
def avg_pool_reference(
    x: jax.Array, window: Any, strides: Any, padding: Any, count_include_pad: bool
) -> jax.Array:
    seen = _stacked(x, window, strides, padding, 0.0)
    counted = jnp.ones_like(seen)
    if not count_include_pad:
        counted = _stacked(jnp.ones_like(x), window, strides, padding, 0.0)
    axes = tuple(range(x.ndim, seen.ndim))
    return seen.sum(axis=axes) / counted.sum(axis=axes)


def _samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, shape: Ints, window: Any, tags: Any = (), **options: Any) -> Sample:
        return Sample(name, (draws.normal(key, shape),), {"window": window, **options}, tags)

    yield make("unused last row", (2, 5, 6, 3), (2, 2), strides=(2, 2))
    yield make("overlapping, padded", (2, 7, 4, 2), (3, 2), strides=2, padding="SAME")
    yield make("one axis, asymmetric padding", (3, 6, 2), 3, strides=2, padding=((2, 1),))
    yield make("three axes, no leading one", (3, 4, 2, 1), (2, 2, 2), padding=(1, 0, (0, 1)))
    yield make("sizes of 1", (1, 1, 1, 1), 1)
    yield make("empty batch", (0, 4, 4, 2), 2)
    yield make("bench", (32, 28, 28, 32), (2, 2), ("bench",), strides=(2, 2))
    yield make("bench, overlapping", (8, 56, 56, 64), (3, 3), ("bench",), strides=(2, 2), padding="SAME")


@max_pool.samples
def max_pool_samples(key: jax.Array) -> Iterator[Sample]:
    tied = jnp.round(draws.normal(key, (2, 6, 6, 3)))
    yield Sample("ties", (tied,), {"window": 3, "strides": 2, "padding": 1}, tags=("kink",))
    yield from _samples(key)


@avg_pool.samples
def avg_pool_samples(key: jax.Array) -> Iterator[Sample]:
    x = draws.normal(key, (2, 5, 4, 2))
    yield Sample("padding not counted", (x,), {"window": 3, "padding": "SAME", "count_include_pad": False})
    yield from _samples(key)

"""Pooling: rules that take the largest or the mean of each window, channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

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
    the fastest, as in jax.grad of `jax.lax.reduce_window`. A window that lies wholly in the
    padding is −inf and its bar goes nowhere. Kept are not x but the positions, a byte an output.

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
    """The number of the offset at which each window has its first largest entry; padding is chosen last.

    Written as XLA's select-and-scatter goes through a window, so that with NaNs the same entry is chosen.
    """
    number_type = _number_type(over)
    first_inside = _first_inside(over)
    views = over.views(x, -jnp.inf)
    largest = next(views)
    index = jnp.zeros(largest.shape, number_type)
    for number, seen in enumerate(views, start=1):
        take = ~(largest >= seen)
        if first_inside is not None:  # until then all that was seen is padding
            take |= jnp.asarray(first_inside >= number)
        largest = jnp.where(take, seen, largest)
        index = jnp.where(take, jnp.asarray(number, number_type), index)
    return index


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
    return jax.lax.fori_loop(0, 2, find, jnp.zeros(shape, _number_type(over)))


def _number_type(over: Windows) -> Any:
    return np.min_scalar_type(over.area)


def _first_inside(over: Windows) -> np.ndarray[Any, Any] | None:
    """For each window (1, *outputs, 1) the number of its first offset in the input; None without padding."""
    if all(low <= 0 and high <= 0 for low, high in over.padding):
        return None
    # Offsets are numbered axis by axis, and so the first one is found: digit by digit.
    found, empty = np.zeros((), int), np.zeros((), bool)
    for inside in _inside(over):
        found = found[..., None] * len(inside) + inside.argmax(axis=0)
        empty = empty[..., None] | ~inside.any(axis=0)
    return np.where(empty, over.area, found)[None, ..., None]


def _inside(over: Windows) -> Iterator[np.ndarray[Any, Any]]:
    """For each axis (offsets, outputs): whether an output sees an entry of the input through an offset."""
    for size, w, s, (low, _), n in zip(
        over.sizes, over.window, over.strides, over.padding, over.outputs, strict=True
    ):
        position = np.arange(n) * s + np.arange(w)[:, None] - low
        yield (position >= 0) & (position < size)


@max_pool.forward
def max_pool_forward(
    x: jax.Array, window: Any, strides: Any, padding: Any
) -> tuple[jax.Array, dict[str, Any]]:
    over = _windows("nn.max_pool", x, window, strides, padding)
    y = max_pool.primal(x, window, strides, padding)
    find = _in_halves if over.overlap else _chosen
    index = find(jax.lax.stop_gradient(over.batched(x)), over)
    return y, {"index": index.reshape(y.shape), "sizes": x[..., :0]}


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
    index, bar = over.beside_strides(index), over.beside_strides(bar)

    def seen(numbers: np.ndarray[Any, Any]) -> jax.Array:
        return jnp.where(index == numbers.astype(index.dtype), bar, jnp.zeros_like(bar))

    x_bar = over.spread(seen)  # (3)
    return {"x": x_bar.astype(y_bar.dtype).reshape(*sizes.shape[:-1], y_bar.shape[-1])}


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
    return _reduced(x, over, 0.0, jax.lax.add) / _counts(over, count_include_pad, x.dtype)


def _counts(over: Windows, count_include_pad: bool, dtype: Any) -> jax.Array:
    """n_i, what a window's sum is divided by: a number, or (*outputs, 1)."""
    if count_include_pad:
        return jnp.asarray(over.area, dtype)
    found = np.ones((), int)
    for inside in _inside(over):
        found = found[..., None] * inside.sum(axis=0)
    return jnp.asarray(found[..., None], dtype)


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
    bar = bar / _counts(over, count_include_pad, bar.dtype)  # (1)
    for axis in range(len(over.window)):
        bar = _shared(bar, over.along(axis))  # (3)
    return {"x": bar.astype(y_bar.dtype).reshape(*sizes.shape[:-1], y_bar.shape[-1])}


def _shared(bar: jax.Array, over: Windows) -> jax.Array:
    """Step (2): the bar is added at every entry that its window sees."""
    bar = over.beside_strides(bar)

    def seen(numbers: np.ndarray[Any, Any]) -> jax.Array:
        shape = jnp.broadcast_shapes(bar.shape, numbers.shape)
        every = jnp.broadcast_to(bar, shape)
        return (
            every
            if (numbers < over.area).all()
            else jnp.where(numbers < over.area, every, jnp.zeros_like(every))
        )

    return over.spread(seen)


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
        return Sample(name, (jax.random.normal(key, shape), window), options, tags)

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
    yield from _samples(key)
    tied = jnp.round(jax.random.normal(key, (2, 6, 6, 3)))
    yield Sample("ties", (tied, 3), {"strides": 2, "padding": 1}, tags=("kink",))


@avg_pool.samples
def avg_pool_samples(key: jax.Array) -> Iterator[Sample]:
    yield from _samples(key)
    x = jax.random.normal(key, (2, 5, 4, 2))
    yield Sample("padding not counted", (x, 3), {"padding": "SAME", "count_include_pad": False})

"""Operations that only move entries, of numbers and of integers alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from overbar.check.exact.entries import Entry
from overbar.check.exact.numbers import Array, Numbers


def _broadcast_in_dim(params: dict[str, Any], x: Array) -> Array:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _reshape(params: dict[str, Any], x: Array) -> Array:
    order = params["dimensions"]
    return (x if order is None else x.transpose(order)).reshape(params["new_sizes"])


def _slice(params: dict[str, Any], x: Array) -> Array:
    strides = params["strides"] or (1,) * x.ndim
    return x[(*map(slice, params["start_indices"], params["limit_indices"], strides), ...)]


def _split(params: dict[str, Any], x: Array) -> list[Array]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _select_n(params: dict[str, Any], which: Array, *cases: Array) -> Array:
    chosen = cases[0]
    for k, case in enumerate(cases[1:], 1):
        chosen = np.where(which == k, case, chosen)
    return chosen


def _pad(params: dict[str, Any], x: Array, value: Array) -> Array:
    """Every entry goes where lo + i (1 + interior) says, unless a negative padding cuts it off."""
    shape, where, what = [], [], []
    for n, (low, high, interior) in zip(x.shape, params["padding_config"], strict=True):
        size = int(low + high + n + max(n - 1, 0) * interior)
        place = int(low) + np.arange(n) * (1 + int(interior))
        kept = (place >= 0) & (place < size)
        shape.append(size)
        where.append(place[kept])
        what.append(np.flatnonzero(kept))
    out = np.full(shape, value[()], x.dtype)
    out[np.ix_(*where)] = x[np.ix_(*what)]
    return out


def _window(x: Array, sizes: Sequence[int], starts: Sequence[Any]) -> tuple[slice, ...]:
    """A block within x, moved inside where it would stand out, as XLA does."""
    firsts = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(a, a + k) for a, k in zip(firsts, sizes, strict=True))


def _dynamic_slice(params: dict[str, Any], x: Array, *starts: Array) -> Array:
    return x[(*_window(x, params["slice_sizes"], starts), ...)]


def _dynamic_update_slice(params: dict[str, Any], x: Array, update: Array, *starts: Array) -> Array:
    out = x.copy()
    out[_window(x, update.shape, starts)] = update
    return out


MOVES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "slice": _slice,
    "split": _split,
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "unstack": lambda p, x: [np.moveaxis(x, p["axis"], 0)[i, ...] for i in range(x.shape[p["axis"]])],
    "tile": lambda p, x: np.tile(x, p["reps"]),
    "select_n": _select_n,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}

SAME = frozenset(
    ["copy", "copy_p", "stop_gradient", "optimization_barrier", "name", "sharding_constraint", "device_put"]
)


def gather(numbers: Numbers, params: dict[str, Any], x: Array, indices: Array) -> Array:
    """JAX gathers the positions, NumPy the numbers at them; position −1 is out of bounds."""
    found = _gathered_positions(x.shape, indices, params["dimension_numbers"], params)
    fill = numbers.nan if params["fill_value"] is None else numbers.number(params["fill_value"])
    pool = numbers.filled((x.size + 1,), [*x.flat, fill])
    return pool[found.ravel()].reshape(found.shape)


def _gathered_positions(
    shape: tuple[int, ...], indices: Array, numbers: Any, params: dict[str, Any], sizes: Any = None
) -> np.ndarray:
    positions = np.arange(math.prod(shape)).reshape(shape)
    sizes = params["slice_sizes"] if sizes is None else sizes
    return np.asarray(
        jax.lax.gather(positions, indices, numbers, sizes, mode=params["mode"], fill_value=-1), np.int64
    )


def scatter(combine: Callable[[Numbers], Entry]) -> Callable[..., Array]:
    """Scattering backwards: the positions that a gather of the same shape finds are where updates go."""

    def scatter(numbers: Numbers, params: dict[str, Any], x: Array, indices: Array, updates: Array) -> Array:
        d = params["dimension_numbers"]
        single = {*d.inserted_window_dims, *d.operand_batching_dims}
        window = iter([updates.shape[i] for i in d.update_window_dims])
        sizes = [1 if axis in single else next(window) for axis in range(x.ndim)]
        gather = jax.lax.GatherDimensionNumbers(
            offset_dims=d.update_window_dims,
            collapsed_slice_dims=d.inserted_window_dims,
            start_index_map=d.scatter_dims_to_operand_dims,
            operand_batching_dims=d.operand_batching_dims,
            start_indices_batching_dims=d.scatter_indices_batching_dims,
        )
        places = _gathered_positions(x.shape, indices, gather, params, sizes)
        out, entry = x.flatten(), combine(numbers)
        for place, update in zip(places.flat, updates.flat, strict=True):
            if place >= 0:
                out[place] = entry(out[place], update)
        return out.reshape(x.shape)

    return scatter

"""Operations along axes: reductions, cumulative ones, sorting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from overbar.check.exact.entries import Entry, elementwise
from overbar.check.exact.numbers import Array, Number, Numbers


def _along(axis: int, *arrays: Array) -> tuple[tuple[int, ...], list[list[list[Any]]]]:
    """(the other axes' sizes, for each place among them the arrays' rows along the axis)."""
    moved = [np.moveaxis(x, axis, -1) for x in arrays]
    shape, n = moved[0].shape[:-1], moved[0].shape[-1]
    flat = [x.reshape(math.prod(shape), n) for x in moved]
    return shape, [[list(x[i]) for x in flat] for i in range(math.prod(shape))]


def reduction(fold: Callable[[Numbers, list[Number]], Any]) -> Callable[..., Array]:
    def reduce(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
        axes = [int(a) for a in params["axes"]]
        kept = [a for a in range(x.ndim) if a not in axes]
        shape = [x.shape[a] for a in kept]
        flat = x.transpose(kept + axes).reshape(math.prod(shape), math.prod(x.shape[a] for a in axes))
        return numbers.filled(shape, (fold(numbers, list(row)) for row in flat))

    return reduce


def arg(better: Callable[[Number, Number], bool]) -> Callable[..., Array]:
    """The first of the largest (or smallest) entries; a nan is both."""

    def position(numbers: Numbers, row: list[Number]) -> int:
        best = 0
        for i, x in enumerate(row):
            if row[best] == row[best] and (x != x or better(x, row[best])):
                best = i
        return best

    def arg(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
        return reduction(position)(numbers, params, x).astype(params["index_dtype"])

    return arg


def cumulative(combine: Callable[[Numbers], Entry]) -> Callable[..., Array]:
    def cumulate(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
        axis, step = params["axis"], -1 if params["reverse"] else 1
        shape, rows = _along(axis, x)
        done = [list(itertools.accumulate(row[::step], combine(numbers)))[::step] for (row,) in rows]
        out = numbers.filled((*shape, x.shape[axis]), itertools.chain.from_iterable(done))
        return np.moveaxis(out, -1, axis)

    return cumulate


def cumlogsumexp(numbers: Numbers, params: dict[str, Any], x: Array) -> Array:
    exp, log = (elementwise(numbers, name, {}) for name in ("exp", "log"))
    return log(cumulative(lambda n: n.add)(numbers, params, exp(x)))


def sort(numbers: Numbers, params: dict[str, Any], *operands: Array) -> list[Array]:
    keys = operands[: params["num_keys"]]
    order = _order(numbers, params["dimension"], *keys)
    return [np.take_along_axis(x, order, params["dimension"]) for x in operands]


def _order(numbers: Numbers, axis: int, *keys: Array, descending: bool = False) -> np.ndarray:
    def rank(place: Sequence[Any]) -> list[Any]:
        return [numbers.rank(x) for x in place]

    shape, rows = _along(axis, *keys)
    order = np.empty((len(rows), keys[0].shape[axis]), np.int64)
    for i, row in enumerate(rows):
        ranks = [rank(place) for place in zip(*row, strict=True)]
        order[i] = sorted(range(len(ranks)), key=ranks.__getitem__, reverse=descending)
    return np.moveaxis(
        order.reshape(*shape, -1) if order.size else order.reshape(*shape, order.shape[1]), -1, axis
    )


def top_k(numbers: Numbers, params: dict[str, Any], x: Array) -> list[Array]:
    axis = params.get("axis", x.ndim - 1)
    order = _order(numbers, axis, x, descending=True)
    order = np.take(order, np.arange(params["k"]), axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int32)]

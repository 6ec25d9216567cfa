"""Linear algebra, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from overbar.check.exact.entries import elementwise, entry_of
from overbar.check.exact.numbers import Array, NotExact, Numbers


def dot_general(numbers: Numbers, params: dict[str, Any], x: Array, y: Array) -> Array:
    (over_x, over_y), (batch_x, batch_y) = params["dimension_numbers"]

    def rows(x: Array, over: Any, batch: Any) -> tuple[list[int], Array]:
        free = [a for a in range(x.ndim) if a not in (*over, *batch)]
        shape = [[x.shape[a] for a in axes] for axes in (batch, free, over)]
        flat = x.transpose([*batch, *free, *over]).reshape([math.prod(s) for s in shape])
        return shape[0], (shape[1], flat)

    batch, (free_x, x) = rows(x, over_x, batch_x)
    _, (free_y, y) = rows(y, over_y, batch_y)
    entries = (numbers.dot(r, s) for a, b in zip(x, y, strict=True) for r in a for s in b)
    return numbers.filled([*batch, *free_x, *free_y], entries)


def _batched(function: Callable[..., Any], *arrays: Array) -> Any:
    """function on every matrix of the arrays' leading axes; its results, stacked."""
    batch = arrays[0].shape[:-2]
    flat = [x.reshape(math.prod(batch), *x.shape[-2:]) for x in arrays]
    results = [function(*matrices) for matrices in zip(*flat, strict=True)]
    if not results:
        raise NotExact("a batch of no matrices")

    def stacked(parts: Sequence[Array]) -> Array:
        return np.stack(parts).reshape(*batch, *parts[0].shape)

    if isinstance(results[0], tuple):
        return [stacked(parts) for parts in zip(*results, strict=True)]
    return stacked(results)


def triangular_solve(numbers: Numbers, params: dict[str, Any], a: Array, b: Array) -> Array:
    """x of op(a) x = b, or of x op(a) = b, which is op(a)ᵀ xᵀ = bᵀ."""
    left, turned = params["left_side"], bool(params["transpose_a"]) == bool(params["left_side"])

    def solve(a: Array, b: Array) -> Array:
        if params["conjugate_a"]:
            a = elementwise(numbers, "conj", {})(a) if a.size and not numbers.is_real(*a.flat) else a
        a, b = a.T if turned else a, b if left else b.T
        n, x = len(a), np.empty(b.shape, object)
        forward = params["lower"] != turned
        for i in range(n) if forward else reversed(range(n)):
            known = slice(0, i) if forward else slice(i + 1, n)
            for j in range(b.shape[1]):
                rest = numbers.sub(b[i, j], numbers.dot(a[i, known], x[known, j]))
                x[i, j] = rest if params["unit_diagonal"] else numbers.div(rest, a[i, i])
        return x if left else x.T

    return _batched(solve, a, b)


def cholesky(numbers: Numbers, params: dict[str, Any], a: Array) -> Array:
    root = entry_of(numbers, "sqrt", {})

    def factor(a: Array) -> Array:
        n = len(a)
        lower = np.full(
            (n, n), numbers.zero if not n or numbers.is_real(a[0, 0]) else numbers.mp.mpc(0), object
        )
        for j in range(n):
            for i in range(j, n):
                conjugate = [
                    x if numbers.is_real(x) else numbers.mp.mpc(x.real, -x.imag) for x in lower[j, :j]
                ]
                rest = numbers.sub(a[i, j], numbers.dot(lower[i, :j], conjugate))
                lower[i, j] = root(rest) if i == j else numbers.div(rest, lower[j, j])
        return lower

    return _batched(factor, a)


def lu(numbers: Numbers, params: dict[str, Any], a: Array) -> list[Array]:
    """Partial pivoting; the factors in one matrix, the swaps, and the permutation that they make."""

    def factor(a: Array) -> tuple[Array, Array, Array]:
        a, (m, n) = a.copy(), a.shape
        swaps, order = np.arange(min(m, n), dtype=np.int32), np.arange(m, dtype=np.int32)
        for k in range(min(m, n)):
            pivot = max(range(k, m), key=lambda i: abs(a[i, k]))
            swaps[k] = pivot
            a[[k, pivot]], order[[k, pivot]] = a[[pivot, k]], order[[pivot, k]]
            for i in range(k + 1, m):
                a[i, k] = numbers.div(a[i, k], a[k, k])
                for j in range(k + 1, n):
                    a[i, j] = numbers.sub(a[i, j], numbers.mul(a[i, k], a[k, j]))
        return a, swaps, order

    return _batched(factor, a)

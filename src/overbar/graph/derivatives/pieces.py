"""What taking pieces of arrays, putting them in, joining and sorting do to a bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.index import index_of, slice_index
from overbar.graph.derivatives.step import Handler, Step, full, placed
from overbar.graph.derivatives.terms import Shape, Term, Text, Unknown

# ---------------------------------------------------------------------- slices


def _slice(s: Step, term: Term) -> Term:
    return placed(s, term, slice_index(s.eqn, single=len(term.shape) < len(s.out)))


def _dynamic_slice(s: Step, term: Term) -> Term:
    if s.i:
        raise Unknown
    sizes = s.eqn.params["slice_sizes"]
    single = len(term.shape) < len(s.out)
    parts = []
    for start, size, n in zip(s.eqn.invars[1:], sizes, s.shape, strict=True):
        if size == n:
            parts.append(":")
            continue
        at = s.way.value(start).at(2)
        parts.append(at if size == 1 and single else f"{at}:{at}+{size}")
    return placed(s, term, terms.index(parts))


def _dynamic_update_slice(s: Step, term: Term) -> Term:
    operand, update = (v.aval.shape for v in s.eqn.invars[:2])
    parts = []
    for start, size, n in zip(s.eqn.invars[2:], update, operand, strict=True):
        at = ":" if size == n else s.way.value(start).at(2)
        end = str(int(at) + size) if at.isdecimal() else f"{at}+{size}"
        parts.append(at if size == n else f"{at}:{end}")
    return _cut_out(s, term, terms.index(parts), tuple(update))


def _cut_out(s: Step, term: Term, index: str, update: Shape) -> Term:
    """Of x with u set into it: x̄ is the bar with zeros there, ū what stands there."""
    if term.shape != s.out:
        if terms.solid(term.shape) or s.i == 0:
            raise Unknown
        return term
    if s.i == 0:
        return term.mapped(lambda t: Text(f"{t.at(3)}.at{index}.set(0)", s.shape))
    return term.mapped(lambda t: Text(f"{t.at(3)}{index}", update))


def _split(s: Step, term: Term) -> Term:
    """One part of several, the only one that is used."""
    axis, sizes = s.eqn.params["axis"], s.eqn.params["sizes"]
    start = sum(sizes[: s.part])
    index = terms.index([":"] * axis + [f"{start}:{start + sizes[s.part]}"])
    return placed(s, terms.aligned(term, s.out), index)


# ---------------------------------------------------------------------- by index


def _gather(s: Step, term: Term) -> Term:
    """x[i]: the bars are added up where they came from."""
    if s.i:
        raise Unknown
    index, several = index_of(s.way, s.eqn)
    return placed(s, terms.aligned(term, s.out), f"[{index}]", "add" if several else "set")


def _scatter(s: Step, term: Term) -> Term:
    if s.i == 1:
        raise Unknown
    adds = s.eqn.primitive.name in ("scatter-add", "scatter_add")
    if s.i == 0 and adds:
        return term
    index, several = index_of(s.way, s.eqn)
    if s.i == 2 and adds and not term.shape:
        return term
    if term.shape != s.out:
        raise Unknown
    if s.i == 0:
        return term.mapped(lambda t: Text(f"{t.at(3)}.at[{index}].set(0)", s.shape))
    if not adds and several and not s.eqn.params["unique_indices"]:  # of rows set twice only one counts
        raise Unknown
    return term.mapped(lambda t: Text(f"{t.at(3)}[{index}]", s.shape))


def _scatter_mul(s: Step, term: Term) -> Term:
    index, several = index_of(s.way, s.eqn)
    if s.i == 1 or several or term.shape != s.out:
        raise Unknown
    if s.i == 0:
        factor = s.way.value(s.eqn.invars[2])
        return term.mapped(lambda t: Text(f"{t.at(3)}.at[{index}].multiply({factor.text})", s.shape))
    x = s.way.value(s.eqn.invars[0])
    cut = term.mapped(lambda t: Text(f"{t.at(3)}[{index}]", s.shape))
    return cut.times(Text(f"{x.at(3)}[{index}]", s.shape))


# ---------------------------------------------------------------------- joined, padded, sorted


def _concatenate(s: Step, term: Term) -> Term:
    axis = s.eqn.params["dimension"]
    start = sum(v.aval.shape[axis] for v in s.eqn.invars[: s.i])
    stop = start + s.shape[axis]
    if not terms.solid(term.shape):
        return term
    term = terms.aligned(term, s.out)
    if term.shape != s.out:
        raise Unknown
    single = stop == start + 1
    index = terms.index([":"] * axis + [str(start) if single else f"{start}:{stop}"])
    shape = tuple(n for a, n in enumerate(s.shape) if a != axis) if single else s.shape
    return term.mapped(lambda t: Text(f"{t.at(3)}{index}", shape))


def _stack(s: Step, term: Term) -> Term:
    if not terms.solid(term.shape):
        return term
    index = terms.index([":"] * int(s.eqn.params["axis"]) + [str(s.i)])
    return full(term, s.out).mapped(lambda t: Text(f"{t.at(3)}{index}", s.shape))


def _pad(s: Step, term: Term) -> Term:
    if s.i:
        raise Unknown
    parts = []
    for (low, high, inside), n in zip(s.eqn.params["padding_config"], s.shape, strict=True):
        if low < 0 or high < 0:
            raise Unknown
        if inside:
            end = low + (n - 1) * (inside + 1) + 1
            parts.append(f"{low or ''}:{end if high else ''}:{inside + 1}")
        else:
            parts.append(":" if not low and not high else f"{low or ''}:{-high if high else ''}")
    if not terms.solid(term.shape):
        return term
    term = full(term, s.out)
    return term.mapped(lambda t: Text(f"{t.at(3)}{terms.index(parts)}", s.shape))


def _sort(s: Step, term: Term) -> Term:
    """Each entry's bar is that of the place it went to."""
    if len(s.eqn.invars) > 1:
        raise Unknown
    axis, x = s.eqn.params["dimension"], s.value.text
    term = full(term, s.out)
    if len(s.out) == 1:
        return term.mapped(lambda t: Text(f"{t.at(3)}[argsort(argsort({x}))]", s.shape))
    ranks = f"argsort(argsort({x}, {axis}), {axis})"
    return term.mapped(lambda t: Text(f"take_along_axis({t.text}, {ranks}, {axis})", s.shape))


# ---------------------------------------------------------------------- windows


def _windows(eqn: Any, shape: Shape) -> list[tuple[int, int]]:
    """(size, axis) of windows that lie side by side."""
    held = eqn.params
    sizes: Sequence[int] = held["window_dimensions"]
    dilated = {*held["base_dilation"], *held["window_dilation"]} != {1}
    padded = any(low or high for low, high in held["padding"])
    apart = tuple(held["window_strides"]) == tuple(sizes)
    if dilated or padded or not apart or any(n % k for n, k in zip(shape, sizes, strict=True)):
        raise Unknown
    return [(k, axis) for axis, k in enumerate(sizes) if k > 1]


def _repeated(text: str, windows: Sequence[tuple[int, int]], rank: int) -> str:
    for size, axis in windows:
        text = f"repeat({text}, {size}{f', {axis}' if rank > 1 else ''})"
    return text


def _window_sum(s: Step, term: Term) -> Term:
    windows = _windows(s.eqn, s.shape)
    if not terms.solid(term.shape):
        return term
    return full(term, s.out).mapped(lambda t: Text(_repeated(t.text, windows, len(s.shape)), s.shape))


def _window_largest(s: Step, term: Term) -> Term:
    y = _repeated(s.output.text, _windows(s.eqn, s.shape), len(s.shape))
    return _window_sum(s, term).times(Text(f"[{s.value.text} = {y}]", s.shape))


RULES: dict[str, Handler] = {
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "split": _split,
    "gather": _gather,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "scatter-mul": _scatter_mul,
    "concatenate": _concatenate,
    "stack": _stack,
    "pad": _pad,
    "sort": _sort,
    "reduce_window_sum": _window_sum,
    "reduce_window_max": _window_largest,
}

"""The index in the user's words that a slice, a gather or a scatter stands for: x[:, i], x[arange(3), j]."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.extend.core import Literal

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.terms import Unknown

if TYPE_CHECKING:
    from overbar.graph.derivatives.backward import Backward

LONGEST_LIST = 8  # of indices that are written down


def slice_index(eqn: Any, *, single: bool) -> str:
    """[1:3], [:, 0]; `single` tells that an axis of size 1 is dropped afterwards."""
    held, shape = eqn.params, eqn.invars[0].aval.shape
    strides = held["strides"] or (1,) * len(shape)
    parts = []
    for start, limit, stride, n in zip(
        held["start_indices"], held["limit_indices"], strides, shape, strict=True
    ):
        if (start, limit, stride) == (0, n, 1):
            parts.append(":")
        elif limit - start == 1 and single:
            parts.append(str(start))
        else:
            parts.append(f"{start}:{limit}" + (f":{stride}" if stride != 1 else ""))
    return terms.index(parts)


def index_of(way: Backward, eqn: Any) -> tuple[str, bool]:
    """The index of a gather or a scatter, and whether it is of several places.

    Raises:
      Unknown: it is none that NumPy has.
    """
    numbers, operand, indices = eqn.params["dimension_numbers"], eqn.invars[0].aval.shape, eqn.invars[1]
    rank = indices.aval.ndim - 1  # of the index arrays, without the axis of the coordinates
    if eqn.primitive.name == "gather":
        collapsed, mapped = numbers.collapsed_slice_dims, numbers.start_index_map
        beside, sizes = numbers.offset_dims, eqn.params["slice_sizes"]
        batching, of_batch = numbers.operand_batching_dims, numbers.start_indices_batching_dims
    else:
        collapsed, mapped = numbers.inserted_window_dims, numbers.scatter_dims_to_operand_dims
        beside = numbers.update_window_dims
        batching, of_batch = numbers.operand_batching_dims, numbers.scatter_indices_batching_dims
        update = eqn.invars[2].aval.shape
        window = iter(update[d] for d in beside)
        sizes = [1 if d in (*collapsed, *batching) else next(window) for d in range(len(operand))]
    columns = dict(zip(mapped, _columns(way, indices), strict=True))
    for d, position in zip(batching, of_batch, strict=True):
        columns[d] = f"arange({operand[d]})" + ("[:" + ", None" * (rank - 1 - position) + "]") * (
            rank - 1 > position
        )
    parts, taken = [], sorted({*collapsed, *batching})
    for d, n in enumerate(operand):
        if d in taken:
            parts.append(columns[d])
        elif sizes[d] == n:
            parts.append(":")
        elif d in columns and not rank:
            parts.append(_from(columns[d], sizes[d]))
        else:
            raise Unknown
    if tuple(beside) != _beside(taken, rank, len(operand)):
        raise Unknown
    return terms.index(parts)[1:-1], bool(rank)


def _from(start: str, size: int) -> str:
    return f"{start}:{int(start) + size}" if start.isdecimal() else f"{start}:{start}+{size}"


def _beside(taken: list[int], rank: int, operand: int) -> tuple[int, ...]:
    """Where the axes that are not indexed stand in the result, as NumPy has it."""
    others = [d for d in range(operand) if d not in taken]
    together = not taken or taken == list(range(taken[0], taken[0] + len(taken)))
    before = sum(d < taken[0] for d in others) if together and taken else 0
    return tuple(i if i < before else i + rank for i in range(len(others)))


def _columns(way: Backward, indices: Any) -> list[str]:
    """The coordinates, axis by axis."""
    if isinstance(indices, Literal):
        values = np.asarray(indices.val)
        return [listed(values[..., i]) for i in range(values.shape[-1])]
    made, number = way.made_by(indices), indices.aval.shape[-1]
    if made is None and number > 1:  # a variable of the graph's own
        text = way.value(indices)
        return [f"{text.text}{terms.index([':'] * (len(text.shape) - 1) + [str(i)])}" for i in range(number)]
    if number == 1:
        return [_column(way, indices)]
    if made is None or made.primitive.name != "concatenate" or len(made.invars) != number:
        raise Unknown
    return [_column(way, v) for v in made.invars]


def _column(way: Backward, v: Any) -> str:
    """The text of an index, without its last axis, which is of size 1."""
    if isinstance(v, Literal):
        return listed(np.asarray(v.val)[..., 0])
    made, shape = way.made_by(v), tuple(v.aval.shape[:-1])
    if made is not None and made.primitive.name in ("broadcast_in_dim", "reshape"):
        source = made.invars[0]
        if tuple(source.aval.shape) == shape:
            return way.value(source).text
        if not source.aval.shape:
            return way.value(source).text
    text = way.value(v)
    if not text.shape:
        return text.text
    if text.shape != (*shape, 1):
        raise Unknown
    if text.text.endswith(", None]"):
        cut = text.text[: -len(", None]")] + "]"
        return cut[:-3] if cut.endswith("[:]") else cut
    one = re.search(r"\[(\d+):(\d+)\]$", text.text)
    if not shape and one is not None and int(one.group(2)) == int(one.group(1)) + 1:  # i[0:1]
        return f"{text.text[: one.start()]}[{one.group(1)}]"
    return f"{text.text}{terms.index([':'] * len(shape) + ['0'])}"


def listed(values: Any) -> str:
    """A short list of numbers: [0, 2]; one alone without brackets."""
    array = np.asarray(values)
    if array.ndim > 1 or array.size > LONGEST_LIST or array.dtype.kind not in "iu":
        raise Unknown
    return str(int(array)) if not array.ndim else f"[{', '.join(str(int(v)) for v in array)}]"

"""Windows that slide over the spatial axes of an array, channels last: what convolution and pooling share.

Along one axis, output i sees through offset o of the window the entry
    p = i·stride + o·dilation − low
of the input, where low is the padding before the first entry; p outside of the input is padding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._contract import RuleError

Ints = tuple[int, ...]
Padding = str | int | tuple[Any, ...]


@dataclass(frozen=True)
class Windows:
    """How windows lie on the spatial axes of one input: one entry an axis.

    Args:
      sizes: of the input.
      window, strides, dilation: of the window; its offsets stand dilation apart.
      padding: pairs of entries added before and after; a negative number takes entries away.
    """

    sizes: Ints
    window: Ints
    strides: Ints
    dilation: Ints
    padding: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> Ints:
        """The entries from a window's first offset to its last."""
        return tuple(d * (w - 1) + 1 for w, d in zip(self.window, self.dilation, strict=True))

    @property
    def padded(self) -> Ints:
        return tuple(n + sum(pair) for n, pair in zip(self.sizes, self.padding, strict=True))

    @property
    def outputs(self) -> Ints:
        """How many windows there are: those that lie wholly in the padded input."""
        return tuple(
            max(0, (n - r) // s + 1) for n, r, s in zip(self.padded, self.reach, self.strides, strict=True)
        )

    @property
    def spans(self) -> Ints:
        """The entries from the first window's place to the last one's."""
        return tuple((n - 1) * s + 1 if n else 0 for n, s in zip(self.outputs, self.strides, strict=True))

    @property
    def area(self) -> int:
        return math.prod(self.window)

    @property
    def overlap(self) -> bool:
        """Whether an entry may be in more than one window."""
        return any(r > s for r, s in zip(self.reach, self.strides, strict=True))

    def offsets(self) -> Iterator[Ints]:
        """Each offset of the window, the last axis fastest."""
        return itertools.product(*map(range, self.window))

    def along(self, axis: int) -> Windows:
        """The windows' part along one axis; sizes before it are the input's, after it the outputs'."""
        others = self.sizes[:axis], self.outputs[axis + 1 :]
        ones = (1,) * axis, (1,) * (len(self.sizes) - axis - 1)

        def only(values: Ints) -> Ints:
            return (*ones[0], values[axis], *ones[1])

        none = tuple((0, 0) for _ in self.sizes)
        padding = (*none[:axis], self.padding[axis], *none[axis + 1 :])
        sizes = (*others[0], self.sizes[axis], *others[1])
        return Windows(sizes, only(self.window), only(self.strides), only(self.dilation), padding)

    def batched(self, x: jax.Array) -> jax.Array:
        """x, or y, with its leading axes made one: (N, *spatial, C)."""
        leading = x.shape[: x.ndim - len(self.sizes) - 1]
        return x if len(leading) == 1 else x.reshape(math.prod(leading), *x.shape[len(leading) :])

    def views(self, x: jax.Array, fill: float = 0.0) -> Iterator[jax.Array]:
        """For each offset what all the windows see through it: (N, *outputs, C)."""
        full = jax.lax.pad(
            x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((*p, 0) for p in self.padding), (0, 0, 0)]
        )
        for offset in self.offsets():
            if 0 in self.outputs:
                yield full[:, *map(slice, self.outputs)]
                continue
            first = [o * d for o, d in zip(offset, self.dilation, strict=True)]
            last = [f + (n - 1) * s + 1 for f, n, s in zip(first, self.outputs, self.strides, strict=True)]
            yield jax.lax.slice(full, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), (1, *self.strides, 1))

    def spread(self, seen: Callable[[np.ndarray[Any, Any]], jax.Array]) -> jax.Array:
        """The transpose of views: (N, *sizes, C), where each entry sums what it was seen as.

        Entries of the padded input are written as p = j·stride + r, so that what is seen through
        offset o by output i is at j = i + (o·dilation) ÷ stride, r = (o·dilation) mod stride. All the
        offsets of one quotient go together: r is an axis of its own beside that of the outputs,
        and only that of the outputs has to be shifted.

        Args:
          seen: the numbers of the offsets of one quotient, (1, 1, stride, ..., 1, stride, 1) -> what is
            for the entries seen through them, (N, outputs, stride, ..., outputs, stride, C). Where no
            offset has that remainder, the number is the window's area, and zero is for it.
        """
        blocks = [
            _quotients(w, d, s) for w, d, s in zip(self.window, self.dilation, self.strides, strict=True)
        ]
        rows = tuple(n + max(b) if n else 0 for n, b in zip(self.outputs, blocks, strict=True))
        total: Any = 0
        for quotients in itertools.product(*blocks):
            term = seen(self._numbers([b[q] for b, q in zip(blocks, quotients, strict=True)]))
            spacing = [(0, 0, 0)]
            for q, row, n in zip(quotients, rows, self.outputs, strict=True):
                spacing += [(q, row - q - n, 0) if n else (0, 0, 0), (0, 0, 0)]
            total += jax.lax.pad(term, jnp.zeros((), term.dtype), [*spacing, (0, 0, 0)])
        full = tuple(r * s for r, s in zip(rows, self.strides, strict=True))
        crop = [(-low, low + n - f, 0) for (low, _), n, f in zip(self.padding, self.sizes, full, strict=True)]
        total = total.reshape(total.shape[0], *full, total.shape[-1])
        return jax.lax.pad(total, jnp.zeros((), total.dtype), [(0, 0, 0), *crop, (0, 0, 0)])

    def _numbers(self, offsets: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The numbers of all combinations of one offset an axis, with the axes that seen is to have."""
        numbers, none = np.zeros((), int), np.zeros((), bool)
        for w, some in zip(self.window, offsets, strict=True):
            numbers = numbers[..., None, None] * w + some
            none = none[..., None, None] | (some < 0)
        return np.where(none, self.area, numbers)[None, ..., None]

    def beside_strides(self, y: jax.Array) -> jax.Array:
        """(N, *outputs, C) with an axis of size 1 after that of each axis' outputs, as spread has it."""
        return jnp.expand_dims(y, [2 * axis + 2 for axis in range(len(self.sizes))])


def _quotients(window: int, dilation: int, stride: int) -> dict[int, np.ndarray[Any, Any]]:
    """(o·dilation) ÷ stride -> for each remainder the offset o that has it, or −1."""
    found: dict[int, np.ndarray[Any, Any]] = {}
    for offset in range(window):
        quotient, remainder = divmod(offset * dilation, stride)
        found.setdefault(quotient, np.full(stride, -1))[remainder] = offset
    return found


def windows(rule: str, sizes: Ints, window: Ints, strides: Any, padding: Any, dilation: Any = 1) -> Windows:
    """The windows that a call's options describe, or a RuleError that names the option."""
    n = len(sizes)
    strides = per_axis(rule, "strides", strides, n)
    dilation = per_axis(rule, "dilation", dilation, n)
    unpadded = Windows(sizes, window, strides, dilation, ((0, 0),) * n)
    pairs = _pairs(padding, unpadded)
    if pairs is None:
        raise RuleError(
            f"rule {rule}: option padding must be 'SAME', 'SAME_LOWER', 'VALID', an integer, or a tuple with "
            f"an integer or a pair (before, after) for each of {n} spatial axes, but came as {padding!r}."
        )
    return Windows(sizes, window, strides, dilation, tuple((int(a), int(b)) for a, b in pairs))


def _pairs(padding: Any, over: Windows) -> list[tuple[int, int]] | None:
    """The pairs that padding stands for, None where it makes no sense."""
    n = len(over.sizes)
    if isinstance(padding, str):
        known = padding.upper() in ("SAME", "SAME_LOWER", "VALID")
        return (
            list(jax.lax.padtype_to_pads(over.sizes, over.reach, over.strides, padding.upper()))
            if known
            else None
        )
    every = (padding,) * n if is_int(padding) else padding
    if not (isinstance(every, tuple) and len(every) == n):
        return None
    pairs = [(p, p) if is_int(p) else p for p in every]
    fit = all(isinstance(p, tuple) and len(p) == 2 and all(map(is_int, p)) for p in pairs)
    return pairs if fit else None


def per_axis(rule: str, name: str, value: Any, n: int) -> Ints:
    """An option that is a positive integer, or one for each of n axes, as a tuple."""
    every = (value,) * n if is_int(value) else value
    if not (isinstance(every, tuple) and len(every) == n and all(is_int(v) and v > 0 for v in every)):
        raise RuleError(
            f"rule {rule}: option {name} must be a positive integer, or a tuple of {n} of them, "
            f"one for each spatial axis, but came as {value!r}."
        )
    return tuple(map(int, every))


def is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)


def padding_of_reference(padding: Any, sizes: Ints, window: Any, strides: Any) -> list[tuple[int, int]]:
    """The pairs that padding stands for, found for the rules' references by other means than above."""
    if padding == "VALID":
        return [(0, 0)] * len(sizes)
    if (
        padding == "SAME"
    ):  # as many outputs as there are multiples of the stride in the input, the odd zero last
        missing = [
            max((-(-n // s) - 1) * s + w - n, 0)
            for n, w, s in zip(sizes, map(int, window), map(int, strides), strict=True)
        ]
        return [(m // 2, m - m // 2) for m in missing]
    each = [padding] * len(sizes) if isinstance(padding, int) else list(padding)
    return [(p, p) if isinstance(p, int) else p for p in each]

"""The derivative of a function that cannot be differentiated in reverse, column by column.

By forward mode where that works (a while_loop), else by central differences, extrapolated after
Richardson with an error estimate (Ridders 1982; Press et al., Numerical Recipes, 5.7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import jax
import numpy as np

from overbar.check.bounds import wide
from overbar.check.problem import Arrays, Function

SECONDS = 1.5  # spent on the columns of one point; entries beyond are left out
LEVELS = 8
FACTOR = 4  # between one step and the next: from a tenth of the input to the noise of float64
MOST_NUMBERS = 4_000_000  # of all the columns together

Column = tuple[Arrays, Arrays]  # the change of every output with one entry, and its error


class Columns:
    """The Jacobian at a point, one column for each entry of each input (or for as many as there is time)."""

    def __init__(
        self, evaluate: Callable[[Arrays], Arrays], slope: Callable[[Arrays, Arrays], Arrays] | None
    ):
        """evaluate: the function; slope: its directional derivative where forward mode works."""
        self._evaluate, self._slope = evaluate, slope
        self._kept: dict[bytes, dict[tuple[int, int, complex], Column]] = {}

    def bars(
        self, inputs: Arrays, y_bars: Arrays, only: Mapping[int, Iterable[int]] | None = None
    ) -> tuple[Arrays, Arrays]:
        """The bars by the columns, NaN where there is none, and the error of each entry.

        Args:
          only: input number -> the flat entries wanted; all that there is time for by default.
        """
        known = self._kept.setdefault(b"".join(np.asarray(x).tobytes() for x in inputs), {})
        deadline, room = time.monotonic() + SECONDS, MOST_NUMBERS // max(1, sum(b.size for b in y_bars))
        bars, errors = [], []
        for number, x in enumerate(inputs):
            kind = np.complex128 if np.iscomplexobj(x) else np.float64
            bar, error = np.full(x.shape, np.nan, kind), np.zeros(x.shape)
            wanted = _spread_out(x.size) if only is None else only.get(number, ())
            for flat in wanted:
                late = time.monotonic() > deadline or len(known) >= room
                parts = [
                    self._part(inputs, number, flat, unit, y_bars, known, late)
                    for unit in ((1.0, 1j) if kind is np.complex128 else (1.0,))
                ]
                if any(part is None for part in parts):
                    continue
                values = [part[0] for part in parts if part]
                bar.flat[flat] = values[0] if len(values) == 1 else values[0] - 1j * values[1]
                error.flat[flat] = sum(part[1] for part in parts if part)
            bars.append(bar)
            errors.append(error)
        return bars, errors

    def _part(
        self,
        inputs: Arrays,
        number: int,
        flat: int,
        unit: complex,
        y_bars: Arrays,
        known: dict[tuple[int, int, complex], Column],
        late: bool,
    ) -> tuple[float, float] | None:
        """⟨ȳ, column⟩ and its error; None where there is no time for the column."""
        place = (number, flat, unit)
        if place not in known:
            if late:
                return None
            known[place] = self._column(inputs, number, flat, unit)
        column, error = known[place]
        value = sum(np.sum((wide(b) * c).real) for b, c in zip(y_bars, column, strict=True))
        off = sum(np.sum(np.abs(wide(b)) * e) for b, e in zip(y_bars, error, strict=True))
        return float(value), float(off)

    def _column(self, inputs: Arrays, number: int, flat: int, unit: complex) -> Column:
        if self._slope is not None:
            direction = [np.zeros_like(x) for x in inputs]
            direction[number].flat[flat] = unit
            column = [wide(c) for c in self._slope(inputs, direction)]
            return column, [np.zeros(c.shape) for c in column]

        def moved(h: float) -> Arrays:
            other = [wide(x).copy() for x in inputs]
            other[number].flat[flat] += h * unit
            return [wide(y) for y in self._evaluate(other)]

        x = wide(inputs[number])
        size = float(np.sqrt(np.mean(np.abs(x) ** 2)))
        return extrapolated(moved, 0.1 * max(abs(x.flat[flat]), size, 1e-3))


def extrapolated(moved: Callable[[float], Arrays], h: float) -> Column:
    """d/dh of moved at 0, entry by entry the value of the tableau that has the least error estimate."""
    rows: list[Arrays] = []
    best: list[np.ndarray] = []
    error: list[np.ndarray] = []
    for level in range(LEVELS):
        step = h / FACTOR**level
        with np.errstate(all="ignore"):
            row = [[(p - m) / (2 * step)] for p, m in zip(moved(step), moved(-step), strict=True)]
            for out, entries in enumerate(row):
                if not rows:
                    best.append(entries[0])
                    error.append(np.full(entries[0].shape, np.inf))
                    continue
                before = rows[-1][out]
                for j in range(1, min(level, 3) + 1):
                    better = entries[-1] + (entries[-1] - before[j - 1]) / (FACTOR ** (2 * j) - 1)
                    estimate = np.maximum(abs(better - entries[-1]), abs(better - before[j - 1]))
                    closer = estimate < error[out]
                    best[out] = np.where(closer, better, best[out])
                    error[out] = np.where(closer, estimate, error[out])
                    entries.append(better)
        rows.append(row)
    return best, [4 * np.where(np.isfinite(e), e, np.abs(b)) for e, b in zip(error, best, strict=True)]


def forward_slope(function: Function) -> Callable[[Arrays, Arrays], Arrays]:
    def slope(inputs: Arrays, direction: Arrays) -> Arrays:
        return list(jax.jvp(lambda *xs: function(*xs), tuple(inputs), tuple(direction))[1])

    return slope


def _spread_out(size: int) -> list[int]:
    """All the flat entries, the first and the last, then by bisection: it covers the array early."""
    if size <= 2:
        return list(range(size))
    order, seen, step = [0, size - 1], {0, size - 1}, size
    while step > 1:
        step = (step + 1) // 2
        for flat in range(0, size, step):
            if flat not in seen:
                seen.add(flat)
                order.append(flat)
    return order

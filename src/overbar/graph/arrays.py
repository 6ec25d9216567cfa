"""A value as plain data that any renderer can draw: its entries if they are few, else a coarse map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar.graph.text import number

TABLE_ROWS, TABLE_COLUMNS, TABLE_LIST = 12, 8, 24  # a larger matrix, or longer vector, is drawn as a map
MAP_ROWS, MAP_COLUMNS = 20, 24
ENDLESS = 2.0  # stands for infinity among cells, which else lie in -1 .. 1


@dataclass(frozen=True)
class Array:
    """One array, as it is drawn.

    Attributes:
      type: such as float32[3,4].
      number: the entry of a 0-d array; "" for others.
      rows: the entries of a small array, row by row; empty for a large one.
      cells: the same grid, or a coarser one, as numbers from -1 to 1 of the entry of largest magnitude; None
        is NaN, 2 and -2 are infinite. What is complex shows its magnitude.
      norm: the Euclidean norm; least, most: the extreme entries; "" where there are none.
      size: the norm as a number, if it is finite and not 0.
      sign: of a 0-d array, -1, 0 or 1; of others 0.
      note: what a reader must know, such as how the entries stand in the grid, and how many are NaN.
    """

    type: str
    number: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    cells: tuple[tuple[float | None, ...], ...] = ()
    norm: str = ""
    least: str = ""
    most: str = ""
    size: float | None = None
    sign: int = 0
    note: str = ""


def array(value: Any) -> Array:
    """What is drawn of a value: a JAX array of any dtype and shape."""
    kind = f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if value.dtype == jax.dtypes.float0:
        return Array(kind, note="no content")
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        words = np.asarray(jax.random.key_data(value))
        return Array(
            kind, note=_shortened("key data " + " ".join(map(str, words.ravel()[:9])), words.size, 9)
        )
    entries = np.asarray(value)
    if entries.size == 0:
        return Array(kind, note="no entries")
    is_complex = entries.dtype.kind == "c"
    with np.errstate(all="ignore"):
        plain = np.abs(entries.astype(np.complex128)) if is_complex else entries.astype(np.float64)
        norm = float(np.linalg.norm(plain.ravel()))
        size = norm if math.isfinite(norm) and norm > 0 else None
        if entries.ndim == 0:
            sign = int(np.sign(plain)) if not is_complex and not np.isnan(plain) else 0
            return Array(kind, number=number(entries), size=size, sign=sign, cells=_cells(plain[None, None]))
        grid, how = _grid(plain)
        notes = [how, *_strange(plain)]
        rows: tuple[tuple[str, ...], ...] = ()
        if _is_small(grid, entries.ndim):
            rows = tuple(tuple(number(entry) for entry in row) for row in entries.reshape(grid.shape))
        else:
            grid, coarser = _coarse(grid)
            notes.append(coarser)
        ends = ("", "") if is_complex else (number(entries.min()), number(entries.max()))
    note = "; ".join(part for part in notes if part)
    return Array(kind, "", rows, _cells(grid), number(norm), *ends, size=size, note=note)


def _grid(plain: Any) -> tuple[Any, str]:
    """The entries as a matrix: a long vector goes on in the next row."""
    if plain.ndim == 2:
        return plain, ""
    if plain.ndim > 2:
        lead = " × ".join(map(str, plain.shape[:-1]))
        return plain.reshape(-1, plain.shape[-1]), f"{lead} rows, one after another"
    if plain.size <= TABLE_LIST:
        return plain[None], ""
    width = MAP_COLUMNS * max(1, math.ceil(plain.size / (MAP_ROWS * MAP_COLUMNS)))
    lines = math.ceil(plain.size / width)
    # Zeros fill the last line: they are blank in the picture.
    return np.pad(plain, (0, lines * width - plain.size)).reshape(lines, width), "read line by line"


def _is_small(grid: Any, rank: int) -> bool:
    if rank == 1:
        return bool(grid.shape[0] == 1)
    return bool(grid.shape[0] <= TABLE_ROWS and grid.shape[1] <= TABLE_COLUMNS)


def _coarse(grid: Any) -> tuple[Any, str]:
    """The grid with at most MAP_ROWS × MAP_COLUMNS blocks; each shows its entry of largest magnitude."""
    rows, columns = grid.shape
    if rows <= MAP_ROWS and columns <= MAP_COLUMNS:
        return grid, ""
    down = np.linspace(0, rows, min(rows, MAP_ROWS), endpoint=False).astype(int)
    right = np.linspace(0, columns, min(columns, MAP_COLUMNS), endpoint=False).astype(int)
    most = np.maximum.reduceat(np.maximum.reduceat(grid, down, axis=0), right, axis=1)
    least = np.minimum.reduceat(np.minimum.reduceat(grid, down, axis=0), right, axis=1)
    per = f"{math.ceil(rows / len(down))} × {math.ceil(columns / len(right))}"
    return np.where(-least > most, least, most), f"each square the largest of about {per} entries"


def _cells(grid: Any) -> tuple[tuple[float | None, ...], ...]:
    finite = np.abs(grid[np.isfinite(grid)])
    scale = float(finite.max()) if finite.size else 0.0

    def cell(entry: float) -> float | None:
        if math.isnan(entry):
            return None
        if math.isinf(entry):
            return math.copysign(ENDLESS, entry)
        return round(entry / scale, 2) if scale else 0.0

    return tuple(tuple(cell(entry) for entry in row) for row in grid.tolist())


def _strange(plain: Any) -> list[str]:
    """How many entries are NaN, how many infinite."""
    counts = (int(np.isnan(plain).sum()), "NaN"), (int(np.isinf(plain).sum()), "infinite")
    return [f"{count} of {plain.size} entries {kind}" for count, kind in counts if count]


def _shortened(text: str, size: int, shown: int) -> str:
    return text + (f" … {size - shown} more" if size > shown else "")

"""How far two bars may lie apart: a bound that comes from the arithmetic, not from a fixed tolerance.

What an arithmetic of precision ε may do to a bar is estimated from three sizes: the bar's own, the
size of the leaf it stands in (a sum rounds relative to its terms), and its conditioning, measured by
what a change of the inputs in their last digits does to the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUDGE = 1e-10  # relative change of the inputs by which the conditioning is measured, in float64


@dataclass(frozen=True)
class Difference:
    """The worst entry of a comparison of two arrays.

    Attributes:
      ratio: the error in units of its bound; above 1 it is wrong, 0 where nothing was compared.
      index: the entry.
      got, expected: the two values there.
      compared: how many entries were finite in the oracle, and so compared.
      nonzero: how many of them are not 0 on both sides.
    """

    ratio: float
    index: tuple[int, ...]
    got: Any
    expected: Any
    compared: int
    nonzero: int


def bound(expected: np.ndarray, spread: np.ndarray, eps: float) -> np.ndarray:
    """The largest error, entry by entry, that arithmetic of precision eps explains.

    Args:
      expected: the oracle's values.
      spread: the change of expected when the inputs change by NUDGE, relatively.
      eps: the spacing of the working dtype's numbers at 1.
    """
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    size = np.sqrt(np.mean(finite**2)) if finite.size else 0.0
    change = np.where(np.isfinite(spread), np.abs(spread), 0.0) / NUDGE
    change = change + (np.sqrt(np.mean(change**2)) if change.size else 0.0)
    length = 1 + np.log2(1 + expected.size)
    return eps * length * (32 * finite + 32 * size + 32 * change) + np.finfo(np.float64).tiny


def compare(got: Any, expected: Any, allowed: np.ndarray) -> Difference:
    """Finds the entry of got that is furthest out of its bound; those without a finite truth are left out."""
    got, expected = _wide(got), _wide(expected)
    usable = np.isfinite(expected)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        ratios = np.where(usable, np.abs(got - expected) / allowed, 0.0)
    ratios = np.where(usable & ~np.isfinite(got), np.inf, ratios)
    if not ratios.size:
        return Difference(0.0, (), None, None, 0, 0)
    index = np.unravel_index(int(np.argmax(ratios)), ratios.shape)
    place = tuple(int(i) for i in index)
    nonzero = int(np.sum(usable & ((np.abs(got) > 0) | (np.abs(expected) > 0))))
    return Difference(
        float(ratios[index]), place, got[index].item(), expected[index].item(), int(usable.sum()), nonzero
    )


def _wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)

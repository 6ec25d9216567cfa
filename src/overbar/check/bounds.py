"""How far two bars may lie apart: a bound that comes from the arithmetic, not from a fixed tolerance.

What an arithmetic of precision ε may do to a bar is estimated from three sizes: the bar's own, the
size of the leaf it stands in (a sum rounds relative to its terms), and its conditioning, measured by
what a change of the inputs in their last digits does to the oracle. To this comes the error of the
truth itself, where that is known (extrapolated differences).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

NUDGE = 1e-10  # relative change of the inputs by which the conditioning is measured, in float64
EPS64 = 2.3e-16


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


def bound(expected: np.ndarray, spread: Any, eps: float, slack: Any = 0.0) -> np.ndarray:
    """The largest error, entry by entry, that arithmetic of precision eps explains.

    Args:
      expected: the oracle's values.
      spread: the change of expected when the inputs change by NUDGE, relatively.
      eps: the spacing of the working dtype's numbers at 1.
      slack: the oracle's own absolute error, where it is known.
    """
    finite = np.where(np.isfinite(expected), np.abs(expected), 0.0)
    size = typical(finite)
    change = np.where(np.isfinite(spread), np.abs(spread), 0.0) / NUDGE
    change = change + typical(change)
    length = 1 + np.log2(1 + expected.size)
    own = np.where(np.isfinite(slack), np.abs(slack), 0.0)
    with np.errstate(over="ignore"):
        return eps * length * 32 * (finite + size + change) + own + np.finfo(np.float64).tiny


def typical(x: np.ndarray) -> float:
    """The root mean square, without overflow."""
    largest = float(np.max(x, initial=0.0))
    if not 0.0 < largest < np.inf:
        return 0.0 if largest == 0.0 else largest
    return largest * float(np.sqrt(np.mean((x / largest) ** 2)))


def ratios(got: Any, expected: Any, allowed: np.ndarray) -> np.ndarray:
    """The error of every entry in units of its bound: 0 where the truth is not finite, ∞ for a NaN."""
    got, expected = wide(got), wide(expected)
    usable = np.isfinite(expected)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        found = np.where(usable, np.abs(got - expected) / allowed, 0.0)
    return np.where(usable & ~np.isfinite(got), np.inf, found)


def compare(got: Any, expected: Any, allowed: np.ndarray) -> Difference:
    """Finds the entry of got that is furthest out of its bound; those without a finite truth are left out."""
    found = ratios(got, expected, allowed)
    got, expected = wide(got), wide(expected)
    if not found.size:
        return Difference(0.0, (), None, None, 0, 0)
    index = np.unravel_index(int(np.argmax(found)), found.shape)
    place = tuple(int(i) for i in index)
    usable = np.isfinite(expected)
    nonzero = int(np.sum(usable & ((np.abs(got) > 0) | (np.abs(expected) > 0))))
    return Difference(
        float(found[index]), place, got[index].item(), expected[index].item(), int(usable.sum()), nonzero
    )


def wide(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)

"""What a sample is besides its numbers: a symmetric matrix, probabilities, a mask, sorted knots.

Such a thing does not come about by chance; the function is meant for it. Other numbers that are
tried in its place keep it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from overbar.check.problem import is_complex

Change = Callable[[np.ndarray], np.ndarray]
Kind = tuple[str, Callable[[np.ndarray], bool], Callable[[np.ndarray, np.ndarray], np.ndarray]]


def conforming(sample: np.ndarray, alone: bool = False) -> tuple[str, Change]:
    """(what the sample is, how to make other numbers of its shape the same); ("", identity) for any array.

    Args:
      alone: whether it is the only input: an increasing one is then a lazy sample, and no knots.
    """
    if is_complex(sample) or sample.size < 2 or not np.isfinite(sample.astype(np.float64)).all():
        return "", lambda new: new
    plain = sample.astype(np.float64)
    for name, holds, make in KINDS:
        if holds(plain) and not (alone and name == "increasing"):
            return name, functools.partial(_made, make, plain)
    return "", lambda new: new


def _made(
    make: Callable[[np.ndarray, np.ndarray], np.ndarray], sample: np.ndarray, new: np.ndarray
) -> np.ndarray:
    return make(sample, new.astype(np.float64)).astype(new.dtype)


def _in_a_set(x: np.ndarray) -> bool:
    """0 and 1, or −1 and 1: a mask or labels. A few ones among zeros may also be a lazy sample of size 2."""
    ones = x == 1
    others = (x == other for other in (0, -1))
    a_set = any(o.any() and bool((ones | o).all()) for o in others)
    return x.size >= 3 and bool(ones.any()) and a_set and not _diagonal(x)


def _one_hot(x: np.ndarray) -> bool:
    return x.ndim >= 1 and x.shape[-1] > 1 and _in_a_set(x) and bool((x.sum(-1) == 1).all())


def _simplex(x: np.ndarray) -> bool:
    return _rows(x) and bool((x >= 0).all()) and bool(np.allclose(x.sum(-1), 1, atol=1e-3)) and _varied(x)


def _unit(x: np.ndarray) -> bool:
    return _rows(x) and bool(np.allclose((x**2).sum(-1), 1, atol=1e-3)) and _varied(x)


def _symmetric(x: np.ndarray) -> bool:
    return _square(x) and bool(np.allclose(x, np.swapaxes(x, -1, -2), rtol=1e-4, atol=0)) and _varied(x)


def _definite(x: np.ndarray) -> bool:
    return _symmetric(x) and bool((np.linalg.eigvalsh(x) > 0).all())


def _lower(x: np.ndarray) -> bool:
    return _square(x) and not np.triu(x, 1).any() and bool(np.tril(x, -1).any())


def _upper(x: np.ndarray) -> bool:
    return _lower(np.swapaxes(x, -1, -2)) if x.ndim >= 2 else False


def _increasing(x: np.ndarray) -> bool:
    return x.ndim == 1 and x.size >= 4 and bool((np.diff(x) > 0).all())


def _square(x: np.ndarray) -> bool:
    return x.ndim >= 2 and x.shape[-1] == x.shape[-2] > 1 and not _diagonal(x)


def _diagonal(x: np.ndarray) -> bool:
    square = x.ndim >= 2 and x.shape[-1] == x.shape[-2]
    return square and not (x * (1 - np.eye(x.shape[-1]))).any()


def _rows(x: np.ndarray) -> bool:
    return x.ndim >= 1 and x.shape[-1] > 1


def _varied(x: np.ndarray) -> bool:
    return len(np.unique(x)) > 2


def _drawn_from(values: np.ndarray, new: np.ndarray) -> np.ndarray:
    kinds = np.unique(values)
    return np.where(new > np.median(new), kinds[-1], kinds[0])


def _hot(_: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.eye(new.shape[-1])[np.argmax(new, -1)]


def _positive_definite(sample: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The sample, moved towards the symmetric part of the new numbers as far as it stays definite."""
    off = (new + np.swapaxes(new, -1, -2)) / 2
    if off.shape != sample.shape:
        return off @ np.swapaxes(off, -1, -2) + np.eye(off.shape[-1])
    least = float(np.linalg.eigvalsh(sample).min())
    most = float(np.abs(np.linalg.eigvalsh(off)).max(initial=0.0))
    return sample + 0.5 * least / max(most, 1e-300) * off if most > 0 else sample


def _softmax(_: np.ndarray, new: np.ndarray) -> np.ndarray:
    e = np.exp(np.clip(new - new.max(-1, keepdims=True, initial=-np.inf), -30, 0))
    return e / e.sum(-1, keepdims=True)


def _normalised(_: np.ndarray, new: np.ndarray) -> np.ndarray:
    length = np.sqrt((new**2).sum(-1, keepdims=True))
    return np.where(length > 0, new / np.where(length > 0, length, 1), 1 / np.sqrt(new.shape[-1]))


def _sorted(_: np.ndarray, new: np.ndarray) -> np.ndarray:
    return np.sort(new)


def _mirrored(_: np.ndarray, new: np.ndarray) -> np.ndarray:
    return (new + np.swapaxes(new, -1, -2)) / 2


def _with_diagonal(part: Callable[[np.ndarray], np.ndarray]) -> Kind:
    def make(sample: np.ndarray, new: np.ndarray) -> np.ndarray:
        diagonal = np.eye(new.shape[-1], dtype=bool)
        lifted = np.sign(new) * np.maximum(np.abs(new), 0.5 * np.abs(new).mean() + 1e-3)
        return part(np.where(diagonal, lifted + (new == 0), new))

    return "triangular", _lower if part is np.tril else _upper, make


KINDS: tuple[Kind, ...] = (
    ("one-hot", _one_hot, _hot),
    ("a mask or labels", _in_a_set, _drawn_from),
    ("a positive definite matrix", _definite, _positive_definite),
    ("a symmetric matrix", _symmetric, _mirrored),
    _with_diagonal(np.tril),
    _with_diagonal(np.triu),
    ("probabilities", _simplex, _softmax),
    ("unit vectors", _unit, _normalised),
    ("increasing", _increasing, _sorted),
)

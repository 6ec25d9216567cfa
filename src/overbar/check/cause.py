"""The likely cause of a wrong bar: an explanation counts only if it explains all the numbers.

Each candidate is a formula of the expected bars that would give what came. They are tried from the
plainest on, on every entry of the bar, under several cotangents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Bars = Sequence[np.ndarray]


def likely_cause(
    name: str,
    got: Bars,
    expected: Mapping[str, Bars],
    sizes: Mapping[str, tuple[int, ...]],
) -> str | None:
    """Names what is wrong with the bar of one input, or None.

    Args:
      name: the input.
      got: its bar as it came, under each of several cotangents.
      expected: the true bars of all the inputs under the same cotangents.
      sizes: the shapes of the inputs and outputs, to recognise a factor by.
    """
    want = expected[name]
    for explanation, holds in _explanations(name, got, want, expected, sizes):
        if holds:
            return explanation
    return None


PROBES = (0.0, -1.0, 2.0, 3e4)  # multiples of a cotangent that tell one kind of non-linearity from another


def nonlinear_cause(probes: Bars, one: np.ndarray, other: np.ndarray) -> str | None:
    """Names why a bar is not linear in the incoming one, or None.

    Args:
      probes: the bar under each of the multiples `PROBES` of a cotangent.
      one, other: the bars under that cotangent and under an independent one.
    """
    zero, minus, double, huge = probes
    if _same([one], [other]) and one.any():
        return "the incoming bar is ignored: the bar is the same under every cotangent"
    if zero.any():
        return "a term is added that does not depend on the incoming bar: the bar is not 0 when that is 0"
    if not np.isfinite(huge).all():
        return "overflow: the bar is NaN or infinite under a huge incoming bar"
    size = np.max(np.abs(one), initial=0.0)
    in_proportion = [double / 2, -minus, huge / 3e4]
    if all(np.max(np.abs(each - one), initial=0.0) <= 0.02 * size for each in in_proportion):
        return "precision is lost: the bar is rounded to a narrower type on the way"
    if _same([double], [4 * one]):
        return "the incoming bar is squared: twice the bar gives four times as much"
    if _same([minus], [one]):
        return "the sign of the incoming bar is lost: minus the bar gives the same"
    if _same([double], [one]):
        return "only the sign of the incoming bar is used: twice the bar gives the same"
    if _same([double], [2 * one]) and not _same([huge], [3e4 * one]):
        return "clipped: right for an ordinary incoming bar, cut off for a huge one"
    if np.max(np.abs(huge), initial=0.0) < 100 * size:
        return "clipped: the bar stops growing with the incoming one"
    return None


def _explanations(
    name: str, got: Bars, want: Bars, expected: Mapping[str, Bars], sizes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, bool]]:
    yield "the bar is all zero: None was returned for it, or it was forgotten", all(not g.any() for g in got)
    yield "the sign", _same(got, [-w for w in want])
    factor = _factor(got, want)
    if factor is not None:
        yield f"a constant factor of {_fraction(factor)}{_named_size(factor, sizes)}", True
    if want[0].ndim >= 2 and want[0].shape[-1] == want[0].shape[-2]:
        yield "transposed", _same(got, [np.swapaxes(w, -1, -2) for w in want])
    for other, bars in expected.items():
        if other != name and bars[0].shape == want[0].shape:
            yield f"swapped: this is the bar of {other}", _same(got, bars)
            yield f"swapped and negated: this is minus the bar of {other}", _same(got, [-b for b in bars])
    yield (
        "the incoming bar is ignored: it is the same under every cotangent",
        _same(got[1:], [got[0]] * len(got[1:])),
    )
    if want[0].ndim and want[0].shape[0] > 1:
        rest_is_zero = all(not g[1:].any() for g in got)
        yield (
            "only the first row of the batch is right, the others are zero",
            rest_is_zero and _same([g[0] for g in got], [w[0] for w in want]),
        )
    yield _region(got, want)


def _region(got: Bars, want: Bars) -> tuple[str, bool]:
    """Right on some entries under every cotangent, wrong on the others."""
    right = np.all([_close(g, w) for g, w in zip(got, want, strict=True)], axis=0)
    wrong = int(right.size - right.sum())
    if right.size < 2 or not 0 < wrong < right.size:
        return "", False
    zero = all(not g[~right].any() for g in got)
    kind = "zero" if zero else "wrong"
    return f"a region of the input: {wrong} of {right.size} entries are {kind}, the others right", True


def _close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.max(np.abs(b), initial=0.0)
    return np.isfinite(a) & (np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-6 * size)


def _same(got: Bars, other: Bars) -> bool:
    return bool(got) and all(bool(np.all(_close(g, o))) for g, o in zip(got, other, strict=True))


def _factor(got: Bars, want: Bars) -> float | None:
    g, w = (np.concatenate([np.ravel(x) for x in xs]) for xs in (got, want))
    keep = np.abs(w) > 1e-6 * np.max(np.abs(w), initial=0.0)
    if not keep.any() or np.iscomplexobj(g) or not np.isfinite(g).all():
        return None
    factor = float(np.median(g[keep] / w[keep]))
    if factor in (0.0, 1.0) or not np.isfinite(factor):
        return None
    return factor if _same([np.asarray(x) for x in got], [factor * x for x in want]) else None


def _fraction(factor: float) -> str:
    near = Fraction(factor).limit_denominator(4096)
    if abs(float(near) - factor) < 1e-5 * abs(factor) and near.denominator > 1 and near.numerator in (1, -1):
        return str(near)
    return f"{factor:.5g}"


def _named_size(factor: float, sizes: Mapping[str, tuple[int, ...]]) -> str:
    """Says which size of the data the factor, or one over it, is."""
    for name, shape in sizes.items():
        products: dict[str, Any] = {f"the size of axis {axis} of {name}": n for axis, n in enumerate(shape)}
        products[f"the number of entries of {name}"] = int(np.prod(shape))
        for text, n in products.items():
            if n > 1 and np.isclose(abs(factor), n, rtol=1e-4):
                return f", which is {text}: summed or counted once too often"
            if n > 1 and np.isclose(abs(factor), 1 / n, rtol=1e-4):
                return f", which is one over {text}: a mean for a sum"
    return ""

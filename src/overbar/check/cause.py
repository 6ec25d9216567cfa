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
    known: Mapping[str, np.ndarray],
) -> str | None:
    """Names what is wrong with the bar of one input, or None.

    Args:
      name: the input.
      got: its bar as it came, under each of several cotangents.
      expected: the true bars of all the inputs under the same cotangents.
      sizes: the shapes of the inputs and outputs, to recognise a factor by.
      known: the inputs and outputs themselves, likewise.
    """
    want = expected[name]
    for explanation, holds in _explanations(name, got, want, expected, sizes, known):
        if holds:
            return explanation
    return None


PROBES = (0.0, -1.0, 2.0, 3e4)  # multiples of a cotangent that tell one kind of non-linearity from another


def nonlinear_cause(
    probes: Bars, one: np.ndarray, other: np.ndarray, extreme: np.ndarray | None, size_of_it: float
) -> str | None:
    """Names why a bar is not linear in the incoming one, or None.

    Args:
      probes: the bar under each of the multiples `PROBES` of a cotangent.
      one, other: the bars under that cotangent and under an independent one.
      extreme, size_of_it: the bar under the multiple that showed it, and that multiple.
    """
    zero, minus, double, huge = probes
    if _same([one], [other]) and one.any():
        return "the incoming bar is ignored: the bar is the same under every cotangent"
    if zero.any():
        return "a constant is added: the bar is not 0 when the incoming one is 0"
    if not np.isfinite(huge).all():
        return "overflow: the bar is NaN or infinite under a huge incoming bar"
    size = np.max(np.abs(one), initial=0.0)
    if extreme is not None and 0 < abs(size_of_it) < 1:
        with np.errstate(all="ignore"):
            off = np.max(np.abs(extreme / size_of_it - one), initial=0.0)
        if off > 0.05 * size:
            return "a threshold: right for an ordinary incoming bar, another for a tiny one"
    in_proportion = [double / 2, -minus, huge / 3e4]
    if all(np.max(np.abs(each - one), initial=0.0) <= 0.02 * size for each in in_proportion):
        return "precision is lost: the bar is rounded to a narrower type on the way"
    if _same([double], [4 * one]):
        return "the incoming bar is squared: twice the bar gives four times as much"
    if _same([minus], [one]):
        return "the sign of the incoming bar is lost: minus the bar gives the same"
    if _same([double], [one]):
        return (
            "normalised: only the sign or direction of the incoming bar is used, twice the bar gives the same"
        )
    if _same([double], [2 * one]) and not _same([huge], [3e4 * one]):
        return "clipped: right for an ordinary incoming bar, cut off for a huge one"
    if np.max(np.abs(huge), initial=0.0) < 100 * size:
        return "clipped: the bar stops growing with the incoming one"
    if extreme is not None and not np.isfinite(extreme).all():
        return "overflow: the bar is NaN or infinite under a huge incoming bar"
    if extreme is not None and abs(size_of_it) > 1:
        return "clipped: right for an ordinary incoming bar, cut off for a huge one"
    return "only some entries are linear in the incoming bar: it is clipped, rounded or thresholded"


def _explanations(
    name: str,
    got: Bars,
    want: Bars,
    expected: Mapping[str, Bars],
    sizes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, bool]]:
    yield "the bar is all zero: None was returned for it, or it was forgotten", all(not g.any() for g in got)
    yield "the sign", _same(got, [-w for w in want])
    factor = _factor(got, want)
    if factor is not None:
        yield (
            f"a constant factor of {_fraction(factor)}"
            f"{_named_size(factor, sizes) or _named_value(factor, known)}",
            True,
        )
    if want[0].ndim >= 2 and want[0].shape[-1] == want[0].shape[-2]:
        yield "transposed", _same(got, [np.swapaxes(w, -1, -2) for w in want])
    if any(np.iscomplexobj(w) for w in want):
        yield "the conjugate is missing, or one too many", _same(got, [np.conj(w) for w in want])
        yield "only the real part is kept", _same(got, [w.real + 0j for w in want])
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
    yield from _factors_by_array(got, want, known)
    for axis in range(want[0].ndim):
        yield f"reversed along axis {axis}", _same(got, [np.flip(w, axis) for w in want])
    yield _nan(got, known.get(name))
    yield _rounded(got, want)
    yield _permuted(got, want)
    yield _another_mask(got, want)
    yield _region(got, want, known.get(name))


def _factors_by_array(got: Bars, want: Bars, known: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bool]]:
    """An input or output is a factor too many, or one that is missing."""
    for other, value in known.items():
        try:
            fits_shape = np.broadcast_shapes(value.shape, want[0].shape) == want[0].shape
        except ValueError:
            continue
        if not fits_shape or np.iscomplexobj(value) or value.size < 1:
            continue
        for power, text in ((1, f"a factor of {other} too many"), (-1, f"a factor of {other} is missing")):
            for sign, minus in ((1, ""), (-1, ", and the sign")):
                with np.errstate(all="ignore"):
                    yield text + minus, _same(got, [sign * w * value ** float(power) for w in want])
        for power, text in ((2, "squared, too many"), (-2, "squared, is missing")):
            with np.errstate(all="ignore"):
                yield f"a factor of {other} {text}", _same(got, [w * value ** float(power) for w in want])


def _rounded(got: Bars, want: Bars) -> tuple[str, bool]:
    """Every entry nearly right."""
    if not all(np.isfinite(g).all() for g in got):
        return "", False
    pairs = [(g, w) for g, w in zip(got, want, strict=True)]
    worst = max(float(np.max(np.abs(g - w), initial=0.0)) for g, w in pairs)
    size = max(float(np.max(np.abs(w), initial=0.0)) for _, w in pairs)
    near = all((np.abs(g - w) <= 0.02 * np.abs(w) + 1e-3 * size).all() for g, w in pairs)
    digits = int(-np.log10(worst / size)) if 0 < worst < size else 0
    return f"precision is lost: the bar is right to about {digits} digits only", near and worst > 0


def _permuted(got: Bars, want: Bars) -> tuple[str, bool]:
    """The right numbers in other places."""
    if want[0].size < 3 or np.iscomplexobj(want[0]) or len(np.unique(want[0])) < 3:
        return "", False
    same = _same([np.sort(g, None) for g in got], [np.sort(w, None) for w in want])
    return (
        "permuted: the right numbers in other places (an inverse permutation, a transpose or a reshape)",
        same,
    )


def _another_mask(got: Bars, want: Bars) -> tuple[str, bool]:
    """Right where both are not 0, and 0 in other places."""
    g, w = np.stack(got), np.stack(want)
    both = (g != 0) & (w != 0)
    holds = bool(both.any() and ((g != 0) & (w == 0)).any() and ((g == 0) & (w != 0)).any())
    told = "another mask than forward's: it is redrawn, from another key or a generator with a state"
    return told, holds and _same([g[both]], [w[both]])


def _nan(got: Bars, x: np.ndarray | None) -> tuple[str, bool]:
    bad = np.any([~np.isfinite(g) for g in got], axis=0)
    where = _described(bad, x)
    return f"overflow or an undefined value: the bar is NaN or infinite{where}", bool(bad.any())


def _region(got: Bars, want: Bars, x: np.ndarray | None) -> tuple[str, bool]:
    """Right on some entries under every cotangent, wrong on the others."""
    right = np.all([_close(g, w) for g, w in zip(got, want, strict=True)], axis=0)
    wrong = int(right.size - right.sum())
    if right.size < 2 or not 0 < wrong < right.size:
        return "", False
    zero = all(not g[~right].any() for g in got)
    kind = "zero" if zero else "wrong"
    told = f"a region of the input: {wrong} of {right.size} entries are {kind}, the others right"
    return told + _described(~right, x), True


def _described(bad: np.ndarray, x: np.ndarray | None) -> str:
    """Which values of the input the bad entries have, where these set them apart."""
    if x is None or x.shape != bad.shape or np.iscomplexobj(x) or not bad.any():
        return ""
    if (x[bad] == 0).all() and (x[~bad] != 0).all():
        return " (where it is 0)"
    for text, value in (("it", x), ("its size", np.abs(x))):
        inside, outside = value[bad], value[~bad]
        if not outside.size or inside.min() > outside.max():
            return f" (where {text} is {inside.min():.4g} or more)"
        if inside.max() < outside.min():
            return f" (where {text} is {inside.max():.4g} or less)"
    return ""


def _close(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    size = np.max(np.abs(b), initial=0.0)
    return np.isfinite(a) & (np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-6 * size)


def fits(got: Bars, other: Bars) -> bool:
    """Whether two bars are the same under all the cotangents, as far as an explanation needs it."""
    return _same(got, other)


def _same(got: Bars, other: Bars) -> bool:
    return bool(got) and all(bool(np.all(_close(g, o))) for g, o in zip(got, other, strict=True))


def _factor(got: Bars, want: Bars) -> Any | None:
    """The number that every entry is too large by, if there is one."""
    g, w = (np.concatenate([np.ravel(x) for x in xs]) for xs in (got, want))
    keep = np.abs(w) > 1e-6 * np.max(np.abs(w), initial=0.0)
    if not keep.any() or not np.isfinite(g).all():
        return None
    if np.iscomplexobj(g):
        ratio = complex(np.vdot(w, g) / np.vdot(w, w))
        factor: Any = ratio.real if abs(ratio.imag) < 1e-6 * abs(ratio) else ratio
    else:
        factor = float(np.median(g[keep] / w[keep]))
    if factor == 0 or not np.isfinite(factor) or abs(factor - 1) < 1e-4:
        return None
    return factor if _same([np.asarray(x) for x in got], [factor * x for x in want]) else None


def _fraction(factor: Any) -> str:
    if isinstance(factor, complex):
        return f"{factor:.5g}"
    near = Fraction(factor).limit_denominator(4096)
    if abs(float(near) - factor) < 1e-5 * abs(factor) and near.denominator > 1 and near.numerator in (1, -1):
        return str(near)
    return f"{factor:.5g}"


def _named_value(factor: float, known: Mapping[str, np.ndarray]) -> str:
    """Says which parameter, or power of one, the factor is."""
    for name, value in known.items() if not isinstance(factor, complex) else ():
        if value.size != 1 or np.iscomplexobj(value) or abs(float(value.ravel()[0])) in (0.0, 1.0):
            continue
        for power, text in ((1, name), (2, f"{name}²"), (-1, f"1/{name}"), (-2, f"1/{name}²")):
            if np.isclose(factor, float(value.ravel()[0]) ** power, rtol=1e-4):
                return f", which is {text}"
    return ""


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

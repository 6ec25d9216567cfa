"""Why a difference from the twin may be no fault: a kink, or a twin that itself loses its digits.

Each is asked only about a difference that lies out of its bound.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.exact import exact_bars
from overbar.check.oracle import Differences, Side
from overbar.check.problem import Arrays, is_complex, random_like
from overbar.check.setting import Compared, Setting

MOST_ENTRIES = 12  # entries that are moved alone, to look at both sides of a kink
SEEN = 8  # units of the working dtype's precision
MOST_EXACT = 400  # numbers in and out that are still evaluated in arbitrary precision


def excused(setting: Setting, compared: Compared) -> str | None:
    """Why everything out of its bound is no fault, or None if it is one."""
    for excuse in (_at_a_kink, _below_its_precision, _twin_cancels, _exactly_right, _as_differences):
        if (reason := excuse(setting, compared)) is not None:
            return reason
    return None


def _outside(compared: Compared) -> list[tuple[int, int, np.ndarray]]:
    """(cotangent, input, which entries) of all that is out of its bound."""
    return [
        (k, i, compared.outside(k, i))
        for k, row in enumerate(compared.differences)
        for i, difference in enumerate(row)
        if difference.ratio > 1
    ]


def _at_a_kink(setting: Setting, compared: Compared) -> str | None:
    """At a kink any value between the one-sided derivatives is right.

    Away from one, the slopes nearby are all the same and nothing lies between them.
    """
    truth, rng = setting.oracle.truth, setting.rng(3)
    outside = _outside(compared)
    if any(
        is_complex(compared.got[k][i]) or not np.isfinite(compared.got[k][i][at]).all()
        for k, i, at in outside
    ):
        return None
    entries = {i: _worst_entries(compared, k, i) for k, i, at in outside}
    step = 1e-6 if truth.wide else 1e-3
    around = [
        moved
        for i, flats in entries.items()
        for flat in flats
        for moved in (_alone(compared.inputs, i, flat, h) for h in (step, -step))
    ]
    if not setting.oracle.by_columns:
        for _ in range(12):
            wide = [bounds.wide(x) for x in compared.inputs]
            drawn = random_like(wide, rng)
            with np.errstate(invalid="ignore"):
                around.append([x + step * (1 + abs(x)) * r for x, r in zip(wide, drawn, strict=True)])
    for k, i, at in outside:
        near = [truth.expect(moved, compared.y_bars[k], {i: entries[i]})[0][i] for moved in around]
        slopes = np.stack([compared.expected[k][i], *map(bounds.wide, near)])
        with np.errstate(invalid="ignore"):
            low, high = np.nanmin(slopes, 0, initial=np.inf), np.nanmax(slopes, 0, initial=-np.inf)
            slack = compared.allowed[k][i] + 1e-4 * np.abs(high - low)
            jumps = np.abs(high - low) > 1e3 * step * (np.abs(high) + np.abs(low)) / 2
            got = compared.got[k][i]
            if (at & ~((got >= low - slack) & (got <= high + slack) & jumps)).any():
                return None
    if any(_off_a_smooth_way(setting, compared, k, outside, step) for k in {k for k, _, _ in outside}):
        return None
    return "at a kink the bar lies between the one-sided derivatives"


def _off_a_smooth_way(
    setting: Setting, compared: Compared, k: int, outside: list[tuple[int, int, np.ndarray]], step: float
) -> bool:
    """Whether the function has one slope along the direction in which the bars differ, and not the rule's.

    Entry by entry each may lie between the one-sided derivatives: the bar of a maximum, in full to every
    entry that is tied. Moved together they have one slope, which is not the sum of their bars.
    """
    direction = [np.zeros(np.shape(x)) for x in compared.inputs]
    for number, i, at in outside:
        if number == k:
            direction[i] = np.where(at, bounds.wide(compared.got[k][i]) - compared.expected[k][i], 0.0)
    largest = max(float(np.max(np.abs(d), initial=0.0)) for d in direction)
    if sum(np.count_nonzero(d) for d in direction) < 2 or not 0 < largest < np.inf:
        return False
    direction = [d / largest for d in direction]

    def values(h: float) -> Arrays:
        moved = [bounds.wide(x) + h * d for x, d in zip(compared.inputs, direction, strict=True)]
        return [bounds.wide(y) for y in setting.oracle.truth.outputs(moved)]

    def along(bars: Arrays) -> float:
        pairs = [(bounds.wide(b), d) for b, d in zip(bars, direction, strict=True) if d.any()]
        return float(sum(np.sum(b[d != 0] * d[d != 0]) for b, d in pairs))

    slope = 0.0
    for b, after, here, before in zip(
        compared.y_bars[k], values(step), values(0.0), values(-step), strict=True
    ):
        right, left = (after - here) / step, (here - before) / step
        noise = 64 * setting.oracle.eps * np.abs(here) / step
        if not (np.abs(right - left) <= noise + 1e-3 * (np.abs(right) + np.abs(left))).all():
            return False  # a kink that way as well, or nothing finite
        slope += float(np.sum(bounds.wide(b) * (right + left) / 2))
    got, expected = along(compared.got[k]), along(compared.expected[k])
    return abs(expected - slope) < abs(got - slope) / 16


def _worst_entries(compared: Compared, k: int, i: int) -> np.ndarray:
    error = bounds.ratios(compared.got[k][i], compared.expected[k][i], compared.allowed[k][i]).ravel()
    worst = np.argsort(-error, kind="stable")[:MOST_ENTRIES]
    return worst[error[worst] > 1]


def _alone(inputs: Arrays, number: int, flat: int, step: float) -> Arrays:
    """The inputs with one entry moved."""
    moved = [bounds.wide(x).copy() for x in inputs]
    moved[number].flat[flat] += step * (1 + abs(moved[number].flat[flat]))
    return moved


def _below_its_precision(setting: Setting, compared: Compared) -> str | None:
    """What float64 shows and the function's own dtype cannot: a truncated series, a solver's tolerance."""
    if not setting.oracle.candidate.wide:
        return None
    eps = max(float(jnp.finfo(x.dtype).eps) for x in setting.problem.inputs)
    for k, i, at in _outside(compared):
        expected = compared.expected[k][i]
        size = np.abs(expected) + bounds.typical(np.where(np.isfinite(expected), np.abs(expected), 0.0))
        with np.errstate(invalid="ignore"):
            if not (np.abs(compared.got[k][i] - expected) <= SEEN * eps * size)[at].all():
                return None
    return "the rule is right to the precision of its dtype, but no further"


def _twin_cancels(setting: Setting, compared: Compared) -> str | None:
    """How far the twin in the working precision is from that in float64 tells the error of the latter."""
    oracle, problem = setting.oracle, setting.problem
    if oracle.by_columns or not oracle.truth.wide:
        return None
    outside = _outside(compared)
    rough = Side(oracle.truth.function, wide=False)
    inputs = [np.asarray(x).astype(own.dtype) for x, own in zip(compared.inputs, problem.inputs, strict=True)]
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(inputs, compared.inputs, strict=True)):
        return None
    for k, i, at in outside:
        try:
            y = rough.like_outputs(inputs)
            lower = [b.astype(v.dtype) for b, v in zip(compared.y_bars[k], y, strict=True)]
            low = bounds.wide(rough.bars(inputs, lower)[i])
            high = bounds.wide(oracle.truth.bars(inputs, lower)[i])
        except Exception:
            return None
        eps = max(float(jnp.finfo(x.dtype).eps) for x in inputs)
        with np.errstate(invalid="ignore", over="ignore"):
            noise = np.where(np.isfinite(low), np.abs(low - high), np.abs(high)) * oracle.eps / eps
            noise = noise + bounds.typical(noise)
            error = np.abs(compared.got[k][i] - compared.expected[k][i])
            if not (error <= compared.allowed[k][i] + 16 * noise)[at].all():
                return None
    return "the twin cancels there: the difference is as small as its own error"


def _exactly_right(setting: Setting, compared: Compared) -> str | None:
    """Beside the truth in arbitrary precision, for small functions: the twin may be what is wrong."""
    oracle = setting.oracle
    size = sum(x.size for x in compared.inputs) + sum(b.size for b in compared.y_bars[0])
    if oracle.by_columns or not oracle.truth.wide or size > MOST_EXACT:
        return None
    for k, i, at in _outside(compared):
        exact = exactly(oracle.truth.function, compared.inputs, compared.y_bars[k])
        if exact is None:
            return None
        got, expected = compared.got[k][i], compared.expected[k][i]
        with np.errstate(invalid="ignore", over="ignore"):
            allowed = 4 * bounds.bound(exact[i], np.zeros(got.shape), oracle.eps)
            lost = np.where(np.isfinite(expected), np.abs(expected - exact[i]), np.inf)
            lost = lost + bounds.typical(np.where(np.isfinite(lost), lost, 0.0))
            if not ((np.abs(got - exact[i]) <= allowed + 16 * lost) | ~np.isfinite(exact[i]))[at].all():
                return None
    return "in arbitrary precision the rule is right, or loses what the twin loses"


def _as_differences(setting: Setting, compared: Compared) -> str | None:
    """The rule has the slope that the function itself has: a twin can have another (a bisection's is 0)."""
    truth = setting.oracle.truth
    if not truth.wide or (setting.oracle.by_columns and not getattr(truth, "forward", False)):
        return None
    slopes = Differences(truth.function, True, forward=False)
    for k, i, at in _outside(compared):
        flats = _worst_entries(compared, k, i)
        if at.sum() > MOST_ENTRIES or not np.isfinite(compared.got[k][i][at]).all():
            return None
        value, error = slopes.expect(compared.inputs, compared.y_bars[k], {i: flats})
        got, size = compared.got[k][i], np.abs(compared.got[k][i])
        close = np.abs(got - value[i]) <= error[i] + 1e-5 * size
        sure = error[i] <= 1e-3 * size
        if not (close & sure)[at].all():
            return None
    return "the rule has the slope of the function itself; that of its twin is another one"


def exactly(function: Any, inputs: Arrays, y_bars: Arrays) -> Arrays | None:
    """The bars from arbitrary precision, or None where that cannot be had."""
    try:
        return exact_bars(function, [bounds.wide(x) for x in inputs], [bounds.wide(b) for b in y_bars])
    except Exception:  # an oracle that fails is none: the finding stands
        return None

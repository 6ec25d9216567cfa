"""In the dtypes that people train with: no digits are lost that the twin keeps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.oracle import Side
from overbar.check.problem import Arrays, is_complex
from overbar.check.report import Line
from overbar.check.setting import Setting
from overbar.check.units.signature import follows_dtype

LOST = 64  # times the twin's own error


def digits(setting: Setting) -> Line:
    """In float32, bfloat16 and float16, the error beside the twin's own; both beside the twin in float64.

    Where the twin loses its digits too it is a remark.
    """
    oracle, problem = setting.oracle, setting.problem
    if setting.findings:
        return Line("digits", "left out", note="follows from what is wrong above")
    if not setting.values or oracle.by_columns or not (oracle.truth.wide and oracle.candidate.wide):
        return Line("digits", "left out")
    if any(map(is_complex, problem.inputs)):
        dtypes: list[Any] = [None]
    else:
        dtypes = [None, *(d for d in (jnp.bfloat16, jnp.float16) if _takes(setting, d))]
    worst, notes = 0.0, []
    for dtype in dtypes:
        if setting.late:
            break
        inputs = [x if dtype is None else x.astype(dtype) for x in problem.inputs]
        name = jnp.dtype(inputs[0].dtype).name
        try:
            ratio, line, ulp = _in_one(setting, inputs, name)
        except Exception:
            continue  # the twin does not run in this dtype
        if line is not None:
            return line
        worst = max(worst, ratio)
        notes.append(f"{name} {ulp[0]:.2g} ULP (twin {ulp[1]:.2g})")
    return Line("digits", "ok" if notes else "left out", worst if notes else None, ", ".join(notes))


def _takes(setting: Setting, dtype: Any) -> bool:
    return follows_dtype(setting, [x.astype(dtype) for x in setting.problem.inputs])


def _in_one(setting: Setting, inputs: Arrays, dtype: str) -> tuple[float, Line | None, tuple[float, float]]:
    oracle, problem = setting.oracle, setting.problem
    rule, twin = Side(problem.function(), False), Side(oracle.truth.function, False)
    y_like = rule.like_outputs(inputs)
    low = [b.astype(y.dtype) for b, y in zip(next(setting.cotangents(inputs)), y_like, strict=True)]
    truth = oracle.candidate.bars(inputs, low)  # the same as the twin's, but for kinks
    got, kept = rule.bars(inputs, low), twin.bars(inputs, low)
    nudged = oracle.candidate.bars([bounds.wide(x) * (1 + bounds.NUDGE) for x in inputs], low)
    worst, ulp = 0.0, (0.0, 0.0)
    for name, g, k, t, n in zip(problem.names, got, kept, truth, nudged, strict=True):
        eps = float(jnp.finfo(g.dtype).eps)
        g, k, t = map(bounds.wide, (g, k, t))
        ours, twins = np.abs(g - t), np.abs(k - t)
        # What the twin loses anywhere in the leaf may be lost here too: which entry it hits is chance.
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            lost = np.nanmax(np.where(np.abs(t) > 0, twins / np.abs(t), 0.0), initial=0.0)
            least = 1e3 * float(jnp.finfo(inputs[0].dtype).tiny)
            allowed = LOST * (twins + lost * np.abs(t)) + bounds.bound(t, n - t, eps / 4, least)
        t = np.where(np.isfinite(k), t, np.nan)  # where the twin overflows nothing is claimed
        difference = bounds.compare(g, t, allowed)
        worst = max(worst, difference.ratio)
        if difference.ratio > 1 and np.nanmax(ours, initial=0.0) > 0:
            what = f"digits of the bar of {name} are lost in {dtype} that the twin keeps"
            summed = any(np.size(y) > g.size for y in low)
            cause = "precision is lost before a sum" if summed else "precision is lost"
            setting.note("digits", what, name, difference, f"{cause}: {what}")
            return worst, Line("digits", "wrong", worst, dtype), ulp
        ulp = (max(ulp[0], _ulp(ours, t, eps)), max(ulp[1], _ulp(twins, t, eps)))
    if min(ulp) > 1e3:
        setting.remark(f"in {dtype} both the rule and its twin lose digits on this sample ({ulp[0]:.2g} ULP)")
    return min(worst, 1.0), None, ulp


def _ulp(error: np.ndarray, truth: np.ndarray, eps: float) -> float:
    """The median entry's error in units of the last place."""
    at = np.isfinite(truth) & (truth != 0) & np.isfinite(error)
    return float(np.median(error[at] / (eps / 2 * np.abs(truth[at])))) if at.any() else 0.0

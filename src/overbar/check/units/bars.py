"""The bars on the sample: against the oracle, and linear in the incoming bar."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.cause import PROBES, nonlinear_cause
from overbar.check.excuses import excused
from overbar.check.explain import finding_of
from overbar.check.problem import Arrays
from overbar.check.report import Line
from overbar.check.setting import Setting, compare_bars


def agreement(setting: Setting) -> Line:
    """The bars are the oracle's, under random cotangents and under each output's alone."""
    if not setting.values:
        return Line("bars", "left out", note="declared intentional: values are not compared")
    compared = compare_bars(setting, setting.problem.inputs)
    if compared.ratio > 1:
        reason = excused(setting, compared)
        if reason is None:
            setting.findings.append(finding_of(setting, "bars", compared, "on the sample"))
            return Line("bars", "wrong", compared.ratio)
        setting.remark(reason)
    setting.compared[0] += compared.nonzero
    if not compared.nonzero:
        nothing = "every bar is zero or undefined on this sample: nothing to compare"
        return Line("bars", "unknown", note=nothing)
    return Line("bars", "ok", min(compared.ratio, 1.0), f"{compared.nonzero} entries")


def linear(setting: Setting) -> Line:
    """Linear in the incoming bar: additive, 0 for 0, and the same when it is huge, tiny or of mixed sizes."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    cotangents = setting.cotangents(inputs)
    first, second = next(cotangents), next(cotangents)
    eps = max(bounds.EPS64 if side.wide else setting.oracle.eps, setting.loose)
    graded_by = (-1, 1) if setting.loose else (-6, 3)
    grades = [10 ** setting.rng(4).uniform(*graded_by, b.shape) for b in first]
    graded = [(b * s).astype(b.dtype) for b, s in zip(first, grades, strict=True)]

    def bars(s: float, other: Arrays | None = None, t: float = 0.0) -> Arrays:
        others = first if other is None else other
        mixed = [
            (s * bounds.wide(p) + t * bounds.wide(q)).astype(p.dtype)
            for p, q in zip(first, others, strict=True)
        ]
        return [bounds.wide(x) for x in side.bars(inputs, mixed)]

    alone = {id(None): bars(1)}
    a = alone[id(None)]
    parts = {"second": [bounds.wide(x) for x in side.bars(inputs, second)]}
    parts["graded"] = [bounds.wide(x) for x in side.bars(inputs, graded)]
    trials: list[tuple[float, float, str]] = [
        (1, 1, "second"),
        (0, 0, "second"),
        (0, 1, "graded"),
        (1, 1, "graded"),
    ]
    trials += [(s, 0, "second") for s in _sizes(setting)]
    worst = 0.0
    for s, t, which in trials:
        other = second if which == "second" else graded
        for i, (name, got, p, q) in enumerate(
            zip(setting.problem.names, bars(s, other, t), a, parts[which], strict=True)
        ):
            want, size = s * p + t * q, np.abs(s * p) + np.abs(t * q)
            allowed = bounds.bound(want, 0.0, 8 * eps) + 64 * eps * size
            allowed = allowed + 64 * eps * np.sqrt(np.mean(size**2)) if size.size else allowed
            if not side.wide:
                allowed = allowed + 1e3 * max(1.0, abs(s)) * float(jnp.finfo(inputs[i].dtype).tiny)
            difference = bounds.compare(got, want, allowed)
            worst = max(worst, difference.ratio)
            if difference.ratio > 1:
                what = f"the bar of {name} is not linear in the incoming bar"
                cause = nonlinear_cause(
                    [bars(m)[i] for m in PROBES], a[i], parts["second"][i], bars(s)[i] if not t else None, s
                )
                setting.note("linear", what, name, difference, cause)
                return Line("linear", "wrong", worst)
    return Line("linear", "ok", worst)


def _sizes(setting: Setting) -> list[float]:
    """How much larger and smaller the bars are made: what the narrowest type in play can hold well."""
    if setting.loose:
        return []  # it stops at a tolerance, which may be an absolute one
    dtypes = [x.dtype for x in setting.problem.inputs]
    if not setting.oracle.candidate.wide and any(d == jnp.float16 for d in dtypes):
        return [8.0, 0.125]
    return [3e4, 1e-4, 1e8, 1e-8] if setting.oracle.candidate.wide else [3e4, 1e-4]

"""The second derivative: the backward is itself differentiated."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.oracle import Side, bars_of, compiled
from overbar.check.problem import Arrays, random_like
from overbar.check.report import Line
from overbar.check.setting import Compared, Setting, add
from overbar.check.units.signature import first_line


def second_order(setting: Setting) -> Line:
    """Reverse over reverse, and forward over reverse, against the twin's."""
    oracle, problem = setting.oracle, setting.problem
    if setting.findings:
        return Line("second order", "left out", note="follows from what is wrong above")
    if not setting.values or setting.declared or oracle.by_columns or setting.late or setting.loose:
        return Line("second order", "left out")
    directions = random_like(problem.inputs, setting.rng(8))
    y_bars = next(setting.cotangents(problem.inputs))
    try:
        expected = oracle.truth.second(problem.inputs, y_bars, directions)
    except Exception:
        return Line("second order", "left out", note="the twin has none")
    nudged = [bounds.wide(x) * (1 + bounds.NUDGE) for x in problem.inputs]
    near = oracle.truth.second(nudged, y_bars, directions)
    rough = _rough(setting, directions, y_bars)
    ways = {
        "reverse over reverse": lambda: oracle.candidate.second(problem.inputs, y_bars, directions),
        "forward over reverse": lambda: _forward(oracle.candidate, problem.inputs, y_bars, directions),
    }
    worst, done = 0.0, []
    for way, second in ways.items():
        names = [*problem.names, *(f"the bar of output {number}" for number in range(len(y_bars)))]
        try:
            got = second()
        except Exception as error:
            setting.remark(f"the backward cannot be differentiated, {way}: {first_line(error)}")
            continue
        done.append(way)
        compared = Compared(problem.inputs, [y_bars])
        noise = [np.abs(r - bounds.wide(e)) for r, e in zip(rough, expected, strict=True)] if rough else None
        eps = oracle.eps / max(float(jnp.finfo(x.dtype).eps) for x in problem.inputs)
        allowed = [
            bounds.bound(bounds.wide(e), (n - e) if oracle.truth.wide else 0.0, 64 * oracle.eps)
            + (64 * eps * (noise[i] + bounds.typical(noise[i])) if noise else 0.0)
            for i, (e, n) in enumerate(zip(expected, near, strict=True))
            if i < len(got)
        ]
        add(setting, compared, got, expected[: len(got)], allowed)
        worst = max(worst, min(compared.ratio, 1.0))
        if compared.ratio > 1 and not _kink(setting, compared):
            k, i = compared.worst
            name = names[i]
            what = f"the second derivative by {name} is wrong ({way})"
            setting.note("second order", what, name, compared.differences[k][i], _cause(compared, i))
            return Line("second order", "wrong", compared.ratio, way)
    if not done:
        return Line("second order", "left out", note="the backward cannot be differentiated")
    return Line("second order", "ok", worst, " and ".join(done))


def _forward(side: Side, inputs: Arrays, y_bars: Arrays, directions: Arrays) -> Arrays:
    """The change of the bars along the directions: the same numbers, by the symmetry of the Hessian."""

    def change(xs: Arrays, bars: Arrays, vs: Arrays) -> Arrays:
        return list(jax.jvp(lambda *xs: bars_of(side.function)(list(xs), bars), tuple(xs), tuple(vs))[1])

    return side.call(compiled(change), inputs, y_bars, directions)


def _rough(setting: Setting, directions: Arrays, y_bars: Arrays) -> Arrays | None:
    """The twin's second derivative in the working dtype, to see its error by."""
    oracle = setting.oracle
    if not oracle.truth.wide:
        return None
    try:
        side = Side(oracle.truth.function, wide=False)
        y = side.like_outputs(setting.problem.inputs)
        lower = [b.astype(v.dtype) for b, v in zip(y_bars, y, strict=True)]
        return [bounds.wide(x) for x in side.second(setting.problem.inputs, lower, directions)]
    except Exception:
        return None


def _kink(setting: Setting, compared: Compared) -> bool:
    """At a kink of the first derivative the second one is anything; there the sample is moved a little.

    What is left of the difference on the moved sample is no kink's.
    """
    rng, oracle = setting.rng(9), setting.oracle
    moved = [
        (bounds.wide(x) + 1e-3 * (1 + np.abs(x)) * r).astype(x.dtype)
        for x, r in zip(compared.inputs, random_like(compared.inputs, rng), strict=True)
    ]
    directions = random_like(compared.inputs, setting.rng(8))
    y_bars = compared.y_bars[0]
    try:
        got = oracle.candidate.second(moved, y_bars, directions)
        expected = oracle.truth.second(moved, y_bars, directions)
    except Exception:
        return False
    return all(
        bounds.compare(g, e, 1e-4 * np.abs(e) + 1e-6 * np.max(np.abs(e), initial=0.0) + 1e-300).ratio <= 1
        for g, e in zip(got, expected, strict=True)
    )


def _cause(compared: Compared, i: int) -> str:
    if not compared.got[0][i].any():
        return "the backward is cut off from its inputs (stop_gradient, or a constant): its derivative is 0"
    return (
        "the second derivative: a part of the backward is cut off (stop_gradient, or a constant), or rounded"
    )

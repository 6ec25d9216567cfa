"""Away from the sample: other numbers, other integers and options, other shapes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from overbar._adapter import map_jaxprs, opened, scan_counts
from overbar.check.excuses import excused
from overbar.check.explain import finding_of
from overbar.check.points import other_arguments, other_shapes, other_values, resized
from overbar.check.problem import Arrays, Problem
from overbar.check.report import Finding, Line
from overbar.check.setting import Setting, compare_bars
from overbar.check.units.signature import cause_of_types, first_line

MANY = 10  # points at which a derivative that is 0 everywhere must have been seen to be so
BY_COLUMNS = 6  # points where each costs as many evaluations as there are entries


def values(setting: Setting) -> Line:
    """Other numbers: each sign, magnitudes, zeros, ties, infinities, each input away from its own."""
    if (skipped := _left_out(setting, "values")) is not None:
        return skipped
    worst, tried, compared_entries, finite = 0.0, 0, 0, 0
    problem = setting.problem
    near = has_while(jax.make_jaxpr(problem.function())(*problem.inputs))
    for label, inputs in other_values(setting.problem, setting.rng(5), near):
        if setting.late or (setting.oracle.by_columns and tried >= BY_COLUMNS):
            break
        try:
            compared = compare_bars(setting, inputs, 2)
        except Exception:
            continue  # the primal does not take such values
        tried += 1
        compared_entries += compared.nonzero
        finite += sum(d.compared for row in compared.differences for d in row)
        setting.compared[0] += compared.nonzero
        if compared.ratio > 1:
            reason = excused(setting, compared)
            if reason is None:
                setting.findings.append(finding_of(setting, "values", compared, f"at {label}"))
                return Line("values", "wrong", compared.ratio, label)
            setting.remark(f"{reason} ({label})")
        worst = max(worst, min(compared.ratio, 1.0))
    if not compared_entries and tried >= MANY and finite:
        setting.compared[0] += finite
        return Line("values", "ok", worst, f"0 at all of {tried} other points")
    if not compared_entries:
        return Line("values", "left out", note="nothing could be compared away from the sample")
    return Line("values", "ok", worst, f"{tried} other points")


def arguments(setting: Setting) -> Line:
    """Other integers, keys, flags and numbers in the place of those that have no bar."""
    if (skipped := _left_out(setting, "arguments")) is not None:
        return skipped

    def outputs(leaves: list[Any]) -> Arrays:
        problem = setting.problem
        return problem.with_others(problem.inputs, leaves).function()(*problem.inputs)

    settings = (
        (label, setting.problem.with_others(setting.problem.inputs, leaves))
        for label, leaves in other_arguments(setting.problem, outputs, setting.rng(6))
    )
    worst, tried = 0.0, 0
    for label, problem in settings:
        if setting.late:
            break
        line, ratio = _elsewhere(setting, problem, label, "arguments", loud=False)
        if line is not None:
            return line
        if ratio is not None:
            worst, tried = max(worst, ratio), tried + 1
    if not tried:
        return Line("arguments", "left out", note="nothing else to try")
    return Line("arguments", "ok", worst, f"{tried} other arguments")


def shapes(setting: Setting) -> Line:
    """Other shapes than the sample's: sizes that are equal in it are changed together."""
    if (skipped := _left_out(setting, "shapes")) is not None:
        return skipped
    worst, tried = 0.0, 0
    for label, kind, problem in other_shapes(setting.problem, setting.rng(7)):
        if setting.late:
            break
        if kind == "large" and setting.loose:
            continue  # an iteration need not converge there
        line, ratio = _elsewhere(setting, problem, label, "shapes", loud=kind in ("size", "one"))
        if line is not None and (reason := _outside_its_domain(setting, kind, label, problem)) is not None:
            del setting.findings[:]
            setting.remark(f"{reason} ({label})")
            continue
        if line is not None:
            return line
        if ratio is not None:
            worst, tried = max(worst, ratio), tried + 1
    if not tried:
        return Line("shapes", "left out", note="the function takes no other shapes")
    return Line("shapes", "ok", worst, f"{tried} other shapes")


def _outside_its_domain(setting: Setting, kind: str, label: str, problem: Problem) -> str | None:
    """Why a shape in which the rule is wrong may be none that it is meant for, or None.

    An odd size is meant for odd ones (a kernel with a middle) if the next odd one is right; what fails at
    size 1 and at 2 as well is too small; and one more axis counts only where the primal takes it as a batch.
    """
    if kind == "axis":
        return (
            None
            if _takes_a_batch(setting.problem, problem)
            else "the primal takes one more axis, but not as a batch"
        )
    if kind in ("size", "large") and _ignored(setting, problem):
        return "the primal ignores what is beyond the sample's size"
    if kind not in ("size", "one"):
        return None
    size, new = (int(n) for n in re.findall(r"\d+", label))
    if kind == "size" and size % 2:
        again, reason = size + 2, "right for odd sizes, wrong for an even one"
    elif kind == "one" and new == 1 and size > 2:
        again, reason = 2, "wrong for very small sizes"
    else:
        return None
    trial = replace(setting, findings=[], remarks=[])
    other = resized(setting.problem, size, again, setting.rng(7))
    line, ratio = _elsewhere(trial, other, label, "shapes", loud=True)
    wrong_again = line is not None
    if kind == "size":
        return reason if ratio is not None and not wrong_again else None
    return reason if wrong_again else None


def _ignored(setting: Setting, problem: Problem) -> bool:
    """Whether the true bars of all that a larger size adds are 0: the function is meant for one size."""
    try:
        there = setting.at(problem)
        bars = there.oracle.truth.expect(problem.inputs, next(there.cotangents(problem.inputs)))[0]
    except Exception:
        return False
    for bar, before in zip(bars, setting.problem.inputs, strict=True):
        for axis, (new, old) in enumerate(zip(bar.shape, before.shape, strict=True)):
            if new > old > 1 and not np.take(bar, range(old, new), axis).any() and np.any(bar):
                return True
    return False


def _takes_a_batch(before: Problem, after: Problem) -> bool:
    """Whether the function of one more axis is the function mapped over it, or all of it taken together."""
    grown = [0 if np.ndim(a) > np.ndim(b) else None for a, b in zip(after.inputs, before.inputs, strict=True)]
    plain = after.function()
    try:
        got = [np.asarray(y) for y in plain(*after.inputs)]
    except Exception:
        return False
    for axis in (0, -1):
        try:
            axes = [None if g is None else axis for g in grown]
            mapped = [np.asarray(y) for y in jax.vmap(plain, in_axes=axes, out_axes=axis)(*after.inputs)]
        except Exception:
            continue
        if all(_like_one_of(g, (m, m.mean(axis), m.sum(axis))) for g, m in zip(got, mapped, strict=True)):
            return True
    flat = [np.ravel(x) if g == 0 else x for x, g in zip(after.inputs, grown, strict=True)]
    try:
        together = [np.asarray(y) for y in plain(*flat)]
    except Exception:
        return False
    return all(_like_one_of(g.ravel(), (t.ravel(),)) for g, t in zip(got, together, strict=True))


def _like_one_of(y: np.ndarray, others: tuple[np.ndarray, ...]) -> bool:
    return any(y.shape == o.shape and np.allclose(y, o, rtol=1e-3, atol=1e-5, equal_nan=True) for o in others)


def _elsewhere(
    setting: Setting, problem: Problem, label: str, check: str, loud: bool
) -> tuple[Line | None, float | None]:
    """The comparison at another problem: (the line if it is wrong there, the worst ratio if it was compared).

    Args:
      loud: whether a rule that raises there, where its twin does not, is wrong; else it is a remark.
    """
    try:
        there = setting.at(problem)
        if check == "shapes" and _broadcast(setting, there):
            return None, None
        y_bars = next(there.cotangents(problem.inputs))
        there.oracle.truth.expect(problem.inputs, y_bars)
    except Exception:
        return None, None  # the primal does not take such arguments
    try:
        compared = compare_bars(there, problem.inputs, 2)
    except Exception as error:
        what = f"differentiating fails with {label}, where the function itself and its twin do not"
        if not loud:
            setting.remark(f"{what}: {first_line(error)}")
            return None, None
        name, cause = cause_of_types(problem, str(error))
        told = cause or f"a size is hard-coded: {what}: {first_line(error)}"
        setting.findings.append(Finding(check, what, input=name, cause=told))
        return Line(check, "wrong", note=label), None
    if compared.ratio > 1:
        reason = excused(there, compared)
        if reason is None:
            finding = finding_of(there, check, compared, f"with {label}", setting.problem)
            setting.findings.append(finding)
            return Line(check, "wrong", compared.ratio, label), None
        setting.remark(f"{reason} ({label})")
    setting.compared[0] += compared.nonzero
    return None, min(compared.ratio, 1.0) if compared.differences else None


def _left_out(setting: Setting, check: str) -> Line | None:
    if not setting.values:
        return Line(check, "left out", note="declared intentional")
    if setting.findings:  # what is wrong on the sample is wrong everywhere: it would tell nothing new
        return Line(check, "left out", note="follows from what is wrong above")
    if setting.late:
        return Line(check, "left out", note="out of time")
    return None


def has_while(jaxpr: Any) -> bool:
    """Whether the function iterates: away from the sample it may never end, or not converge."""
    found = False

    def look(jaxpr: Any) -> Any:
        nonlocal found
        for eqn in opened(jaxpr)[0].eqns:
            steps = eqn.primitive.name == "scan" and len(eqn.invars) == sum(scan_counts(eqn))
            found = found or eqn.primitive.name == "while" or steps
            map_jaxprs(look, eqn.params)
        return jaxpr

    look(jaxpr)
    return found


def _broadcast(setting: Setting, there: Setting) -> bool:
    """Whether a size that the inputs no longer have is still in the output: it comes from a constant."""
    before = {n for x in setting.problem.inputs for n in np.shape(x)}
    after = {n for x in there.problem.inputs for n in np.shape(x)}
    left = {n for y in there.oracle.candidate.like_outputs(there.problem.inputs) for n in y.shape}
    return bool((before - after) & left)

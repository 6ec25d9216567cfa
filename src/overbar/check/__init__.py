"""Says whether a hand-written gradient is right: `overbar.check(f, *args)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from overbar.check import units
from overbar.check.blame import Found, rules_in
from overbar.check.oracle import choose
from overbar.check.problem import CannotCheck, Problem
from overbar.check.report import Finding, Line, Report

__all__ = ["Finding", "Line", "Report", "assert_correct", "check"]


def check(
    f: Callable[..., Any],
    *args: Any,
    like: Callable[..., Any] | None = None,
    intentional: bool = False,
    effort: Literal["quick", "normal"] = "normal",
    seed: int = 0,
    **kwargs: Any,
) -> Report:
    """Checks the hand-written backward rules in a function, whoever wrote them.

    Args:
      f: any JAX function: a `Rule`, a bare custom_vjp function, a whole model.
      args, kwargs: sample arguments of any kind: arrays, pytrees, integers, keys, None, static values.
        The float and complex arrays are what bars are checked for; Python floats where there is no
        array.
      like: another function of the same arguments whose derivative is the right one, for a backward
        that differs from the primal's on purpose.
      intentional: the backward differs on purpose and nothing says how (straight-through, clipping):
        structure, linearity and transforms are checked, values are not.
      effort: "quick" leaves out other values, other shapes, second order and lost digits.
      seed: of the random cotangents and points.

    Returns:
      A `Report`, with the verdict "correct", "wrong" or "inconclusive" (with the reason: a function
      that raises, has no float input or no rule in it is not checked).

    Not looked at so far: forward over reverse, more leading axes, extreme indices, sharding, and the
    bytes of the residuals. Rules inside a loop's body are checked as part of the whole, not by
    themselves.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x**2
    >>> square.defvjp(lambda x: (x**2, x), lambda x, y_bar: (x * y_bar,))
    >>> report = check(square, jnp.array([1.0, 2.0, 3.0]))
    >>> report.verdict
    'wrong'
    >>> report.findings[0].cause
    'a constant factor of 1/2'
    """
    subject = getattr(f, "__name__", repr(f))
    try:
        problem = Problem(f, args, kwargs, _parameters(f))
    except CannotCheck as error:
        return Report(subject, "inconclusive", str(error), "")
    try:
        problem.function()(*map(jnp.asarray, problem.inputs))
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        return Report(
            subject, "inconclusive", f"the function raises {type(error).__name__}: {first[:200]}", ""
        )
    found = rules_in(problem)
    report = _check_problem(subject, problem, like, intentional, effort, seed, found)
    if report.verdict != "wrong" and not found and like is None:
        return Report(
            subject, "inconclusive", "no custom_vjp rule was found in it", report.oracle, (), report.lines
        )
    if report.verdict == "wrong" and len(found) > 1:
        report = _blame(report, found, effort, seed)
    return report


def assert_correct(f: Callable[..., Any], *args: Any, **options: Any) -> None:
    """For tests: raises AssertionError, with the report, unless `check(f, *args, **options)` is correct.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> assert_correct(nn.sigmoid, jnp.array([0.5, -2.0]), effort="quick")
    """
    check(f, *args, **options).raise_if_wrong()


def _check_problem(
    subject: str,
    problem: Problem,
    like: Callable[..., Any] | None,
    intentional: bool,
    effort: str,
    seed: int,
    found: list[Found],
) -> Report:
    oracle = choose(problem, like)
    setting = units.Setting(problem, oracle, not intentional, seed)
    lines = [unit(setting) for unit in (units.QUICK if effort == "quick" else units.ALL)]
    sources = tuple(dict.fromkeys(rule.source for rule in found))
    guilty = sources[0] if len(sources) == 1 else None
    findings = tuple(
        Finding(**{**vars(finding), "rule": finding.rule or guilty}) for finding in setting.findings
    )
    if findings:
        return Report(subject, "wrong", "", oracle.name, sources, tuple(lines), findings)
    unknown = [line for line in lines if line.status == "unknown"]
    if unknown:
        return Report(subject, "inconclusive", unknown[0].note, oracle.name, sources, tuple(lines))
    return Report(subject, "correct", "", oracle.name, sources, tuple(lines))


def _blame(report: Report, found: list[Found], effort: str, seed: int) -> Report:
    """Checks each rule by itself on the values that flow into it; the first wrong one is to blame."""
    findings: list[Finding] = []
    for rule in found:
        try:
            problem = rule.problem()
            if problem is None:
                continue
            alone = _check_problem(rule.source, problem, None, False, "quick", seed, [rule])
        except Exception:
            continue  # a rule that cannot be run alone: the finding on the whole function stays
        findings += alone.findings
    return Report(
        report.subject, "wrong", "", report.oracle, report.rules, report.lines, (*findings, *report.findings)
    )


def _parameters(f: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        return []

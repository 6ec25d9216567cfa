"""Says whether a hand-written gradient is right: `overbar.check(f, *args)`."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from overbar._adapter import custom_jvp_functions
from overbar.check import units
from overbar.check.blame import Found, distinct, is_the_rule, rules_in
from overbar.check.oracle import Oracle, Side, bars_of, choose, precision
from overbar.check.problem import CannotCheck, Problem, is_float_array, random_like
from overbar.check.progress import Progress, TooSlow, at_most
from overbar.check.report import Finding, Line, Report
from overbar.check.setting import Setting, compare_bars
from overbar.check.units.bars import linear
from overbar.check.units.elsewhere import has_while
from overbar.check.units.signature import cause_of_types, first_line
from overbar.twin import keeping

__all__ = ["Finding", "Line", "Report", "assert_correct", "check"]

TOLERANCE = 256  # times the working precision: what people's solvers stop at
MOST_IN_PLACE = 8  # rules of a model that are also checked each by itself


def check(
    f: Callable[..., Any],
    *args: Any,
    like: Callable[..., Any] | None = None,
    intentional: bool = False,
    effort: Literal["quick", "normal"] = "normal",
    seed: int = 0,
    time_limit: float = 60.0,
    progress: bool | None = None,
    **kwargs: Any,
) -> Report:
    """Checks the hand-written backward rules in a function, whoever wrote them.

    The bars are compared with those of the twin (the function without its rules, differentiated by
    JAX) in float64, or with the strongest truth that can be had; the report says which. Where mpmath is
    installed, arbitrary precision has the last word on small functions. Every
    comparison has a bound that comes from the arithmetic. Checked are: structure, forward, linearity
    in the incoming bar, the bars, vmap; and, with effort "normal", other values, integers, options and
    shapes than the sample's, scan, checkpoint, nested jit and eager runs, purity, second derivatives
    (reverse and forward over reverse), half precision, several devices, and what is kept for backward.
    Every rule in a model is also checked by itself on the values that flow into it.

    Args:
      f: any JAX function: a `Rule`, a bare custom_vjp function, a custom_jvp function, a whole model.
      args, kwargs: sample arguments of any kind: arrays, pytrees, integers, keys, None, static values.
        The float and complex arrays are what bars are checked for; Python floats too where f takes
        arrays in their place, but those may have no bar (taken for constants). A keyword of f that is
        named as one of the options here must be bound first (functools.partial).
      like: another function of the same arguments whose derivative is the right one, for a backward
        that differs from the primal's on purpose.
      intentional: the backward differs on purpose and nothing says how (straight-through, clipping):
        structure and transforms are checked, linearity is only remarked upon, values are not checked.
      effort: "quick" for a test suite: structure, forward, linearity, the bars on the sample, vmap.
      seed: of the random cotangents and points.
      time_limit: in seconds; a first call that takes longer is given up, and no new check begins later.
      progress: whether to say on the standard error what is being done; by default on a terminal.

    Returns:
      A `Report` with the verdict "correct", "wrong" or "inconclusive" (with the reason). Where nothing
      can be checked (a function that raises, has no float input or output, no rule in it, changes its
      shape from call to call, takes too long) it is inconclusive and `report.checked` is False.

    Raises:
      TypeError: f is no function. ValueError: another effort than the two.

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
    if not callable(f):
        raise TypeError(f"check takes a function, but came {f!r}.")
    if effort not in ("quick", "normal"):
        raise ValueError(f'effort must be "quick" or "normal", but came {effort!r}.')
    subject = getattr(f, "__name__", None) or type(f).__name__
    began = time.monotonic()
    told = Progress(subject, progress)
    run = _Run(subject, like, intentional, effort, seed, began + time_limit, told)
    try:
        with at_most(time_limit):
            problem = _sampled(f, args, kwargs)
            # The steps that follow begin no new point after the deadline, and end by themselves.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a function's own, at values that it was not written for
            report = run.of(problem)
    except CannotCheck as error:
        report = Report(subject, "inconclusive", str(error), "", checked=False)
    except TooSlow:
        reason = f"the function takes too long: one call is not done after {time_limit:g} s"
        report = Report(subject, "inconclusive", reason, "", checked=False)
    finally:
        told.clear()
    return replace(report, seconds=time.monotonic() - began)


def assert_correct(f: Callable[..., Any], *args: Any, **options: Any) -> None:
    """For tests: raises AssertionError, with the report, unless `check(f, *args, **options)` is correct.

    >>> import jax.numpy as jnp
    >>> from overbar import nn
    >>> assert_correct(nn.sigmoid, jnp.array([0.5, -2.0]), effort="quick")
    """
    check(f, *args, **options).raise_if_wrong()


def _sampled(f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Problem:
    """The problem, once the function itself has been seen to work on its sample."""
    problem = Problem(f, args, kwargs, _parameters(f))
    try:
        results = jax.tree.leaves(f(*args, **kwargs))
        again = jax.tree.leaves(f(*args, **kwargs))
    except TooSlow:
        raise
    except Exception as error:
        raise CannotCheck(f"the function raises {first_line(error)}") from error
    shapes, shapes_again = (
        [(np.shape(y), str(getattr(y, "dtype", ""))) for y in ys] for ys in (results, again)
    )
    if shapes != shapes_again:
        raise CannotCheck(f"the function changes shape from call to call: {shapes}, then {shapes_again}")
    if not any(is_float_array(y) for y in results):
        raise CannotCheck("the function returns no float array, so that there is nothing to differentiate")
    try:
        jax.eval_shape(lambda xs: problem.function()(*xs), problem.inputs)
    except Exception as error:
        raise CannotCheck(
            f"the function cannot be traced by JAX (its control flow depends on values?): {first_line(error)}"
        ) from error
    return problem


@dataclass
class _Run:
    """One check: the options, and what is done with them for each problem that comes up."""

    subject: str
    like: Callable[..., Any] | None
    intentional: bool
    effort: str
    seed: int
    deadline: float
    told: Progress

    def of(self, problem: Problem) -> Report:
        self.told.say("looking for its rules")
        found = distinct(rules_in(problem))
        if not found and self.like is None:
            reason = "no custom_vjp rule was found in it, nor a custom_jvp one that is not JAX's own"
            return Report(self.subject, "inconclusive", reason, "", checked=False)
        sources = tuple(dict.fromkeys(rule.source for rule in found))
        alone = len(found) == 1 and is_the_rule(problem)
        if (failed := _not_differentiable(problem)) is not None:
            findings = [] if alone else self._in_place(found)
            if not alone and not findings and not _rules_fault(failed):
                raise CannotCheck(f"the function cannot be differentiated in reverse: {failed}")
            findings = findings or [_structural(problem, failed, sources[0] if len(sources) == 1 else None)]
            line = Line("structure", "wrong", note=findings[0].what)
            return Report(self.subject, "wrong", "", "", sources, [line], findings)
        report = self._compared(problem, sources, self.like)
        if not alone and not self.intentional and self.like is None:
            report = self._blamed(report, problem, found)
        return report

    def _compared(self, problem: Problem, sources: Sequence[str], like: Callable[..., Any] | None) -> Report:
        oracle = choose(problem, like)
        loose = _iteration(problem, oracle)
        setting = Setting(problem, oracle, not self.intentional, self.seed, self.deadline, loose)
        setting.declared = like is not None
        lines = []
        for unit in units.QUICK if self.effort == "quick" else units.ALL:
            self.told.say(unit.__name__.replace("_", " "))
            lines.append(self._line(unit, setting))
        guilty = sources[0] if len(sources) == 1 else None
        findings = [replace(finding, rule=finding.rule or guilty) for finding in setting.findings]
        findings.sort(key=_telling)
        elsewhere = setting.compared[0] > 0
        lines = [_resolved(line) if line.check == "bars" and elsewhere else line for line in lines]
        unknown = [line for line in lines if line.status == "unknown"]
        if findings:
            verdict: Literal["correct", "wrong", "inconclusive"] = "wrong"
        else:
            verdict = "inconclusive" if unknown else "correct"
        reason = unknown[0].note if verdict == "inconclusive" else ""
        return Report(
            self.subject, verdict, reason, oracle.name, sources, lines, findings, tuple(setting.remarks)
        )

    def _line(self, unit: units.Check, setting: Setting) -> Line:
        """One check's line. One that cannot be made leaves the others standing."""
        if self.intentional and unit is linear:
            trial = replace(setting, findings=[])
            line = unit(trial)
            if trial.findings:
                setting.remark(f"{trial.findings[0].what}: {trial.findings[0].cause} (declared intentional)")
                return Line(line.check, "left out", line.worst, "declared intentional")
            return line
        try:
            return unit(setting)
        except Exception as error:
            return Line(unit.__name__, "unknown", note=f"this check itself failed: {first_line(error)}")

    def _blamed(self, report: Report, problem: Problem, found: list[Found]) -> Report:
        """Adds what each rule does by itself on the values that flow into it: it names the rule."""
        self.told.say("each rule in its place")
        whole_is_right = report.verdict != "wrong"
        untaken = [rule for rule in found if not rule.taken]
        findings = self._in_place(untaken if whole_is_right else found)
        known = {finding.rule for finding in findings}
        whole = [
            finding if finding.rule else replace(finding, rule=self._guilty(problem, found, known))
            for finding in report.findings
        ]
        findings += whole
        if not findings:
            return report
        return replace(report, verdict="wrong", reason="", findings=findings)

    def _in_place(self, found: list[Found]) -> list[Finding]:
        findings: list[Finding] = []
        for rule in found[:MOST_IN_PLACE]:
            if time.monotonic() > self.deadline:
                break
            problem = rule.problem()
            if problem is None:
                continue
            try:
                if (failed := _not_differentiable(problem)) is not None:
                    findings.append(_structural(problem, failed, rule.source))
                    continue
                oracle = choose(problem, None, wide=False)
                loose = _iteration(problem, oracle)
                setting = Setting(problem, oracle, True, self.seed, self.deadline, loose)
                for unit in units.QUICK if self.effort == "quick" else units.IN_PLACE:
                    unit(setting)
            except Exception:
                continue  # a rule that cannot be run alone: the findings on the whole function stay
            findings += [
                replace(finding, rule=rule.source) for finding in sorted(setting.findings, key=_telling)
            ]
        return findings

    def _guilty(self, problem: Problem, found: list[Found], known: set[str | None]) -> str | None:
        """The rule with which alone, the others taken out, the function is still wrong on its sample."""
        if known:
            return next(iter(known))
        users = custom_jvp_functions(problem.function(), problem.inputs)
        guilty = []
        for rule in {rule.key: rule for rule in found}.values():
            try:
                oracle = choose(problem, None)
                kept = Side(keeping(problem.function(), rule.key, users), oracle.candidate.wide)
                setting = Setting(problem, replace(oracle, candidate=kept), True, self.seed)
                if compare_bars(setting, problem.inputs).ratio > 1:
                    guilty.append(rule.source)
            except Exception:
                continue
        return guilty[0] if len(guilty) == 1 else None


def _resolved(line: Line) -> Line:
    """Bars that are all zero on the sample leave no doubt once others were compared elsewhere."""
    if line.status != "unknown" or not line.note.startswith("every bar"):
        return line
    return Line("bars", "left out", note=f"{line.note} (they were compared elsewhere)")


def _telling(finding: Finding) -> int:
    """Structure first; what is not linear explains the bars that are wrong; then the rest as it came."""
    return {"structure": 0, "forward": 1, "linear": 2}.get(finding.check, 3)


def _iteration(problem: Problem, oracle: Oracle) -> float:
    """The relative precision of a function, or a backward, that iterates to a tolerance; 0 of others."""
    y_bars = random_like(
        Side(problem.function(), False).like_outputs(problem.inputs), np.random.default_rng(0)
    )
    side = oracle.candidate
    with precision(side.wide):
        jaxpr = jax.make_jaxpr(bars_of(side.function))(side.cast(problem.inputs), side.cast(y_bars))
    if not has_while(jaxpr) and not has_while(jax.make_jaxpr(problem.function())(*problem.inputs)):
        return 0.0
    return TOLERANCE * max(float(jax.numpy.finfo(x.dtype).eps) for x in problem.inputs)


def _not_differentiable(problem: Problem) -> str | None:
    """Why differentiating raises, in its working dtype, under jit; None if it does not."""
    side = Side(problem.function(), wide=False)
    y_bars = random_like(side.like_outputs(problem.inputs), np.random.default_rng(0))
    try:
        with precision(False):
            jax.eval_shape(lambda xs, bars: jax.vjp(side.function, *xs)[1](bars), problem.inputs, y_bars)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip()}"
    return None


def _rules_fault(message: str) -> bool:
    return "Custom VJP" in message or "custom_vjp" in message or "leaked" in message


def _structural(problem: Problem, message: str, rule: str | None) -> Finding:
    """The finding that a rule makes which JAX itself refuses when it is differentiated."""
    short = message.splitlines()[0][:400]
    what = f"differentiating raises {short}"
    name, told = cause_of_types(problem, short)
    cause = what
    if told is not None:
        cause = told
    elif "structure" in short or "tuple" in short:
        cause = f"structure: backward returns another number or tree of bars than there are inputs ({short})"
    elif "Tracer" in message.split(":")[0]:
        cause = f"it does not work under jit: control flow on values, or a value of another trace ({short})"
    return Finding("structure", what, rule=rule, input=name, cause=cause)


def _parameters(f: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(f).parameters)
    except (TypeError, ValueError):
        return []

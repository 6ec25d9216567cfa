"""The checks, each a small function of a `Setting`; it returns a line for the report, with its findings.

A check compares by a bound, never by a fixed tolerance, and says "wrong" only for what lies outside
it. What could not be compared is said so.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.cause import PROBES, likely_cause, nonlinear_cause
from overbar.check.oracle import Differences, Oracle, Side, precision
from overbar.check.points import other_shapes, other_values
from overbar.check.problem import Arrays, Problem, random_like, widened
from overbar.check.report import Finding, Line


@dataclass
class Setting:
    """What every check is given.

    Attributes:
      problem: the function and its sample.
      oracle: the two sides of every comparison.
      values: whether the bars should be the oracle's (not so for what is declared intentional).
      findings: what is wrong so far; a check adds to it.
    """

    problem: Problem
    oracle: Oracle
    values: bool
    seed: int = 0
    findings: list[Finding] = field(default_factory=list)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def cotangents(self, inputs: Arrays) -> Iterator[Arrays]:
        """Random bars of the outputs: three of all together, then of each output alone."""
        y = self.oracle.candidate.outputs(inputs)
        rng = self.rng()
        for _ in range(3):
            yield random_like(y, rng)
        if len(y) > 1:
            for alone in range(len(y)):
                drawn = random_like(y, rng)
                yield [b if i == alone else np.zeros_like(b) for i, b in enumerate(drawn)]

    def note(self, check: str, what: str, name: str, worst: bounds.Difference, cause: str | None) -> None:
        """Adds the finding that a difference out of its bound makes."""
        self.findings.append(Finding(check, what, None, name, worst.index, worst.got, worst.expected, cause))


Check = Callable[[Setting], Line]


@dataclass
class Compared:
    """The bars of all inputs at one point, under several cotangents, beside the truth."""

    inputs: Arrays
    got: list[Arrays]
    expected: list[Arrays]
    differences: list[list[bounds.Difference]]  # by cotangent, by input

    @property
    def worst(self) -> tuple[int, int]:
        """(cotangent, input) of the largest error."""
        places = [(k, i) for k, row in enumerate(self.differences) for i in range(len(row))]
        return max(places, key=lambda place: self.differences[place[0]][place[1]].ratio)

    @property
    def ratio(self) -> float:
        return self.differences[self.worst[0]][self.worst[1]].ratio

    @property
    def nonzero(self) -> int:
        return sum(d.nonzero for row in self.differences for d in row)


def compare_bars(setting: Setting, inputs: Arrays, cotangents: Sequence[Arrays]) -> Compared:
    oracle, rng = setting.oracle, setting.rng()
    compared = Compared(inputs, [], [], [])
    for y_bars in cotangents:
        got, expected = oracle.candidate.bars(inputs, y_bars), oracle.truth.bars(inputs, y_bars)
        spread = oracle.spread(inputs, y_bars, expected, rng)
        compared.got.append(got)
        compared.expected.append(expected)
        compared.differences.append(
            [
                bounds.compare(g, e, bounds.bound(np.asarray(e), s, oracle.eps))
                for g, e, s in zip(got, expected, spread, strict=True)
            ]
        )
    return compared


def finding_of(setting: Setting, check: str, compared: Compared, at: str) -> Finding:
    """The finding that the worst difference makes, with its likely cause."""
    k, i = compared.worst
    difference = compared.differences[k][i]
    names = setting.problem.names
    sizes = {n: np.shape(x) for n, x in zip(names, compared.inputs, strict=True)}
    for number, y in enumerate(setting.oracle.candidate.outputs(compared.inputs)):
        sizes[f"output {number}"] = np.shape(y)
    cause = likely_cause(
        names[i],
        [np.asarray(row[i]) for row in compared.got],
        {n: [np.asarray(row[j]) for row in compared.expected] for j, n in enumerate(names)},
        sizes,
    )
    return Finding(
        check,
        f"the bar of {names[i]} is wrong {at}",
        input=names[i],
        where=difference.index,
        got=difference.got,
        expected=difference.expected,
        cause=cause,
    )


# ---------------------------------------------------------------------- the checks


def structure(setting: Setting) -> Line:
    """Shape and dtype of every bar, as differentiation itself delivers them."""
    side = Side(setting.problem.function(), wide=False)
    y = side.outputs(setting.problem.inputs)
    found = side.bars(setting.problem.inputs, random_like(y, setting.rng()))
    for name, x, bar in zip(setting.problem.names, setting.problem.inputs, found, strict=True):
        if bar.shape != x.shape or bar.dtype != x.dtype:
            came = f"{bar.dtype}{list(bar.shape)}"
            what = f"the bar of {name} is {came}, but the input is {x.dtype}{list(x.shape)}"
            setting.findings.append(Finding("structure", what, input=name, cause=what))
            return Line("structure", "wrong", note=what)
    return Line("structure", "ok", note=f"{len(found)} bars")


def forward(setting: Setting) -> Line:
    """The value that differentiation computes on the way is the function's own."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    with precision(side.wide):
        cast = [widened(x) if side.wide else jnp.asarray(x) for x in inputs]
        on_the_way = [np.asarray(y) for y in jax.jit(lambda xs: jax.vjp(side.function, *xs)[0])(cast)]
    worst = 0.0
    for number, (got, own) in enumerate(zip(on_the_way, side.outputs(inputs), strict=True)):
        eps = max(setting.oracle.eps if not side.wide else 2.3e-16, float(jnp.finfo(own.dtype).eps))
        difference = bounds.compare(got, own, bounds.bound(own, np.zeros(own.shape), eps))
        worst = max(worst, difference.ratio)
        if difference.ratio > 1:
            what = f"forward computes another output {number} than the function itself"
            setting.note("forward", what, f"output {number}", difference, what)
            return Line("forward", "wrong", worst, what)
    return Line("forward", "ok", worst)


def agreement(setting: Setting) -> Line:
    """The bars are the oracle's, under random cotangents and under each output's alone."""
    if not setting.values:
        return Line("bars", "left out", note="declared intentional: values are not compared")
    compared = compare_bars(setting, setting.problem.inputs, list(setting.cotangents(setting.problem.inputs)))
    if compared.ratio > 1 and not _explained_by_a_kink(setting, compared):
        setting.findings.append(finding_of(setting, "bars", compared, "on the sample"))
        return Line("bars", "wrong", compared.ratio)
    if not compared.nonzero:
        return Line(
            "bars", "unknown", note="every bar is zero or undefined on this sample: nothing to compare"
        )
    return Line("bars", "ok", compared.ratio, f"{compared.nonzero} entries")


def linear(setting: Setting) -> Line:
    """Linear in the incoming bar: additive, 0 for 0, and the same when it is huge or tiny."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    first, second, *_ = setting.cotangents(inputs)
    eps = 2.3e-16 if side.wide else setting.oracle.eps

    def bars(s: float, t: float = 0.0) -> Arrays:
        mixed = [(s * p + t * q).astype(p.dtype) for p, q in zip(first, second, strict=True)]
        return [np.asarray(x, np.result_type(x.dtype, np.float64)) for x in side.bars(inputs, mixed)]

    a, b = bars(1), bars(0, 1)
    worst = 0.0
    for s, t in [(1, 1), (0, 0), (3e4, 0), (1e-4, 0)]:
        for name, got, p, q in zip(setting.problem.names, bars(s, t), a, b, strict=True):
            want, size = s * p + t * q, np.abs(s * p) + np.abs(t * q)
            allowed = bounds.bound(want, np.zeros(want.shape), 8 * eps) + 64 * eps * size
            difference = bounds.compare(got, want, allowed)
            worst = max(worst, difference.ratio)
            if difference.ratio > 1:
                i = setting.problem.names.index(name)
                what = f"the bar of {name} is not linear in the incoming bar"
                cause = nonlinear_cause([bars(s)[i] for s in PROBES], a[i], b[i])
                setting.note("linear", what, name, difference, cause)
                return Line("linear", "wrong", worst)
    return Line("linear", "ok", worst)


def values(setting: Setting) -> Line:
    """Other values than the sample's: each sign, magnitudes, zeros, ties, each input away from its own."""
    if not setting.values:
        return Line("values", "left out", note="declared intentional")
    if setting.findings:
        return _follows("values")
    worst, tried = 0.0, 0
    for label, inputs in other_values(setting.problem, setting.rng()):
        try:
            compared = compare_bars(setting, inputs, list(itertools.islice(setting.cotangents(inputs), 2)))
        except Exception:
            continue  # the primal does not take such values
        tried += 1
        if compared.ratio > 1 and not _explained_by_a_kink(setting, compared):
            setting.findings.append(finding_of(setting, "values", compared, f"at {label}"))
            return Line("values", "wrong", compared.ratio, label)
        worst = max(worst, min(compared.ratio, 1.0))
    return Line("values", "ok", worst, f"{tried} other points")


def shapes(setting: Setting) -> Line:
    """Other shapes than the sample's: sizes that are equal in it are changed together."""
    if not setting.values:
        return Line("shapes", "left out", note="declared intentional")
    if setting.findings:
        return _follows("shapes")
    worst, tried = 0.0, 0
    for label, problem in other_shapes(setting.problem, setting.rng()):
        try:
            there = Setting(problem, setting.oracle.at(problem), True, setting.seed)
            there.oracle.truth.bars(problem.inputs, next(there.cotangents(problem.inputs)))
        except Exception:
            continue  # the primal does not take such shapes
        tried += 1
        try:
            compared = compare_bars(
                there, problem.inputs, list(itertools.islice(there.cotangents(problem.inputs), 2))
            )
        except Exception as error:
            what = f"differentiating fails with {label}, where the function itself and its twin do not"
            setting.findings.append(
                Finding("shapes", what, cause=f"{what}: {str(error).splitlines()[0][:200]}")
            )
            return Line("shapes", "wrong", note=label)
        if compared.ratio > 1 and not _explained_by_a_kink(there, compared):
            setting.findings.append(finding_of(there, "shapes", compared, f"with {label}"))
            return Line("shapes", "wrong", compared.ratio, label)
        worst = max(worst, min(compared.ratio, 1.0))
    return Line("shapes", "ok" if tried else "left out", worst if tried else None, f"{tried} other shapes")


def second_order(setting: Setting) -> Line:
    """Reverse over reverse, against the twin's."""
    oracle, inputs = setting.oracle, setting.problem.inputs
    if setting.findings:
        return _follows("second order")
    if not setting.values or isinstance(oracle.truth, Differences):
        return Line("second order", "left out")
    y_bars = next(setting.cotangents(inputs))
    directions = random_like(inputs, setting.rng())
    try:
        expected = oracle.truth.second(inputs, y_bars, directions)
    except Exception:
        return Line("second order", "left out", note="the twin has none")
    try:
        got = oracle.candidate.second(inputs, y_bars, directions)
    except Exception as error:
        note = f"the backward cannot be differentiated: {str(error).splitlines()[0][:80]}"
        return Line("second order", "left out", note=note)
    nudged = [np.asarray(x) * (1 + bounds.NUDGE) for x in inputs]
    worst = 0.0
    for name, g, e, n in zip(
        setting.problem.names, got, expected, oracle.truth.second(nudged, y_bars, directions), strict=True
    ):
        spread = n - e if oracle.truth.wide else np.zeros(e.shape)
        difference = bounds.compare(g, e, bounds.bound(e, spread, 64 * oracle.eps))
        worst = max(worst, difference.ratio)
        if difference.ratio > 1:
            what = f"the second derivative by {name} is wrong: backward cannot be differentiated as it stands"
            setting.note("second order", what, name, difference, what)
            return Line("second order", "wrong", worst)
    return Line("second order", "ok", worst)


def transforms(setting: Setting) -> Line:
    """jit = eager, the same twice, and vmap over every mix of batched inputs = a loop."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    y_bars = next(setting.cotangents(inputs))
    want = side.bars(inputs, y_bars)
    eps = 2.3e-16 if side.wide else setting.oracle.eps
    with precision(side.wide):
        cast = widened if side.wide else jnp.asarray
        xs, bars = [cast(x) for x in inputs], [cast(b) for b in y_bars]

        def pull(xs: Arrays, bars: Arrays) -> Arrays:
            y, pullback = jax.vjp(side.function, *xs)
            return list(pullback([b.astype(a.dtype) for a, b in zip(y, bars, strict=True)]))

        runs = {"run eagerly": pull(xs, bars), "run again": side.bars(inputs, y_bars)}
        for mix in _mixes(len(xs)):
            batch = [jnp.stack([x, 1.25 * x]) if batched else x for x, batched in zip(xs, mix, strict=True)]
            try:
                got = jax.vmap(pull, in_axes=([0 if m else None for m in mix], None))(batch, bars)
            except NotImplementedError:
                continue  # a primitive without a batched form: a callback, a kernel
            runs[f"under vmap over inputs {[i for i, m in enumerate(mix) if m]}"] = [g[0] for g in got]
    worst = 0.0
    for label, got in runs.items():
        for name, g, w in zip(setting.problem.names, got, want, strict=True):
            w = np.asarray(w)
            difference = bounds.compare(g, w, bounds.bound(w, np.zeros(w.shape), 64 * eps))
            worst = max(worst, difference.ratio)
            if difference.ratio > 1:
                what = f"the bar of {name} is another one when {label}"
                setting.note("transforms", what, name, difference, what)
                return Line("transforms", "wrong", worst, label)
    return Line("transforms", "ok", worst, f"{len(runs)} ways")


def digits(setting: Setting) -> Line:
    """In the working dtype, no digits are lost that the twin in that dtype keeps."""
    oracle, problem = setting.oracle, setting.problem
    if setting.findings:
        return _follows("digits")
    if not setting.values or not (oracle.truth.wide and oracle.candidate.wide):
        return Line("digits", "left out")
    rule, twin = Side(problem.function(), False), Side(oracle.truth.function, False)
    y_bars = next(setting.cotangents(problem.inputs))
    try:
        low = [random.astype(y.dtype) for random, y in zip(y_bars, rule.outputs(problem.inputs), strict=True)]
        truth = oracle.candidate.bars(problem.inputs, low)  # the same as the twin's, but for kinks
        got, kept = rule.bars(problem.inputs, low), twin.bars(problem.inputs, low)
    except Exception:
        return Line("digits", "left out", note="the twin does not run in the working dtype")
    worst = 0.0
    for name, g, k, t in zip(problem.names, got, kept, truth, strict=True):
        eps = float(jnp.finfo(g.dtype).eps)
        g, k = (np.asarray(v, np.result_type(v.dtype, np.float64)) for v in (g, k))
        ours, twins = np.abs(g - t), np.abs(k - t)
        # What the twin loses anywhere in the leaf may be lost here too: which entry it hits is chance.
        with np.errstate(invalid="ignore", divide="ignore"):
            lost = np.nanmax(np.where(np.abs(t) > 0, twins / np.abs(t), 0.0), initial=0.0)
        allowed = 64 * (twins + lost * np.abs(t)) + bounds.bound(t, np.zeros(t.shape), eps)
        difference = bounds.compare(g, t, allowed)
        worst = max(worst, difference.ratio)
        if difference.ratio > 1 and np.nanmax(ours) > 0:
            what = f"digits of the bar of {name} are lost in the working dtype that the twin keeps"
            setting.note("digits", what, name, difference, what)
            return Line("digits", "wrong", worst)
    return Line("digits", "ok", worst)


QUICK: tuple[Check, ...] = (structure, forward, linear, transforms, agreement)
ALL: tuple[Check, ...] = (
    structure,
    forward,
    linear,
    transforms,
    agreement,
    values,
    shapes,
    second_order,
    digits,
)


def _follows(check: str) -> Line:
    """What is wrong on the sample is wrong everywhere: another finding of it would tell nothing new."""
    return Line(check, "left out", note="follows from what is wrong above")


def _mixes(number: int) -> list[tuple[bool, ...]]:
    """All inputs batched, and each of them alone: what a missing batch rule of one input shows in."""
    alone = [tuple(i == j for j in range(number)) for i in range(number)]
    return [*dict.fromkeys([(True,) * number, *alone])][:6]


def _explained_by_a_kink(setting: Setting, compared: Compared) -> bool:
    """Whether every entry out of its bound lies between the slopes of the truth around the point.

    At a kink the truth itself jumps: any value between its one-sided derivatives is right. Away
    from one, the slopes nearby are all the same and nothing lies between them.
    """
    oracle, rng = setting.oracle, setting.rng()
    if isinstance(oracle.truth, Differences):
        return False
    y_bars = list(itertools.islice(setting.cotangents(compared.inputs), len(compared.got)))
    step = 1e-6 if oracle.truth.wide else 1e-3
    around: list[list[Arrays]] = [[] for _ in y_bars]
    for _ in range(12):
        moved = [
            np.asarray(x) + step * (1 + np.abs(x)) * r
            for x, r in zip(compared.inputs, random_like(compared.inputs, rng), strict=True)
        ]
        for k, bars in enumerate(y_bars):
            around[k].append(oracle.truth.bars(moved, bars))
    for k, row in enumerate(compared.differences):
        for i, difference in enumerate(row):
            if difference.ratio <= 1:
                continue
            near = np.stack([np.asarray(bars[i]) for bars in around[k]])
            got = np.asarray(compared.got[k][i])
            if np.iscomplexobj(near) or not np.isfinite(got).all():
                return False
            low, high = near.min(0), near.max(0)
            slack = bounds.bound(
                np.asarray(compared.expected[k][i]), np.zeros(got.shape), oracle.eps
            ) + 1e-4 * (high - low)
            with np.errstate(invalid="ignore"):
                outside = (got < low - slack) | (got > high + slack)
            if outside.any():
                return False
    return True

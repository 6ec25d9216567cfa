"""What every check is given, and the comparison that most of them make."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.oracle import Oracle
from overbar.check.problem import Arrays, Problem, is_complex, random_like
from overbar.check.report import Finding


@dataclass
class Setting:
    """What every check is given.

    Attributes:
      problem: the function and its sample.
      oracle: the two sides of every comparison.
      values: whether the bars should be the oracle's (not so for what is declared intentional).
      seed: of everything random.
      loose: the relative precision of a function that iterates to a tolerance; else 0.
      declared: whether another function's derivative is meant, of which nothing is said beyond the first.
      deadline: when no new point is to be begun, by time.monotonic.
      findings: what is wrong so far; a check adds to it.
      remarks: what is no fault, but worth a line.
      compared: how many entries that are not 0 were compared so far, anywhere.
      scale: the size of each bar on the sample, for incoming bars of size 1. What is far below it (far out
        on a saturated function) may be made of numbers of that size, and have their rounding.
    """

    problem: Problem
    oracle: Oracle
    values: bool
    seed: int = 0
    deadline: float = float("inf")
    loose: float = 0.0
    declared: bool = False
    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    compared: list[int] = field(default_factory=lambda: [0])
    scale: list[float] = field(default_factory=list)

    def at(self, problem: Problem) -> Setting:
        """The same for other arguments; findings and remarks go to the same lists."""
        return replace(self, problem=problem, oracle=self.oracle.at(problem))

    def rng(self, stream: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    @property
    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def cotangents(self, inputs: Arrays) -> Iterator[Arrays]:
        """Random bars of the outputs: three of all together, then of each output alone."""
        y = self.oracle.candidate.like_outputs(inputs)
        rng = self.rng(1)
        for _ in range(3):
            yield random_like(y, rng)
        if len(y) > 1:
            for alone in range(len(y)):
                drawn = random_like(y, rng)
                yield [b if i == alone else np.zeros_like(b) for i, b in enumerate(drawn)]

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def note(self, check: str, what: str, name: str, worst: bounds.Difference, cause: str | None) -> None:
        """Adds the finding that a difference out of its bound makes."""
        self.findings.append(Finding(check, what, None, name, worst.index, worst.got, worst.expected, cause))


@dataclass
class Compared:
    """The bars of all inputs at one point, under several cotangents, beside the truth.

    Attributes:
      inputs, y_bars: the point and the cotangents.
      got, expected: the bars, by cotangent and input.
      allowed: the bounds that they were held to.
      differences: the worst entries.
    """

    inputs: Arrays
    y_bars: list[Arrays]
    got: list[Arrays] = field(default_factory=list)
    expected: list[Arrays] = field(default_factory=list)
    allowed: list[Arrays] = field(default_factory=list)
    differences: list[list[bounds.Difference]] = field(default_factory=list)

    @property
    def worst(self) -> tuple[int, int]:
        """(cotangent, input) of the largest error."""
        places = [(k, i) for k, row in enumerate(self.differences) for i in range(len(row))]
        return max(places, key=lambda place: self.differences[place[0]][place[1]].ratio)

    @property
    def ratio(self) -> float:
        return self.differences[self.worst[0]][self.worst[1]].ratio if self.differences else 0.0

    @property
    def nonzero(self) -> int:
        return sum(d.nonzero for row in self.differences for d in row)

    def outside(self, k: int, i: int) -> np.ndarray:
        """Which entries of a bar are out of their bound."""
        return bounds.ratios(self.got[k][i], self.expected[k][i], self.allowed[k][i]) > 1


def compare_bars(setting: Setting, inputs: Arrays, number: int | None = None) -> Compared:
    """The bars at a point beside the truth, under some cotangents or (None) all that there are.

    Where an output is itself not finite nothing is claimed: its cotangent is 0, and a bar may be NaN.
    """
    oracle = setting.oracle
    drawn = list(itertools.islice(setting.cotangents(inputs), number))
    own = oracle.candidate.run(inputs, drawn[0])[0] if drawn else []
    defined = all(np.isfinite(bounds.wide(y)).all() for y in own)
    compared = Compared(inputs, [_where_finite(y_bars, own) for y_bars in drawn])
    for y_bars in compared.y_bars:
        got = oracle.candidate.bars(inputs, y_bars)
        expected, slack = oracle.truth.expect(inputs, y_bars)
        expected = [_in_range(e, g, oracle.candidate.wide) for e, g in zip(expected, got, strict=True)]
        if not defined:
            expected = [
                np.where(np.isfinite(bounds.wide(g)), e, np.nan) for e, g in zip(expected, got, strict=True)
            ]
        spread = oracle.spread(inputs, y_bars, expected, setting.rng(2))
        size = max((bounds.typical(np.abs(bounds.wide(b))) for b in y_bars), default=0.0)
        if len(setting.scale) < len(expected):  # the first comparison is that on the sample
            setting.scale[:] = [bounds.typical(np.abs(_finite(e))) / (size or 1.0) for e in expected]
        floor = max(setting.loose, 1e-2 if oracle.by_columns and not oracle.truth.wide else 0.0)
        allowed = [
            bounds.bound(
                e,
                s,
                oracle.eps,
                _relative(e, floor)
                + own_error
                + _least(g, oracle.candidate.wide)
                + 32 * oracle.eps * scale * size,
            )
            for g, e, s, own_error, scale in zip(got, expected, spread, slack, setting.scale, strict=True)
        ]
        add(setting, compared, got, expected, allowed)
    return compared


def add(setting: Setting, compared: Compared, got: Arrays, expected: Arrays, allowed: Arrays) -> None:
    """Adds what came under one more cotangent. A Python number's bar may also be 0."""
    got = [bounds.wide(g) for g in got]
    for i, soft in enumerate(setting.problem.soft):
        if soft and not got[i].any() and np.any(expected[i]):
            setting.remark(
                f"{setting.problem.names[i]}, a Python number, has no bar: it is taken for a constant"
            )
            got[i] = expected[i]
    compared.got.append(got)
    compared.expected.append([bounds.wide(e) for e in expected])
    compared.allowed.append(allowed)
    compared.differences.append(
        [bounds.compare(g, e, a) for g, e, a in zip(got, expected, allowed, strict=True)]
    )


def _where_finite(y_bars: Arrays, y: Sequence[np.ndarray]) -> Arrays:
    return [
        np.where(np.isfinite(bounds.wide(v)), b, np.zeros_like(b)).astype(b.dtype)
        for b, v in zip(y_bars, y, strict=True)
    ]


def _relative(expected: np.ndarray, precision: float) -> np.ndarray:
    size = np.abs(_finite(expected))
    return precision * (size + bounds.typical(size))


def _finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0.0)


def _in_range(expected: np.ndarray, got: np.ndarray, wide: bool) -> np.ndarray:
    """What the bar's own type cannot hold is not expected of it."""
    if wide or is_complex(got):
        return bounds.wide(expected)
    expected = bounds.wide(expected)
    with np.errstate(invalid="ignore"):
        return np.where(np.abs(expected) < 0.01 * float(jnp.finfo(got.dtype).max), expected, np.nan)


def _least(got: np.ndarray, wide: bool) -> float:
    """Numbers about the smallest of a narrow type lose their digits, or are flushed to 0."""
    return 0.0 if wide else 1e3 * float(jnp.finfo(got.dtype).tiny)

"""What the bars are compared with: the strongest independent truth that can be had.

In order of strength: the twin in float64 beside the rule in float64; the twin in float64 beside the
rule in its working dtype (a rule that insists on it); the twin in the working dtype; and, where
the primal cannot be differentiated in reverse, extrapolated differences of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import custom_jvp_functions
from overbar.check import bounds
from overbar.check.problem import Arrays, Function, Problem, random_like, widened
from overbar.twin import twin

MOST_DIFFERENCES = 60  # entries of one leaf that differences are taken for


@contextlib.contextmanager
def precision(wide: bool) -> Iterator[None]:
    """With 64-bit types on, or as the user has them; warnings of promotion are nobody's concern here."""
    if not wide:
        yield
        return
    with jax.enable_x64(True):
        yield


class Side:
    """One function to be evaluated: the rule's or the oracle's, in float64 or in the working dtype."""

    def __init__(self, function: Function, wide: bool):
        self.function, self.wide = function, wide
        self._outputs = jax.jit(function)
        self._bars = jax.jit(_bars_of(function))
        self._second = jax.jit(_second_of(function))

    def _call(self, compiled: Callable[..., Any], *lists: Arrays) -> Arrays:
        with precision(self.wide):
            cast = widened if self.wide else jnp.asarray
            return [np.asarray(x) for x in compiled(*([cast(x) for x in each] for each in lists))]

    def outputs(self, inputs: Arrays) -> Arrays:
        return self._call(lambda xs: self._outputs(*xs), inputs)

    def bars(self, inputs: Arrays, y_bars: Arrays) -> Arrays:
        return self._call(self._bars, inputs, y_bars)

    def second(self, inputs: Arrays, y_bars: Arrays, directions: Arrays) -> Arrays:
        """The gradient of ⟨x̄, v⟩ by the inputs: reverse over reverse."""
        return self._call(self._second, inputs, y_bars, directions)


def _bars_of(function: Function) -> Callable[[Arrays, Arrays], Arrays]:
    def bars(inputs: Arrays, y_bars: Arrays) -> Arrays:
        y, pullback = jax.vjp(function, *inputs)
        return list(pullback([b.astype(a.dtype) for a, b in zip(y, y_bars, strict=True)]))

    return bars


def _second_of(function: Function) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
    bars = _bars_of(function)

    def second(inputs: Arrays, y_bars: Arrays, directions: Arrays) -> Arrays:
        def slope(inputs: Arrays) -> Any:
            pairs = zip(bars(inputs, y_bars), directions, strict=True)
            return sum(jnp.sum(jnp.real(b * v)) for b, v in pairs)

        return list(jax.grad(slope)(inputs))

    return second


class Differences(Side):
    """The same, by Richardson-extrapolated central differences of the function in float64."""

    def bars(self, inputs: Arrays, y_bars: Arrays) -> Arrays:
        def along(leaf: int, flat: int, h: float) -> float:
            value = []
            for sign in (1, -1):
                moved = [np.array(x, np.float64) for x in inputs]
                moved[leaf].flat[flat] += sign * h
                value.append(sum(np.sum(y * b) for y, b in zip(self.outputs(moved), y_bars, strict=True)))
            return float((value[0] - value[1]) / (2 * h))

        found = []
        for leaf, x in enumerate(inputs):
            bar = np.full(x.shape, np.nan)
            chosen = np.unique(np.linspace(0, x.size - 1, min(x.size, MOST_DIFFERENCES)).astype(int))
            for flat in chosen if x.size else ():
                h = 1e-3 * max(1.0, abs(float(x.flat[flat])))
                bar.flat[flat] = (4 * along(leaf, flat, h / 2) - along(leaf, flat, h)) / 3
            found.append(bar)
        return found


@dataclass
class Oracle:
    """The two sides of every comparison.

    Attributes:
      name: which truth it is, for the report.
      candidate: the function with its rules.
      truth: the function without them.
      eps: the precision that differences between them are measured in.
      make_truth: a problem -> its function without the rules.
    """

    name: str
    candidate: Side
    truth: Side
    eps: float
    make_truth: Callable[[Problem], Function]

    def at(self, problem: Problem) -> Oracle:
        """The same oracle for the same function at other arguments."""
        truth = type(self.truth)(self.make_truth(problem), self.truth.wide)
        return replace(self, candidate=Side(problem.function(), self.candidate.wide), truth=truth)

    def spread(self, inputs: Arrays, y_bars: Arrays, expected: Arrays, rng: np.random.Generator) -> Arrays:
        """How much the true bars change when the inputs change by `bounds.NUDGE`, relatively."""
        if isinstance(self.truth, Differences):
            return [np.zeros(np.shape(e)) for e in expected]
        nudge = bounds.NUDGE if self.truth.wide else 32 * self.eps
        moved = [
            np.asarray(x, np.complex128 if np.iscomplexobj(x) else np.float64) * (1 + nudge * r)
            for x, r in zip(inputs, _signs(inputs, rng), strict=True)
        ]
        changed = self.truth.bars(moved, y_bars)
        with np.errstate(invalid="ignore", over="ignore"):
            return [(c - e) * (bounds.NUDGE / nudge) for c, e in zip(changed, expected, strict=True)]


def _signs(inputs: Arrays, rng: np.random.Generator) -> Arrays:
    return [rng.choice([-1.0, 1.0], np.shape(x)) for x in inputs]


def choose(problem: Problem, like: Callable[..., Any] | None) -> Oracle:
    """The strongest oracle that works for the problem.

    Raises:
      what the function raises in its working dtype.
    """
    function = problem.function()
    users = custom_jvp_functions(problem.function(like), problem.inputs)

    def make_truth(problem: Problem) -> Function:
        return twin(problem.function(like), custom_jvp=users)

    truth = make_truth(problem)
    rng = np.random.default_rng(0)
    working = Side(function, wide=False)
    y = working.outputs(problem.inputs)
    y_bars = random_like(y, rng)
    eps = max((float(jnp.finfo(x.dtype).eps) for x in (*problem.inputs, *y)), default=1e-7)

    wide_truth = Side(truth, wide=True)
    if _works(wide_truth, problem.inputs, y_bars):
        wide = Side(function, wide=True)
        if _works(wide, problem.inputs, y_bars) and not _narrows(wide, problem.inputs, y_bars):
            return Oracle("the twin in float64", wide, wide_truth, 2.3e-16, make_truth)
        return Oracle("the twin in float64, the rule in its own dtype", working, wide_truth, eps, make_truth)
    working_truth = Side(truth, wide=False)
    if _works(working_truth, problem.inputs, y_bars, any_dtype=True):
        return Oracle("the twin in the working dtype", working, working_truth, eps, make_truth)
    differences = Differences(function, wide=_evaluates(wide_truth, problem.inputs))
    step_error = 1e-9 if differences.wide else np.sqrt(eps)
    return Oracle("differences of the primal", working, differences, max(eps, step_error), make_truth)


def _works(side: Side, inputs: Arrays, y_bars: Arrays, any_dtype: bool = False) -> bool:
    """Whether the side gives bars; and in float64, unless any dtype will do."""
    try:
        found = [*side.outputs(inputs), *side.bars(inputs, y_bars)]
    except Exception:
        return False
    return any_dtype or all(x.dtype.itemsize >= 8 for x in found)


def _evaluates(side: Side, inputs: Arrays) -> bool:
    try:
        return all(y.dtype.itemsize >= 8 for y in side.outputs(inputs))
    except Exception:
        return False


def _narrows(side: Side, inputs: Arrays, y_bars: Arrays) -> bool:
    """Whether a function computes in a narrower type than it is given: its digits are then that type's."""
    with precision(True):
        text = str(jax.make_jaxpr(_bars_of(side.function))([*map(widened, inputs)], [*map(widened, y_bars)]))
    return any(f"{dtype}[" in text for dtype in (":f32", ":bf16", ":f16", ":c64"))

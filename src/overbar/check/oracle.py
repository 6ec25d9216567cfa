"""What the bars are compared with: the strongest independent truth that can be had.

In order of strength: the twin in float64 beside the rule in float64; the twin in float64 beside the
rule in its working dtype (a rule that insists on it); the twin in the working dtype; and, where
the primal cannot be differentiated in reverse, its forward derivative or extrapolated differences.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import custom_jvp_functions, map_jaxprs, opened
from overbar.check import bounds
from overbar.check.differences import Columns, forward_slope
from overbar.check.problem import Arrays, Function, Problem, random_like, widened
from overbar.twin import twin


@contextlib.contextmanager
def precision(wide: bool) -> Iterator[None]:
    """With 64-bit types on, or as the user has them; how types promote there is nobody's concern."""
    if not wide:
        yield
        return
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """jax.jit for what is run a few times on small arrays: on the CPU, without most optimisations."""
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=fast)


class Side:
    """One function to be evaluated: the rule's or the oracle's, in float64 or in the working dtype."""

    def __init__(self, function: Function, wide: bool):
        self.function, self.wide = function, wide
        self._run = compiled(_run_of(function))
        self._outputs = compiled(lambda xs: function(*xs))
        self._second = compiled(_second_of(function))
        self._slope = compiled(forward_slope(function))
        self._shapes: dict[Any, list[Any]] = {}

    def cast(self, arrays: Arrays) -> list[Any]:
        return [widened(x) if self.wide else jnp.asarray(x) for x in arrays]

    def call(self, compiled: Callable[..., Any], *lists: Arrays) -> Arrays:
        """A function of lists of arrays, evaluated in this side's precision; NumPy arrays come back."""
        with precision(self.wide):
            results = compiled(*(self.cast(each) for each in lists))
            return jax.tree.map(np.asarray, results)

    def like_outputs(self, inputs: Arrays) -> list[Any]:
        """Shapes and dtypes of the outputs."""
        key = tuple((x.shape, x.dtype) for x in map(np.asarray, inputs))
        if key not in self._shapes:
            with precision(self.wide):
                self._shapes[key] = jax.eval_shape(lambda xs: self.function(*xs), self.cast(inputs))
        return self._shapes[key]

    def run(self, inputs: Arrays, y_bars: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        """The function's own outputs, those that differentiation computes on the way, and the bars."""
        own, y, bars = self.call(self._run, inputs, y_bars)
        return own, y, bars

    def outputs(self, inputs: Arrays) -> Arrays:
        return self.call(self._outputs, inputs)

    def bars(self, inputs: Arrays, y_bars: Arrays) -> Arrays:
        return self.run(inputs, y_bars)[2]

    def second(self, inputs: Arrays, y_bars: Arrays, directions: Arrays) -> Arrays:
        """The gradient of ⟨x̄, v⟩ by the inputs, and by the incoming bars: reverse over reverse."""
        return self.call(self._second, inputs, y_bars, directions)

    def slope(self, inputs: Arrays, direction: Arrays) -> Arrays:
        """The directional derivative, in forward mode."""
        return self.call(self._slope, inputs, direction)

    def expect(
        self, inputs: Arrays, y_bars: Arrays, only: Mapping[int, Iterable[int]] | None = None
    ) -> tuple[Arrays, Arrays]:
        """The bars as the truth has them, with the error that the truth itself may have."""
        found = self.bars(inputs, y_bars)
        return found, [np.zeros(b.shape) for b in found]


def bars_of(function: Function) -> Callable[[Arrays, Arrays], Arrays]:
    def bars(inputs: Arrays, y_bars: Arrays) -> Arrays:
        return _run_of(function)(inputs, y_bars)[2]

    return bars


def _run_of(function: Function) -> Callable[[Arrays, Arrays], tuple[Arrays, Arrays, Arrays]]:
    def run(inputs: Arrays, y_bars: Arrays) -> tuple[Arrays, Arrays, Arrays]:
        y, pullback = jax.vjp(function, *inputs)
        bars = pullback([b.astype(a.dtype) for a, b in zip(y, y_bars, strict=True)])
        return function(*inputs), y, list(bars)

    return run


def _second_of(function: Function) -> Callable[[Arrays, Arrays, Arrays], Arrays]:
    bars = bars_of(function)

    def second(inputs: Arrays, y_bars: Arrays, directions: Arrays) -> Arrays:
        def slope(inputs: Arrays, y_bars: Arrays) -> Any:
            pairs = zip(bars(inputs, y_bars), directions, strict=True)
            return sum(jnp.sum(jnp.real(b * v)) for b, v in pairs)

        by_inputs, by_bars = jax.grad(slope, (0, 1))(inputs, y_bars)
        return [*by_inputs, *by_bars]

    return second


class Differences(Side):
    """The truth by columns: forward mode, or extrapolated differences of the function itself."""

    def __init__(self, function: Function, wide: bool, forward: bool):
        super().__init__(function, wide)
        self.forward = forward
        self._columns = Columns(self.outputs, self.slope if forward else None)

    def bars(self, inputs: Arrays, y_bars: Arrays) -> Arrays:
        return self.expect(inputs, y_bars)[0]

    def expect(
        self, inputs: Arrays, y_bars: Arrays, only: Mapping[int, Iterable[int]] | None = None
    ) -> tuple[Arrays, Arrays]:
        return self._columns.bars(inputs, y_bars, only)


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

    @property
    def by_columns(self) -> bool:
        return isinstance(self.truth, Differences)

    def at(self, problem: Problem) -> Oracle:
        """The same oracle for the same function at other arguments."""
        function = self.make_truth(problem)
        truth: Side
        if isinstance(self.truth, Differences):
            truth = Differences(function, self.truth.wide, self.truth.forward)
        else:
            truth = Side(function, self.truth.wide)
        return replace(self, candidate=Side(problem.function(), self.candidate.wide), truth=truth)

    def spread(self, inputs: Arrays, y_bars: Arrays, expected: Arrays, rng: np.random.Generator) -> Arrays:
        """How much the true bars change when inputs and cotangents change by `bounds.NUDGE`, relatively."""
        if self.by_columns:
            return [np.zeros(np.shape(e)) for e in expected]
        nudge = bounds.NUDGE if self.truth.wide else 32 * self.eps

        def moved(arrays: Arrays) -> Arrays:
            new = [bounds.wide(x) * (1 + nudge * rng.choice([-1.0, 1.0], np.shape(x))) for x in arrays]
            if self.truth.wide:
                return new
            return [m.astype(np.asarray(x).dtype) for m, x in zip(new, arrays, strict=True)]

        changed = self.truth.bars(moved(inputs), moved(y_bars))
        with np.errstate(invalid="ignore", over="ignore"):
            return [
                (bounds.wide(c) - bounds.wide(e)) * (bounds.NUDGE / nudge)
                for c, e in zip(changed, expected, strict=True)
            ]


def choose(problem: Problem, like: Callable[..., Any] | None, wide: bool = True) -> Oracle:
    """The strongest oracle that works for the problem.

    Args:
      wide: whether float64 may be tried (not for a piece of a program that was traced in another type).
    """
    users = custom_jvp_functions(problem.function(like), problem.inputs)

    def make_truth(problem: Problem) -> Function:
        return twin(problem.function(like), custom_jvp=users)

    truth = make_truth(problem)
    working = Side(problem.function(), wide=False)
    y = working.like_outputs(problem.inputs)
    y_bars = random_like(y, np.random.default_rng(0))
    eps = max((float(jnp.finfo(x.dtype).eps) for x in (*problem.inputs, *y)), default=1e-7)

    wide_truth = Side(truth, wide=True)
    if wide and _works(wide_truth, problem.inputs, y_bars):
        narrow = narrowest(wide_truth, problem.inputs, y_bars)
        both = Side(problem.function(), wide=True)
        if _works(both, problem.inputs, y_bars) and not narrowest(both, problem.inputs, y_bars):
            return Oracle("the twin in float64", both, wide_truth, max(bounds.EPS64, narrow), make_truth)
        name = "the twin in float64, the rule in its own dtype"
        return Oracle(name, working, wide_truth, max(eps, narrow), make_truth)
    working_truth = Side(truth, wide=False)
    if _works(working_truth, problem.inputs, y_bars, any_dtype=True):
        return Oracle("the twin in the working dtype", working, working_truth, eps, make_truth)
    return _by_columns(problem, make_truth, working, y_bars, eps, wide)


def _by_columns(
    problem: Problem,
    make_truth: Callable[[Problem], Function],
    working: Side,
    y_bars: Arrays,
    eps: float,
    wide: bool,
) -> Oracle:
    truth = make_truth(problem)
    wide = wide and _evaluates_wide(Side(truth, wide=True), problem.inputs)
    candidate = working
    if wide:
        both = Side(problem.function(), wide=True)
        if _works(both, problem.inputs, y_bars) and not narrowest(both, problem.inputs, y_bars):
            candidate, eps = both, bounds.EPS64
    where = "float64" if wide else "the working dtype"
    forward = Differences(truth, wide, forward=True)
    try:
        forward.slope(problem.inputs, problem.inputs)
    except Exception:
        name = f"extrapolated differences of the primal in {where}"
        return Oracle(name, candidate, Differences(truth, wide, forward=False), eps, make_truth)
    return Oracle(f"the twin in {where}, in forward mode", candidate, forward, eps, make_truth)


def _works(side: Side, inputs: Arrays, y_bars: Arrays, any_dtype: bool = False) -> bool:
    """Whether the side gives bars; and in float64, unless any dtype will do."""
    try:
        own, _, found = side.run(inputs, y_bars)
    except Exception:
        return False
    return any_dtype or all(x.dtype.itemsize >= 8 for x in (*own, *found))


def _evaluates_wide(side: Side, inputs: Arrays) -> bool:
    try:
        return all(y.dtype.itemsize >= 8 for y in side.outputs(inputs))
    except Exception:
        return False


def narrowest(side: Side, inputs: Arrays, y_bars: Arrays) -> float:
    """The precision to which a function that is given float64 rounds on the way; 0 if it does not."""
    worst = 0.0

    def look(jaxpr: Any) -> Any:
        nonlocal worst
        for eqn in opened(jaxpr)[0].eqns:
            if eqn.primitive.name in ("convert_element_type", "reduce_precision"):
                before, after = (v.aval for v in (eqn.invars[0], eqn.outvars[0]))
                if is_float(before) and is_float(after) and _eps(after) > _eps(before):
                    worst = max(worst, _eps(after))
            map_jaxprs(look, eqn.params)
        return jaxpr

    with precision(side.wide):
        look(jax.make_jaxpr(bars_of(side.function))(side.cast(inputs), side.cast(y_bars)))
    return worst


def is_float(aval: Any) -> bool:
    return bool(jnp.issubdtype(aval.dtype, jnp.inexact))


def _eps(aval: Any) -> float:
    return float(jnp.finfo(aval.dtype).eps)

"""Which of the terms of a bar is missing, or has another factor.

In the twin, a value that is used several times gathers one message from each use (the lecture's sum
over the children). Every such message is given a gate, a factor that is ordinarily 1; a wrong bar that
is the right one with a single gate turned names the term.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, jaxpr_as_fun

from overbar._adapter import calls_of, opened, sub_program
from overbar.check.oracle import Side, compiled, is_float
from overbar.check.problem import Arrays, Function

MOST_GATES = 40
MOST_IN_PAIRS = 16
MOST_NUMBERS = 20_000  # in the inputs together

Fits = Callable[[list[np.ndarray]], bool]


def term_at_fault(
    truth: Side, inputs: Arrays, y_bars: list[Arrays], got: list[Arrays], number: int
) -> str | None:
    """The term of the bar of one input that a wrong bar lacks, or has with another factor.

    Args:
      y_bars, got: the cotangents and the bars that came, by cotangent and input.
      number: the input.
    """
    if sum(np.size(x) for x in inputs) > MOST_NUMBERS:
        return None
    gated = _Gated(truth.function)
    want = [np.asarray(truth.bars(inputs, bars)[number]) for bars in y_bars]
    count = truth.call(lambda xs: [jnp.zeros(gated.count(xs))], inputs)[0].size
    if not 0 < count <= MOST_GATES:
        return None
    closed = 1.0 - np.eye(count)

    def rows(xs: Arrays, bars: Arrays, gates: Arrays) -> list[Any]:
        def one(row: Any) -> Any:
            _, pullback = jax.vjp(lambda *xs: gated.run(xs, row), *xs)
            return pullback(bars)[number]

        return [jax.vmap(one)(gates[0])]

    evaluate = compiled(rows)
    without = [truth.call(evaluate, inputs, bars, [closed])[0] for bars in y_bars]
    came = np.concatenate([np.ravel(row[number]) for row in got])
    whole = np.concatenate([np.ravel(w) for w in want])
    explained = []
    for gate in range(count):
        rest = np.concatenate([np.ravel(w[gate]) for w in without])
        term = whole - rest
        size = np.vdot(term, term).real
        if not size > 0 or not np.isfinite(rest).all():
            continue
        factor = float(np.vdot(term, came - rest).real / size)
        if _near(came, rest + factor * term) and not _near(rest, 0 * rest):
            explained.append((factor, gated.labels[gate]))
    if not explained and count <= MOST_IN_PAIRS:
        return _two_missing(truth, evaluate, inputs, y_bars, came, gated.labels)
    return _told(explained)


def _two_missing(
    truth: Side, evaluate: Any, inputs: Arrays, y_bars: list[Arrays], came: np.ndarray, labels: list[str]
) -> str | None:
    """Two terms that are both missing: statistics that are taken for constants."""
    pairs = list(itertools.combinations(range(len(labels)), 2))
    closed = np.ones((len(pairs), len(labels)))
    for row, pair in enumerate(pairs):
        closed[row, list(pair)] = 0.0
    if not pairs:
        return None
    found = [truth.call(evaluate, inputs, bars, [closed])[0] for bars in y_bars]
    for row, (a, b) in enumerate(pairs):
        if _near(came, np.concatenate([np.ravel(f[row]) for f in found])):
            return f"terms are missing: {labels[a]}; and {labels[b]}"
    return None


def _told(explained: list[tuple[float, str]]) -> str | None:
    for factor, text in (
        (0.0, "a term is missing: "),
        (-1.0, "the sign of a term: "),
        (2.0, "a term counted twice: "),
    ):
        for found, label in explained:
            if abs(found - factor) < 1e-4:
                return text + label
    return f"a factor of {explained[0][0]:.5g} on one term: {explained[0][1]}" if explained else None


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    size = np.max(np.abs(b), initial=0.0)
    return bool(np.all(np.abs(a - b) <= 1e-4 * np.abs(b) + 1e-6 * size)) and bool(np.isfinite(a).all())


class _Gated:
    """A function evaluated with a gate on every message to a value that has several."""

    def __init__(self, function: Function):
        self._function = function
        self.labels: list[str] = []

    def count(self, inputs: Arrays) -> int:
        """How many gates there are; `labels` says where they stand."""
        self.run(inputs, None)
        return len(self.labels)

    def run(self, inputs: Any, gates: Any) -> list[Any]:
        self.labels = []
        jaxpr = jax.make_jaxpr(lambda *xs: self._function(*xs))(*inputs)
        inner, consts = opened(jaxpr)
        return self._evaluate(inner, consts, list(inputs), gates)

    def _evaluate(self, jaxpr: Any, consts: list[Any], values: list[Any], gates: Any) -> list[Any]:
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        depends = set(jaxpr.invars)
        known |= zip(jaxpr.invars, values, strict=True)
        uses = Counter(v for eqn in jaxpr.eqns for v in eqn.invars if not isinstance(v, Literal))
        uses.update(v for v in jaxpr.outvars if not isinstance(v, Literal))

        def read(atom: Any, eqn: Any, place: int) -> Any:
            if isinstance(atom, Literal):
                return atom.val
            value = known[atom]
            if uses[atom] < 2 or atom not in depends or not is_float(atom.aval):
                return value
            self.labels.append(_label(eqn, place))
            if gates is None:
                return value
            gate = gates[len(self.labels) - 1]
            return gate * value + jax.lax.stop_gradient((1 - gate) * value)

        for eqn in jaxpr.eqns:
            operands = [read(v, eqn, i) for i, v in enumerate(eqn.invars)]
            body = calls_of(eqn)
            if body is not None:
                inner, inner_consts = opened(body)
                results = self._evaluate(inner, inner_consts, operands, gates)
            else:
                results = jaxpr_as_fun(sub_program(jaxpr, eqn))(*operands)
            if any(not isinstance(v, Literal) and v in depends for v in eqn.invars):
                depends |= set(eqn.outvars)
            known |= zip(eqn.outvars, results, strict=True)
        return [v.val if isinstance(v, Literal) else known[v] for v in jaxpr.outvars]


def _label(eqn: Any, place: int) -> str:
    """What a message comes through: the operation, and the user's line that asked for it."""
    what = f"the one that comes through {eqn.primitive.name}"
    if len(eqn.invars) > 1:
        what += f" (its operand {place})"
    home = (str(Path(jax.__file__).parent), str(Path(__file__).parents[1]))
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if not frame.file_name.startswith((*home, "<")):
            return f"{what}, {Path(frame.file_name).name}:{frame.line_num}"
    return what

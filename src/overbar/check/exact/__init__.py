"""Arbitrary-precision truth: the derivative program that JAX makes, evaluated with mpmath's numbers.

The program is traced in float64 and its equations are evaluated one after the other, a float array
being a NumPy array of mpmath numbers; integers, booleans and keys are what they are in JAX. Its
constants stay the float64 numbers that they are, so that the truth is that of the program. Exponents
have no bounds, so that nothing overflows on the way: only a result that float64 cannot hold is inf.

An evaluation is believed when one with more digits agrees with it. Two would agree on 1 − tanh(200)²
= 0, though: a zero is therefore either known (a constant, a product with a known zero, x − x) or makes
the whole evaluation doubtful, which takes so many digits that float64's smallest number would show.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import opened
from overbar.check.exact.evaluation import Evaluation
from overbar.check.exact.numbers import Array, NotExact, Number, Numbers, nearest
from overbar.check.exact.programs import cost_of, dtypes_of, every_output

__all__ = ["NotExact", "exact_bars", "exact_values"]

MOST = 150_000  # operations of one evaluation, in additions: what takes a second or less in all
AGREEMENT = 25  # decimal digits to which two evaluations must agree
SHOWS_ALL = 400  # digits with which a sum of ordinary terms keeps what float64 could hold


def exact_bars(
    function: Callable[..., Sequence[Any]],
    inputs: Sequence[Any],
    y_bars: Sequence[Any],
    digits: int = 60,
    most: int = MOST,
) -> list[np.ndarray]:
    """Returns the bar of every input, each entry the float64 number that is nearest to the truth.

    Args:
      function: from float arrays to a list of float arrays, without custom_vjp functions: a twin.
      inputs, y_bars: NumPy arrays, float or complex; they are taken exactly.
      digits: decimal digits of the first evaluation; later ones have more.
      most: how many additions one evaluation may cost, or as much as they.

    Returns:
      float64 or complex128 arrays. What float64 cannot hold is inf, what is undefined nan.

    Raises:
      NotExact: mpmath is not installed, JAX cannot differentiate the function, it has an operation
        that is not known here, computes in a narrower type, is too large, or does not settle.
    """

    def bars(inputs: list[Any], y_bars: list[Any]) -> list[Any]:
        y, pullback = jax.vjp(function, *inputs)
        typed = [b.astype(a.dtype) for a, b in zip(jax.tree.leaves(y), y_bars, strict=True)]
        return list(pullback(jax.tree.unflatten(jax.tree.structure(y), typed)))

    return _settled(bars, [inputs, y_bars], digits, most)


def exact_values(
    function: Callable[..., Sequence[Any]], inputs: Sequence[Any], digits: int = 60, most: int = MOST
) -> list[np.ndarray]:
    """Returns the function's outputs, each entry the float64 number nearest to the truth; see exact_bars."""
    return _settled(lambda xs: jax.tree.leaves(function(*xs)), [inputs], digits, most)


def _settled(
    program: Callable[..., list[Any]], lists: Sequence[Sequence[Any]], digits: int, most: int
) -> list[np.ndarray]:
    """Evaluates with more and more digits until two evaluations agree."""
    mp = _context()
    wide = [[_widened(x) for x in each] for each in lists]
    with jax.enable_x64(True):
        jaxpr, arrays = _traced(program, wide), [x for each in wide for x in each]
        dtypes, wanted = dtypes_of(opened(jaxpr)[0].outvars), every_output(jaxpr)
        budget = _Budget(most, jaxpr)
        deep = max(7 * digits, SHOWS_ALL)
        ladder = [digits, digits + AGREEMENT, deep, deep + AGREEMENT]
        before, doubtful = None, False
        for precision in ladder:
            if doubtful and precision < deep:
                continue
            budget.take(precision / digits)
            mp.dps = precision
            numbers = Numbers(mp)
            outputs = Evaluation(numbers, most).run(jaxpr, [numbers.array(x) for x in arrays], wanted)
            results = [numbers.array(x) for x in outputs]
            if before is not None and _agree(mp, before, results, zeros=precision >= deep):
                return [numbers.rounded(x, dtype) for x, dtype in zip(results, dtypes, strict=True)]
            before, doubtful = results, numbers.doubtful
    raise NotExact(f"it does not settle: {deep + AGREEMENT} digits give something else than {deep}")


def _context() -> Any:
    """A context of our own: mpmath's global precision is nobody's to change."""
    try:
        return importlib.import_module("mpmath").MPContext()
    except ImportError:
        raise NotExact("mpmath is not installed") from None


def _widened(x: Any) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.complex128 if jnp.issubdtype(x.dtype, jnp.complexfloating) else np.float64)


def _traced(program: Callable[..., list[Any]], lists: list[list[np.ndarray]]) -> Any:
    try:
        return jax.make_jaxpr(program)(*lists)
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise NotExact(f"JAX cannot make the program: {type(error).__name__}: {first_line}") from error


class _Budget:
    """What may be spent on all evaluations together: three ordinary ones."""

    def __init__(self, most: int, jaxpr: Any):
        self.left = 3.0 * most
        self.cost = cost_of(jaxpr, every_output(jaxpr))
        if self.cost > most:
            raise NotExact(f"it is too large: about {self.cost:.0f} operations, at most {most} are taken")

    def take(self, times: float) -> None:
        self.left -= self.cost * times
        if self.left < 0:
            raise NotExact(f"it is too large: {self.cost:.0f} operations with {times:.0f} times the digits")


def _agree(mp: Any, low: list[Array], high: list[Array], zeros: bool) -> bool:
    """Whether two evaluations are one within AGREEMENT digits, entry by entry.

    Args:
      zeros: whether high has so many digits that an entry of it that float64 takes for 0 is one:
        of a sum that is 0 there is only noise, of which no digits agree.
    """
    tolerance = mp.mpf(10) ** -AGREEMENT

    def same(a: Number, b: Number) -> bool:
        if a == b or (mp.isnan(a) and mp.isnan(b)):
            return True
        if not (mp.isfinite(a) and mp.isfinite(b)):
            return False
        return abs(a - b) <= tolerance * abs(b) or (zeros and nearest(b) == 0)

    pairs = ((a, b) for x, y in zip(low, high, strict=True) for a, b in zip(x.flat, y.flat, strict=True))
    return all(same(a.real, b.real) and same(a.imag, b.imag) for a, b in pairs)

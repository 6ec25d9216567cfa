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

import functools
import importlib
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, opened, scan_counts, source_of

MOST = 150_000  # operations of one evaluation, in additions: what takes a second or less in all
MOST_TRIPS = 10_000  # of one loop
STEP = 6  # what an equation costs however small it is, in additions
AGREEMENT = 25  # decimal digits to which two evaluations must agree
SHOWS_ALL = 400  # digits with which a sum of ordinary terms keeps what float64 could hold
LARGE = 40  # binary exponent of an argument from which exp is inf or 0
FAR = 4000  # binary exponent of an argument that is not reduced modulo π, or another number, any more

Number = Any  # mpmath's mpf or mpc
Array = Any  # a NumPy array: of Numbers, of integers or of booleans; or a JAX array of keys


class NotExact(Exception):
    """A program cannot be evaluated exactly; says why."""


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


# --- the precision that is enough ---


def _settled(
    program: Callable[..., list[Any]], lists: Sequence[Sequence[Any]], digits: int, most: int
) -> list[np.ndarray]:
    """Evaluates with more and more digits until two evaluations agree."""
    mp = _context()
    wide = [[_widened(x) for x in each] for each in lists]
    with jax.enable_x64(True):
        jaxpr, arrays = _traced(program, wide), [x for each in wide for x in each]
        dtypes, wanted = _dtypes(opened(jaxpr)[0].outvars), _all(jaxpr)
        budget = _Budget(most, jaxpr)
        deep = max(7 * digits, SHOWS_ALL)
        ladder = [digits, digits + AGREEMENT, deep, deep + AGREEMENT]
        before, doubtful = None, False
        for precision in ladder:
            if doubtful and precision < deep:
                continue
            budget.take(precision / digits)
            mp.dps = precision
            numbers = _Numbers(mp)
            outputs = _Evaluation(numbers, most).run(jaxpr, [numbers.array(x) for x in arrays], wanted)
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
        self.cost = _cost(jaxpr, _all(jaxpr))
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
        return abs(a - b) <= tolerance * abs(b) or (zeros and _nearest(b) == 0)

    pairs = ((a, b) for x, y in zip(low, high, strict=True) for a, b in zip(x.flat, y.flat, strict=True))
    return all(same(a.real, b.real) and same(a.imag, b.imag) for a, b in pairs)


def _nearest(x: Number) -> float:
    """The float64 number nearest to a real one, also among the subnormal ones; rounds once."""
    if not x or not x.context.isfinite(x):
        return float(x)
    mantissa, exponent = (int(n) for n in x.man_exp)
    bits = mantissa.bit_length() + exponent
    try:  # Python rounds a quotient of integers correctly
        size = (mantissa << max(exponent, 0)) / (1 << max(-exponent, 0)) if -1100 < bits < 1100 else 0.0
    except OverflowError:
        size = math.inf
    return math.copysign(math.inf if bits >= 1100 else size, -1.0 if x < 0 else 1.0)


# --- numbers ---


class _Numbers:
    """mpmath's numbers of one precision under IEEE 754's rules: ±0, ±inf and nan instead of exceptions.

    mpmath has one zero. Here every real zero in an array is one of two objects, and `is` tells its sign.

    Attributes:
      doubtful: whether something came out as zero that may only be smaller than the digits show.
    """

    def __init__(self, mp: Any):
        self.mp, self.doubtful = mp, False
        self.zero, self.minus_zero, self.one = mp.mpf(0), mp.mpf(0), mp.mpf(1)
        self.inf, self.nan = mp.mpf("inf"), mp.mpf("nan")
        self._known: dict[Any, Number] = {}

    # from NumPy and back

    def number(self, x: Any) -> Number:
        """A Python number, exactly; equal ones are one object, so that their difference is known."""
        if isinstance(x, complex):
            return self.mp.mpc(x)
        if x == 0:
            return self.minus_zero if math.copysign(1.0, x) < 0 else self.zero
        if x not in self._known:
            self._known[x] = self.mp.mpf(x)
        return self._known[x]

    def array(self, x: Any) -> Array:
        """A NumPy array of any float, complex, integer or boolean dtype -> an array of numbers."""
        x = np.asarray(x)
        if x.dtype == object:
            return x
        if x.dtype.kind not in "fciub":  # bfloat16 and its like
            x = x.astype(np.float64)
        return self.filled(x.shape, (self.number(v) for v in x.ravel().tolist()))

    def filled(self, shape: Sequence[int], entries: Iterable[Number]) -> Array:
        out = np.empty(math.prod(shape), object)
        out[:] = list(entries)
        return out.reshape(shape)

    def rounded(self, x: Array, dtype: Any) -> np.ndarray:
        """An array of numbers -> the nearest ones of float64 or complex128."""
        if jnp.issubdtype(dtype, jnp.complexfloating):
            entries = [complex(_nearest(v.real), _nearest(v.imag)) for v in x.flat]
            return np.array(entries, np.complex128).reshape(x.shape)
        reals = [-0.0 if v is self.minus_zero else _nearest(v) for v in x.flat]
        return np.array(reals, np.float64).reshape(x.shape)

    # zeros and signs

    def is_real(self, *xs: Number) -> bool:
        return all(type(x) is self.mp.mpf for x in xs)

    def negative(self, x: Number) -> bool:
        return bool(x < 0) or x is self.minus_zero

    def signed(self, size: Number, minus: bool) -> Number:
        """A size, which may be 0, with a sign."""
        if not size:
            return self.minus_zero if minus else self.zero
        return -size if minus else size

    def like(self, result: Number, x: Number) -> Number:
        """A result that has x's sign also where it is 0: that of floor, for one."""
        return result or self.signed(result, self.negative(x))

    def zero_of(self, result: Number, known: bool) -> Number:
        """A result that is 0: known to be, or for all that the digits show."""
        self.doubtful = self.doubtful or not known
        return self.zero if self.is_real(result) else result

    # arithmetic

    def neg(self, x: Number) -> Number:
        if x or not self.is_real(x):
            return -x
        return self.zero if x is self.minus_zero else self.minus_zero

    def add(self, x: Number, y: Number) -> Number:
        if y is self.zero or y is self.minus_zero:
            return y if x is self.minus_zero else x
        if x is self.zero or x is self.minus_zero:
            return y
        total = x + y
        return total or self.zero_of(total, known=not x and not y)

    def sub(self, x: Number, y: Number) -> Number:
        if x is y and self.is_real(x) and self.mp.isfinite(x):
            return self.zero
        return self.add(x, self.neg(y))

    def mul(self, x: Number, y: Number) -> Number:
        product = x * y
        if product or not self.is_real(product):
            return product
        return self.signed(product, self.negative(x) != self.negative(y))

    def div(self, x: Number, y: Number) -> Number:
        if not self.is_real(x, y):
            return x / y if y else self.mp.mpc(self.nan, self.nan)
        minus = self.negative(x) != self.negative(y)
        if not y:
            return self.nan if not x or x != x else self.signed(self.inf, minus)
        quotient = x / y
        return quotient or self.signed(quotient, minus)

    def rem(self, x: Number, y: Number) -> Number:
        """C's fmod: the sign is x's."""
        if x != x or y != y or self.mp.isinf(x) or not y:
            return self.nan
        if self.mp.isinf(y) or not x:
            return x
        if self.mp.mag(x) - self.mp.mag(y) > FAR:
            raise NotExact("the operands of rem lie too far apart")
        return self.signed(abs(x) % abs(y), self.negative(x))

    def total(self, terms: Sequence[Number]) -> Number:
        if len(terms) == 1:
            return terms[0]
        total = self.mp.fsum(terms)  # rounds once
        if terms and all(t is self.minus_zero for t in terms):
            return self.minus_zero
        return total or self.zero_of(total, known=not any(terms))

    def dot(self, x: Array, y: Array) -> Number:
        total = self.mp.fdot(zip(x, y, strict=True))  # rounds once
        return total or self.zero_of(total, known=all(not a or not b for a, b in zip(x, y, strict=True)))

    def product(self, factors: Sequence[Number]) -> Number:
        return functools.reduce(self.mul, factors, self.one)

    def polynomial(self, x: Number, *coefficients: Number) -> Number:
        return functools.reduce(lambda value, c: self.add(self.mul(value, x), c), reversed(coefficients))

    # powers

    def integer_pow(self, x: Number, y: int) -> Number:
        if y == 0:
            return self.one
        if not self.is_real(x):
            return x**y if x or y > 0 else self.mp.mpc(self.nan, self.nan)
        minus = self.negative(x) and y % 2 == 1
        if not x:
            return self.signed(self.zero if y > 0 else self.inf, minus)
        power = x**y
        return power or self.signed(power, minus)

    def pow(self, x: Number, y: Number) -> Number:
        if not self.is_real(x, y):
            return self.mp.power(x, y)
        if not y or x == 1:
            return self.one
        if x != x or y != y:
            return self.nan
        whole = bool(self.mp.isint(y))
        if whole and abs(y) < 2**20:
            return self.integer_pow(x, int(y))
        if x < 0 and not whole and self.mp.isfinite(x) and self.mp.isfinite(y):
            return self.nan
        minus = self.negative(x) and whole and y % 2 == 1
        exponent = self.zero if abs(x) == 1 else y * self.mp.log(abs(x))
        return self.signed(self.exp(exponent), minus)

    def rsqrt(self, x: Number) -> Number:
        return self.div(self.one, x if not x else self.mp.sqrt(x))

    def cbrt(self, x: Number) -> Number:
        return self.signed(self.mp.root(abs(x), 3), self.negative(x))

    # exponential functions: bounds for the exponents after all, since theirs would fill the memory

    def beyond(self, x: Number, exponent: int = LARGE) -> bool:
        return self.is_real(x) and bool(self.mp.mag(x) > exponent)

    def exp(self, x: Number) -> Number:
        if self.beyond(x):
            return self.zero if x < 0 else self.inf
        return self.mp.exp(x)

    def expm1(self, x: Number) -> Number:
        if self.beyond(x):
            return -self.one if x < 0 else self.inf
        return self.mp.expm1(x)

    def sinh(self, x: Number) -> Number:
        return self.signed(self.inf, x < 0) if self.beyond(x) else self.mp.sinh(x)

    def cosh(self, x: Number) -> Number:
        return self.inf if self.beyond(x) else self.mp.cosh(x)

    def tanh(self, x: Number) -> Number:
        return self.signed(self.one, x < 0) if self.beyond(x, 14) else self.mp.tanh(x)

    def logistic(self, x: Number) -> Number:
        return self.div(self.one, self.one + self.exp(-x))

    # special functions

    def erfc(self, x: Number) -> Number:
        if self.beyond(x, LARGE // 2):
            return self.zero if x > 0 else self.mp.mpf(2)
        return self.mp.erfc(x)

    def lgamma(self, x: Number) -> Number:
        if self.mp.isinf(x) or (x <= 0 and self.mp.isint(x)):
            return self.inf
        return self.mp.loggamma(x).real

    def polygamma(self, m: Number, x: Number) -> Number:
        if not self.mp.isint(m) or m < 0:
            return self.nan
        return self.mp.psi(int(m), x)

    def bessel_ie(self, order: int, x: Number) -> Number:
        """exp(−|x|) I(x)."""
        if self.mp.isinf(x):
            return self.signed(self.zero, order == 1 and x < 0)
        return self.mp.besseli(order, x) * self.exp(-abs(x))

    def zeta(self, s: Number, q: Number) -> Number:
        return self.mp.zeta(s, q) if s > 1 else self.nan

    def igamma(self, a: Number, x: Number) -> Number:
        if not (a > 0 and x >= 0):
            return self.nan
        return self.mp.gammainc(a, 0, x, regularized=True) if self.mp.isfinite(x) else self.one

    def igammac(self, a: Number, x: Number) -> Number:
        if not (a > 0 and x >= 0):
            return self.nan
        return self.mp.gammainc(a, x, regularized=True) if self.mp.isfinite(x) else self.zero

    def betainc(self, a: Number, b: Number, x: Number) -> Number:
        if not (a > 0 and b > 0 and 0 <= x <= 1):
            return self.nan
        return self.mp.betainc(a, b, 0, x, regularized=True)

    def guarded(self, function: Callable[..., Number], odd: bool) -> Callable[..., Number]:
        """A function of mpmath's that is nan out of its domain; an odd one keeps the sign of 0."""

        def apply(*xs: Number) -> Number:
            if any(x != x for x in xs):
                return self.nan if self.is_real(*xs) else self.mp.mpc(self.nan, self.nan)
            if odd and not xs[0]:
                return xs[0]
            try:
                y = function(*xs)
            except (ValueError, ZeroDivisionError):  # a pole, or no value
                y = self.nan
            if self.is_real(*xs) and not self.is_real(y):
                return self.nan
            return y or self.zero_of(y, known=any(not x or self.mp.isinf(x) for x in xs))

        return apply

    # order

    def larger(self, x: Number, y: Number) -> Number:
        if x != x or y != y:
            return self.nan
        return y if y > x or (x is self.minus_zero and not y) else x

    def smaller(self, x: Number, y: Number) -> Number:
        if x != x or y != y:
            return self.nan
        return y if y < x or (y is self.minus_zero and not x) else x

    def clamp(self, low: Number, x: Number, high: Number) -> Number:
        return self.smaller(self.larger(low, x), high)

    def sign(self, x: Number) -> Number:
        if not x or x != x:
            return x
        return self.signed(self.one, x < 0) if self.is_real(x) else x / abs(x)

    def rank(self, x: Number) -> tuple[Any, ...]:
        """What sorts numbers as JAX does: −0 beside 0, nan last."""
        return (1, 0) if x != x else (0, x)

    def total_rank(self, x: Number) -> tuple[Any, ...]:
        return (*self.rank(x), x is not self.minus_zero)

    # the rest

    def round(self, x: Number, to_even: bool) -> Number:
        size = abs(x)
        return self.like(self.mp.nint(size) if to_even else self.mp.floor(size + self.mp.mpf(0.5)), self.zero)

    def atan2(self, y: Number, x: Number) -> Number:
        if y != y or x != x:
            return self.nan
        if y:
            return self.like(self.mp.atan2(y, x), y)
        return self.signed(+self.mp.pi if self.negative(x) else self.zero, self.negative(y))

    def part(self, x: Number) -> Number:
        return x or self.zero


# --- operations entry by entry: primitive -> what computes one entry ---

Entry = Callable[..., Any]

ARITHMETIC: dict[str, Callable[[_Numbers, dict[str, Any]], Entry]] = {
    "add": lambda n, p: n.add,
    "add_any": lambda n, p: n.add,
    "sub": lambda n, p: n.sub,
    "mul": lambda n, p: n.mul,
    "div": lambda n, p: n.div,
    "rem": lambda n, p: n.rem,
    "neg": lambda n, p: n.neg,
    "abs": lambda n, p: lambda x: n.part(abs(x)),
    "sign": lambda n, p: n.sign,
    "max": lambda n, p: n.larger,
    "min": lambda n, p: n.smaller,
    "clamp": lambda n, p: n.clamp,
    "square": lambda n, p: lambda x: n.mul(x, x),
    "one_minus_square": lambda n, p: lambda x: n.mul(n.sub(n.one, x), n.add(n.one, x)),
    "polynomial": lambda n, p: n.polynomial,
    "integer_pow": lambda n, p: lambda x: n.integer_pow(x, int(p["y"])),
    "pow": lambda n, p: n.pow,
    "floor": lambda n, p: lambda x: n.like(n.mp.floor(x), x),
    "ceil": lambda n, p: lambda x: n.like(n.mp.ceil(x), x),
    "round": lambda n, p: lambda x: n.signed(n.round(x, int(p["rounding_method"]) == 1), n.negative(x)),
    "atan2": lambda n, p: n.atan2,
    "real": lambda n, p: lambda x: n.part(x.real),
    "imag": lambda n, p: lambda x: n.part(x.imag),
    "conj": lambda n, p: lambda x: n.mp.mpc(x.real, -x.imag),
    "complex": lambda n, p: n.mp.mpc,
}

# Functions of real or complex numbers, guarded at their poles and out of their domain.
FUNCTIONS: dict[str, Callable[[_Numbers], Entry]] = {
    "exp": lambda n: n.exp,
    "exp2": lambda n: lambda x: n.exp(x * n.mp.ln2),
    "log": lambda n: n.mp.log,
    "log2": lambda n: lambda x: n.mp.log(x) / n.mp.ln2,
    "log1p": lambda n: n.mp.log1p,
    "expm1": lambda n: n.expm1,
    "exp_neg_sq": lambda n: lambda x: n.exp(-x * x),
    "sin": lambda n: n.mp.sin,
    "cos": lambda n: n.mp.cos,
    "tan": lambda n: n.mp.tan,
    "asin": lambda n: n.mp.asin,
    "acos": lambda n: n.mp.acos,
    "atan": lambda n: n.mp.atan,
    "sinh": lambda n: n.sinh,
    "cosh": lambda n: n.cosh,
    "tanh": lambda n: n.tanh,
    "asinh": lambda n: n.mp.asinh,
    "acosh": lambda n: n.mp.acosh,
    "atanh": lambda n: n.mp.atanh,
    "logistic": lambda n: n.logistic,
    "sqrt": lambda n: n.mp.sqrt,
    "rsqrt": lambda n: n.rsqrt,
    "cbrt": lambda n: n.cbrt,
    "erf": lambda n: n.mp.erf,
    "erfc": lambda n: n.erfc,
    "erf_inv": lambda n: n.mp.erfinv,
    "lgamma": lambda n: n.lgamma,
    "digamma": lambda n: n.mp.digamma,
    "polygamma": lambda n: n.polygamma,
    "zeta": lambda n: n.zeta,
    "bessel_i0e": lambda n: functools.partial(n.bessel_ie, 0),
    "bessel_i1e": lambda n: functools.partial(n.bessel_ie, 1),
    "igamma": lambda n: n.igamma,
    "igammac": lambda n: n.igammac,
    "regularized_incomplete_beta": lambda n: n.betainc,
}
# ±0 at ±0
ODD = frozenset(["sin", "tan", "asin", "atan", "sinh", "tanh", "asinh", "atanh", "log1p", "expm1"])
ODD |= {"sqrt", "cbrt", "erf", "erf_inv", "bessel_i1e"}

# Binary exponents between which operands must lie: the sine of more takes more digits than there is
# memory for, and mpmath's series for the others take minutes.
EXTENTS = dict.fromkeys(("sin", "cos", "tan"), (-math.inf, FAR))
EXTENTS |= dict.fromkeys(("bessel_i0e", "bessel_i1e"), (-math.inf, LARGE))
EXTENTS |= dict.fromkeys(
    ("polygamma", "zeta", "igamma", "igammac", "regularized_incomplete_beta"), (-100, 10)
)

TESTS: dict[str, Callable[[_Numbers], Entry]] = {
    "is_finite": lambda n: n.mp.isfinite,
    "eq": lambda n: operator.eq,
    "ne": lambda n: operator.ne,
    "lt": lambda n: operator.lt,
    "le": lambda n: operator.le,
    "gt": lambda n: operator.gt,
    "ge": lambda n: operator.ge,
    "eq_to": lambda n: lambda x, y: n.total_rank(x) == n.total_rank(y),
    "lt_to": lambda n: lambda x, y: n.total_rank(x) < n.total_rank(y),
    "le_to": lambda n: lambda x, y: n.total_rank(x) <= n.total_rank(y),
}

# On integers and booleans, where NumPy needs no compilation as JAX does.
INTEGERS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
}

# In additions, as measured with 60 digits; an entry of anything else costs one.
PRICES = dict.fromkeys((*FUNCTIONS, "pow", "atan2"), 6) | {
    "lgamma": 60,
    "digamma": 70,
    "bessel_i0e": 60,
    "bessel_i1e": 60,
    "polygamma": 250,
    "erf_inv": 250,
    "igamma": 200,
    "igammac": 200,
    "zeta": 400,
    "regularized_incomplete_beta": 400,
}


def _entry(numbers: _Numbers, name: str, params: dict[str, Any]) -> Entry:
    """What computes one entry of the primitive's result from one entry of each operand."""
    if name in ARITHMETIC:
        return ARITHMETIC[name](numbers, params)
    if name in TESTS:
        return TESTS[name](numbers)
    function = numbers.guarded(FUNCTIONS[name](numbers), odd=name in ODD)
    return _bounded(numbers, name, function) if name in EXTENTS else function


def _bounded(numbers: _Numbers, name: str, function: Entry) -> Entry:
    """The function, which refuses numbers out of its extent."""
    least, most = EXTENTS[name]

    def bounded(*xs: Number) -> Number:
        for x in xs:
            if x and numbers.mp.isfinite(x) and not least <= numbers.mp.mag(x) <= most:
                raise NotExact(f"{name} of a number as large or small as {numbers.mp.nstr(x, 3)}")
        return function(*xs)

    return bounded


# --- operations that only move entries, of numbers and of integers alike ---


def _broadcast_in_dim(params: dict[str, Any], x: Array) -> Array:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _reshape(params: dict[str, Any], x: Array) -> Array:
    order = params["dimensions"]
    return (x if order is None else x.transpose(order)).reshape(params["new_sizes"])


def _slice(params: dict[str, Any], x: Array) -> Array:
    strides = params["strides"] or (1,) * x.ndim
    return x[(*map(slice, params["start_indices"], params["limit_indices"], strides), ...)]


def _split(params: dict[str, Any], x: Array) -> list[Array]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _select_n(params: dict[str, Any], which: Array, *cases: Array) -> Array:
    chosen = cases[0]
    for k, case in enumerate(cases[1:], 1):
        chosen = np.where(which == k, case, chosen)
    return chosen


def _pad(params: dict[str, Any], x: Array, value: Array) -> Array:
    """Every entry goes where lo + i (1 + interior) says, unless a negative padding cuts it off."""
    shape, where, what = [], [], []
    for n, (low, high, interior) in zip(x.shape, params["padding_config"], strict=True):
        size = int(low + high + n + max(n - 1, 0) * interior)
        place = int(low) + np.arange(n) * (1 + int(interior))
        kept = (place >= 0) & (place < size)
        shape.append(size)
        where.append(place[kept])
        what.append(np.flatnonzero(kept))
    out = np.full(shape, value[()], x.dtype)
    out[np.ix_(*where)] = x[np.ix_(*what)]
    return out


def _window(x: Array, sizes: Sequence[int], starts: Sequence[Any]) -> tuple[slice, ...]:
    """A block within x, moved inside where it would stand out, as XLA does."""
    firsts = [min(max(int(s), 0), n - k) for s, n, k in zip(starts, x.shape, sizes, strict=True)]
    return tuple(slice(a, a + k) for a, k in zip(firsts, sizes, strict=True))


def _dynamic_slice(params: dict[str, Any], x: Array, *starts: Array) -> Array:
    return x[(*_window(x, params["slice_sizes"], starts), ...)]


def _dynamic_update_slice(params: dict[str, Any], x: Array, update: Array, *starts: Array) -> Array:
    out = x.copy()
    out[_window(x, update.shape, starts)] = update
    return out


MOVES: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast_in_dim,
    "reshape": _reshape,
    "squeeze": lambda p, x: x.squeeze(tuple(p["dimensions"])),
    "transpose": lambda p, x: x.transpose(p["permutation"]),
    "rev": lambda p, x: np.flip(x, p["dimensions"]),
    "slice": _slice,
    "split": _split,
    "concatenate": lambda p, *xs: np.concatenate(xs, p["dimension"]),
    "stack": lambda p, *xs: np.stack(xs, p["axis"]),
    "unstack": lambda p, x: [np.moveaxis(x, p["axis"], 0)[i, ...] for i in range(x.shape[p["axis"]])],
    "tile": lambda p, x: np.tile(x, p["reps"]),
    "select_n": _select_n,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
}

SAME = frozenset(
    ["copy", "copy_p", "stop_gradient", "optimization_barrier", "name", "sharding_constraint", "device_put"]
)


def _gather(numbers: _Numbers, params: dict[str, Any], x: Array, indices: Array) -> Array:
    """JAX gathers the positions, NumPy the numbers at them; position −1 is out of bounds."""
    found = _gathered_positions(x.shape, indices, params["dimension_numbers"], params)
    fill = numbers.nan if params["fill_value"] is None else numbers.number(params["fill_value"])
    pool = numbers.filled((x.size + 1,), [*x.flat, fill])
    return pool[found.ravel()].reshape(found.shape)


def _gathered_positions(
    shape: tuple[int, ...], indices: Array, numbers: Any, params: dict[str, Any], sizes: Any = None
) -> np.ndarray:
    positions = np.arange(math.prod(shape)).reshape(shape)
    sizes = params["slice_sizes"] if sizes is None else sizes
    return np.asarray(
        jax.lax.gather(positions, indices, numbers, sizes, mode=params["mode"], fill_value=-1), np.int64
    )


def _scatter(combine: Callable[[_Numbers], Entry]) -> Callable[..., Array]:
    """Scattering backwards: the positions that a gather of the same shape finds are where updates go."""

    def scatter(numbers: _Numbers, params: dict[str, Any], x: Array, indices: Array, updates: Array) -> Array:
        d = params["dimension_numbers"]
        single = {*d.inserted_window_dims, *d.operand_batching_dims}
        window = iter([updates.shape[i] for i in d.update_window_dims])
        sizes = [1 if axis in single else next(window) for axis in range(x.ndim)]
        gather = jax.lax.GatherDimensionNumbers(
            offset_dims=d.update_window_dims,
            collapsed_slice_dims=d.inserted_window_dims,
            start_index_map=d.scatter_dims_to_operand_dims,
            operand_batching_dims=d.operand_batching_dims,
            start_indices_batching_dims=d.scatter_indices_batching_dims,
        )
        places = _gathered_positions(x.shape, indices, gather, params, sizes)
        out, entry = x.flatten(), combine(numbers)
        for place, update in zip(places.flat, updates.flat, strict=True):
            if place >= 0:
                out[place] = entry(out[place], update)
        return out.reshape(x.shape)

    return scatter


# --- operations along axes ---


def _along(axis: int, *arrays: Array) -> tuple[tuple[int, ...], list[list[list[Any]]]]:
    """(the other axes' sizes, for each place among them the arrays' rows along the axis)."""
    moved = [np.moveaxis(x, axis, -1) for x in arrays]
    shape, n = moved[0].shape[:-1], moved[0].shape[-1]
    flat = [x.reshape(math.prod(shape), n) for x in moved]
    return shape, [[list(x[i]) for x in flat] for i in range(math.prod(shape))]


def _reduction(fold: Callable[[_Numbers, list[Number]], Any]) -> Callable[..., Array]:
    def reduce(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
        axes = [int(a) for a in params["axes"]]
        kept = [a for a in range(x.ndim) if a not in axes]
        shape = [x.shape[a] for a in kept]
        flat = x.transpose(kept + axes).reshape(math.prod(shape), math.prod(x.shape[a] for a in axes))
        return numbers.filled(shape, (fold(numbers, list(row)) for row in flat))

    return reduce


def _arg(better: Callable[[Number, Number], bool]) -> Callable[..., Array]:
    """The first of the largest (or smallest) entries; a nan is both."""

    def position(numbers: _Numbers, row: list[Number]) -> int:
        best = 0
        for i, x in enumerate(row):
            if row[best] == row[best] and (x != x or better(x, row[best])):
                best = i
        return best

    def arg(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
        return _reduction(position)(numbers, params, x).astype(params["index_dtype"])

    return arg


def _cumulative(combine: Callable[[_Numbers], Entry]) -> Callable[..., Array]:
    def cumulate(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
        axis, step = params["axis"], -1 if params["reverse"] else 1
        shape, rows = _along(axis, x)
        done = [list(itertools.accumulate(row[::step], combine(numbers)))[::step] for (row,) in rows]
        out = numbers.filled((*shape, x.shape[axis]), itertools.chain.from_iterable(done))
        return np.moveaxis(out, -1, axis)

    return cumulate


def _cumlogsumexp(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
    exp, log = (_elementwise(numbers, name, {}) for name in ("exp", "log"))
    return log(_cumulative(lambda n: n.add)(numbers, params, exp(x)))


def _sort(numbers: _Numbers, params: dict[str, Any], *operands: Array) -> list[Array]:
    keys = operands[: params["num_keys"]]
    order = _order(numbers, params["dimension"], *keys)
    return [np.take_along_axis(x, order, params["dimension"]) for x in operands]


def _order(numbers: _Numbers, axis: int, *keys: Array, descending: bool = False) -> np.ndarray:
    def rank(place: Sequence[Any]) -> list[Any]:
        return [numbers.rank(x) for x in place]

    shape, rows = _along(axis, *keys)
    order = np.empty((len(rows), keys[0].shape[axis]), np.int64)
    for i, row in enumerate(rows):
        ranks = [rank(place) for place in zip(*row, strict=True)]
        order[i] = sorted(range(len(ranks)), key=ranks.__getitem__, reverse=descending)
    return np.moveaxis(
        order.reshape(*shape, -1) if order.size else order.reshape(*shape, order.shape[1]), -1, axis
    )


def _top_k(numbers: _Numbers, params: dict[str, Any], x: Array) -> list[Array]:
    axis = params.get("axis", x.ndim - 1)
    order = _order(numbers, axis, x, descending=True)
    order = np.take(order, np.arange(params["k"]), axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int32)]


# --- linear algebra, in plain loops ---


def _dot_general(numbers: _Numbers, params: dict[str, Any], x: Array, y: Array) -> Array:
    (over_x, over_y), (batch_x, batch_y) = params["dimension_numbers"]

    def rows(x: Array, over: Any, batch: Any) -> tuple[list[int], Array]:
        free = [a for a in range(x.ndim) if a not in (*over, *batch)]
        shape = [[x.shape[a] for a in axes] for axes in (batch, free, over)]
        flat = x.transpose([*batch, *free, *over]).reshape([math.prod(s) for s in shape])
        return shape[0], (shape[1], flat)

    batch, (free_x, x) = rows(x, over_x, batch_x)
    _, (free_y, y) = rows(y, over_y, batch_y)
    entries = (numbers.dot(r, s) for a, b in zip(x, y, strict=True) for r in a for s in b)
    return numbers.filled([*batch, *free_x, *free_y], entries)


def _batched(function: Callable[..., Any], *arrays: Array) -> Any:
    """function on every matrix of the arrays' leading axes; its results, stacked."""
    batch = arrays[0].shape[:-2]
    flat = [x.reshape(math.prod(batch), *x.shape[-2:]) for x in arrays]
    results = [function(*matrices) for matrices in zip(*flat, strict=True)]
    if not results:
        raise NotExact("a batch of no matrices")

    def stacked(parts: Sequence[Array]) -> Array:
        return np.stack(parts).reshape(*batch, *parts[0].shape)

    if isinstance(results[0], tuple):
        return [stacked(parts) for parts in zip(*results, strict=True)]
    return stacked(results)


def _triangular_solve(numbers: _Numbers, params: dict[str, Any], a: Array, b: Array) -> Array:
    """x of op(a) x = b, or of x op(a) = b, which is op(a)ᵀ xᵀ = bᵀ."""
    left, turned = params["left_side"], bool(params["transpose_a"]) == bool(params["left_side"])

    def solve(a: Array, b: Array) -> Array:
        if params["conjugate_a"]:
            a = _elementwise(numbers, "conj", {})(a) if a.size and not numbers.is_real(*a.flat) else a
        a, b = a.T if turned else a, b if left else b.T
        n, x = len(a), np.empty(b.shape, object)
        forward = params["lower"] != turned
        for i in range(n) if forward else reversed(range(n)):
            known = slice(0, i) if forward else slice(i + 1, n)
            for j in range(b.shape[1]):
                rest = numbers.sub(b[i, j], numbers.dot(a[i, known], x[known, j]))
                x[i, j] = rest if params["unit_diagonal"] else numbers.div(rest, a[i, i])
        return x if left else x.T

    return _batched(solve, a, b)


def _cholesky(numbers: _Numbers, params: dict[str, Any], a: Array) -> Array:
    root = _entry(numbers, "sqrt", {})

    def factor(a: Array) -> Array:
        n = len(a)
        lower = np.full(
            (n, n), numbers.zero if not n or numbers.is_real(a[0, 0]) else numbers.mp.mpc(0), object
        )
        for j in range(n):
            for i in range(j, n):
                conjugate = [
                    x if numbers.is_real(x) else numbers.mp.mpc(x.real, -x.imag) for x in lower[j, :j]
                ]
                rest = numbers.sub(a[i, j], numbers.dot(lower[i, :j], conjugate))
                lower[i, j] = root(rest) if i == j else numbers.div(rest, lower[j, j])
        return lower

    return _batched(factor, a)


def _lu(numbers: _Numbers, params: dict[str, Any], a: Array) -> list[Array]:
    """Partial pivoting; the factors in one matrix, the swaps, and the permutation that they make."""

    def factor(a: Array) -> tuple[Array, Array, Array]:
        a, (m, n) = a.copy(), a.shape
        swaps, order = np.arange(min(m, n), dtype=np.int32), np.arange(m, dtype=np.int32)
        for k in range(min(m, n)):
            pivot = max(range(k, m), key=lambda i: abs(a[i, k]))
            swaps[k] = pivot
            a[[k, pivot]], order[[k, pivot]] = a[[pivot, k]], order[[pivot, k]]
            for i in range(k + 1, m):
                a[i, k] = numbers.div(a[i, k], a[k, k])
                for j in range(k + 1, n):
                    a[i, j] = numbers.sub(a[i, j], numbers.mul(a[i, k], a[k, j]))
        return a, swaps, order

    return _batched(factor, a)


# --- the types ---


def _is_float(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _is_wide(dtype: Any) -> bool:
    """float64 and complex128: what is computed with numbers."""
    return _is_float(dtype) and jnp.finfo(dtype).bits == 64


def _is_narrow(dtype: Any) -> bool:
    return _is_float(dtype) and not _is_wide(dtype)


def _convert(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
    new = params["new_dtype"]
    if _is_float(new):
        x = numbers.array(x)
        return numbers.filled(x.shape, (numbers.mp.mpc(v) for v in x.flat)) if _is_complex(new) else x
    if x.dtype != object:
        return x.astype(new)
    if new == np.bool_:
        return x.astype(bool)
    least, most = np.iinfo(new).min, np.iinfo(new).max
    whole = [
        0 if v != v else int(numbers.clamp(numbers.mp.mpf(int(least)), v, numbers.mp.mpf(int(most))))
        for v in x.flat
    ]
    return np.array(whole, new).reshape(x.shape)


def _is_complex(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def _reduce_precision(numbers: _Numbers, params: dict[str, Any], x: Array) -> Array:
    if params["mantissa_bits"] < 52 or params["exponent_bits"] < 11:
        raise NotExact(f"it rounds to {params['mantissa_bits']} bits by itself")
    return x


WHOLE: dict[str, Callable[..., Any]] = {
    "convert_element_type": _convert,
    "reduce_precision": _reduce_precision,
    "gather": _gather,
    "scatter": _scatter(lambda n: lambda old, new: new),
    "scatter-add": _scatter(lambda n: n.add),
    "scatter-sub": _scatter(lambda n: n.sub),
    "scatter-mul": _scatter(lambda n: n.mul),
    "scatter-min": _scatter(lambda n: n.smaller),
    "scatter-max": _scatter(lambda n: n.larger),
    "reduce_sum": _reduction(lambda n, row: n.total(row)),
    "reduce_prod": _reduction(lambda n, row: n.product(row)),
    "reduce_max": _reduction(lambda n, row: functools.reduce(n.larger, row, -n.inf)),
    "reduce_min": _reduction(lambda n, row: functools.reduce(n.smaller, row, n.inf)),
    "argmax": _arg(operator.gt),
    "argmin": _arg(operator.lt),
    "cumsum": _cumulative(lambda n: n.add),
    "cumprod": _cumulative(lambda n: n.mul),
    "cummax": _cumulative(lambda n: n.larger),
    "cummin": _cumulative(lambda n: n.smaller),
    "cumlogsumexp": _cumlogsumexp,
    "sort": _sort,
    "top_k": _top_k,
    "dot_general": _dot_general,
    "triangular_solve": _triangular_solve,
    "cholesky": _cholesky,
    "lu": _lu,
}


# --- programs ---


def _name(eqn: Any) -> str:
    """What an equation computes: its primitive's name, or that of a function of JAX's own in FUNCTIONS.

    JAX writes exp(−x²), in erf's derivative, as float64 needs it, with numbers split in their bits.
    """
    if (named := custom_jvp_body(eqn)) is not None and named[0] in FUNCTIONS:
        home = str(Path(jax.__file__).parent)
        return named[0] if home in source_of(named[1]) else eqn.primitive.name
    if (hijax := eqn.params.get("_prim")) is not None:
        return type(hijax).__name__
    return eqn.primitive.name


def _called(eqn: Any) -> Any | None:
    """The body of an equation that only calls it: jit, remat, a custom function."""
    if _name(eqn) in FUNCTIONS:
        return None
    if eqn.primitive.name in ("eval_jaxpr", "composite"):
        return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if (named := custom_jvp_body(eqn)) is not None:
        return named[1]
    body = custom_vjp_body(eqn)
    return calls_of(eqn) if body is None else body


def _dtypes(atoms: Sequence[Any]) -> list[Any]:
    return [v.aval.dtype for v in atoms]


def _all(jaxpr: Any) -> tuple[bool, ...]:
    return (True,) * len(opened(jaxpr)[0].outvars)


def _live(jaxpr: Any, wanted: Sequence[bool]) -> tuple[list[tuple[Any, tuple[bool, ...]]], set[Any]]:
    """(the equations that the wanted outputs need, with which of their results; the variables used)."""
    inner, _ = opened(jaxpr)
    used = {v for v, w in zip(inner.outvars, wanted, strict=True) if w and not isinstance(v, Literal)}
    live = []
    for eqn in reversed(inner.eqns):
        results = tuple(v in used for v in eqn.outvars)
        if not any(results):
            continue
        live.append((eqn, results))
        operands = eqn.invars
        if (body := _called(eqn)) is not None:
            _, within = _live(body, results)
            pairs = zip(operands, opened(body)[0].invars, strict=True)
            operands = [v for v, parameter in pairs if parameter in within]
        used.update(v for v in operands if not isinstance(v, Literal))
    return live[::-1], used


def _bodies(eqn: Any, results: tuple[bool, ...]) -> list[tuple[Any, tuple[bool, ...], int]]:
    """The programs inside an equation, each with its wanted outputs and how often it runs, if known."""
    name, params = _name(eqn), eqn.params
    if (body := _called(eqn)) is not None:
        return [(body, results, 1)]
    if name == "scan":
        carry = (True,) * scan_counts(eqn)[1]
        return [(params["jaxpr"], carry + results[len(carry) :], params["length"])]
    if name == "while":
        return [(j, _all(j), 1) for j in (params["cond_jaxpr"], params["body_jaxpr"])]
    if name == "cond":
        return [(branch, results, 1) for branch in params["branches"]]
    if name == "custom_linear_solve":
        return [(params["jaxprs"].solve, results, 1)]
    return []


def _cost(jaxpr: Any, wanted: Sequence[bool]) -> float:
    """About how many additions an evaluation costs; of a branch both sides, of a while loop one trip."""
    total = 0.0
    for eqn, results in _live(jaxpr, wanted)[0]:
        bodies = _bodies(eqn, results)
        total += sum(times * _cost(body, w) for body, w, times in bodies) if bodies else _own_cost(eqn)
    return total


def _own_cost(eqn: Any) -> float:
    name, shapes = _name(eqn), [v.aval.shape for v in eqn.invars]
    if not any(map(_is_wide, _dtypes([*eqn.invars, *eqn.outvars]))):
        return STEP
    taken = sum(math.prod(s) for s in shapes)
    given = sum(math.prod(v.aval.shape) for v in eqn.outvars)
    moving = STEP + (taken + given) / 20
    if name in MOVES or name in SAME or name == "gather":
        return moving
    times = 3 if any(map(_is_complex, _dtypes(eqn.invars))) else 1
    if name == "dot_general":
        (over, _), _ = eqn.params["dimension_numbers"]
        return moving + times * given * math.prod(shapes[0][a] for a in over) / 2
    if name in ("triangular_solve", "cholesky", "lu"):
        return moving + times * given * shapes[0][-1]
    if name in ("sort", "top_k"):
        return moving + 2 * taken * math.log2(taken + 2)
    work = given if _is_elementwise(name) else taken
    return moving + times * PRICES.get(name, 1) * work


def _is_elementwise(name: str) -> bool:
    return name in ARITHMETIC or name in FUNCTIONS or name in TESTS


def _elementwise(numbers: _Numbers, name: str, params: dict[str, Any]) -> Callable[..., Array]:
    entry = _entry(numbers, name, params)

    def apply(*operands: Array) -> Array:
        out = np.frompyfunc(entry, len(operands), 1)(*map(numbers.array, operands))
        if not isinstance(out, np.ndarray):
            out = numbers.filled((), [out])
        return out.astype(bool) if name in TESTS else out

    return apply


class _Evaluation:
    """Evaluates programs with the numbers of one precision.

    What depends on the inputs in float64 or complex128 is an array of numbers, and so is what float64
    constants are computed into. All else stays what it is in JAX, which computes with it: integers,
    booleans and keys are exact there, and a narrower type is the program's own choice for constants,
    since nothing that is a number is narrowed.
    """

    def __init__(self, numbers: _Numbers, most: float):
        self.numbers, self.left = numbers, most
        self._live: dict[Any, Any] = {}

    def run(self, jaxpr: Any, operands: Sequence[Array | None], wanted: Sequence[bool]) -> list[Array | None]:
        """The wanted outputs of a program, None for the others; operands that they need not may be None."""
        inner, consts = opened(jaxpr)
        live, used = self.live(inner, tuple(wanted))
        values: dict[Any, Array | None] = dict(zip(inner.invars, operands, strict=True))
        values |= {v: _ordinary(c) for v, c in zip(inner.constvars, consts, strict=True) if v in used}

        def read(atom: Any) -> Array | None:
            if isinstance(atom, Literal):
                return np.asarray(atom.val, *_dtypes([atom]))
            return values.get(atom)

        for eqn, results in live:
            computed = self.results(eqn, [read(v) for v in eqn.invars], results)
            values |= zip(eqn.outvars, computed, strict=True)
        return [read(v) if w else None for v, w in zip(inner.outvars, wanted, strict=True)]

    def live(self, inner: Any, wanted: tuple[bool, ...]) -> Any:
        """_live, once for a body that runs many times."""
        key = id(inner), wanted  # the program that is evaluated keeps it alive
        if key not in self._live:
            self._live[key] = _live(inner, wanted)
        return self._live[key]

    def results(self, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
        name = _name(eqn)
        try:
            if (body := _called(eqn)) is not None:
                return self.run(body, operands, wanted)
            if name in CONTROL:
                return CONTROL[name](self, eqn, operands, wanted)
            result = self.operation(eqn, name, operands)
            return list(result) if isinstance(result, list | tuple) else [result]
        except NotExact:
            raise
        except Exception as error:
            raise NotExact(f"{name} fails: {type(error).__name__}: {error}") from error

    def operation(self, eqn: Any, name: str, operands: list[Any]) -> Any:
        """What one equation without a body computes: an array, or a list of them."""
        params = eqn.params
        if name in SAME:
            return operands
        if not any(map(_is_exact, operands)) and not self.starts_numbers(eqn):
            return self.constant(eqn, operands)
        operands = [self.numbers.array(x) if _is_wide(x.dtype) else x for x in operands]
        if name in MOVES:
            return MOVES[name](params, *operands)
        if narrow := [str(dtype) for dtype in _dtypes(eqn.outvars) if _is_narrow(dtype)]:
            raise NotExact(f"it computes in {narrow[0]} by itself")
        if _is_elementwise(name):
            return _elementwise(self.numbers, name, params)(*operands)
        if name in WHOLE:
            return WHOLE[name](self.numbers, params, *operands)
        raise NotExact(f"the operation {name} is not known here")

    def starts_numbers(self, eqn: Any) -> bool:
        """Whether an equation of constants computes in float64, so that it must be done with numbers."""
        name = eqn.primitive.name
        if name == "convert_element_type":
            return _is_wide(eqn.params["new_dtype"])
        return name not in MOVES and any(map(_is_wide, _dtypes(eqn.invars)))

    def constant(self, eqn: Any, operands: list[Any]) -> Any:
        if eqn.primitive.name in MOVES and not any(map(_is_key, operands)):
            return MOVES[eqn.primitive.name](eqn.params, *operands)
        return self.by_jax(eqn, operands)

    def by_jax(self, eqn: Any, operands: list[Any]) -> Any:
        """What JAX itself computes exactly, NumPy where that is the same and quicker."""
        name = eqn.primitive.name
        if name in INTEGERS and all(isinstance(x, np.ndarray) and x.dtype.kind in "iub" for x in operands):
            return np.asarray(INTEGERS[name](*operands))
        if eqn.effects:
            raise NotExact(f"{name} does more than compute")
        results = eqn.primitive.bind(*operands, **eqn.params)
        return [*map(_ordinary, results)] if eqn.primitive.multiple_results else _ordinary(results)


# --- control flow ---


def _cond(ev: _Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    branches = eqn.params["branches"]
    taken = min(max(int(operands[0]), 0), len(branches) - 1)
    return ev.run(branches[taken], operands[1:], wanted)


def _while(ev: _Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    params = eqn.params
    condition, body = params["cond_jaxpr"], params["body_jaxpr"]
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_condition, of_body = operands[:first], operands[first:second]
    carry: list[Any] = operands[second:]
    price = sum(_cost(j, _all(j)) for j in (condition, body))
    for _ in range(MOST_TRIPS):
        if not ev.run(condition, [*of_condition, *carry], (True,))[0]:
            return carry
        carry = ev.run(body, [*of_body, *carry], _all(body))
        ev.left -= price
        if ev.left < 0:
            break
    raise NotExact("a while loop is too long")


def _scan(ev: _Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]) -> list[Array | None]:
    params, length = eqn.params, eqn.params["length"]
    ((body, needed, _),) = _bodies(eqn, wanted)
    n_consts, n_carry = scan_counts(eqn)
    consts, xs = operands[:n_consts], operands[n_consts + n_carry :]
    carry: list[Any] = operands[n_consts : n_consts + n_carry]
    if length > MOST_TRIPS:
        raise NotExact("a scan is too long")
    steps: list[list[Any]] = [[]] * length
    for i in reversed(range(length)) if params["reverse"] else range(length):
        out = ev.run(
            body, [*consts, *carry, *(x[i] if _is_key(x) else np.asarray(x[i], x.dtype) for x in xs)], needed
        )
        carry, steps[i] = out[:n_carry], out[n_carry:]
    ys = [
        _stacked(ev.numbers, [step[k] for step in steps], v.aval) if w else None
        for k, (v, w) in enumerate(zip(eqn.outvars[n_carry:], wanted[n_carry:], strict=True))
    ]
    return [*carry, *ys]


def _stacked(numbers: _Numbers, rows: list[Any], aval: Any) -> Array:
    if not rows:
        return np.empty(aval.shape, object if _is_wide(aval.dtype) else aval.dtype)
    if any(map(_is_exact, rows)):
        rows = [numbers.array(x) for x in rows]
    return jnp.stack(rows) if _is_key(rows[0]) else np.stack(rows)


def _ordinary(x: Any) -> Array:
    """JAX's array as NumPy's; keys stay."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.extended) else np.asarray(x)


def _is_exact(x: Any) -> bool:
    """Whether it is an array of numbers."""
    return bool(x.dtype == object)


def _linear_solve(
    ev: _Evaluation, eqn: Any, operands: list[Any], wanted: tuple[bool, ...]
) -> list[Array | None]:
    """The solution by the program's own solver; what it solves, and its transpose, are for JAX's rules."""
    lengths = eqn.params["const_lengths"]
    before = lengths.matvec + lengths.vecmat
    b = operands[sum(lengths) :]
    return ev.run(eqn.params["jaxprs"].solve, [*operands[before : before + lengths.solve], *b], wanted)


def _is_key(x: Any) -> bool:
    return not isinstance(x, np.ndarray)


CONTROL: dict[str, Callable[..., list[Array | None]]] = {
    "cond": _cond,
    "while": _while,
    "scan": _scan,
    "custom_linear_solve": _linear_solve,
}

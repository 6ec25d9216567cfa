"""mpmath's numbers under IEEE 754's rules."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

LARGE = 40  # binary exponent of an argument from which exp is inf or 0
FAR = 4000  # binary exponent of an argument that is not reduced modulo π, or another number, any more

Number = Any  # mpmath's mpf or mpc
Array = Any  # a NumPy array: of Numbers, of integers or of booleans; or a JAX array of keys


class NotExact(Exception):
    """A program cannot be evaluated exactly; says why."""


def nearest(x: Number) -> float:
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


class Numbers:
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
            entries = [complex(nearest(v.real), nearest(v.imag)) for v in x.flat]
            return np.array(entries, np.complex128).reshape(x.shape)
        reals = [-0.0 if v is self.minus_zero else nearest(v) for v in x.flat]
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
        if self.mp.isinf(y) and self.mp.isinf(x):  # along the diagonal; mpmath before 1.4 says nan
            y, x = self.mp.sign(y), self.mp.sign(x)
        if y:
            return self.like(self.mp.atan2(y, x), y)
        return self.signed(+self.mp.pi if self.negative(x) else self.zero, self.negative(y))

    def part(self, x: Number) -> Number:
        return x or self.zero

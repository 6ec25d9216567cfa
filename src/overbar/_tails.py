"""The arithmetic of exponential tails: e^−size that neither loses digits nor vanishes too early.

A bar is a normal number as long as the product ȳ e^−size is, and a large ȳ lifts an e^−size that no
float holds. And an exponent that has been rounded costs its size in ULP: e^−80 with an exponent
that is off by half a ULP is off by 40.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe


def check_real(name: str, x: ArrayLike) -> None:
    """Refuses complex inputs."""
    if jnp.iscomplexobj(x):
        raise RuleError(f"rule {name}: input x must be real here, but came as {describe(x)}.")


def is_single(x: jax.Array) -> bool:
    return bool(jnp.finfo(x.dtype).bits == 32)


def size_of(x: jax.Array) -> jax.Array:
    """|x|, whose slope at 0 is 1: a bar's formula holds from the right there."""
    return jnp.where(x < 0, -x, x)


def clipped_size(x: jax.Array) -> jax.Array:
    """|x|, but never more than what no ȳ lifts a tail e^−|x| |x| from: it stays finite in products."""
    return jnp.minimum(size_of(x), 192.0 if is_single(x) else 1440.0)


class Tail(NamedTuple):
    """e^−size for products with a bar; see `tail`.

    q is e^−size, but far out larger by a constant factor; small is e^−size, but 0 far out, for sums
    with numbers near 1.
    """

    q: jax.Array
    far: jax.Array
    first: float
    last: float

    @property
    def small(self) -> jax.Array:
        return jnp.where(self.far, 0.0, self.q)

    def times(self, y_bar: jax.Array, slope: jax.Array) -> jax.Array:
        """ȳ · slope, for a slope that has q as a factor."""
        product = jnp.where(self.far, self.first * y_bar, y_bar) * slope
        return jnp.where(self.far, self.last * product, product)


# (T, shift, first, last): e^−T is the last normal power; first, a power of 2 a little over it, and last
# multiply to e^−(T + shift), and the shift is such that last is the float it is rounded to, to a
# thousandth of an ULP. The room between is for slopes that are polynomial in size.
_SINGLE = (87.0, 10.9287109375, 2.0**-115, 1.2261700987892254e-08)
_DOUBLE = (708.0, 10.232421875, 2.0**-1011, 2.6118490402777282e-08)


def tail(size: jax.Array, low: jax.Array | float = 0.0) -> Tail:
    """e^−(size + low) in factors that the bar is multiplied by one after the other.

    Far out (size > T) it is first · q · last with two constants and q = e^(T + shift − size), an
    exponent that is exact.

    Args:
      size: the exponent; where it is negative e^−size is the plain one.
      low: what size lacks after rounding, at most an ULP of it.
    """
    end, shift, first, last = _SINGLE if is_single(size) else _DOUBLE
    far = size > end
    q = once(jnp.exp(jnp.where(far, (end + shift) - size, -size)))
    if not isinstance(low, float):
        # q (1 − low); lifted, since q low is no normal number long before q is none.
        lift = 2.0**40 if is_single(size) else 2.0**64
        lifted = lift * q
        q = (lifted - lifted * low) / lift
    return Tail(q, far, first, last)


class Decay(NamedTuple):
    """The slope f′ of a function, by F(s) = e^−size(s) rest(s) for s = |x|.

    f′(x) is F(s) for x < 0. For x > 0 it is F(s) too, or, where complement is true, 1 − F(s): so it is
    where f(x) − f(−x) = x.

    Attributes:
      exponent: s -> (size, ...), with what else rest can use of it.
      rest: (s, e^−size, whether x < 0, size, ...) -> the other factor.
      lifted: whether a large ȳ lifts an e^−size that is no normal number, as `tail` does. Otherwise
        size must be |x|, and e^−|x| is the exponential that log(1 + e^x) has computed in forward.
    """

    exponent: Callable[..., tuple[jax.Array, ...]]
    rest: Callable[..., jax.Array]
    complement: bool
    lifted: bool = True

    def tail(self, x: jax.Array, size: jax.Array) -> Tail:
        return tail(size) if self.lifted else Tail(plain(x), jnp.zeros((), bool), 1.0, 1.0)


@jax.custom_jvp
def plain(x: jax.Array) -> jax.Array:
    """e^−|x|, whose slope at 0 is that from the right."""
    return once(jnp.exp(-jnp.abs(x)))


@plain.defjvp
def _plain_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (x_dot,) = primals, tangents
    q = plain(x)
    return q, jnp.where(x < 0, q, -q) * x_dot


@jax.custom_jvp
def sigmas(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """σ(x) and σ(−x), each to its last digits, from the e^−x that `jax.lax.logistic` computes too."""
    e = once(jnp.exp(-x))
    one = 1 / (1 + e)
    return one, jnp.where(x < 0, 1 - one, e * one)


@sigmas.defjvp
def _sigmas_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[Any, Any]:
    (x,), (x_dot,) = primals, tangents
    one, other = sigmas(x)
    change = one * other * x_dot
    return (one, other), (change, -change)


def _value(f: Decay, y_bar: jax.Array, x: jax.Array) -> jax.Array:
    s, left = clipped_size(x), x < 0
    parts = f.exponent(s)
    e = f.tail(x, parts[0])
    slope = e.q * f.rest(s, e.small, left, *parts)
    bar = e.times(y_bar, slope)
    return jnp.where(left, bar, y_bar * (1 - jnp.where(e.far, 0.0, slope))) if f.complement else bar


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def times_slope(f: Decay, y_bar: jax.Array, x: jax.Array) -> jax.Array:
    """ȳ f′(x), without underflow before the last product."""
    return _value(f, y_bar, x)


@times_slope.defjvp
def _times_slope_jvp(
    f: Decay, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """F′ = e^−size (rest′ − size′ rest), in F's order of products; JAX would start with the constants."""
    (y_bar, x), (y_bar_dot, x_dot) = primals, tangents
    s, left = clipped_size(x), x < 0
    parts, rates = jax.jvp(f.exponent, (s,), (jnp.ones_like(s),))
    e = f.tail(x, parts[0])
    variables, speeds = (s, e.small, *parts), (jnp.ones_like(s), -rates[0] * e.small, *rates)
    rest, rate = jax.jvp(lambda s, small, *parts: f.rest(s, small, left, *parts), variables, speeds)
    bend = e.times(y_bar, e.q * (rate - rates[0] * rest))
    bend = -bend if f.complement else jnp.where(left, -bend, bend)
    return times_slope(f, y_bar, x), _value(f, y_bar_dot, x) + bend * x_dot


def once(value: jax.Array) -> jax.Array:
    """value, to be used several times without being written to memory.

    XLA's fusion for the CPU gives a costly operation (an exponential, a division) with several uses a
    loop and an array of its own. Behind a cheap operation it has one use.
    """
    return jnp.minimum(value, float(jnp.finfo(value.dtype).max))


def apart(value: jax.Array) -> jax.Array:
    """value, so that XLA does not join what it is made by and what is made of it.

    Its fusion for the CPU would write all that a sum is broadcast to out twice. A comparison between
    the two, which changes nothing, keeps them apart.
    """
    return jnp.where(value > float(jnp.finfo(value.dtype).max), jnp.inf, value)


def quotient(value: jax.Array, t: jax.Array, low: jax.Array | float = 0.0) -> jax.Array:
    """value (1 − low)/(1 + t): for small t as value − value (t/(1 + t) + low), which rounds less."""
    few = t < 1
    ratio = once(jnp.where(few, t, value - value * low) / (1 + t))
    return jnp.where(few, value - value * (ratio + low), ratio)


def halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x = high + low, each with half the digits (low with one more), so that products are exact."""
    bits, cut = (jnp.int32, 12) if is_single(x) else (jnp.int64, 27)
    whole = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), bits)
    high = jax.lax.bitcast_convert_type(whole & jnp.asarray(-(2**cut), bits), x.dtype)
    return high, x - high


def horner(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """c₀ + c₁ x + c₂ x² + ..."""
    value = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        value = value * x + c
    return value


def exp_series(x: jax.Array, skipped: int, largest: float) -> jax.Array:
    """Σ xᵏ/(k + skipped)! = (e^x − the first terms of its series)/x^skipped, to |x| = largest."""
    digits = 2.0**-26 if is_single(x) else 2.0**-55
    coefficients = [1 / math.factorial(skipped)]
    while coefficients[-1] * largest ** (len(coefficients) - 1) > digits * coefficients[0]:
        coefficients.append(1 / math.factorial(skipped + len(coefficients)))
    return horner(coefficients, x)


def expm1(x: jax.Array) -> jax.Array:
    """e^x − 1 to 3 ULP: XLA's own was off by 5 on the CPU before JAX 0.12."""
    near = jnp.abs(x) < 0.5
    z = jnp.where(near, x, 0.0)
    return jnp.where(near, z * exp_series(z, 1, 0.5), jnp.exp(x) - 1)


@jax.custom_jvp
def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """a/b, whose slope is finite for a small b too: JAX's has 1/b² in it."""
    return a / b


@ratio.defjvp
def _ratio_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[Any, Any]:
    (a, b), (a_dot, b_dot) = primals, tangents
    value = ratio(a, b)
    return value, (a_dot - value * b_dot) / b


@jax.custom_jvp
def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a + b rounded, and what that lacks, which has no slope."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


@two_sum.defjvp
def _two_sum_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[Any, Any]:
    total, low = two_sum(*primals)
    return (total, low), (tangents[0] + tangents[1], jnp.zeros_like(low))


# (log 2 in few digits: its multiples are exact; its rest; the exponent's bias; digits; terms of the series)
_LOG_SINGLE = (0.693145751953125, 1.4286068203094172e-06, 127, 23, 7)
_LOG_DOUBLE = (0.6931471803691238, 1.9082149292705877e-10, 1023, 52, 13)


@jax.custom_jvp
def log_parts(x: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(x + lost), lost at most an ULP of a positive x, as a pair of numbers; the slope is 1/x by x alone.

    It is k log 2 + log(1 + f), 1 + f = x/2^k from 2/3 to 4/3; and log(1 + f) = 2 artanh(w), w = f/(2 + f), is
    f, which is exact, and less than a fifth of it: f − ½ f² + w (½ f² + ⅔ w² + ⅖ w⁴ + ...).
    """
    single = is_single(x)
    log_2, rest, bias, digits, terms = _LOG_SINGLE if single else _LOG_DOUBLE
    integer, third = (jnp.int32, 0x3F2AAAAB) if single else (jnp.int64, 0x3FE5555555555555)
    bits = jax.lax.bitcast_convert_type(x, integer)
    k = (bits - jnp.asarray(third, integer)) >> digits
    scale = jax.lax.bitcast_convert_type((jnp.asarray(bias, integer) - k) << digits, x.dtype)
    k = k.astype(x.dtype)
    f = x * scale - 1
    w, half = once(f / (f + 2)), 0.5 * f * f
    series = w * w * horner([2 / (2 * i + 3) for i in range(terms)], w * w)
    high, low = two_sum(f, k * log_2)
    return high, low + ((w * (half + series) - half) + (lost * scale * (1 - f) + k * rest))


@log_parts.defjvp
def _log_parts_jvp(primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]) -> tuple[Any, Any]:
    high, low = log_parts(*primals)
    return (high, low), (tangents[0] / primals[0], jnp.zeros_like(low))

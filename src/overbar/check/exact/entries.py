"""Operations entry by entry: primitive -> what computes one entry."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from overbar.check.exact.numbers import FAR, LARGE, Array, NotExact, Number, Numbers

Entry = Callable[..., Any]

ARITHMETIC: dict[str, Callable[[Numbers, dict[str, Any]], Entry]] = {
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
FUNCTIONS: dict[str, Callable[[Numbers], Entry]] = {
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

TESTS: dict[str, Callable[[Numbers], Entry]] = {
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


def entry_of(numbers: Numbers, name: str, params: dict[str, Any]) -> Entry:
    """What computes one entry of the primitive's result from one entry of each operand."""
    if name in ARITHMETIC:
        return ARITHMETIC[name](numbers, params)
    if name in TESTS:
        return TESTS[name](numbers)
    function = numbers.guarded(FUNCTIONS[name](numbers), odd=name in ODD)
    return _bounded(numbers, name, function) if name in EXTENTS else function


def _bounded(numbers: Numbers, name: str, function: Entry) -> Entry:
    """The function, which refuses numbers out of its extent."""
    least, most = EXTENTS[name]

    def bounded(*xs: Number) -> Number:
        for x in xs:
            if x and numbers.mp.isfinite(x) and not least <= numbers.mp.mag(x) <= most:
                raise NotExact(f"{name} of a number as large or small as {numbers.mp.nstr(x, 3)}")
        return function(*xs)

    return bounded


def is_elementwise(name: str) -> bool:
    return name in ARITHMETIC or name in FUNCTIONS or name in TESTS


def elementwise(numbers: Numbers, name: str, params: dict[str, Any]) -> Callable[..., Array]:
    entry = entry_of(numbers, name, params)

    def apply(*operands: Array) -> Array:
        out = np.frompyfunc(entry, len(operands), 1)(*map(numbers.array, operands))
        if not isinstance(out, np.ndarray):
            out = numbers.filled((), [out])
        return out.astype(bool) if name in TESTS else out

    return apply

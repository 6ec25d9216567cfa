"""The truth to more digits than any dtype has (mpmath), and the distance to it in ULP."""

from __future__ import annotations

import jax.numpy as jnp
import mpmath
import numpy as np

HALVES = (jnp.float16, jnp.bfloat16)
WHOLES = (jnp.float32, jnp.float64)


def every_finite(dtype) -> np.ndarray:
    """All finite numbers of a 16-bit type."""
    bits = np.arange(2**16, dtype=np.uint16).view(dtype)
    with np.errstate(invalid="ignore"):  # the NaNs among them
        return bits[np.isfinite(bits.astype(np.float64))]


def whole_range(dtype, number=3000) -> np.ndarray:
    """Numbers of every magnitude and both signs, denser where an exponential turns, ends, underflows."""
    rng = np.random.default_rng(0)
    info = jnp.finfo(dtype)
    end = -np.log(float(info.tiny))  # e^−end is the smallest normal number
    magnitudes = np.concatenate(
        [
            np.exp(rng.uniform(np.log(float(info.tiny)), np.log(float(info.max)) - 1e-3, number)),
            rng.uniform(0, 20, number),
            rng.uniform(0, 1.1 * end, number),
            rng.uniform(end - 2, end + 2, number // 2),
            rng.uniform(end / 2 - 2, end / 2 + 2, number // 2),
            [0.0, float(info.tiny), float(info.max), 64.0, 512.0],
        ]
    )
    return np.concatenate([magnitudes, -magnitudes]).astype(dtype)


def random_bars(shape, dtype) -> np.ndarray:
    """Cotangents of both signs: half of them ordinary, half of every magnitude the dtype has."""
    rng = np.random.default_rng(1)
    info = jnp.finfo(dtype)
    low, high = np.log(float(info.tiny)), np.log(float(info.max))
    size = np.where(
        rng.random(shape) < 0.5, rng.uniform(0.3, 8, shape), np.exp(rng.uniform(low, high - 1e-2, shape))
    )
    return (size * rng.choice([-1, 1], shape)).astype(dtype)


def ulp_errors(got, want: list, dtype) -> np.ndarray:
    """|got − want| in units of the spacing of the dtype's numbers at want.

    0 where want is below the smallest normal number, which the CPU backend flushes to 0, and where
    both are too large for the dtype.
    """
    info = jnp.finfo(dtype)
    tiny, largest = mpmath.mpf(float(info.tiny)), mpmath.mpf(float(info.max))
    errors = []
    for g, w in zip(np.asarray(got, np.float64).tolist(), want, strict=True):
        size = abs(w)
        if size < tiny or (size > largest and abs(g) == np.inf):
            errors.append(0.0)
        else:
            spacing = mpmath.ldexp(1, mpmath.frexp(size)[1] - 1 - info.nmant)
            errors.append(float(abs(mpmath.mpf(g) - w) / spacing))
    return np.array(errors)


def bars_of(slope, x, y_bar) -> list:
    """ȳ f'(x) for every pair, with f' given in mpmath; equal |x| of an even f' are computed once."""
    known: dict = {}

    def at(v):
        if v not in known:
            known[v] = slope(mpmath.mpf(v))
        return known[v]

    pairs = zip(np.asarray(x, np.float64).tolist(), np.asarray(y_bar, np.float64).tolist(), strict=True)
    return [at(v) * mpmath.mpf(b) for v, b in pairs]


def logistic(x):
    e = mpmath.exp(-abs(x)) if abs(x) < 2000 else mpmath.mpf(0)
    return (1 if x >= 0 else e) / (1 + e)


def logistic_slope(x):
    return logistic(x) * logistic(-x)


def tanh_slope(x):
    return 4 * logistic_slope(2 * x)

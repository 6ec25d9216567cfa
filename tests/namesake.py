"""A rule beside its namesake, or beside jax.grad of the same function: values, bars, errors, bytes kept."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by


def is_float(x) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


def loosely(f):
    """f under the promotion that users have: optax needs it."""

    @functools.wraps(f)
    def run(*args, **options):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*args, **options)

    return run


def of_floats(f, args):
    """f as a function of its float arguments alone, and these."""
    where = [i for i, x in enumerate(args) if is_float(x)]
    if len(where) == len(args):
        return f, [jnp.asarray(x) for x in args]

    def function(*floats):
        filled = list(args)
        for i, x in zip(where, floats, strict=True):
            filled[i] = x
        return f(*filled)

    return function, [jnp.asarray(args[i]) for i in where]


@functools.lru_cache
def compiled(f, value):
    """(args, bars of f's value) -> the bars of args, or (the value, these); once for args of one shape."""

    @jax.jit
    def run(args, y_bars):
        y, pullback = jax.vjp(loosely(f), *args)
        bars = pullback(jax.tree.unflatten(jax.tree.structure(y), y_bars))
        return (y, bars) if value else bars

    return run


def eighths(rng, shape):
    """Numbers that every dtype holds."""
    return rng.integers(-16, 17, shape) / 8


def drawn_bars(f, args, seed=0, draw=eighths, dtype=jnp.float32):
    """Bars of f's value at random, of numbers that the dtype holds."""
    rng = np.random.default_rng(seed)
    leaves = jax.tree.leaves(jax.eval_shape(loosely(f), *args))
    return [jnp.asarray(draw(rng, y.shape), dtype).astype(y.dtype) for y in leaves]


def both_passes(f, args, seed=0):
    """The value and the bars of the float arguments, compiled as one; bars of the value drawn at random."""
    function, floats = of_floats(f, args)
    return compiled(function, value=True)(floats, drawn_bars(function, floats, seed))


def assert_same_outputs(ours, theirs, *args, ulps=0):
    """Called, under jax.vjp, and compiled: the same dtypes, and bit for bit.

    Compiled they may be some ULP apart, where XLA fuses the two otherwise.
    """
    for run, apart in ((lambda g: g, 0), (jax.jit, ulps)):
        want = jax.tree.leaves(run(loosely(theirs))(*args))
        for got in (run(ours)(*args), run(lambda *xs: jax.vjp(ours, *xs)[0])(*args)):
            for a, b in zip(jax.tree.leaves(got), want, strict=True):
                assert a.dtype == b.dtype
                if apart:
                    np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), apart)
                else:
                    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def bars_and_truth(ours, theirs, args, dtype, seed, draw):
    """For each float argument our bar, theirs, and theirs in float64 on the same numbers: all as float64."""
    args = [jnp.asarray(x, dtype) if is_float(x) else x for x in args]
    (f, floats), (g, _) = of_floats(ours, args), of_floats(theirs, args)
    found = [compiled(h, value=False)(floats, drawn_bars(h, floats, seed, draw, dtype)) for h in (f, g)]
    with jax.enable_x64(True):
        wide = [jnp.asarray(np.asarray(x, np.float64)) for x in floats]
        found.append(compiled(g, value=False)(wide, drawn_bars(g, wide, seed, draw, dtype)))
    return [[np.asarray(bar, np.float64) for bar in bars] for bars in zip(*found, strict=True)]


def errors(ours, theirs, args, dtype, seed=0):
    """For each float argument the largest error of our bar from theirs in float64, and what is allowed.

    That is the error of their bar, or one ULP of the largest entry: below it a single rounding is chance.
    """
    eps = float(jnp.finfo(dtype).eps)
    of_both = []
    for a, b, t in bars_and_truth(ours, theirs, args, dtype, seed, eighths):
        assert np.isfinite(a).all()
        known = np.isfinite(t) & np.isfinite(b)  # elsewhere jax.grad has lost it, as at what is masked
        error, theirs_error = (np.max(np.abs(v - t)[known], initial=0.0) for v in (a, b))
        of_both.append((error, max(theirs_error, eps * np.max(np.abs(t[known]), initial=0.0))))
    return of_both


def mean_errors(ours, theirs, make, dtype, seeds=4):
    """For each argument the root mean square error of our bar, and of theirs, in units of the rounding of
    the bar's largest entry; on average over inputs that make(rng) draws anew."""

    def error(bar, truth):
        return np.sqrt(np.mean((bar - truth) ** 2)) / (np.abs(truth).max() * float(jnp.finfo(dtype).eps))

    def of_seed(seed):
        args = make(np.random.default_rng(seed))
        seed += 1000  # with that of the arguments the bars would be the same numbers as the first argument is
        bars = bars_and_truth(ours, theirs, args, dtype, seed, np.random.Generator.standard_normal)
        return [[error(a, truth), error(b, truth)] for a, b, truth in bars]

    return np.mean([of_seed(seed) for seed in range(seeds)], axis=0)


def kept_bytes(f, args) -> int:
    """What the pullback of f holds, in bytes."""
    function, floats = of_floats(f, args)
    side = Side(lambda *xs: jax.tree.leaves(loosely(function)(*xs)), False)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return kept_by(side, [np.asarray(x) for x in floats])[0]

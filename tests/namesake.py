"""A rule beside its namesake: values, bars and their errors on the same inputs, truth in float64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by


def is_float(x) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)


def of_floats(f, args):
    """f as a function of its float arguments alone, and these."""
    where = [i for i, x in enumerate(args) if is_float(x)]

    def function(*floats):
        filled = list(args)
        for i, x in zip(where, floats, strict=True):
            filled[i] = x
        return f(*filled)

    return function, [jnp.asarray(args[i]) for i in where]


def both_passes(f, args, seed=0):
    """The value and the bars of the float arguments, compiled as one; bars of the value drawn at random."""
    function, floats = of_floats(f, args)

    @jax.jit
    def run(*floats):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            y, pullback = jax.vjp(function, *floats)
            leaves, tree = jax.tree.flatten(y)
            rng = np.random.default_rng(seed)
            bars = [jnp.asarray(rng.integers(-16, 17, a.shape) / 8, a.dtype) for a in leaves]
            return y, pullback(jax.tree.unflatten(tree, bars))

    return run(*floats)


def loosely(f):
    """f under the promotion that users have: optax needs it."""

    @functools.wraps(f)
    def run(*args, **options):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*args, **options)

    return run


def same_values(ours, theirs, args, ulps=1):
    """The values are the same bit for bit; under jit, where XLA fuses the two otherwise, within some ULP."""
    jax.tree.map(np.testing.assert_array_equal, *(loosely(f)(*args) for f in (ours, theirs)))
    got, want = (both_passes(f, args)[0] for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_array_max_ulp(np.asarray(a), np.asarray(b), ulps), got, want)


def errors(ours, theirs, args, dtype, seed=0):
    """For each float argument the largest error of our bar from theirs in float64, and what is allowed.

    That is the error of their bar, or one ULP of the largest entry: below it a single rounding is chance.
    """
    args = [jnp.asarray(x, dtype) if is_float(x) else x for x in args]
    got, kept = (both_passes(f, args, seed)[1] for f in (ours, theirs))
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) if is_float(x) else x for x in args]
        want = both_passes(theirs, wide, seed)[1]
    eps = float(jnp.finfo(dtype).eps)
    of_both = []
    for ours_bar, theirs_bar, truth in zip(got, kept, want, strict=True):
        a, b, t = (np.asarray(v, np.float64) for v in (ours_bar, theirs_bar, truth))
        assert np.isfinite(a).all()
        known = np.isfinite(t) & np.isfinite(b)  # elsewhere jax.grad has lost it, as at what is masked
        error, theirs_error = (np.max(np.abs(v - t)[known], initial=0.0) for v in (a, b))
        of_both.append((error, max(theirs_error, eps * np.max(np.abs(t[known]), initial=0.0))))
    return of_both


def kept_bytes(f, args) -> int:
    """What the pullback of f holds, in bytes."""
    function, floats = of_floats(f, args)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return kept_by(
            Side(lambda *xs: jax.tree.leaves(function(*xs)), False), [np.asarray(x) for x in floats]
        )[0]

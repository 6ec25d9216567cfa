"""A rule beside its namesake: values, bars and their errors on the same inputs, truth in float64."""

from __future__ import annotations

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


def errors(ours, theirs, args, dtype, seed=0):
    """For each float argument the largest errors of the two bars from those of theirs in float64."""
    args = [jnp.asarray(x, dtype) if is_float(x) else x for x in args]
    got, kept = (both_passes(f, args, seed)[1] for f in (ours, theirs))
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) if is_float(x) else x for x in args]
        want = both_passes(theirs, wide, seed)[1]
    worst = [
        [np.max(np.abs(np.asarray(b, np.float64) - t), initial=0.0) for b, t in zip(bars, want, strict=True)]
        for bars in (got, kept)
    ]
    return list(zip(*worst, strict=True))


def kept_bytes(f, args) -> int:
    """What the pullback of f holds, in bytes."""
    function, floats = of_floats(f, args)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return kept_by(Side(lambda *xs: [function(*xs)], False), [np.asarray(x) for x in floats])[0]

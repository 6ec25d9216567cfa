"""A rule beside jax.grad of another function: errors against float64, bytes kept, outputs bit for bit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by


@functools.lru_cache
def pullback(f):
    """(args, the bars of f's value) -> the bars of args; compiled, once for all inputs of the same shapes."""
    return jax.jit(lambda args, y_bars: jax.vjp(f, *args)[1](y_bars))


def errors(f, twin, args, dtype, seed=0):
    """For each argument: (root mean square error of f's bar, of the twin's), against the twin in float64.

    In units of the rounding of the bar's largest entry. Under jax.enable_x64.
    """
    args = [jnp.asarray(a, dtype) for a in args]
    leaves, tree = jax.tree.flatten(jax.eval_shape(twin, *args))
    rng = np.random.default_rng(seed)
    y_bars = [jnp.asarray(rng.standard_normal(y.shape), y.dtype) for y in leaves]
    wide = [[jnp.asarray(x, jnp.float64) for x in xs] for xs in (args, y_bars)]
    truths = pullback(twin)(wide[0], tree.unflatten(wide[1]))
    found = []
    for truth, *bars in zip(
        truths, *(pullback(g)(args, tree.unflatten(y_bars)) for g in (f, twin)), strict=True
    ):
        truth = np.asarray(truth, np.float64)
        unit = np.abs(truth).max() * float(jnp.finfo(dtype).eps)
        found.append([np.sqrt(np.mean((np.asarray(b, np.float64) - truth) ** 2)) / unit for b in bars])
    return np.array(found)


def mean_errors(f, twin, make, dtype, seeds=4):
    """The errors on average over inputs drawn anew: (arguments, 2)."""
    return np.mean([errors(f, twin, make(np.random.default_rng(s)), dtype, s) for s in range(seeds)], axis=0)


def kept(f, *args):
    """Bytes between forward and backward."""
    return kept_by(Side(lambda *xs: jax.tree.leaves(f(*xs)), False), [np.asarray(x) for x in args])[0]


def assert_same_outputs(f, namesake, *args):
    """Called, under jax.vjp, and compiled: bit for bit, and the same dtypes."""
    for run in (lambda g: g, jax.jit):
        want = jax.tree.leaves(run(namesake)(*args))
        for got in (run(f)(*args), run(lambda *xs: jax.vjp(f, *xs)[0])(*args)):
            for a, b in zip(jax.tree.leaves(got), want, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

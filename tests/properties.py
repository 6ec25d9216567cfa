"""What every rule must satisfy on every sample, as functions that raise AssertionError.

`test_registry.py` runs them over the registry; `test_rule.py` runs them on rules with planted
faults and sees that each fault is caught. They run with 64-bit types on.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from overbar.rule import call_by_name

HALF_AND_UP = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


def is_float(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, np.inexact)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_float(leaf) else leaf, tree)


def normal_like(tree, key):
    """Random numbers in the place of every float leaf, None in the place of the others."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(
        structure,
        [
            jax.random.normal(k, x.shape, x.dtype) if is_float(x) else None
            for k, x in zip(keys, leaves, strict=True)
        ],
    )


def dot(a, b):
    """⟨a, b⟩ over the leaves that both have."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum((jnp.sum(x * y) for x, y in pairs), start=jnp.zeros(()))


def close(got, want, rtol=1e-9, atol=1e-12):
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        if w.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(
                np.asarray(g, np.float64), np.asarray(w, np.float64), rtol=rtol, atol=atol
            )


@functools.partial(jax.jit, static_argnums=0)
def _bars(f, y_bar, *inputs):
    return jax.vjp(f, *inputs)[1](y_bar)


class Case:
    """A rule on one sample in one dtype: the rule and its reference as functions of the float inputs."""

    def __init__(self, rule, sample, key, dtype=np.float64):
        self.rule, self.sample, self.key = rule, sample, key
        self.args = cast(jax.tree.map(lambda x: jnp.asarray(x), sample.args), dtype)
        named, self.options = rule.bind(*self.args, **sample.options)
        self.fixed = {n: v for n, v in named.items() if not any(map(is_float, jax.tree.leaves(v)))}
        self.names = tuple(n for n in named if n not in self.fixed)
        self.inputs = tuple(named[n] for n in self.names)

    def _call(self, fn, inputs):
        return call_by_name(fn, self.fixed | self.options | dict(zip(self.names, inputs, strict=True)))

    def f(self, *inputs):
        return self._call(self.rule, inputs)

    def reference(self, *inputs):
        return self._call(self.rule.parts["reference"], inputs)

    def y_bar(self, number=0):
        y = jax.eval_shape(self.f, *self.inputs)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), y)
        return normal_like(zeros, jax.random.fold_in(self.key, number))

    def bars(self, y_bar):
        return _bars(self.f, y_bar, *self.inputs)

    @property
    def size(self):
        return sum(leaf.size for leaf in jax.tree.leaves(self.inputs))


def primal_equals_reference(case):
    close(case.f(*case.inputs), case.reference(*case.inputs))


def forward_equals_primal(case):
    y, _ = jax.vjp(case.f, *case.inputs)
    close(y, case._call(case.rule.primal, case.inputs), rtol=0, atol=0)


def bars_equal_the_references(case):
    for number in range(3):
        y_bar = case.y_bar(number)
        close(case.bars(y_bar), _bars(case.reference, y_bar, *case.inputs))


def bars_equal_differences(case):
    """Central differences of the primal, extrapolated once, along a random direction."""
    if "kink" in case.sample.tags:
        return
    y_bar, v = case.y_bar(), normal_like(case.inputs, jax.random.fold_in(case.key, 7))

    @jax.jit
    def along(h):
        plus = case._call(case.rule.primal, jax.tree.map(lambda x, d: x + h * d, case.inputs, v))
        minus = case._call(case.rule.primal, jax.tree.map(lambda x, d: x - h * d, case.inputs, v))
        return dot(y_bar, jax.tree.map(lambda a, b: (a - b) / (2 * h), plus, minus))

    h = step_clear_of_kinks(case, v)
    bars = case.bars(y_bar)
    size = dot(jax.tree.map(jnp.abs, bars), jax.tree.map(jnp.abs, v))  # what rounding is relative to
    difference = (4 * along(h / 2) - along(h)) / 3
    np.testing.assert_allclose(dot(bars, v), difference, rtol=0, atol=1e-7 * size + 1e-12)


def step_clear_of_kinks(case, v):
    """1e-3, or less where an input comes nearer to a kink than the step would go."""
    distances = [
        np.min(np.abs(x - kink), initial=np.inf)
        for kink in case.rule.kinks
        for x in jax.tree.leaves(case.inputs)
    ]
    longest = max(np.max(np.abs(d), initial=1.0) for d in jax.tree.leaves(v))
    return min(1e-3, 0.5 * min(distances, default=np.inf) / longest)


def linear_in_the_bar(case):
    a, b = case.y_bar(1), case.y_bar(2)
    both = jax.tree.map(lambda x, y: 3 * x - 0.5 * y, a, b)
    want = jax.tree.map(lambda x, y: 3 * x - 0.5 * y, case.bars(a), case.bars(b))
    close(case.bars(both), want, atol=1e-11)
    zero = jax.tree.map(jnp.zeros_like, a)
    close(case.bars(zero), jax.tree.map(jnp.zeros_like, case.inputs), rtol=0, atol=0)


def jit_equals_eager(case):
    y_bar = case.y_bar()
    y, pullback = jax.vjp(case.f, *case.inputs)
    close(jax.jit(case.f)(*case.inputs), y, rtol=1e-14)
    close(case.bars(y_bar), pullback(y_bar), rtol=1e-12)


def vmap_equals_loop(case):
    """Every choice of batched and unbatched inputs, the bar batched as well."""
    copies = 3
    for mix in itertools.product([0, None], repeat=len(case.inputs)):
        if not any(axis == 0 for axis in mix):
            continue
        inputs = tuple(
            jax.tree.map(lambda x: jnp.stack([x * (1 + 0.1 * k) for k in range(copies)]), x)
            if axis == 0
            else x
            for x, axis in zip(case.inputs, mix, strict=True)
        )
        y_bars = [case.y_bar(k) for k in range(copies)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *y_bars)

        one = functools.partial(_bars, case.f)
        got = jax.vmap(one, in_axes=(0, *mix))(stacked, *inputs)
        loop = [
            one(y_bars[k], *(take(k, x) if axis == 0 else x for x, axis in zip(inputs, mix, strict=True)))
            for k in range(copies)
        ]
        close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop), rtol=1e-12)


def take(k, tree):
    return jax.tree.map(lambda x: x[k], tree)


def curved(case, f):
    """A number made of f's output, not linear in it, so that the bar of y depends on the inputs too."""
    y_bar = case.y_bar()
    return lambda *inputs: dot(jax.tree.map(jnp.sin, f(*inputs)), y_bar)


def grad_of_grad(case):
    """Reverse over reverse, against the reference's."""
    v = normal_like(case.inputs, jax.random.fold_in(case.key, 9))

    def slope(f):
        return lambda *inputs: dot(jax.grad(curved(case, f), argnums)(*inputs), v)

    argnums = tuple(range(len(case.inputs)))
    got, want = (jax.jit(jax.grad(slope(f), argnums))(*case.inputs) for f in (case.f, case.reference))
    close(got, want)


def hessian(case):
    """Forward over reverse (jax.hessian), against the reference's."""
    if case.size > 48:
        return
    argnums = tuple(range(len(case.inputs)))
    got, want = (
        jax.jit(jax.hessian(curved(case, f), argnums))(*case.inputs) for f in (case.f, case.reference)
    )
    close(got, want)


def dtypes_are_kept(case):
    def primal_and_bars(*inputs):
        y, pullback = jax.vjp(case.f, *inputs)
        return y, pullback(y)

    for dtype in HALF_AND_UP:
        low = cast(case.inputs, dtype)
        y, bars = jax.eval_shape(primal_and_bars, *low)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(y))
        assert [leaf.dtype for leaf in jax.tree.leaves(bars)] == [leaf.dtype for leaf in jax.tree.leaves(low)]


PROPERTIES = (
    primal_equals_reference,
    forward_equals_primal,
    bars_equal_the_references,
    bars_equal_differences,
    linear_in_the_bar,
    jit_equals_eager,
    vmap_equals_loop,
    grad_of_grad,
    hessian,
    dtypes_are_kept,
)

"""Functions that test the tester: right ones that are tricky, and wrong ones, each a bug that people make.

`WRONG` is made of right functions by faults planted in their backward, one at a time; a fault is
planted wherever it makes the backward another one. `RIGHT` are right and look suspicious.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Case:
    name: str
    f: Callable[..., Any]
    args: tuple[Any, ...]
    fault: str = ""
    options: Any = None


def custom(primal, forward, backward, **defvjp):
    f = jax.custom_vjp(primal)
    f.defvjp(forward, backward, **defvjp)
    return f


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


# ---------------------------------------------------------------------- right functions to plant faults in
# name -> (primal, forward, backward, arguments); every backward returns a tuple.


def _softmax(x):
    return jax.nn.softmax(x, axis=-1)


def _norm(x, scale):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale


def _norm_backward(r, g):
    x, scale = r
    c = x - x.mean(-1, keepdims=True)
    s = jnp.sqrt((c * c).mean(-1, keepdims=True) + 1e-5)
    n = c / s
    gs = g * scale
    x_bar = (gs - gs.mean(-1, keepdims=True) - n * (gs * n).mean(-1, keepdims=True)) / s
    return x_bar, (g * n).sum(tuple(range(g.ndim - 1)))


def keep(f):
    return lambda *args: (f(*args), args)


BASES = {
    "sin": (jnp.sin, keep(jnp.sin), lambda r, g: (g * jnp.cos(r[0]),), (normal(0, 6),)),
    "tanh": (
        jnp.tanh,
        lambda x: (jnp.tanh(x), jnp.tanh(x)),
        lambda y, g: (g * (1 - y * y),),
        (normal(1, 4, 3),),
    ),
    "matmul": (
        jnp.matmul,
        keep(jnp.matmul),
        lambda r, g: (g @ r[1].T, r[0].T @ g),
        (normal(2, 4, 4), normal(3, 4, 4)),
    ),
    "affine": (
        lambda x, w, b: x @ w + b,
        keep(lambda x, w, b: x @ w + b),
        lambda r, g: (g @ r[1].T, r[0].T @ g, g.sum(0)),
        (normal(4, 5, 3), normal(5, 3, 2), normal(6, 2)),
    ),
    "softmax": (
        _softmax,
        lambda x: (_softmax(x), _softmax(x)),
        lambda y, g: (y * (g - (g * y).sum(-1, keepdims=True)),),
        (normal(7, 3, 5),),
    ),
    "squared error": (
        lambda y, t: jnp.mean((y - t) ** 2),
        lambda y, t: (jnp.mean((y - t) ** 2), y - t),
        lambda e, g: (2 * g * e / e.size, -2 * g * e / e.size),
        (normal(8, 7), normal(9, 7)),
    ),
    "product": (
        lambda x, y: x * y,
        keep(lambda x, y: x * y),
        lambda r, g: (g * r[1], g * r[0]),
        (normal(10, 3, 3), normal(11, 3, 3)),
    ),
    "layer norm": (_norm, keep(_norm), _norm_backward, (normal(12, 4, 6), 1 + 0.1 * normal(13, 6))),
    "logsumexp": (
        lambda x: jax.nn.logsumexp(x, -1),
        lambda x: (jax.nn.logsumexp(x, -1), x),
        lambda x, g: (g[..., None] * _softmax(x),),
        (normal(14, 4, 5),),
    ),
    "cumsum": (
        lambda x: jnp.cumsum(x, 0),
        lambda x: (jnp.cumsum(x, 0), None),
        lambda _, g: (jnp.cumsum(g[::-1], 0)[::-1],),
        (normal(15, 8),),
    ),
    "two outputs": (
        lambda x: (jnp.sin(x), jnp.exp(x)),
        lambda x: ((jnp.sin(x), jnp.exp(x)), x),
        lambda x, g: (g[0] * jnp.cos(x) + g[1] * jnp.exp(x),),
        (normal(16, 5),),
    ),
    "broadcast scale": (
        lambda x, s: x * s,
        keep(lambda x, s: x * s),
        lambda r, g: (g * r[1], (g * r[0]).sum()),
        (normal(17, 4, 2), jnp.float32(1.0)),
    ),
}

# ---------------------------------------------------------------------- faults
# (residuals, g, right bars) -> wrong bars, or None where the fault cannot be planted.


def on_first(change):
    return lambda r, g, bars: (change(bars[0]), *bars[1:])


def on_last(change):
    return lambda r, g, bars: (*bars[:-1], change(bars[-1]))


def bar_changed(change):
    """The right backward, under a changed incoming bar."""
    return ("bar", change)


FAULTS: dict[str, Any] = {
    "sign": on_first(lambda b: -b),
    "sign of the last input": on_last(lambda b: -b),
    "factor 2": on_first(lambda b: 2 * b),
    "factor 1/2": on_last(lambda b: b / 2),
    "off by 0.1 %": on_first(lambda b: b * 1.001),
    "off by 0.1 % at one entry": on_first(lambda b: b.at[(-1,) * b.ndim].mul(1.001)),
    "one entry zeroed": on_first(lambda b: b.at[(0,) * b.ndim].set(0)),
    "zero": on_last(jnp.zeros_like),
    "None": lambda r, g, bars: (*bars[:-1], None),
    "detached": on_first(jax.lax.stop_gradient),
    "clipped": on_first(lambda b: jnp.clip(b, -20, 20)),
    "divided by the size": on_first(lambda b: b / b.size if b.size > 1 else None),
    "times the batch": on_first(lambda b: b * b.shape[0] if b.ndim and b.shape[0] > 1 else None),
    "transposed": on_first(lambda b: b.T if b.ndim == 2 and b.shape[0] == b.shape[1] else None),
    "swapped": lambda r, g, bars: bars[::-1] if len(bars) == 2 and bars[0].shape == bars[1].shape else None,
    "first row only": on_first(lambda b: b.at[1:].set(0) if b.ndim and b.shape[0] > 1 else None),
    "reversed": on_first(lambda b: b[::-1] if b.ndim and b.shape[0] > 1 else None),
    "absolute value": on_first(jnp.abs),
    "a term added": on_first(lambda b: b + 0.01),
    "bf16 inside": on_first(lambda b: b.astype(jnp.bfloat16).astype(b.dtype)),
    "wrong dtype": on_first(lambda b: b.astype(jnp.bfloat16)),
    "wrong at the sample's shape plus one": on_first(
        lambda b: (
            b * jnp.where(jnp.arange(b.shape[0]) < 4, 1, 0).reshape(-1, *[1] * (b.ndim - 1))
            if b.ndim and b.shape[0] == 4
            else None
        )
    ),
    "bar ignored": bar_changed(jnp.ones_like),
    "bar squared": bar_changed(jnp.square),
    "bar clipped": bar_changed(lambda g: jnp.clip(g, -2, 2)),
    "bar's sign only": bar_changed(jnp.sign),
    "nan for a large bar": bar_changed(lambda g: jnp.where(jnp.abs(g) > 1e3, jnp.nan, g)),
    "wrong for large inputs": "region large",
    "wrong for negative inputs": "region negative",
    "wrong at zero": "region zero",
}


def plant(base, fault):
    """A custom_vjp with a fault in its backward, or None where it would be no other."""
    primal, forward, backward, args = BASES[base]
    change = FAULTS[fault]

    def wrong_backward(residuals, g):
        kept, inputs = residuals
        if isinstance(change, tuple):
            return backward(kept, jax.tree.map(change[1], g))
        bars = backward(kept, g)
        if isinstance(change, str):
            x = inputs[0]
            region = {"large": jnp.abs(x) > 4, "negative": x < -0.5, "zero": x == 0}[change.split()[1]]
            if region.shape != bars[0].shape:
                return None
            return (
                jnp.where(region, 1.5 * bars[0] + 0.5 * jnp.sum(jax.tree.leaves(g)[0]), bars[0]),
                *bars[1:],
            )
        return change(kept, g, bars)

    def trial():
        y, kept = forward(*args)
        return wrong_backward((kept, args), y)

    try:
        planted = jax.eval_shape(trial)  # traced only: there are hundreds
    except (TypeError, IndexError):
        return None
    if planted is None or (planted[0] is None and fault != "None"):
        return None

    def wrong_forward(*inputs):
        y, kept = forward(*inputs)
        return y, (kept, inputs)

    return Case(f"{base}: {fault}", custom(primal, wrong_forward, wrong_backward), args, fault)


WRONG = [case for base in BASES for fault in FAULTS if (case := plant(base, fault)) is not None]
# Faults that are none: the derivative is the same one.
SAME = {"cumsum: detached"}  # a linear function: its backward is constant
WRONG = [case for case in WRONG if case.name not in SAME]

# ---------------------------------------------------------------------- right and tricky


def _case(name, primal, forward, backward, *args, options=None, **defvjp):
    return Case(name, custom(primal, forward, backward, **defvjp), args, options=options)


def _while_exp(x):
    """exp by its series, in a while_loop: no reverse derivative of its own."""

    def body(c):
        k, term, total = c
        return k + 1, term * x / (k + 1), total + term * x / (k + 1)

    return jax.lax.while_loop(lambda c: c[0] < 300, body, (0.0, jnp.ones_like(x), jnp.ones_like(x)))[2]


def _callback(x):
    return jax.pure_callback(
        lambda x: np.sinh(x).astype(x.dtype),
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        x,
        vmap_method="sequential",
    )


def _gather(table, ids):
    return table[ids]


def _dropout(key, x):
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


def _solve(a, b):
    return jnp.linalg.solve(a, b)


def _solve_backward(r, g):
    a, y = r
    b_bar = jnp.linalg.solve(a.T, g)
    return -jnp.outer(b_bar, y), b_bar


def _hilbert(n):
    i = np.arange(n)
    return jnp.asarray(1 / (i[:, None] + i + 1), jnp.float32)


def _power(n, x):
    return x**n


def _max(x):
    return jnp.max(x)


def _max_backward(r, g):
    x, y = r
    hit = (x == y).astype(x.dtype)
    return (g * hit / hit.sum(),)


RIGHT = [
    *(Case(f"{name}", custom(p, fw, bw), args) for name, (p, fw, bw, args) in BASES.items()),
    _case(
        "max with ties",
        _max,
        lambda x: (_max(x), (x, _max(x))),
        _max_backward,
        jnp.array([1.0, 3.0, 3.0, 2.0]),
    ),
    _case(
        "relu at 0",
        lambda x: jnp.maximum(x, 0),
        lambda x: (jnp.maximum(x, 0), x),
        lambda x, g: (g * (x > 0),),
        jnp.array([-1.0, 0.0, 2.0]),
    ),
    _case(
        "abs at 0",
        jnp.abs,
        lambda x: (jnp.abs(x), x),
        lambda x, g: (g * jnp.sign(x),),
        jnp.array([-1.0, 0.0, 2.0]),
    ),
    _case(
        "bfloat16",
        jnp.sin,
        keep(jnp.sin),
        lambda r, g: (g * jnp.cos(r[0]),),
        normal(20, 8).astype(jnp.bfloat16),
    ),
    _case(
        "float16",
        jnp.tanh,
        keep(jnp.tanh),
        lambda r, g: (g * (1 - jnp.tanh(r[0]) ** 2),),
        normal(21, 8).astype(jnp.float16),
    ),
    _case(
        "sum of 1e6 terms",
        lambda x: jnp.sum(x),
        lambda x: (jnp.sum(x), x),
        lambda x, g: (jnp.full(x.shape, g, x.dtype),),
        normal(22, 1_000_000),
    ),
    _case(
        "mean square of 1e5 terms",
        lambda x: jnp.mean(x * x),
        keep(lambda x: jnp.mean(x * x)),
        lambda r, g: (2 * g * r[0] / r[0].size,),
        normal(23, 100_000),
    ),
    _case(
        "ill-conditioned solve",
        _solve,
        lambda a, b: (_solve(a, b), (a, _solve(a, b))),
        _solve_backward,
        _hilbert(5),
        normal(24, 5),
    ),
    _case(
        "integer input",
        _gather,
        lambda t, i: (_gather(t, i), (t, i)),
        lambda r, g: (jnp.zeros_like(r[0]).at[r[1]].add(g), None),
        normal(25, 5, 2),
        jnp.array([0, 2, 2, 4]),
    ),
    _case(
        "key input",
        _dropout,
        lambda k, x: (_dropout(k, x), (k, x.shape[0])),
        lambda r, g: (None, _dropout(r[0], g)),
        jax.random.key(3),
        normal(26, 6),
    ),
    _case(
        "raw key input",
        _dropout,
        lambda k, x: (_dropout(k, x), k),
        lambda k, g: (None, _dropout(k, g)),
        jax.random.PRNGKey(3),
        normal(27, 6),
    ),
    _case(
        "while_loop",
        _while_exp,
        lambda x: (_while_exp(x), _while_exp(x)),
        lambda y, g: (g * y,),
        normal(28, 4),
    ),
    _case("callback", _callback, lambda x: (_callback(x), x), lambda x, g: (g * jnp.cosh(x),), normal(29, 4)),
    _case(
        "pytree",
        lambda p: p["a"] @ p["b"][0],
        lambda p: (p["a"] @ p["b"][0], p),
        lambda p, g: ({"a": g[:, None] * p["b"][0], "b": [p["a"].T @ g]},),
        {"a": normal(30, 3, 2), "b": [normal(31, 2)]},
    ),
    _case(
        "complex",
        lambda z: z * z,
        lambda z: (z * z, z),
        lambda z, g: (2 * z * g,),
        normal(32, 4) + 1j * normal(33, 4),
    ),
    _case(
        "real of complex",
        lambda z: jnp.real(z * jnp.conj(z)),
        lambda z: (jnp.real(z * jnp.conj(z)), z),
        lambda z, g: (2 * jnp.conj(z) * g,),
        normal(34, 4) + 1j * normal(35, 4),
    ),
    _case(
        "straight-through, declared",
        lambda x: jnp.round(x),
        lambda x: (jnp.round(x), None),
        lambda _, g: (g,),
        normal(36, 5),
        options={"intentional": True},
    ),
    _case(
        "straight-through, like the identity",
        lambda x: jnp.round(x),
        lambda x: (jnp.round(x), None),
        lambda _, g: (g,),
        normal(37, 5),
        options={"like": lambda x: x * 1},
    ),
    _case(
        "gradient reversal, like minus",
        lambda x: x * 1,
        lambda x: (x * 1, None),
        lambda _, g: (-g,),
        normal(38, 5),
        options={"like": lambda x: -x},
    ),
    _case(
        "safe norm at 0",
        lambda x: jnp.sqrt(jnp.sum(x * x)),
        lambda x: (jnp.sqrt(jnp.sum(x * x)), x),
        lambda x, g: (g * x / jnp.maximum(jnp.sqrt(jnp.sum(x * x)), 1e-30),),
        normal(39, 4),
    ),
    _case(
        "stable log1pexp",
        lambda x: jnp.log1p(jnp.exp(x)),
        lambda x: (jnp.logaddexp(x, 0.0), x),
        lambda x, g: (g * jax.nn.sigmoid(x),),
        normal(40, 6),
    ),
    _case(
        "float32 inside",
        lambda x: jnp.sin(x.astype(jnp.float32)).astype(x.dtype),
        lambda x: (jnp.sin(x.astype(jnp.float32)).astype(x.dtype), x),
        lambda x, g: ((g.astype(jnp.float32) * jnp.cos(x.astype(jnp.float32))).astype(x.dtype),),
        normal(41, 6),
    ),
    _case(
        "sort",
        lambda x: jnp.sort(x),
        lambda x: (jnp.sort(x), jnp.argsort(x)),
        lambda i, g: (jnp.zeros_like(g).at[i].set(g),),
        normal(42, 6),
    ),
    _case(
        "scan inside",
        lambda x: jax.lax.scan(lambda c, a: (c + a * a, c), jnp.zeros(()).astype(x.dtype), x)[0],
        lambda x: (jnp.sum(x * x), x),
        lambda x, g: (2 * g * x,),
        normal(43, 5),
    ),
    _case(
        "unused input",
        lambda x, y: jnp.sin(x),
        lambda x, y: (jnp.sin(x), (x, y)),
        lambda r, g: (g * jnp.cos(r[0]), jnp.zeros_like(r[1])),
        normal(44, 4),
        normal(45, 3),
    ),
    _case("a Python float", jnp.sin, keep(jnp.sin), lambda r, g: (g * jnp.cos(r[0]),), 0.7),
    _case("empty", jnp.sin, keep(jnp.sin), lambda r, g: (g * jnp.cos(r[0]),), normal(46, 3)),
    Case(
        "symbolic zeros",
        custom(
            lambda x, y: x * y,
            lambda x, y: (x.value * y.value, (x.value, y.value)),
            lambda r, g: (g * r[1], g * r[0]),
            symbolic_zeros=True,
        ),
        (normal(47, 3), normal(48, 3)),
    ),
]


def _nondiff():
    f = jax.custom_vjp(_power, nondiff_argnums=(0,))
    f.defvjp(lambda n, x: (x**n, x), lambda n, x, g: (n * g * x ** (n - 1),))
    return f


@jax.custom_jvp
def _user_jvp(x):
    return jnp.sin(x)


_user_jvp.defjvps(lambda t, ans, x: t * jnp.cos(x))

RIGHT += [
    Case("static argument", _nondiff(), (3, normal(49, 4))),
    Case("inside jit and vmap", jax.jit(jax.vmap(custom(*BASES["sin"][:3]))), (normal(50, 4, 2),)),
    Case(
        "inside a model",
        lambda w, x: (jnp.tanh(custom(*BASES["matmul"][:3])(x, w)) ** 2).sum(),
        (normal(51, 3, 2), normal(52, 4, 3)),
    ),
    Case(
        "inside remat and scan",
        lambda x: jax.lax.scan(lambda c, _: (jax.checkpoint(custom(*BASES["sin"][:3]))(c), None), x, None, 3)[
            0
        ],
        (normal(53, 4),),
    ),
    Case(
        "with a keyword",
        lambda x, *, scale: custom(*BASES["sin"][:3])(x) * scale,
        (normal(54, 4),),
        options={"scale": 2.0},
    ),
]

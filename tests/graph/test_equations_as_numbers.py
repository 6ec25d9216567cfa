"""The printed equations, read back as numbers, are the messages that `jax.vjp` gives.

Many functions share one trace: each is a statement y_i = ... of its own.
"""

import functools
import itertools
import linecache
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overbar import make_graph
from overbar.graph.derivatives import backward
from overbar.graph.derivatives.step import factor
from overbar.graph.symbols import barred

from . import models
from .bar_notation import Unreadable, read

pytestmark = pytest.mark.usefixtures("x64", "permissive")

CONSTANTS = {"λ": 0.1}  # of the lecture's model
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
# a, b: vectors of n; A, B: m × n; C: n × k; S: n × n; T, U: 2 × m × n; x: a number; X, K: of a convolution;
# i: m indices; j: one; M: booleans.
NORMAL = """
jnp.tanh(a) | jnp.sin(a) | jnp.cos(a) | jnp.tan(a) | jnp.exp(a) | jnp.exp2(a) | jnp.expm1(a)
jnp.sinh(a) | jnp.cosh(a)
jnp.arctan(a) | jnp.arcsinh(a) | jnp.abs(a) | jnp.square(a) | -a | jnp.cbrt(a) | a**3 | a**-2 | 2.0**a
1 / a | a / b
a + b | a - b | a * b | jnp.maximum(a, b) | jnp.minimum(a, b) | jnp.maximum(a, 0.3) | jnp.hypot(a, b)
jnp.arctan2(a, b)
jnp.logaddexp(a, b) | jnp.logaddexp2(a, b) | jnp.fmod(a, b) | jnp.remainder(a, b) | jnp.clip(a, -0.5, 0.5)
jnp.clip(a, 0.1) | jnp.where(a > b, a, b) | jnp.where(b > 0, a * b, a / b) | jax.lax.clamp(0.0, a, 1.0)
jax.lax.erf(a) | jax.lax.erfc(a) | jax.nn.sigmoid(a) | jax.nn.softplus(a) | jax.nn.relu(a) | jax.nn.silu(a)
jax.nn.gelu(a) | jax.nn.gelu(a, approximate=False) | jax.nn.elu(a) | jax.nn.relu6(a) | jax.nn.log_sigmoid(a)
jax.nn.leaky_relu(a) | jax.nn.hard_swish(a) | jax.nn.mish(a) | jax.nn.soft_sign(a)
jnp.floor(a) + a | jnp.sign(a) * a | jax.lax.stop_gradient(a) * a | jnp.round(a) * a
jnp.sum(a) | jnp.mean(a) | jnp.prod(a) | a.max() | a.min() | jnp.ptp(a) | jnp.var(a) | jnp.std(a)
A.sum(0) | A.mean(1) | A.max(0) | A.min(1, keepdims=True) | A.prod(1) | A.var(1) | A.std(0)
jnp.var(A, 1, ddof=1)
A.max() | A.sum() * x | A.sum(0) * a | A * B.sum(1)[:, None] | A * a | A * x | A + x | A - a | A / a
A / B.sum(1, keepdims=True)
T.sum((0, 2)) | T.mean((1, 2)) | T.max((0, 1)) | T.var(0) | jnp.maximum(A, a) | jnp.where(A > a, A, a)
jax.nn.softmax(a) | jax.nn.softmax(A) | jax.nn.softmax(A, 0) | jax.nn.log_softmax(a) | jax.nn.log_softmax(A)
jax.nn.log_softmax(A, 0) | jax.nn.logsumexp(a) | jax.nn.logsumexp(A, 1) | jax.nn.logsumexp(A, 0)
jax.vmap(jax.nn.softmax)(A) | jnp.mean((a - b) ** 2) | jnp.sum((A - B) ** 2) | jnp.linalg.norm(a)
jnp.linalg.norm(a - b) | jnp.linalg.norm(A, axis=1) | A / jnp.linalg.norm(A, axis=1, keepdims=True)
(A - A.mean(1, keepdims=True)) / A.std(1, keepdims=True)
A / jnp.sqrt(jnp.mean(A**2, -1, keepdims=True) + 1e-6) * a
a @ b | A @ a | A @ C | a @ C | T @ C | T @ a | T @ jnp.swapaxes(U, 1, 2) | A @ B.T | A.T @ B
jnp.outer(a, b)
jnp.inner(A, B) | jnp.vdot(a, b) | jnp.tensordot(A, B, 2) | jnp.tensordot(A, C, 1) | jnp.kron(a, b)
jnp.vecdot(A, B)
jnp.einsum('ij,kj->ik', A, B) | jnp.einsum('bij,bkj->bik', T, U) | jnp.einsum('ij->j', A)
jnp.einsum('i,j->ij', a, b)
jnp.einsum('ij,jk,lk->il', A, C, C) | jnp.einsum('ijk,ik->j', T, T.sum(1)) | A @ C + C.sum(0)
jnp.sum(A @ C)
jax.nn.softmax(A @ B.T / 2.0) @ B | jax.nn.softmax(jnp.where(M, A @ B.T, -1e9)) @ B
jnp.linalg.matrix_power(S, 3)
jnp.linalg.inv(S) | jnp.linalg.det(S) | jnp.linalg.slogdet(S)[1] | jnp.linalg.solve(S, a)
jnp.linalg.solve(S, C)
a @ jnp.linalg.solve(S, b) | jnp.linalg.inv(S) @ C | jnp.trace(S) | jnp.trace(A) | jnp.diag(a)
jnp.tril(A) | jnp.triu(A, 1)
A.T | A.reshape(-1) | T.reshape(2, -1) | jnp.transpose(T, (2, 0, 1)) | jnp.swapaxes(T, 1, 2) | A[:, None]
jnp.ravel(T)
jnp.broadcast_to(a, (3, *a.shape)) | jnp.tile(a, 2) | jnp.tile(A, (2, 1)) | jnp.tile(A, (1, 2))
jnp.repeat(a, 2) | jnp.repeat(A, 2, axis=1)
a[1] | a[-1] | a[1:] | a[::2] | a[::-1] | A[1:] | A[:, 0] | A[..., -1] | A[1:, 1:] | a[0] * a[1]
A[0][1] | A[0, 1]
a[j] | a[i] | A[j] | A[i[:1]] | A[:, i] | A[:, j] | A[jnp.arange(i.size), i] | A[i[0], 0]
a[jnp.array([0, 1])] | jnp.take(A, i, axis=1)
jnp.take_along_axis(A, i[:, None], 1) | jnp.take_along_axis(A, jnp.argsort(A, 1), 1) | a[jnp.argsort(a)]
jax.lax.dynamic_slice_in_dim(a, j, 1) | jax.lax.dynamic_update_slice(a, b[:1], (1,))
jax.ops.segment_sum(A, i, 5)
a.at[1].set(x) | a.at[i].add(a[i]) | a.at[j].set(0.0) | A.at[0].set(a) | A.at[:, 1].multiply(2.0)
A.at[j, 0].add(x)
jnp.concatenate([a, b]) | jnp.hstack([A, B]) | jnp.stack([a, b]) | jnp.stack([a, b], 1)
jnp.vstack([a, b]) | jnp.append(a, b)
jnp.split(T, 2)[1] | jax.nn.glu(T, 0) | jnp.pad(a, (1, 2)) | jnp.pad(A, ((0, 1), (1, 0))) | jnp.diff(a)
jnp.roll(a, 1) | jnp.roll(A, 1, 0) | jnp.roll(A, (1, 1), (0, 1)) | jnp.flip(A) | jnp.fliplr(A)
jnp.rot90(A) | jnp.sort(a) | jnp.sort(A, 0)
jnp.cumsum(a) | jnp.cumsum(A, 1) | jnp.cumprod(a) | jnp.cumprod(A, 1) | jax.lax.cummax(a)
jax.lax.cummin(a) | jax.lax.cumlogsumexp(a)
jax.lax.reduce_window(T[..., :2], 0.0, jax.lax.add, (2, 1, 2), (2, 1, 2), 'VALID')
jax.lax.reduce_window(T[..., :2], -jnp.inf, jax.lax.max, (2, 1, 2), (2, 1, 2), 'VALID')
jax.lax.conv(X, K, (2, 2), 'VALID') | jax.lax.conv_general_dilated(X, K, (2, 2), 'VALID')
-jnp.mean(jax.nn.log_softmax(A)[jnp.arange(i.size), i])
-jnp.sum(jax.nn.one_hot(i, a.size) * jax.nn.log_softmax(A))
-jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(A), i[:, None], 1)) | a.astype(jnp.float32).astype(float)
"""
# What a random search found to be wrong, or to be read otherwise than it was meant.
FOUND = """
jnp.square(S) ** 3 | (S**2) ** a | S.max(1) | S.var(1) | S.std(1) | jnp.maximum(S.sum(1), S) | B.T @ B + -S
jnp.sum(S, 1, keepdims=True) * jnp.exp(S) | jnp.exp(S.sum(1)) * jnp.sin(S) | jnp.clip(a[1], -0.4, 0.6)
jnp.outer(A.sum(1), A.sum(1)) * (A @ B.T)
b / (jnp.roll(a, 1) ** 2 + 1.0) | jnp.where(C > 0.1, C, 0.5) + C.T.T
jnp.exp(A) * jax.nn.log_softmax(A * B) | jnp.sin(jax.nn.logsumexp(A, 1)) * i | jax.nn.logsumexp(a) * b
A * jax.nn.logsumexp(B, 0) | S * jax.nn.logsumexp(S.T, 1, keepdims=True) | jax.nn.log_softmax(C, 0) ** 2
"""
# Between 0 and 1.
POSITIVE = """
jnp.log(p) | jnp.log1p(p) | jnp.log2(p) | jnp.sqrt(p) | jax.lax.rsqrt(p) | jnp.arcsin(p) | jnp.arccos(p)
jnp.arctanh(p)
jnp.arccosh(p + 1) | p**q | p**0.5 | p**-1.5 | jax.lax.erf_inv(p) | jax.scipy.special.gammaln(p)
jax.lax.digamma(p)
jax.scipy.special.xlogy(p, q) | -jnp.mean(q * jnp.log(p) + (1 - q) * jnp.log(1 - p))
jax.scipy.special.logit(p)
jnp.sum(jnp.log(jnp.diag(S) ** 2)) | jnp.cumsum(1.0 / p) | jnp.sum(jnp.log(A**2)[1:])
jax.scipy.linalg.solve_triangular(S, a, lower=True) | jax.scipy.linalg.solve_triangular(S, a)
jnp.sqrt(p**2 + q**2) | jnp.sum(p * jnp.log(p / q))
"""


def sources(text):
    return [source.strip() for line in text.splitlines() for source in line.split(" | ") if source.strip()]


def inputs(n, m, k):
    rng = np.random.default_rng(n)
    shapes = {
        "a": (n,),
        "b": (n,),
        "A": (m, n),
        "B": (m, n),
        "C": (n, k),
        "S": (n, n),
        "T": (2, m, n),
        "U": (2, m, n),
    }
    shapes |= {"x": (), "X": (2, 3, 7, 5), "K": (4, 3, 3, 3)}
    drawn = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    drawn |= {name: jnp.asarray(rng.uniform(0.2, 0.8, n)) for name in "pq"}
    drawn |= {
        "i": jnp.asarray(rng.integers(0, min(n, m), m)),
        "j": jnp.asarray(1),
        "M": jnp.asarray(rng.random((m, m)) < 0.6),
    }
    return drawn


def function_of(statements, names, file):
    """One function with a statement for each, in a file, so that it has a source."""
    lines = [f"def f({', '.join(names)}):", *(f"    y{k} = {source}" for k, source in enumerate(statements))]
    text = "\n".join([*lines, f"    return {', '.join(f'y{k}' for k in range(len(statements)))}"]) + "\n"
    file.write_text(text, "utf-8")
    linecache.checkcache(str(file))
    scope = {"jax": jax, "jnp": jnp}
    exec(compile(text, str(file), "exec"), scope)
    return scope["f"]


def compared(f, args, bars=1, level="statement"):
    """(messages read and found right, [what was read and is wrong, or cannot be read], [in general form])."""
    graphs = []

    @functools.partial(jax.jit, compiler_options=QUICK)
    def passes(*args):
        graph = make_graph(f, level=level)(*args)
        graph.backprop(bars)
        graphs.append(graph)
        one = [node for node in graph.order if not node.several]
        return [n.value for n in one], [n.bar for n in one], [m.value for m in graph.messages]

    node_values, node_bars, messages = jax.tree.map(np.asarray, passes(*args))
    graph = graphs[0]
    one = [node for node in graph.order if not node.several]
    names = {node.symbol: value for node, value in zip(one, node_values, strict=True)}
    names |= {barred(n.symbol): bar for n, bar in zip(one, node_bars, strict=True) if n.is_float}
    names = {unicodedata.normalize("NFC", name): value for name, value in names.items()} | CONSTANTS
    right, wrong, general = 0, [], []
    for message, value in zip(graph.messages, messages, strict=True):
        if message.source.kind in ("part", "rule"):
            continue
        equation, about = message.equation, message.source.operation
        if "∂" in equation:
            general.append(about)
            continue
        try:
            got = read(equation, names, message.target.shape)
        except Unreadable as error:
            wrong.append(f"{about}: {error}")
            continue
        scale = max(np.max(np.abs(value), initial=0.0), 1e-3)
        if np.max(np.abs(got - value), initial=0.0) < 1e-5 * scale:  # numbers are printed with six digits
            right += 1
        else:
            wrong.append(f"{about}, by {message.target.symbol}: {equation} is {got}, not {value}")
    return right, wrong, general


def of_statements(statements, values, file, level="statement"):
    f = function_of(statements, values, file)
    rng = np.random.default_rng(0)
    bars = [jnp.asarray(rng.normal(size=y.shape), y.dtype) for y in jax.eval_shape(f, *values.values())]
    return compared(f, values.values(), tuple(bars), level)


@pytest.mark.parametrize(
    ("sizes", "every"), [((4, 3, 5), 1), pytest.param((3, 2, 1), 2, marks=pytest.mark.once)]
)
def test_the_printed_equations_are_right(tmp_path, sizes, every):
    statements = [*sources(NORMAL)[::every], *sources(FOUND), *sources(POSITIVE)[::every]]
    right, wrong, general = of_statements(statements, inputs(*sizes), tmp_path / "f.py")
    assert not wrong, "\n".join(wrong)
    assert not general
    assert right > len(statements)


@pytest.mark.once
def test_those_of_single_operations_too(tmp_path):
    right, wrong, general = of_statements(
        sources(NORMAL)[::2], inputs(4, 3, 5), tmp_path / "f.py", "operation"
    )
    assert not wrong, "\n".join(wrong)
    assert right > 150
    assert not general


@pytest.mark.parametrize("name", ["lecture", "xor", "fan_out", "deep", "transformer"])
def test_so_are_those_of_the_models(name):
    f, args = models.CASES[name]
    _, wrong, general = compared(f, jax.tree.map(lambda x: jnp.asarray(x, float), args))
    assert not wrong, "\n".join(wrong)
    assert not general


def test_a_wrong_derivative_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(backward.PRIMITIVES, "sin", factor("sin(<>)"))
    values = inputs(4, 3, 5)
    _, wrong, _ = of_statements(["jnp.sin(a)", "jnp.cos(a)"], values, tmp_path / "f.py")
    assert [text.split(":")[0] for text in wrong] == ["jnp.sin(a), by a"]


def test_what_is_no_bar_notation_is_refused():
    for text, shape in itertools.product(["ȳ +", "ȳ ȳ", "q̄", "ȳ / 2 ȳ"], [(2,)]):
        with pytest.raises(Unreadable):
            read(text, {"ȳ": np.ones(2)}, shape)

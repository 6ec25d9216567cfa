"""The arbitrary-precision oracle against closed forms, against JAX where float64 is good, and its bounds."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.scipy import special

from overbar.check.exact import NotExact, exact_bars, exact_values

mpf = mpmath.mpf


@pytest.fixture(autouse=True)
def as_people_write():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def digits():
    """Enough for every closed form below."""
    with mpmath.workdps(400):
        yield


def rng():
    return np.random.default_rng(0)


def slopes(f, points):
    """f'(x) of a function that acts entry by entry."""
    points = np.asarray(points, np.float64)
    return exact_bars(lambda x: [f(x)], [points], [np.ones_like(points)])[0]


def assert_nearest(got, truth):
    """Every entry is the float64 number nearest to mpmath's."""
    truth = np.array([float(t) for t in np.ravel(truth)])
    np.testing.assert_array_equal(np.ravel(got), truth)


# --- closed forms ---


def logistic(x):
    return 1 / (1 + mpmath.exp(-mpf(x)))


CLOSED_FORMS = {
    "log1p(exp)": (lambda x: jnp.log1p(jnp.exp(x)), logistic, np.linspace(-50, 50, 11)),
    "log(1 + exp) far out": (lambda x: jnp.log(1 + jnp.exp(x)), logistic, [-300.0, -700.0, 700.0]),
    "tanh": (jnp.tanh, lambda x: mpmath.sech(x) ** 2, [40.0, -140.0, 300.0, 1e-8]),
    "(1 - cos x)/x²": (
        lambda x: (1 - jnp.cos(x)) / x**2,
        lambda x: (mpf(x) * mpmath.sin(x) - 2 * (1 - mpmath.cos(x))) / mpf(x) ** 3,
        [1e-8, -3e-9, 1e-30, 2.0],
    ),
    "sqrt(1 + x²) - 1": (
        lambda x: jnp.sqrt(1 + x * x) - 1,
        lambda x: mpf(x) / mpmath.sqrt(1 + mpf(x) ** 2),
        [1e-12, 3.0, -1e10],
    ),
    "lgamma": (special.gammaln, mpmath.digamma, [1e-3, 0.5, 1.4616321449683623, 100.0]),
    "digamma": (special.digamma, lambda x: mpmath.psi(1, x), [0.1, 3.0, -2.5]),
    "erf": (special.erf, lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-(mpf(x) ** 2)), [0.1, -5, 25.0]),
    "erfc": (special.erfc, lambda x: -2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-(mpf(x) ** 2)), [0.1, 6.0]),
    "igamma": (
        lambda x: special.gammainc(2.5, x) - special.gammaincc(2.5, x),
        lambda x: 2 * mpf(x) ** 1.5 * mpmath.exp(-mpf(x)) / mpmath.gamma(2.5),
        [0.1, 2.0, 60.0],
    ),
    "betainc": (
        lambda x: special.betainc(2.0, 3.0, x),
        lambda x: 12 * mpf(x) * (1 - mpf(x)) ** 2,
        [0.3, 1e-9],
    ),
    "power": (lambda x: x**2.5, lambda x: mpf(5) / 2 * mpf(x) ** 1.5, [0.3, 1e100]),
    "a constant stays what it is": (lambda x: 0.1 * x, lambda x: mpf(0.1), [3.0]),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_slope_is_the_nearest_number_to_the_closed_form(name, digits):
    f, truth, points = CLOSED_FORMS[name]
    assert_nearest(slopes(f, points), [truth(x) for x in points])


def test_values_that_float64_loses(digits):
    x = np.array([1.0, 20.0, 140.0, 300.0])
    (y,) = exact_values(lambda x: [1 - jnp.tanh(x) ** 2], [x])
    assert_nearest(y, [mpmath.sech(v) ** 2 for v in x])
    (y,) = exact_values(lambda x: [jnp.log(1 + jnp.exp(-x))], [x])
    assert_nearest(y, [mpmath.log1p(mpmath.exp(-mpf(v))) for v in x])


def test_softmax_jacobian_product(digits):
    x, y_bar = rng().normal(size=12) * 30, rng().normal(size=12)
    p = [mpmath.exp(v) for v in x]
    p = [v / mpmath.fsum(p) for v in p]
    mean = mpmath.fdot(p, map(mpf, y_bar))
    (x_bar,) = exact_bars(lambda x: [jax.nn.softmax(x)], [x], [y_bar])
    assert_nearest(x_bar, [v * (mpf(b) - mean) for v, b in zip(p, y_bar, strict=True)])


def test_a_sum_that_is_zero_is_zero():
    """The Jacobian of softmax times ones: noise in any precision, nothing in the limit."""
    (x_bar,) = exact_bars(lambda x: [jax.nn.softmax(x)], [rng().normal(size=8)], [np.full(8, 0.3)])
    np.testing.assert_array_equal(x_bar, np.zeros(8))


def test_logsumexp_of_large_numbers(digits):
    x = np.array([1000.0, 999.5, -1000.0])
    (x_bar,) = exact_bars(lambda x: [special.logsumexp(x)], [x], [np.array(2.0)])
    whole = mpmath.fsum(mpmath.exp(v) for v in x)
    assert_nearest(x_bar, [2 * mpmath.exp(v) / whole for v in x])


def layer_norm(x, scale):
    centred = x - x.mean()
    return [centred * lax.rsqrt((centred**2).mean() + 1e-5) * scale]


def test_layer_norm_of_a_row_far_from_zero(digits):
    x, scale, y_bar = 1e6 + rng().normal(size=6), rng().normal(size=6), rng().normal(size=6)
    n, mean = 6, mpmath.fsum(map(mpf, x)) / 6
    centred = [mpf(v) - mean for v in x]
    s = 1 / mpmath.sqrt(mpmath.fsum(c * c for c in centred) / n + mpf(1e-5))
    g = [mpf(a) * mpf(b) for a, b in zip(scale, y_bar, strict=True)]
    along = mpmath.fdot(g, centred) / n
    x_bar = [s * (a - mpmath.fsum(g) / n - c * s * s * along) for a, c in zip(g, centred, strict=True)]
    scale_bar = [mpf(b) * c * s for b, c in zip(y_bar, centred, strict=True)]
    got = exact_bars(layer_norm, [x, scale], [y_bar])
    assert_nearest(got[0], x_bar)
    assert_nearest(got[1], scale_bar)


def test_solve_with_a_hilbert_matrix(digits):
    a = np.array([[1 / (i + j + 1) for j in range(4)] for i in range(4)])
    b, y_bar = rng().normal(size=4), rng().normal(size=4)
    inverse = mpmath.matrix(a.tolist()) ** -1
    x, b_bar = inverse * mpmath.matrix(b.tolist()), inverse.T * mpmath.matrix(y_bar.tolist())
    got = exact_bars(lambda a, b: [jnp.linalg.solve(a, b)], [a, b], [y_bar])
    assert_nearest(got[0], [-b_bar[i] * x[j] for i in range(4) for j in range(4)])
    assert_nearest(got[1], list(b_bar))


def test_gather_and_scatter_add():
    x, y_bar = rng().normal(size=(4, 3)), rng().normal(size=(5, 3))
    rows = np.array([1, 1, 3, 0, 1])
    truth = np.array([[mpf(0)] * 3] * 4)
    for row, bar in zip(rows, y_bar, strict=True):
        truth[row] += np.array([mpf(v) for v in bar])
    assert_nearest(exact_bars(lambda x: [x[rows]], [x], [y_bar])[0], truth)
    (y,) = exact_values(lambda x, u: [x.at[rows].add(u)], [np.zeros((4, 3)), y_bar])
    assert_nearest(y, truth)


def test_complex_numbers_as_jax_differentiates_them(digits):
    z, y_bar = np.array([0.3 - 2j, 1e-9 + 1j]), np.array([1 + 2j, -0.5j])
    (z_bar,) = exact_bars(lambda z: [jnp.exp(z) * z], [z], [y_bar])
    truth = [mpmath.exp(v) * (1 + mpmath.mpc(v)) * b for v, b in zip(z, y_bar, strict=True)]
    assert_nearest(z_bar.real, [t.real for t in truth])
    assert_nearest(z_bar.imag, [t.imag for t in truth])
    assert z_bar.dtype == np.complex128


# --- rounding and special values ---


def test_rounds_once_also_among_subnormal_numbers(digits):
    x = np.array([-744.0, -745.0, -746.0, -720.5, 709.0, 710.0, 1e6, -1e30])
    (y,) = exact_values(lambda x: [jnp.exp(x)], [x])
    assert_nearest(y[:3], [2.0**-1074 * int(mpmath.nint(mpmath.exp(v) * mpf(2) ** 1074)) for v in x[:3]])
    np.testing.assert_allclose(y[3:5], np.exp(x[3:5]), rtol=1e-10)
    np.testing.assert_array_equal(y[5:], [np.inf, np.inf, 0])


SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 0.5, -0.5, 2.5, -3.5, 1e300, -1e-300])
OF_ONE = [lax.exp, lax.log, lax.log1p, lax.expm1, lax.sin, lax.tan, lax.asin, lax.acos, lax.atan, lax.sinh]
OF_ONE += [lax.cosh, lax.tanh, lax.asinh, lax.acosh, lax.atanh, lax.logistic, lax.sqrt, lax.rsqrt, lax.cbrt]
OF_ONE += [lax.square, lax.erf, lax.erfc, lax.erf_inv, lax.lgamma, lax.neg, lax.abs, lax.sign, lax.floor]
OF_ONE += [
    lax.ceil,
    lax.round,
    lax.exp2,
    lambda x: lax.integer_pow(x, -3),
    lambda x: x.astype(jnp.int32) * 1.0,
]
OF_TWO = [lax.add, lax.sub, lax.mul, lax.div, lax.rem, lax.pow, lax.max, lax.min, lax.atan2]
OF_TWO += [lambda x, y: (x < y) * 1.0, lambda x, y: (x != y) * 1.0, lambda x, y: jnp.stack([x, y]).sum(0)]
OF_TWO += [
    lambda x, y: jnp.sort(jnp.stack([x, y]), 0)[0],
    lambda x, y: jnp.argmax(jnp.stack([x, y]), 0) * 1.0,
]


@pytest.mark.parametrize("functions", [OF_ONE, OF_TWO], ids=["of one number", "of two"])
def test_infinities_zeros_and_nan_as_in_float64(functions):
    xs = [SPECIAL] if functions is OF_ONE else [x.ravel() for x in np.meshgrid(SPECIAL, SPECIAL)]

    def every(*xs):
        return [f(*xs) for f in functions]

    with jax.enable_x64(True):
        expected = [np.asarray(y) for y in jax.jit(every)(*map(jnp.asarray, xs))]
    for k, (y, w) in enumerate(zip(exact_values(every, xs), expected, strict=True)):
        np.testing.assert_allclose(y, w, rtol=1e-13, atol=1e-307, err_msg=f"function {k}")
        zeros = (y == 0) & (w == 0)
        np.testing.assert_array_equal(np.signbit(y[zeros]), np.signbit(w[zeros]), f"function {k}")


def test_masks_of_infinite_entries():
    x = np.array([1.0, -np.inf, 3.0])
    (x_bar,) = exact_bars(lambda x: [jax.nn.softmax(x)], [x], [np.array([1.0, 5.0, 0.0])])
    with jax.enable_x64(True):
        p = np.asarray(jax.nn.softmax(jnp.asarray(x)))
    np.testing.assert_allclose(x_bar, p * (np.array([1.0, 5.0, 0.0]) - p[0]), atol=1e-16)
    assert np.isnan(slopes(lambda x: jnp.where(x > 0, jnp.sqrt(x), 0.0), [0.0]))[0]


def test_a_range_beyond_float64_on_the_way_does_no_harm():
    np.testing.assert_array_equal(slopes(lambda x: jnp.exp(x) / (1 + jnp.exp(x)), [2000.0, -2000.0]), [0, 0])
    (y,) = exact_values(lambda x: [jnp.log(jnp.exp(jnp.exp(x)))], [np.array([8.0])])
    assert_nearest(y, [mpmath.exp(8)])


# --- every kind of operation, against JAX where float64 is good ---

POSITIVE = rng().uniform(0.2, 0.9, size=6)
MATRIX = rng().normal(size=(4, 4)) + 3 * np.eye(4)
TABLE = rng().normal(size=(3, 4))
ROW = rng().normal(size=5)
COMPLEX = rng().normal(size=4) + 1j * rng().normal(size=4)[::-1]


def special_functions(p):
    functions = (special.erfinv, special.i0e, special.i1e, special.i0, jnp.log2)
    return [*(f(p) for f in functions), special.xlogy(p, p), special.polygamma(1, p)]


def order(x):
    sorts = [jnp.sort(x, 0), lax.sort((x, x**2), dimension=1)[1], jnp.argsort(x, 1) * x, lax.top_k(x, 2)[0]]
    return [*sorts, jnp.max(x, 1), jnp.min(x, 0), jnp.prod(x, 1), jnp.clip(x, -0.5, 0.5), jnp.median(x)]


def cumulative(x):
    reverse = [lax.cummin(x, 0, reverse=True), lax.cumlogsumexp(x, 1, reverse=True)]
    parallel = lax.associative_scan(jnp.multiply, x)
    return [*reverse, parallel, jnp.cumsum(x, 1), jnp.cumprod(x, 0), lax.cummax(x, 1)]


def indices(x):
    row, twice, outside = x.at[0], jnp.array([1, 1]), jnp.array([7, 1])
    scattered = [x.at[0, twice].add(2 * x[1, :2]), x.at[1].set(x[0] ** 2), x.at[outside].add(x[:2])]
    combined = [row.mul(x[1]), row.min(x[1]), row.max(x[1])]
    filled = [x.at[outside].get(mode="fill", fill_value=2.0), x.at[outside].get(mode="clip")]
    largest = jnp.take_along_axis(x, jnp.argmax(x, 1)[:, None], 1)
    views = [x[:, ::-1], x[1:, :2], jnp.roll(x, 1), jnp.tril(x), jnp.diag(x)]
    return [*scattered, *combined, *filled, largest, *views]


def windows(x):
    moved = [lax.dynamic_slice(x, (1, 2), (2, 2)), lax.dynamic_update_slice(x, x[:1, :2] * 3, (2, 3))]
    padded = lax.pad(x, 0.0, ((1, -1, 2), (-1, 0, 0))) * 2
    joined = [jnp.concatenate([x, x[:1]]), jnp.tile(x, 2), jnp.stack([x, x], -1)]
    return [*moved, padded, *joined, *jnp.split(x, 2, 1), *jnp.unstack(x, axis=1)]


def products(x, m):
    batched = jnp.einsum("bij,bjk->bik", jnp.stack([m, m]), jnp.stack([m, m]) ** 2)
    return [batched, jnp.einsum("ij,ik->ijk", x, x), x @ m, jnp.outer(x[0], x[1]), jnp.linalg.norm(x)]


def linear_algebra(m):
    determinants = [jnp.linalg.det(m), jnp.linalg.slogdet(m)[1]]
    return [*determinants, jnp.linalg.solve(m, m.T), jnp.linalg.inv(m), jnp.linalg.cholesky(m @ m.T)]


def triangular_solves(m):
    solve = lax.linalg.triangular_solve
    flags = [(left, low, turn) for left in (False, True) for low in (False, True) for turn in (False, True)]
    return [
        solve(m, m[:, :2] if left else m[:2], left_side=left, lower=low, transpose_a=turn, unit_diagonal=low)
        for left, low, turn in flags
    ]


def networks(x):
    functions = (jax.nn.log_softmax, jax.nn.gelu, jax.nn.silu, jax.nn.softplus, jax.nn.relu, jax.nn.selu)
    loss = -jnp.sum(jax.nn.log_softmax(x) * jax.nn.one_hot(jnp.array([0, 2, 1]), 4))
    return [*(f(x) for f in functions), jax.nn.gelu(x, approximate=False), jnp.sinc(x), jnp.var(x, 0), loss]


def loops_and_branches(v):
    scanned = lax.scan(lambda c, y: (jnp.tanh(c * y + 1), c * c), 1.0, v, reverse=True)
    constant = lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * 2), (0, lax.stop_gradient(v)))
    taken = [lax.cond(v[0] > 0, jnp.sin, jnp.cos, v), lax.switch(2, [jnp.sin, jnp.cos, jnp.exp], v)]
    remat = jax.checkpoint(lambda y: jnp.sin(jnp.exp(y)))(v)
    return [*scanned, constant[1] * v, *taken, remat, lax.fori_loop(0, 4, lambda i, c: c * v[i], 1.0)]


def second_derivatives(v):
    return [jax.grad(lambda v: jnp.sum(jnp.tanh(v) ** 3))(v), jax.hessian(jax.nn.logsumexp)(v)]


def complex_numbers(c):
    functions = (jnp.exp, jnp.abs, jnp.sqrt, jnp.tanh, jnp.angle)
    solved = jnp.linalg.solve(jnp.outer(c, c) + jnp.eye(4), c)
    return [
        *(f(c) for f in functions),
        c * c,
        jnp.conj(c) / c,
        jnp.sum(c**3),
        jnp.dot(c, jnp.conj(c)),
        solved,
    ]


def keys_and_float32_constants(v):
    kept = jax.random.bernoulli(jax.random.PRNGKey(1), 0.5, (5,))
    noise = jax.random.uniform(jax.random.key(2), (5,), jnp.float32)
    return [v * jax.random.normal(jax.random.key(0), (5,)), jnp.where(kept, v / 0.5, 0.0), v * noise]


def nothing_in_it(x):
    return [jnp.sum(x, 0), jnp.exp(x), x @ jnp.ones((0, 2))]


PROGRAMS = {
    special_functions: [POSITIVE],
    order: [TABLE],
    cumulative: [TABLE],
    indices: [TABLE],
    windows: [TABLE],
    products: [TABLE, MATRIX],
    linear_algebra: [MATRIX],
    triangular_solves: [MATRIX],
    networks: [TABLE],
    loops_and_branches: [ROW],
    second_derivatives: [ROW],
    complex_numbers: [COMPLEX],
    keys_and_float32_constants: [ROW],
    nothing_in_it: [np.zeros((3, 0))],
}
QUICK = {"xla_llvm_disable_expensive_passes": True, "xla_backend_optimization_level": 0}


def values_and_bars(f, inputs, y_bars):
    y, pullback = jax.vjp(f, *inputs)
    return y, pullback(y_bars)


@pytest.mark.parametrize("f", PROGRAMS, ids=lambda f: f.__name__)
def test_agrees_with_jax_where_float64_is_good(f):
    inputs = PROGRAMS[f]
    draw = rng()
    with jax.enable_x64(True):
        shapes = jax.eval_shape(f, *inputs)
        y_bars = [draw.normal(size=a.shape) + 1j * draw.normal(size=a.shape) for a in shapes]
        y_bars = [b if a.dtype == complex else b.real for a, b in zip(shapes, y_bars, strict=True)]
        y, bars = jax.jit(values_and_bars, static_argnums=0, compiler_options=QUICK)(f, inputs, y_bars)
        y, bars = jax.tree.map(np.asarray, (y, bars))
    for got, expected in zip(exact_bars(f, inputs, y_bars), bars, strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)
    for got, expected in zip(exact_values(f, inputs), y, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


LEAVES = st.sampled_from(["x", "y", "0.7", "2.0"])
UNARY = st.sampled_from(["sin({})", "exp(-({})**2)", "tanh({})", "sqrt(1 + ({})**2)", "log1p(({})**2)"])
BINARY = st.sampled_from(["({}) + ({})", "({}) - ({})", "({}) * ({})", "({}) / (2 + sin({}))"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(UNARY, inner).map(lambda t: t[0].format(t[1])),
        st.tuples(BINARY, inner, inner).map(lambda t: t[0].format(t[1], t[2])),
    ),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(EXPRESSIONS, st.floats(-2, 2), st.floats(0.1, 2))
def test_expressions_have_the_gradient_that_jax_finds(expression, x, y):
    def f(x, y):
        return eval(expression, vars(jnp) | {"x": x, "y": y}) + 0 * x

    with jax.enable_x64(True):
        expected = jax.grad(f, (0, 1))(x, y)
    got = exact_bars(lambda x, y: [f(x, y)], [np.array(x), np.array(y)], [np.array(1.0)])
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


# --- what cannot be evaluated says why ---


def chaos(x):
    return [lax.fori_loop(0, 2000, lambda i, x: 4 * x * (1 - x), x)]


REFUSED = {
    "fft is not known": lambda x: [jnp.abs(jnp.fft.fft(x))],
    "computes in float32 by itself": lambda x: [jnp.sin(x.astype(jnp.float32))],
    "computes in bfloat16 by itself": lambda x: [x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)],
    "rounds to 7 bits by itself": lambda x: [lax.reduce_precision(x, 8, 7)],
    "pure_callback is not known": lambda x: [
        jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
    ],
    "too large": lambda x: [jnp.sum(jnp.exp(x[:, None] * jnp.ones(100_000)))],
    "while loop is too long": lambda x: [lax.while_loop(lambda v: v[0] < 1e9, lambda v: v + 1, x)],
    "JAX cannot make the program: ValueError: the user's": lambda x: (_ for _ in ()).throw(
        ValueError("the user's")
    ),
    "sin of a number as large or small as": lambda x: [jnp.sin(jnp.exp(1e4 * x))],
    "does not settle": lambda x: chaos(jnp.sqrt(x)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_refuses_and_says_why(why):
    with pytest.raises(NotExact, match=why):
        exact_values(REFUSED[why], [np.array([0.3, 0.7])], most=400_000)


def test_what_the_bars_do_not_need_may_be_unknown():
    """The value of a while loop has no part in the derivative of what is added to it."""
    got = exact_bars(
        lambda x: [jnp.sum(x**2) + lax.stop_gradient(jnp.abs(jnp.fft.fft(x))[0])], [ROW], [np.array(1.0)]
    )
    np.testing.assert_array_equal(got[0], 2 * ROW)


def test_without_mpmath(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(NotExact, match="mpmath is not installed"):
        exact_values(lambda x: [x], [ROW])


def test_changes_nothing_that_is_global():
    before = mpmath.mp.prec, jax.config.jax_enable_x64
    exact_bars(lambda x: [jax.nn.softmax(x)], [np.ones(3, np.float32)], [np.ones(3, np.float32)])
    assert (mpmath.mp.prec, jax.config.jax_enable_x64) == before

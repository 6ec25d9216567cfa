"""Accuracy of the activations' bars against mpmath, and what jax.nn promises."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import truth
from overbar import RuleError, nn
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by

HIGHEST = jax.lax.AccuracyMode.HIGHEST
mp = mpmath


class Row(NamedTuple):
    """A rule as called, its namesake, and x -> (f′(x), f″(x)) in mpmath, as the textbook has them.

    Where f(x) = x g(x), g(x) comes third: f′ = g + x g′ passes through zero. kinks: where f′ jumps.
    """

    rule: Callable
    namesake: Callable
    at: Callable
    kinks: tuple = ()
    positive: bool = False


def row(name, at, **about):
    return Row(getattr(nn, name), getattr(jax.nn, name), at, **about)


def decay(s):
    """e^−s, or 0 where no dtype knows it."""
    return mp.exp(-s) if s < 4000 else mp.mpf(0)


def sigma(x):
    """σ(x), σ(−x) and σ′(x)."""
    q = decay(abs(x))
    one, other = 1 / (1 + q), q / (1 + q)
    return (one, other, one * other) if x >= 0 else (other, one, one * other)


def sigmoid(x):
    s, r, d = sigma(x)
    return d, d * (r - s)


def softplus(x):
    s, _, d = sigma(x)
    return s, d


def squareplus(x):
    r = mp.sqrt(x * x + 4)
    return (1 + x / r) / 2 if x > 0 else 2 / (r * (r - x)), 2 / r**3


def silu(x):
    s, r, d = sigma(x)
    return s + x * d, d * (2 + x * (r - s)), s


def tanh_gelu(x):
    c, a = 2 * mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
    v, rate, bend = c * (x + a * x**3), c * (1 + 3 * a * x * x), 6 * c * a * x
    s, r, d = sigma(v)
    return s + x * rate * d, d * (2 * rate + x * (bend + rate**2 * (r - s))), s


def gelu(x):
    tail = mp.erfc(abs(x) / mp.sqrt(2)) / 2 if abs(x) < 80 else mp.mpf(0)
    phi, below = decay(x * x / 2) / mp.sqrt(2 * mp.pi), tail if x < 0 else 1 - tail
    return below + x * phi, phi * (2 - x * x), below


def mish(x):
    """With t = tanh(softplus(x)): t′ = (1 − t²) σ, t″ = (1 − t²) (σ′ − 2 t σ²)."""
    s, _, d = sigma(x)
    e = decay(abs(x))
    n = e * (e + 2) if x < 0 else 1 + 2 * e  # e^2x + 2e^x, over e^2x for x > 0
    two = 2 if x < 0 else 2 * e * e
    t = n / (n + two)
    rest = two / (n + two) * (1 + t)
    return t + x * rest * s, rest * (2 * s + x * (d - 2 * t * s * s)), t


def log1mexp(x):
    return -decay(x) / mp.expm1(-x), -decay(x) / mp.expm1(-x) ** 2


def exponential(a, u, b=1):
    """(a e^u, a e^u/b) below 0."""
    return a * decay(-u), a * decay(-u) / b


def pieces(x, bounds, slopes):
    """The slope of a piecewise linear function."""
    return mp.mpf(slopes[sum(x > b for b in bounds)]), mp.mpf(0)


def hard_silu(x):
    return ((2 * x + 3) / 6, mp.mpf(1) / 3) if abs(x) < 3 else (mp.mpf(x > 0), mp.mpf(0))


def sparse_plus(x):
    return ((x + 1) / 2, mp.mpf(1) / 2) if abs(x) < 1 else (mp.mpf(x > 0), mp.mpf(0))


def tanh(x):
    slope, bend = sigmoid(2 * x)
    return 4 * slope, 8 * bend


def soft_sign(x):
    return 1 / (1 + abs(x)) ** 2, -2 * mp.sign(x) / (1 + abs(x)) ** 3


SCALE, ALPHA = mp.mpf("1.0507009873554804934193349852946"), mp.mpf("1.6732632423543772848170429916717")
ONE = (mp.mpf(1), mp.mpf(0))
ROWS = {
    "sigmoid": Row(lambda x: nn.sigmoid(x, accuracy=HIGHEST), jax.nn.sigmoid, sigmoid),
    "tanh": Row(lambda x: nn.tanh(x, accuracy=HIGHEST), jax.nn.tanh, tanh),
    "softplus": row("softplus", softplus),
    "log_sigmoid": row("log_sigmoid", lambda x: (softplus(-x)[0], -softplus(x)[1])),
    "soft_sign": row("soft_sign", soft_sign, kinks=(0.0,)),
    "sparse_sigmoid": row("sparse_sigmoid", lambda x: pieces(x, (-1, 1), (0, 0.5, 0)), kinks=(-1.0, 1.0)),
    "sparse_plus": row("sparse_plus", sparse_plus, kinks=(-1.0, 1.0)),
    "squareplus": row("squareplus", squareplus),
    "log1mexp": row("log1mexp", log1mexp, positive=True),
    "identity": row("identity", lambda x: ONE),
    "relu": row("relu", lambda x: pieces(x, (0,), (0, 1)), kinks=(0.0,)),
    "relu6": row("relu6", lambda x: pieces(x, (0, 6), (0, 1, 0)), kinks=(0.0, 6.0)),
    "leaky_relu": row("leaky_relu", lambda x: pieces(x, (0,), (CONSTANTS[0.01], 1)), kinks=(0.0,)),
    "hard_tanh": row("hard_tanh", lambda x: pieces(x, (-1, 1), (0, 1, 0)), kinks=(-1.0, 1.0)),
    "hard_sigmoid": row(
        "hard_sigmoid", lambda x: pieces(x, (-3, 3), (0, mp.mpf(1) / 6, 0)), kinks=(-3.0, 3.0)
    ),
    "hard_silu": row("hard_silu", hard_silu, kinks=(-3.0, 3.0)),
    "elu": row("elu", lambda x: ONE if x > 0 else exponential(1, x), kinks=(0.0,)),
    "celu": row("celu", lambda x: ONE if x > 0 else exponential(1, x), kinks=(0.0,)),
    "celu(x, 1.3)": Row(
        lambda x: nn.celu(x, jnp.asarray(1.3, x.dtype)),
        lambda x: jax.nn.celu(x, jnp.asarray(1.3, x.dtype)),
        lambda x: ONE if x > 0 else exponential(1, x / CONSTANTS[1.3], CONSTANTS[1.3]),
        kinks=(0.0,),
    ),
    "selu": row(
        "selu", lambda x: (SCALE, mp.mpf(0)) if x > 0 else exponential(SCALE * ALPHA, x), kinks=(0.0,)
    ),
    "silu": row("silu", silu),
    "mish": row("mish", mish),
    "gelu": row("gelu", tanh_gelu),
    "gelu(x, False)": Row(lambda x: nn.gelu(x, False), lambda x: jax.nn.gelu(x, False), gelu),
}
# Their e^−|x| is forward's: where it is no normal number, they are done. The others' bars are lifted.
PLAIN = {"softplus", "log_sigmoid", "silu", "mish", "elu", "celu", "celu(x, 1.3)", "selu", "log1mexp"}
COARSE = {"gelu": {np.float32: 64, np.float64: 512}}  # whose tanh is forward's: ULP of ȳ itself
CONSTANTS = {}  # numbers as the dtype has them
LINEAR = {"relu", "relu6", "leaky_relu", "hard_tanh", "hard_sigmoid", "hard_silu", "sparse_sigmoid"}
NAMES = sorted({name.split("(")[0] for name in ROWS})


class Jet(NamedTuple):
    slope: mpmath.mpf
    curvature: mpmath.mpf
    larger: mpmath.mpf  # the larger term of the slope


def jet(name: str, x: float) -> Jet:
    slope, curvature, *gate = ROWS[name].at(mp.mpf(x))
    terms = [abs(slope), *(max(abs(g), abs(slope - g)) for g in gate), float(name in COARSE)]
    return Jet(slope, curvature, max(terms))


def within(name, x, dtype):
    """Where a rule of PLAIN still has its exponential."""
    end = -float(np.log(jnp.finfo(jnp.float64 if dtype == np.float64 else jnp.float32).tiny)) - 1
    scale = CONSTANTS[1.3] if name == "celu(x, 1.3)" else 1
    return (np.abs(x.astype(np.float64)) < float(end * scale)) | (name not in PLAIN)


@functools.cache
def jets(name: str, dtype) -> tuple[np.ndarray, list[Jet]]:
    """Points of the whole range, none of them a kink, and the truth there."""
    this = ROWS[name]
    CONSTANTS.update({c: mp.mpf(float(jnp.asarray(c, dtype))) for c in (0.01, 1.3)})
    x = truth.whole_range(dtype, 60)
    close = np.random.default_rng(3).uniform(-4, 4, 100).astype(dtype)
    ends = [np.nextafter(np.asarray(k, dtype), np.asarray(t, dtype)) for k in this.kinks for t in (-9, 9)]
    x = np.concatenate([x, close, np.asarray(ends, dtype)])
    x = x[~np.isin(x, this.kinks) & ((x == 0) | (np.abs(x) >= jnp.finfo(dtype).tiny))]
    if this.positive:
        x = x[x > 0]
    x = x[within(name, x, dtype)]
    with mp.workprec(200):
        return x, [jet(name, v) for v in x.astype(np.float64).tolist()]


def bars(f, x, y_bar):
    return jax.jit(lambda x, y_bar: jax.vjp(f, x)[1](y_bar)[0])(jnp.asarray(x), jnp.asarray(y_bar))


def errors_of(got, want, larger, dtype):
    """ULP of want, or of its larger term where that is larger."""
    plain = truth.ulp_errors(got, want, dtype)
    spaced = [mp.mpf(1) if not w else abs(w) for w in want]
    ratio = [
        float(mp.ldexp(1, mp.frexp(w)[1] - mp.frexp(max(w, abs(b)))[1]))
        for w, b in zip(spaced, larger, strict=True)
    ]
    return plain * np.array(ratio)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", truth.WHOLES, ids=lambda d: d.__name__)
def test_bar_is_accurate(name, dtype):
    x, at = jets(name, dtype)
    x, at = np.tile(x, 2), at * 2
    y_bar = truth.random_bars(x.shape, dtype)
    with mp.workprec(100):
        each = [mp.mpf(b) for b in y_bar.astype(np.float64).tolist()]
        want = [j.slope * b for j, b in zip(at, each, strict=True)]
        larger = [j.larger * b for j, b in zip(at, each, strict=True)]
        errors = errors_of(bars(ROWS[name].rule, x, y_bar), want, larger, dtype)
    worst = np.argmax(errors)
    assert errors[worst] <= COARSE.get(name, {}).get(dtype, 4), (
        f"{errors[worst]} ULP at x = {x[worst]}, ȳ = {y_bar[worst]}"
    )


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n in ROWS if n not in COARSE])
@pytest.mark.parametrize("dtype", truth.HALVES, ids=lambda d: d.__name__)
def test_bar_is_the_float64_one_rounded(name, dtype):
    """At every finite number of half precision; how good the one in float64 is, the test above tells."""
    this = ROWS[name]
    x = truth.every_finite(dtype)
    CONSTANTS.update({1.3: float(jnp.asarray(1.3, dtype))})
    x = x[
        ((x == 0) | (np.abs(x) >= jnp.finfo(dtype).tiny)) & within(name, x, dtype)
    ]  # subnormals are flushed
    if this.positive:
        x = x[x > 0]
    y_bar = truth.random_bars(x.shape, dtype)
    constant = float(jnp.asarray(1.3, dtype))
    f = (lambda x: nn.celu(x, jnp.asarray(constant, x.dtype))) if name == "celu(x, 1.3)" else this.rule
    got = np.asarray(bars(f, x, y_bar), np.float64)
    want = np.asarray(bars(f, x.astype(np.float64), y_bar.astype(np.float64)))
    info = jnp.finfo(dtype)
    normal = np.abs(want) >= float(info.tiny)
    spacing = 2.0 ** (np.floor(np.log2(np.abs(want[normal]))) - info.nmant)
    with np.errstate(invalid="ignore"):
        off = np.abs(got[normal] - want[normal]) / spacing
    off[np.abs(want[normal]) > float(info.max)] = 0
    assert np.nanmax(off) <= 1, x[normal][np.nanargmax(off)]
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [n for n in ROWS if n not in LINEAR | {"identity", *COARSE}])
@pytest.mark.parametrize("dtype", truth.WHOLES, ids=lambda d: d.__name__)
def test_second_derivative_is_accurate(name, dtype):
    this = ROWS[name]
    x, at = jets(name, dtype)
    tiny = float(jnp.finfo(dtype).tiny)
    # log1mexp's is 1/x² near 0, and overflows on the way there.
    keep = (np.abs(x) < 1e30) & ((np.abs(x) > 1e-16) | (x == 0)) & ((x != 0) | (not this.positive))
    x, at = x[keep], [j for j, k in zip(at, keep, strict=True) if k]
    got = jax.jit(jax.vmap(jax.grad(jax.grad(this.rule))))(jnp.asarray(x))
    with mp.workprec(100):
        # What is below 4 times the smallest normal number has parts that are flushed.
        want = [j.curvature if abs(j.curvature) > 4 * tiny else mp.mpf(0) for j in at]
        # Where it passes through 0 the digits are those of its larger term, in the size of the slope.
        close = [j.larger if abs(v) < 4 else mp.mpf(0) for j, v in zip(at, x, strict=True)]
        errors = errors_of(got, want, close, dtype)
    assert np.isfinite(got).all()
    assert errors.max() <= 16, x[errors.argmax()]


# How a rule with a parameter is called, and its function of both in mpmath.
WITH_PARAMETER = {
    "elu": lambda x, a: x if x > 0 else a * mp.expm1(x),
    "celu": lambda x, a: x if x > 0 else a * mp.expm1(x / a),
    "leaky_relu": lambda x, a: x if x > 0 else a * x,
    "squareplus": lambda x, a: (x + mp.sqrt(x * x + a)) / 2,
}


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", WITH_PARAMETER)
@pytest.mark.parametrize("dtype", truth.WHOLES, ids=lambda d: d.__name__)
def test_bars_by_both_inputs_are_accurate(name, dtype):
    f, rng = WITH_PARAMETER[name], np.random.default_rng(4)
    magnitudes = np.concatenate([10.0 ** rng.uniform(-30, 30, 30), rng.uniform(0, 30, 60)])
    x = (magnitudes * rng.choice([-1, -1, 1], 90)).astype(dtype)
    a = rng.uniform(0.3, 3, 90).astype(dtype)
    y_bar = truth.random_bars(x.shape, dtype)
    got = jax.jit(lambda x, a, y_bar: jax.vjp(getattr(nn, name), x, a)[1](y_bar))(x, a, y_bar)
    for k, bar in enumerate(got):
        want = []
        for vx, va, vb in zip(*(v.astype(np.float64).tolist() for v in (x, a, y_bar)), strict=True):
            with mp.workprec(1500):
                at = [mp.mpf(vx), mp.mpf(va)]
                h = mp.ldexp(abs(at[k]), -200)
                low, high = ([at[0] + s * h, at[1]] if k == 0 else [at[0], at[1] + s * h] for s in (-1, 1))
                want.append((f(*high) - f(*low)) / (2 * h) * mp.mpf(vb))
        errors = truth.ulp_errors(bar, want, dtype)
        assert errors.max() <= 4, (k, x[errors.argmax()], a[errors.argmax()], y_bar[errors.argmax()])


@pytest.mark.once
def test_celus_bar_is_the_same_without_a_compiler():
    """Which joins product and sum: what x/α has lost times a small e^(x/α) is subnormal by itself."""
    x, alpha = np.linspace(-104.0, -70.0, 50).astype(np.float32), np.float32(1.3)
    got = jax.grad(lambda x: nn.celu(x, alpha).sum())(jnp.asarray(x))
    np.testing.assert_allclose(got, np.exp(x.astype(np.float64) / np.float64(alpha)), rtol=4 * 2.0**-23)


@pytest.mark.parametrize("name", WITH_PARAMETER)
def test_bar_of_a_parameter_is_summed_over_its_copies(name):
    x = jnp.linspace(-3.0, 2.0, 6).reshape(2, 3)
    f = getattr(nn, name)
    slope_of = jax.jit(jax.grad(lambda a: f(x, a).sum()))
    whole = slope_of(jnp.full((2, 3), 0.7))
    for a, want in ((jnp.float32(0.7), whole.sum()), (jnp.full((1, 3), 0.7), whole.sum(0, keepdims=True))):
        np.testing.assert_allclose(slope_of(a), want, rtol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("dtype", truth.HALVES, ids=lambda d: d.__name__)
def test_gelu_by_tanh_is_accurate_in_half_precision(dtype):
    """An ULP of the bar, or of its larger term, to where e^2u is a normal number; jax.grad has no digit left
    below −5."""
    x = truth.every_finite(dtype)
    x = x[x > -10]
    got = np.asarray(
        jax.jit(jax.grad(lambda x: nn.gelu(x).sum(dtype=jnp.float32)))(jnp.asarray(x)), np.float64
    )
    x = np.clip(x.astype(np.float64), -20, 20)  # further out it is 0, or 1
    u, rate = x + 0.044715 * x**3, 1 + 0.134145 * x**2
    p, q = (1 / (1 + np.exp(s * 2 * np.sqrt(2 / np.pi) * u)) for s in (-1, 1))
    bend = 2 * np.sqrt(2 / np.pi) * x * rate * p * q
    want, size = p + bend, np.maximum(p, np.abs(bend))
    tiny = float(jnp.finfo(dtype).tiny)
    spacing = 2.0 ** (np.floor(np.log2(np.maximum(size, tiny))) - jnp.finfo(dtype).nmant)
    assert np.max((np.abs(got - want) / spacing)[np.abs(want) >= tiny]) <= 1


@pytest.mark.parametrize("order", [1, 2])
def test_gelu_by_tanh_has_the_bars_of_jax_grad(order):
    """To a few units in the last place of 1; and where jax.grad's is NaN, since x³ overflows, the limit."""
    x = jnp.asarray(np.random.default_rng(5).uniform(-10, 10, 4000), jnp.float32)
    got, want = (
        jax.jit(jax.vmap(functools.reduce(lambda g, _: jax.grad(g), range(order), f)))(x)
        for f in (nn.gelu, jax.nn.gelu)
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=[1e-6, 4e-6][order - 1])
    np.testing.assert_array_equal(jax.vmap(jax.grad(nn.gelu))(jnp.array([-1e30, 1e30])), [0, 1])


@pytest.mark.parametrize("x", [100.0, -100.0])
def test_squareplus_of_a_negative_b(x):
    """√(x² + b) is less than |x| then."""
    with jax.enable_x64(True):
        want = jax.grad(jax.nn.squareplus)(jnp.float64(x), jnp.float64(-10.0))
    np.testing.assert_allclose(jax.grad(nn.squareplus)(x, -10.0), want, rtol=4e-7)


def test_squareplus_of_the_largest_and_the_smallest_b():
    """At b = ∞ the slope is ½; half of the smallest b is no normal number."""
    tiny = float(np.finfo(np.float32).tiny)
    for x, b in [(-1.0, np.inf), (1.0, np.inf), (-1e-30, tiny), (-3.4e38, 1.0)]:
        want = 0.5 if x > -1e38 else 0.0
        np.testing.assert_allclose(jax.grad(nn.squareplus)(jnp.float32(x), jnp.float32(b)), want, rtol=1e-6)
    assert jax.grad(nn.squareplus, 1)(1.0, np.inf) == 0


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_primal_of_a_number_is_jax_nns(name):
    """Uncompiled too: a scalar over 6 is not what a compiler makes of it."""
    assert getattr(nn, name)(jnp.float32(0.5)) == getattr(jax.nn, name)(jnp.float32(0.5))


def test_squareplus_takes_an_integer_b():
    got, want = (jax.grad(lambda x, f=f: f(x, 2))(0.5) for f in (nn.squareplus, jax.nn.squareplus))
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_default_is_jax_grads_bit_for_bit(name, dtype):
    """From the residual y, no bar is further from the truth than jax.grad's: it is the same number."""
    x = truth.every_finite(dtype) if dtype in truth.HALVES else truth.whole_range(dtype)
    y_bar = truth.random_bars(x.shape, dtype)
    ours, jaxs = (bars(getattr(module, name), x, y_bar) for module in (nn, jax.nn))
    np.testing.assert_array_equal(np.asarray(ours, np.float64), np.asarray(jaxs, np.float64))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_primal_is_jax_nns(name, dtype):
    ends = np.asarray([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    x = jnp.asarray(np.concatenate([truth.whole_range(dtype, 200), ends]))
    this = ROWS[name]
    got, want = (np.asarray(f(x), np.float64) for f in (this.rule, this.namesake))
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


LIMITS = {  # of f′ at −∞ and at ∞
    **dict.fromkeys(["sigmoid", "tanh", "soft_sign", "sparse_sigmoid", "relu6"], (0.0, 0.0)),
    **dict.fromkeys(["hard_tanh", "hard_sigmoid"], (0.0, 0.0)),
    "log_sigmoid": (1.0, 0.0),
    "log1mexp": (None, 0.0),
    "identity": (1.0, 1.0),
    "leaky_relu": (0.01, 1.0),
    "selu": (0.0, float(SCALE)),
}
MASKED = {"relu", "relu6", "sparse_sigmoid", "hard_tanh", "hard_sigmoid", "identity", "leaky_relu"}


@pytest.mark.parametrize("name", ROWS)
def test_bar_outside_the_finite_numbers(name):
    f = ROWS[name].rule
    largest = jnp.finfo(jnp.float32).max
    limits = [limit for limit in LIMITS.get(name, (0.0, 1.0)) for _ in range(2)]
    x = jnp.array([-jnp.inf, -largest, jnp.inf, largest, jnp.nan])
    first, second = (jax.jit(jax.vmap(g))(x) for g in (jax.grad(f), jax.grad(jax.grad(f))))
    inside = slice(2 if limits[0] is None else 0, 4)  # log1mexp is for x > 0
    np.testing.assert_allclose(first[inside], np.array(limits[inside], float), rtol=1e-6)
    assert np.isfinite(second[inside]).all()
    if name not in MASKED | {"celu", "celu(x, 1.3)"}:
        assert np.isnan(first[4])


@pytest.mark.parametrize("name", [n for n, r in ROWS.items() if r.kinks])
def test_bar_at_a_kink_is_jax_nns(name):
    this = ROWS[name]
    x = jnp.array([*this.kinks, *(-0.0 for k in this.kinks if k == 0)])
    got, want = (jax.jit(jax.vmap(jax.grad(f)))(x) for f in (this.rule, this.namesake))
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_bar_lets_an_infinite_bar_through_its_mask_only():
    for f in (nn.relu, nn.relu6, nn.hard_tanh, nn.hard_sigmoid):
        _, pullback = jax.vjp(f, jnp.array([-9.0, 0.5]))
        np.testing.assert_array_equal(pullback(jnp.full(2, jnp.inf))[0], [0.0, jnp.inf])


@pytest.mark.parametrize("name", [n for n in ROWS if n != "leaky_relu"])
def test_keeps_no_more_than_autodiff(name):
    """leaky_relu keeps x for the bar of its slope, where autodiff of a constant slope keeps a mask."""
    this, x = ROWS[name], np.ones(1000, np.float32)
    rule = getattr(nn, name, this.rule)
    ours, jaxs = (kept_by(Side(lambda x, f=f: [f(x)], False), [x])[0] for f in (rule, this.namesake))
    assert ours <= jaxs + 8  # a scalar parameter


def test_aliases_are_the_same_rule():
    assert nn.swish is nn.silu
    assert nn.hard_swish is nn.hard_silu


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh, nn.identity])
def test_complex_bars_are_jax_grads(f):
    x = jnp.array([0.3 + 0.2j, -1.0 + 2.0j])
    got, want = (
        jax.vjp(g, x)[1](jnp.array([1.0 - 0.5j, 2.0 + 0j]))[0] for g in (f, getattr(jax.nn, f.__name__))
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_refuses_what_is_no_float_array(name):
    f = getattr(nn, name)
    with pytest.raises(RuleError, match=rf"rule nn\.{name}: input x must be float.*int32\[3\]"):
        f(jnp.arange(3))
    with pytest.raises(RuleError, match=rf"rule nn\.{name}: .*'axis'.*{name}\(x"):
        f(1.0, axis=0)
    for x in ([1.0, 2.0], {"a": 1.0}):
        with pytest.raises(RuleError, match=rf"rule nn\.{name}: input x must be one array.*(list|dict)"):
            f(x)


@pytest.mark.parametrize("name", [n for n in ROWS if n != "identity"])
def test_refuses_complex_where_the_formula_is_for_reals(name):
    with pytest.raises(RuleError, match=r"rule nn\.\w+: input x must be real here.*complex64\[2\]"):
        ROWS[name].rule(jnp.ones(2, jnp.complex64))


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh])
def test_refuses_an_accuracy_that_is_none(f):
    with pytest.raises(RuleError, match=r"option accuracy must be None, a jax\.lax\.AccuracyMode"):
        f(1.0, accuracy="highest")

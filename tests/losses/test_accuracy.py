"""Bars of the elementwise losses against mpmath, over the whole range of their arguments."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax.losses
import pytest

import namesake
import truth
from overbar import losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

EXACT = 3000  # bits: the sum of any two floats
DIGITS = 120  # bits, of the functions


def scores(dtype):
    """Numbers of every magnitude, and normal ones: the CPU backend reads others as 0."""
    x = truth.every_finite(dtype)[::23] if dtype in truth.HALVES else truth.whole_range(dtype, 150)
    return x[np.abs(x.astype(np.float64)) >= float(jnp.finfo(dtype).tiny)]


def beside(x, dtype):
    """Numbers of x's size, or far from it."""
    rng = np.random.default_rng(3)
    largest = float(jnp.finfo(dtype).max)
    with np.errstate(all="ignore"):
        near = np.clip(x.astype(np.float64) * rng.normal(1, 0.5, x.shape), -largest, largest)
        return np.where(rng.random(x.shape) < 0.5, near, rng.normal(size=x.shape)).astype(dtype)


def labels(x, dtype):
    rng = np.random.default_rng(4)
    return np.where(rng.random(x.shape) < 0.6, rng.integers(0, 2, x.shape), rng.random(x.shape)).astype(dtype)


def hard(x, dtype):
    return np.random.default_rng(4).integers(0, 2, x.shape).astype(dtype)


def signs(x, dtype):
    return np.random.default_rng(4).choice([-1, 1, 0.5], x.shape).astype(dtype)


# Each truth gives, for two numbers, the terms of the derivative by the first one and by the second one.


def difference(y, t):
    with mpmath.workprec(EXACT):
        e = y - t
    return +e


def huber(y, t):
    slope = max(-1, min(1, difference(y, t)))
    return [slope], [-slope]


def log_cosh(y, t):
    e = difference(y, t)
    slope = mpmath.tanh(e) if abs(e) < 300 else mpmath.sign(e)
    return [slope], [-slope]


def cross_entropy(x, t):
    return [(1 - t) * truth.logistic(x), -t * truth.logistic(-x)], [-x]


def focal_of(gamma):
    def focal(x, t):
        z = -x if t == 1 else x
        if z < -2000:
            return [mpmath.mpf(0)], None
        entropy = mpmath.log1p(mpmath.exp(z)) if z < 2000 else z
        s, rest = truth.logistic(z), truth.logistic(-z)
        slope = s**gamma * (s + gamma * rest * entropy)
        return [-slope if t == 1 else slope], None

    return focal


def hinge(y, t):
    inside = difference(1, 0) if y * t < 1 else mpmath.mpf(0)
    return [-t * inside], [-y * inside]


def perceptron(y, t):
    inside = 1 if y * t < 0 else 0
    return [-t * inside], [-y * inside]


def sparsemax(x, t):
    z = -x if t == 1 else x
    slope = max(0, min(1, (z + 1) / 2))
    return [-slope if t == 1 else slope], [mpmath.mpf(0)]


CASES = {
    "huber": (losses.huber_loss, beside, huber),
    "log_cosh": (losses.log_cosh, beside, log_cosh),
    "cross-entropy": (losses.sigmoid_binary_cross_entropy, labels, cross_entropy),
    "focal": (losses.sigmoid_focal_loss, hard, focal_of(2)),
    "focal, γ = 1/2": (lambda x, t: losses.sigmoid_focal_loss(x, t, gamma=0.5), hard, focal_of(0.5)),
    "hinge": (losses.hinge_loss, signs, hinge),
    "perceptron": (losses.perceptron_loss, signs, perceptron),
    "sparsemax": (losses.sparsemax_loss, hard, sparsemax),
}


def ulps(got, terms, y_bar, dtype):
    """The error in ULP of the largest term of a bar; 0 where that is subnormal or too large for the dtype."""
    want = y_bar * mpmath.fsum(terms)
    size = max(abs(y_bar * term) for term in terms)
    info = jnp.finfo(dtype)
    if min(abs(want), size) < mpmath.mpf(float(info.tiny)) or size > mpmath.mpf(float(info.max)):
        return 0.0
    if not np.isfinite(got):
        return np.inf
    spacing = mpmath.ldexp(1, mpmath.frexp(size)[1] - 1 - info.nmant)
    return float(abs(mpmath.mpf(got) - want) / spacing)


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(jnp.float32, 4.0), (jnp.float64, 4.0), (jnp.float16, 1.0), (jnp.bfloat16, 1.0)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_bars_are_accurate(name, dtype, bound):
    f, partner, terms_of = CASES[name]
    x = scores(dtype)
    t = partner(x, dtype)
    y_bar = truth.random_bars(x.shape, dtype)
    got = jax.jit(lambda y_bar, *args: jax.vjp(f, *args)[1](y_bar))(*map(jnp.asarray, (y_bar, x, t)))
    got = [np.asarray(bar, np.float64).tolist() for bar in got]
    tiny = float(jnp.finfo(dtype).tiny)
    worst = (0.0,)
    with mpmath.workprec(DIGITS):
        for i, (a, b, c) in enumerate(
            zip(*(v.astype(np.float64).tolist() for v in (x, t, y_bar)), strict=True)
        ):
            if 0 < abs(b) < tiny or 0 < abs(a - b) < tiny or not np.isfinite(dtype(a - b)):
                continue  # a subnormal partner or difference is read as 0, and ∞ has no value either
            for number, terms in enumerate(terms_of(mpmath.mpf(a), mpmath.mpf(b))):
                if terms is not None:
                    worst = max(worst, (ulps(got[number][i], terms, mpmath.mpf(c), dtype), number, a, b, c))
    assert worst[0] <= bound, worst


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", truth.WHOLES, ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("f", "second"),
    [
        (losses.log_cosh, truth.tanh_slope),
        (lambda x: losses.sigmoid_binary_cross_entropy(x, 0.0), truth.logistic_slope),
        (lambda x: losses.sigmoid_binary_cross_entropy(x, 1.0), truth.logistic_slope),
    ],
    ids=["log_cosh", "cross-entropy of 0", "cross-entropy of 1"],
)
def test_second_derivatives(f, second, dtype):
    x = np.concatenate([np.linspace(-40, 40, 161), [0.0, 1e-3, -1e-8, np.inf, -np.inf, 1e30]]).astype(dtype)
    got = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(jnp.asarray(x))
    with mpmath.workprec(DIGITS):
        want = [second(mpmath.mpf(v)) for v in x.astype(float).tolist()]
        assert truth.ulp_errors(got, want, dtype).max() <= 16


@pytest.mark.parametrize("x", [1e30, -1e30, np.inf, -np.inf, 3e38])
def test_finite_where_the_limit_is(x):
    """jax.grad of optax.losses gives NaN or infinity at some of these."""
    for t in (0, 1):
        z = -x if t else x
        sign = -1 if t else 1
        for f in (losses.sparsemax_loss, losses.sigmoid_focal_loss, losses.sigmoid_binary_cross_entropy):
            np.testing.assert_array_equal(jax.grad(f)(jnp.float32(x), t), sign * float(z > 0))
    for f in (losses.huber_loss, losses.log_cosh):
        np.testing.assert_array_equal(jax.grad(f)(jnp.float32(x)), np.sign(x))


def test_focals_bar_of_the_label_where_its_sum_would_overflow():
    """The weight and r^γ bring u + γ c (1 − E)/r back."""
    x = jnp.float32(-3.4028235e38)
    for t, options, want in [(0.25, {}, 3 / 16), (1.0, {"alpha": 0.3, "gamma": 1.5}, 0.35)]:
        got = jax.grad(lambda t, given=options: losses.sigmoid_focal_loss(x, t, **given))(jnp.float32(t))
        np.testing.assert_allclose(got, -x * np.float32(want), rtol=1e-6)


def test_bars_beside_an_infinite_norm_or_distance():
    """0 for the entries that are finite, as jax.grad has them."""
    far, t, n = jnp.array([3.4e38, -3.4e38, 1.0]), jnp.array([1.0, 0.0, 0.0]), jnp.full(3, 0.5)
    for f in (losses.cosine_similarity, losses.cosine_distance):
        np.testing.assert_array_equal(jax.grad(f, 1)(far, t), 0)
    for bar in jax.grad(losses.triplet_margin_loss, (0, 1, 2))(far.at[0].set(jnp.inf).at[1].set(0), t, n):
        np.testing.assert_array_equal(bar[1:], 0)


def test_near_equal_arguments_the_slope_is_their_difference():
    """Where jax.grad of optax.losses has no digit left."""
    y, t = jnp.float32(1 + 2**-20), jnp.float32(1)
    for name in ("huber_loss", "log_cosh"):
        assert jax.grad(getattr(losses, name))(y, t) == 2**-20
        assert jax.grad(getattr(losses, name))(jnp.float32(1e-9)) == jnp.float32(1e-9)
        assert jax.grad(getattr(optax.losses, name))(jnp.float32(1e-9)) != jnp.float32(1e-9)


# ---------------------------------------------------------------------- reductions

ROWS = 0.3 * jax.random.normal(jax.random.key(11), (64, 32))
OTHERS = ROWS + 1e-3 * jax.random.normal(jax.random.key(12), (64, 32))
P, T = jax.nn.log_softmax(ROWS), jax.nn.softmax(3 * OTHERS)
REDUCTIONS = {
    "cosine_similarity": (ROWS, OTHERS),
    "cosine_distance": (ROWS, OTHERS),
    "kl_divergence": (P, T),
    "kl_divergence_with_log_targets": (P, jnp.log(T)),
    "generalized_kl_divergence": (P, T),
    "poly_loss_cross_entropy": (ROWS, T),
    "dice_loss": (ROWS.reshape(4, 16, 32), T.reshape(4, 16, 32)),
    "binary_dice_loss": (ROWS, T),
    "multiclass_generalized_dice_loss": (ROWS.reshape(4, 16, 32), T.reshape(4, 16, 32)),
}


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(
    ("dtype", "slack"), [(jnp.float32, 1.25), (jnp.bfloat16, 1.0)], ids=["float32", "bfloat16"]
)
def test_reductions_are_as_near_to_the_truth_as_jax_grad(name, dtype, slack):
    """In the norm over all entries; slack is for the chance of single roundings."""
    args = [x.astype(dtype) for x in REDUCTIONS[name]]
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)

    def bars(f, dtype):
        y, pullback = jax.vjp(f, *(x.astype(dtype) for x in args))
        y_bar = (
            jax.random.normal(jax.random.key(1), y.shape, jnp.float32).astype(jnp.bfloat16).astype(y.dtype)
        )
        return [np.asarray(b, np.float64) for b in pullback(y_bar)]

    with jax.numpy_rank_promotion("allow"):
        got, kept, want = bars(ours, dtype), bars(theirs, dtype), bars(theirs, jnp.float64)
    for a, b, w in zip(got, kept, want, strict=True):
        floor = 0.5 * float(jnp.finfo(dtype).eps) * np.linalg.norm(w)
        assert np.linalg.norm(a - w) <= max(slack * np.linalg.norm(b - w), floor)


def test_what_is_masked_or_zero_has_a_finite_bar():
    p = jnp.array([[jnp.log(0.5), jnp.log(0.5), -jnp.inf], [0.0, jnp.nan, -1.0]])
    t = jnp.array([[1.0, 0.0, 0.0], [1.0, jnp.inf, 0.0]])
    where = jnp.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(jax.grad(lambda p: losses.kl_divergence(p, t)[0])(p)[0], [-1, 0, 0])
    for f in (losses.kl_divergence, losses.generalized_kl_divergence):
        by_p, by_t = jax.grad(lambda *a, f=f: f(*a, where=where).sum(), (0, 1))(p, t)
        assert np.isfinite(by_p).all()
        assert np.isfinite(by_t[where & (t > 0)]).all()
        np.testing.assert_array_equal(by_t[~where], 0)
    u = jnp.array([0.0, -jnp.inf])
    by_u = jax.grad(losses.kl_divergence_with_log_targets, 1)(jnp.log(jnp.array([0.5, 0.5])), u)
    assert np.isfinite(by_u).all()
    assert by_u[1] == 0
    bars = jax.grad(lambda *a: losses.poly_loss_cross_entropy(*a, where=where).sum(), (0, 1))(
        p, jnp.nan_to_num(t)
    )
    assert all(np.isfinite(b).all() for b in bars)


def test_a_zero_vector_is_as_optax_has_it():
    zero, one = jnp.zeros(3), jnp.ones(3)
    assert np.isnan(losses.cosine_similarity(zero, one))
    for name in ("cosine_similarity", "cosine_distance"):
        got, want = (
            jax.grad(lambda z, f=f: f(z, one, epsilon=1e-4))(zero)
            for f in (getattr(m, name) for m in (losses, optax.losses))
        )
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_focals_bar_of_gamma_where_log1p_was_coarse():
    """γ̄ = ȳ c r^γ log r at r = 0.58 to 0.75, where XLA's log1p(r − 1) had up to 126 ULP before JAX 0.12."""
    x = np.linspace(0.3, 1.1, 50)
    got = jax.vmap(jax.grad(lambda g, x: losses.sigmoid_focal_loss(x, 0.0, gamma=g)), (None, 0))(2.0, x)
    with mpmath.workprec(DIGITS):
        for a, b in zip(x, got, strict=True):
            r = 1 / (1 + mpmath.exp(-mpmath.mpf(a)))
            want = -mpmath.log(1 - r) * r**2 * mpmath.log(r)
            assert abs(float(b) / want - 1) < 12 * 2.0**-52


def focals_terms(x, t, gamma):
    """The terms of the derivatives by x and by t, in float64: digits enough for bars in float32."""
    p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
    far = np.where(x < 0, t, 1 - t)
    c = far * abs(x) + np.log1p(np.exp(-abs(x)))
    r = (1 - t) * p + t * q
    bend = gamma * c * p * q / r
    by_x = [(1 - t) * p, -t * q, bend * (1 - t), -bend * t]
    return [r**gamma * v for v in by_x], [-(r**gamma) * v for v in (x, gamma * c * np.tanh(x / 2) / r)]


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focals_bars_of_soft_labels_and_of_labels(gamma):
    """However large γ, near hard labels, and near x = 0, where t̄ is 0 and jax.grad is off by 1e4."""
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.normal(0, 3, 5000), 10.0 ** rng.uniform(-6, 1, 5000), rng.uniform(-30, 30, 5000)])
    every = [rng.random(x.size), np.round(rng.random(x.size)), 10.0 ** rng.uniform(-7, -1, x.size)]
    t = np.choose(rng.integers(0, 3, x.size), every)
    t = np.where(rng.random(x.size) < 0.5, t, 1 - t)
    x, t, y_bar = (v.astype(np.float32) for v in (x, t, rng.normal(size=x.size)))

    @jax.jit
    def bars(x, t, y_bar):
        return jax.vjp(lambda x, t: losses.sigmoid_focal_loss(x, t, gamma=gamma), x, t)[1](y_bar)

    every = focals_terms(x.astype(np.float64), t.astype(np.float64), gamma)
    for got, terms in zip(bars(x, t, y_bar), every, strict=True):
        want = y_bar * sum(terms)
        size = np.max(np.abs([want, *(y_bar * v for v in terms)]), 0)
        ulp = 2.0 ** (np.floor(np.log2(np.maximum(size, 1e-37))) - 23)
        counts = (size > 1e-37) & (np.abs(want) > 1e-37)
        assert np.max((np.abs(np.asarray(got, np.float64) - want) / ulp)[counts]) < 6


def test_focals_bar_where_the_power_is_subnormal():
    """r^5 is 2e-38 there, and what x̄ has it times brings it back."""
    x, t, y_bar = np.float32(30.8), np.float32(1 - 4e-8 - 4e-7), np.float32(1e6)
    (by_x, _) = jax.vjp(lambda x, t: losses.sigmoid_focal_loss(x, t, gamma=5.0), x, t)[1](y_bar)
    want = y_bar * sum(focals_terms(np.float64(x), np.float64(t), 5.0)[0])
    np.testing.assert_allclose(by_x, want, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("x", "t"), [(0.7, 0.0), (-0.3, 1.0), (3.0, 1.0), (-10.0, 0.0), (25.0, 0.0), (0.0, 1.0)]
)
def test_focals_second_derivatives_at_hard_labels(x, t):
    """Along t: what the derivation has by cases must not be cases by t."""

    def plain(x, t):
        return (t * jnp.logaddexp(0, -x) + (1 - t) * jnp.logaddexp(0, x)) * (
            (1 - t) * jax.nn.sigmoid(x) + t * jax.nn.sigmoid(-x)
        ) ** 2

    got, want = (jax.hessian(f, (0, 1))(x, t) for f in (losses.sigmoid_focal_loss, plain))
    np.testing.assert_allclose(np.array(got), np.array(want), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("gamma", [2.0, 3.7])
def test_focals_bar_is_the_same_without_a_compiler(gamma):
    """One joins product and difference, so that e^−3u (1 − low) kept its digits; and γ + 1 had lost some."""
    gamma = float(np.float32(gamma))
    x = np.random.default_rng(6).uniform(-30, 30, 1000).astype(np.float32)
    t = (np.arange(1000) % 2).astype(np.float32)
    got = jax.grad(lambda x: losses.sigmoid_focal_loss(x, t, gamma=gamma).sum())(jnp.asarray(x))
    want = sum(focals_terms(x.astype(np.float64), t.astype(np.float64), gamma)[0])
    normal = np.abs(want) > 1e-37
    np.testing.assert_allclose(np.asarray(got)[normal], want[normal], rtol=4 * 2.0**-23)


@pytest.mark.usefixtures("x64")
def test_focals_second_derivatives_far_out():
    """Where 1/E is a float and 1/E² is none."""
    x = np.repeat([-84.0, -60.0, -45.0, -12.0, 0.0, 12.0, 25.0, 45.0, 60.0, 84.0], 3)
    t = np.tile([0.0, 0.25, 1.0], 10)

    second = jax.jit(jax.vmap(jax.jacrev(jax.grad(losses.sigmoid_focal_loss))))
    got, want = (second(x.astype(dtype), t.astype(dtype)) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(got, want, rtol=16 * 2.0**-23, atol=1e-35)


@pytest.mark.usefixtures("x64")
def test_poly_losses_bars_are_rounded_as_seldom_as_jax_grads():
    """L̄ in each term, ε L̄ once a row: times the sum of both it would be 1.2 of jax.grad's error in t̄."""

    def draw(rng):
        return [rng.normal(size=(16, 10)), rng.dirichlet(np.ones(10), 16)]

    ours, theirs = losses.poly_loss_cross_entropy, optax.losses.poly_loss_cross_entropy
    for a, b in namesake.mean_errors(ours, theirs, draw, jnp.float32, seeds=24):
        assert a <= 1.06 * b

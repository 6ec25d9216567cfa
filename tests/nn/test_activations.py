"""Accuracy of the activations' bars against mpmath, and what jax.nn promises."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import truth
from overbar import RuleError, nn

HIGHEST = jax.lax.AccuracyMode.HIGHEST

# What is measured: the rule as called, and f' in mpmath.
ACCURATE = {
    "sigmoid": (lambda x: nn.sigmoid(x, accuracy=HIGHEST), truth.logistic_slope),
    "tanh": (lambda x: nn.tanh(x, accuracy=HIGHEST), truth.tanh_slope),
    "softplus": (nn.softplus, truth.logistic),
    "relu": (nn.relu, lambda x: mpmath.mpf(1 if x > 0 else 0)),
}


def random_bars(shape, dtype):
    """Both signs, several binades, none of them 1."""
    rng = np.random.default_rng(1)
    return (rng.uniform(0.3, 8.0, shape) * rng.choice([-1, 1], shape)).astype(dtype)


def bars(f, x, y_bar):
    return jax.jit(lambda x, y_bar: jax.vjp(f, x)[1](y_bar)[0])(jnp.asarray(x), jnp.asarray(y_bar))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ACCURATE)
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(jnp.float32, 4.0), (jnp.float64, 4.0), (jnp.float16, 1.0), (jnp.bfloat16, 1.0)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_bar_is_accurate(name, dtype, bound):
    f, slope = ACCURATE[name]
    x = truth.every_finite(dtype) if dtype in truth.HALVES else truth.whole_range(dtype)
    if name == "relu":  # its primal takes a subnormal x for 0, where the CPU flushes it
        x = x[(x == 0) | (np.abs(x) >= jnp.finfo(dtype).tiny)]
    y_bar = random_bars(x.shape, dtype)
    with mpmath.workprec(100):
        errors = truth.ulp_errors(bars(f, x, y_bar), truth.bars_of(slope, x, y_bar), dtype)
    worst = np.argmax(errors)
    assert errors[worst] <= bound, f"{errors[worst]} ULP at x = {x[worst]}, ȳ = {y_bar[worst]}"


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_default_is_jax_grads_bit_for_bit(name, dtype):
    """From the residual y, no bar is further from the truth than jax.grad's: it is the same number."""
    x = truth.every_finite(dtype) if dtype in truth.HALVES else truth.whole_range(dtype)
    y_bar = random_bars(x.shape, dtype)
    ours, jaxs = (bars(getattr(module, name), x, y_bar) for module in (nn, jax.nn))
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(jaxs))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu", "softplus"])
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_primal_is_jax_nns(name, dtype):
    x = jnp.asarray(truth.whole_range(dtype, 200))
    np.testing.assert_array_equal(getattr(nn, name)(x), getattr(jax.nn, name)(x))


@pytest.mark.parametrize("name", ACCURATE)
@pytest.mark.parametrize("x", [np.inf, -np.inf, np.nan])
def test_bar_outside_the_finite_numbers(name, x):
    f, _ = ACCURATE[name]
    limit = {
        "sigmoid": 0.0,
        "tanh": 0.0,
        "softplus": float(x > 0),
        "relu": float(x > 0),
    }[name]
    got = jax.grad(f)(x)
    np.testing.assert_array_equal(got, limit if np.isinf(x) or name == "relu" else np.nan)


def test_bar_of_relu_lets_an_infinite_bar_through_its_mask_only():
    _, pullback = jax.vjp(nn.relu, jnp.array([-1.0, 2.0]))
    np.testing.assert_array_equal(pullback(jnp.full(2, jnp.inf))[0], [0.0, jnp.inf])


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh])
def test_complex_bars_are_jax_grads(f):
    x = jnp.array([0.3 + 0.2j, -1.0 + 2.0j])
    got, want = (
        jax.vjp(g, x)[1](jnp.array([1.0 - 0.5j, 2.0 + 0j]))[0] for g in (f, getattr(jax.nn, f.__name__))
    )
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh, nn.relu, nn.softplus], ids=lambda f: f.__name__)
def test_refuses_integers_and_unknown_options(f):
    with pytest.raises(RuleError, match=rf"rule nn\.{f.__name__}: input x must be float.*int32\[3\]"):
        f(jnp.arange(3))
    with pytest.raises(RuleError, match=rf"rule nn\.{f.__name__}: .*'axis'.*{f.__name__}\(x"):
        f(1.0, axis=0)


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh])
def test_refuses_an_accuracy_that_is_none(f):
    with pytest.raises(RuleError, match=r"option accuracy must be None, a jax\.lax\.AccuracyMode"):
        f(1.0, accuracy="highest")

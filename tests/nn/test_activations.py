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
    y_bar = truth.random_bars(x.shape, dtype)
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
    y_bar = truth.random_bars(x.shape, dtype)
    ours, jaxs = (bars(getattr(module, name), x, y_bar) for module in (nn, jax.nn))
    np.testing.assert_array_equal(np.asarray(ours, np.float64), np.asarray(jaxs, np.float64))


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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus"])
@pytest.mark.parametrize("dtype", truth.WHOLES, ids=lambda d: d.__name__)
def test_second_derivative_over_the_whole_range(name, dtype):
    """Of the accurate forms: σ″ = σ(x)σ(−x)(σ(−x) − σ(x)), tanh″ = −2 tanh sech², softplus″ = σ′."""
    f, _ = ACCURATE[name]
    ends = [-np.inf, np.inf, float(jnp.finfo(dtype).max), -1e30, 0.0]
    x = np.concatenate([np.linspace(-750, 750, 301), np.linspace(-20, 20, 201), ends]).astype(dtype)
    with mpmath.workprec(100):
        second = {
            "sigmoid": lambda v: truth.logistic_slope(v) * (truth.logistic(-v) - truth.logistic(v)),
            "tanh": lambda v: -2 * mpmath.tanh(v) * truth.tanh_slope(v),
            "softplus": truth.logistic_slope,
        }[name]
        want = [second(mpmath.mpf(v)) for v in x.astype(float).tolist()]
        got = jax.jit(jax.vmap(jax.grad(jax.grad(f))))(jnp.asarray(x))
        # Its parts, of up to four times its size, are flushed to 0 before it is.
        want = [w if abs(w) > 4 * float(jnp.finfo(dtype).tiny) else mpmath.mpf(0) for w in want]
        # Where it passes through 0, at x = 0, the digits are those of its larger term.
        near = np.abs(x) < 1
        errors = truth.ulp_errors(got, want, dtype)
    assert np.isfinite(got).all()
    assert errors[~near].max() <= 16, x[~near][errors[~near].argmax()]
    np.testing.assert_allclose(got[near], np.array(want, float)[near], atol=8 * float(jnp.finfo(dtype).eps))


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


@pytest.mark.parametrize("name", ACCURATE)
def test_refuses_complex_where_the_formula_is_for_reals(name):
    f, _ = ACCURATE[name]
    with pytest.raises(RuleError, match=rf"rule nn\.{name}: input x must be real here.*complex64\[2\]"):
        f(jnp.ones(2, jnp.complex64))


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh, nn.relu, nn.softplus], ids=lambda f: f.__name__)
@pytest.mark.parametrize("x", [[1.0, 2.0], {"a": 1.0}])
def test_refuses_what_is_not_one_array(f, x):
    with pytest.raises(RuleError, match=rf"rule nn\.{f.__name__}: input x must be one array.*(list|dict)"):
        f(x)


@pytest.mark.parametrize("f", [nn.sigmoid, nn.tanh])
def test_refuses_an_accuracy_that_is_none(f):
    with pytest.raises(RuleError, match=r"option accuracy must be None, a jax\.lax\.AccuracyMode"):
        f(1.0, accuracy="highest")

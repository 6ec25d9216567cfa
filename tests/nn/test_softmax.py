"""softmax, log_softmax, logsumexp and logmeanexp beside jax.nn's: outputs, edges, errors, bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import namesake
from overbar import RuleError, nn

pytestmark = pytest.mark.once  # the registry's tests run on every version

INF = np.inf
NAMES = ["softmax", "log_softmax", "logsumexp", "logmeanexp"]
EDGES = np.array(
    [
        [-INF, -INF, -INF, -INF],
        [-INF, 1, 2, INF],
        [INF, INF, 0, 1],
        [np.nan, 1, 2, 3],
        [3e38, -3e38, 0, 1],
        [0, 0, 0, 0],
        [-INF, -INF, 0.0, -0.0],
    ],
    np.float32,
)


def both(name, **options):
    return (functools.partial(getattr(home, name), **options) for home in (nn, jax.nn))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("masked", [False, True])
def test_outputs_are_jax_nns(name, masked):
    rng = np.random.default_rng(0)
    for x in (rng.normal(1e3, 10, (6, 70)).astype(np.float32), EDGES):
        where = np.arange(len(x))[:, None] != 1 if masked else None
        for axis in (-1, (0, 1)):
            namesake.assert_same_outputs(*both(name, axis=axis, where=where), x)


@pytest.mark.once
def test_outputs_of_logsumexp_with_factors_and_signs():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 7)).astype(np.float32)
    b[0] = 0
    for sign in (False, True):
        namesake.assert_same_outputs(*both("logsumexp", axis=-1, return_sign=sign), a)
        f, g = both("logsumexp", axis=1, keepdims=True, return_sign=sign)
        namesake.assert_same_outputs(lambda a, b, f=f: f(a, b=b), lambda a, b, g=g: g(a, b=b), a, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_keeps_its_dtype(name, dtype):
    f, g = both(name, axis=-1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50)), dtype)
    want = g(x.astype(jnp.float32)).astype(dtype)
    assert f(x).dtype == dtype
    np.testing.assert_array_equal(*(np.asarray(y, np.float32) for y in (f(x), want)))


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_errors_beside_jax_grads(name, dtype):
    """In float32 log_softmax, logsumexp and logmeanexp have the errors of jax.grad bit for bit.

    softmax, which keeps y alone and not e^x and its sum, has from 0.7 to 1.1 of jax.grad's, as the
    numbers fall: more where all y are alike, less where one is the largest by far.
    """
    f, g = both(name, axis=-1)
    bound = 1.1 if (name, dtype) == ("softmax", jnp.float32) else 1.0
    ours, jaxs = namesake.mean_errors(f, g, lambda rng: [rng.normal(size=(16, 500))], dtype)[0]
    assert ours <= bound * jaxs


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_softmax_of_rows_that_one_entry_fills(dtype):
    """There jax.grad loses up to all digits of half precision, with Σ y that is not 1."""
    f, g = both("softmax", axis=-1)
    ours, jaxs = namesake.mean_errors(f, g, lambda rng: [20 * rng.normal(size=(16, 10))], dtype)[0]
    assert ours <= min(jaxs / 8, 0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_bytes_kept(name, dtype, masked):
    where = np.ones((64, 32), bool) if masked else None
    f, g = both(name, axis=-1, where=where)
    x = jnp.ones((64, 32), dtype)
    assert namesake.kept_bytes(f, [x]) <= namesake.kept_bytes(g, [x])
    if name == "softmax":
        assert namesake.kept_bytes(f, [x]) == x.nbytes  # the output only


def test_bytes_kept_with_factors():
    x = jnp.ones((64, 32))
    for dtype in (jnp.float32, jnp.bfloat16):
        f, g = both("logsumexp", axis=-1)
        a = x.astype(dtype)
        ours, theirs = (namesake.kept_bytes(lambda a, b, h=h: h(a, b=b), (a, a)) for h in (f, g))
        assert ours <= theirs


@pytest.mark.parametrize("name", ["logsumexp", "logmeanexp"])
def test_bars_at_infinity_are_the_limits(name):
    f, _ = both(name, axis=-1)
    bars = jax.grad(lambda x: f(x).sum())(jnp.asarray(np.delete(EDGES, 3, 0)))
    want = [[0] * 4, [0, 0, 0, 1], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0.25] * 4, [0, 0, 0.5, 0.5]]
    np.testing.assert_array_equal(bars, want)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_left_out_has_bars_of_0(name):
    f, _ = both(name, axis=-1, where=np.array([[True], [False]]))
    x = jnp.ones((2, 3)).at[1].set(jnp.nan)
    y, pullback = jax.vjp(f, x)
    bars = pullback(jnp.arange(1.0, 1 + y.size).reshape(y.shape))[0]
    assert np.isfinite(bars).all()
    np.testing.assert_array_equal(bars[1], 0)


def test_log_softmax_of_an_entry_of_minus_infinity():
    """It has the bar that came to it, and the others are as if it were not there."""
    x, y_bar = jnp.array([0.0, -INF, 0.0]), jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.vjp(nn.log_softmax, x)[1](y_bar)[0], [1 - 3, 2, 3 - 3], atol=1e-6)


def test_logsumexp_with_factors_is_jax_grads():
    rng = np.random.default_rng(1)
    a = rng.normal(size=(3, 5)).astype(np.float32)
    for b in (rng.normal(size=(3, 5)), rng.normal(size=(1, 5)), np.array([[0.0], [1.0], [2.0]])):
        for options in ({"return_sign": True}, {"where": rng.random((3, 5)) < 0.7}):
            f, g = both("logsumexp", axis=1, **options)
            got, want = (
                jax.grad(lambda a, b, h=h: jnp.sin(jax.tree.leaves(h(a, b=b))[0])[1:].sum(), (0, 1))(
                    a, jnp.asarray(b, jnp.float32)
                )
                for h in (f, g)
            )
            for x, y in zip(got, want, strict=True):
                np.testing.assert_allclose(np.nan_to_num(x), np.nan_to_num(y), rtol=2e-5, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_float16_shares_do_not_underflow():
    """In a row of 4096, a share of 1e-7 is below the smallest normal number of float16."""
    x = jnp.concatenate([jnp.zeros(1), jnp.full(4095, -8.0)]).astype(jnp.float16)
    bars = jax.vjp(nn.logsumexp, x)[1](jnp.float16(1000))[0]
    want = 1000 * jax.nn.softmax(x.astype(jnp.float64))
    np.testing.assert_allclose(np.asarray(bars, float), want, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_refusals(name):
    f, _ = both(name)
    with pytest.raises(RuleError, match=rf"rule nn\.{name}: input (x|a) must be float.*int32\[3\]"):
        f(jnp.arange(3))
    with pytest.raises(RuleError, match=rf"rule nn\.{name}: the inputs must be real.*complex64\[2\]"):
        f(jnp.ones(2, jnp.complex64))
    with pytest.raises(RuleError, match=r"one dtype.*bfloat16"):
        nn.logsumexp(jnp.ones(2), b=jnp.ones(2, jnp.bfloat16))


def test_what_is_left_out_of_a_row_of_minus_infinities_has_the_bar_zero():
    """The row's own entries are nan, as in jax.nn."""
    x = jnp.array([[-jnp.inf, -jnp.inf, 1.0, 2.0]])
    where = jnp.array([[True, True, False, False]])
    bars = (jax.vjp(lambda x, f=f: f(x, where=where), x)[1](x + 1)[0] for f in (nn.softmax, jax.nn.softmax))
    for bar in bars:
        np.testing.assert_array_equal(bar, [[jnp.nan, jnp.nan, 0.0, 0.0]])

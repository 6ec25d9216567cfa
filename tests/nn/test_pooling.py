"""Pooling beside Flax and jax.grad of it: ties, padding, NaN; what is kept; what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overbar import RuleError, nn
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by

pytestmark = pytest.mark.once  # the registry's tests run on every version

POOLS = [nn.max_pool, nn.avg_pool]


def plain(name, x, window, strides=None, padding="VALID", count_include_pad=True):
    """As flax.linen has it, from lax.reduce_window."""
    ones = (1,) * (x.ndim - len(window) - 1)
    strides = strides or (1,) * len(window)
    padding = padding if isinstance(padding, str) else ((0, 0),) * len(ones) + padding + ((0, 0),)

    def reduced(x, start, combine):
        return jax.lax.reduce_window(x, start, combine, (*ones, *window, 1), (*ones, *strides, 1), padding)

    if name == "max_pool":
        return reduced(x, -jnp.inf, jax.lax.max)
    counts = (
        np.prod(window).astype(x.dtype) if count_include_pad else reduced(jnp.ones_like(x), 0.0, jax.lax.add)
    )
    return reduced(x, 0.0, jax.lax.add) / counts


def drawn(shape, dtype=jnp.float32, round_to=None):
    x = np.random.default_rng(0).standard_normal(shape)
    return jnp.asarray(x if round_to is None else np.round(x / round_to) * round_to, dtype)


def bars(f, x):
    y = f(x)
    return y, jax.jit(lambda x: jax.vjp(f, x)[1](drawn(y.shape, y.dtype))[0])(x)


# x and options; the entries are rounded, so that windows have ties.
WAYS = [
    ((2, 7, 3), (2,), (2,), "VALID"),
    ((2, 6, 2), (3,), (1,), ((2, 2),)),
    ((2, 3, 2), (2,), (1,), ((3, 4),)),
    ((2, 2, 2), (3,), (1,), "VALID"),
    ((2, 7, 5, 3), (3, 2), (2, 2), "SAME"),
    ((2, 6, 6, 3), (3, 3), None, ((1, 1), (0, 2))),
    ((5, 6, 3), (2, 2), (2, 1), "SAME_LOWER"),
    ((2, 3, 4, 5, 2), (2, 2, 3), (1, 2, 2), ((1, 1), (0, 1), (1, 0))),
    ((2, 17, 17, 1), (16, 17), (1, 1), ((1, 0), (0, 1))),
    ((1, 80, 2), (40,), None, "SAME"),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shape", "window", "strides", "padding"), WAYS)
@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
def test_is_the_plain_one_and_its_gradient(pool, shape, window, strides, padding):
    x = drawn(shape, jnp.float64, round_to=0.5)
    y, x_bar = bars(lambda x: pool(x, window, strides, padding), x)
    want, want_bar = bars(lambda x: plain(pool.__name__, x, window, strides, padding), x)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_allclose(x_bar, want_bar, rtol=1e-13, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_mean_without_the_padding():
    x, options = drawn((2, 5, 4, 2), jnp.float64), ((3, 2), (2, 1), ((1, 2), (1, 0)), False)
    for a, b in zip(
        *(bars(lambda x, f=f: f(x, *options), x) for f in (nn.avg_pool, functools.partial(plain, ""))),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda d: d.__name__)
@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
def test_output_is_the_plain_ones_bit_for_bit(pool, dtype):
    x = drawn((2, 7, 8, 3), dtype).at[0, 0, :3, 0].set(jnp.array([0.0, -0.0, 0.0], dtype))
    for f in (
        pool,
        jax.jit(pool, static_argnums=(1, 2, 3)),
        lambda *a: jax.vjp(lambda x: pool(x, *a[1:]), x)[0],
    ):
        got, want = f(x, (2, 3), (2, 1), "SAME"), plain(pool.__name__, x, (2, 3), (2, 1), "SAME")
        assert got.dtype == dtype
        np.testing.assert_array_equal(np.asarray(got).tobytes(), np.asarray(want).tobytes())


def test_largest_with_infinities_and_nan_goes_where_jax_grad_has_it():
    rows = [
        [-jnp.inf, -jnp.inf, 1.0, 1.0, jnp.inf, jnp.inf],
        [jnp.nan, 1.0, 2.0, jnp.nan, 0.0, -1.0],
        [-0.0, 0.0, -0.0, -jnp.inf, -jnp.inf, -jnp.inf],
    ]
    x = jnp.array(rows)[:, :, None]
    for window, padding in [((2,), "VALID"), ((3,), ((2, 2),)), ((3,), "SAME")]:
        got, want = (
            bars(functools.partial(f, window=window, padding=padding), x)
            for f in (nn.max_pool, functools.partial(plain, "max_pool"))
        )
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[1], want[1])


def test_windows_wholly_in_the_padding():
    x, options = jnp.ones((1, 1, 1)), (2, 1, 2)
    np.testing.assert_array_equal(nn.max_pool(x, *options).ravel(), [-jnp.inf, 1, 1, -jnp.inf])
    np.testing.assert_array_equal(
        jax.vjp(lambda x: nn.max_pool(x, *options), x)[1](drawn((1, 4, 1)))[0],
        drawn((1, 4, 1))[:, 1:3].sum(1, keepdims=True),
    )
    np.testing.assert_array_equal(nn.avg_pool(x, *options, False).ravel(), [jnp.nan, 1, 1, jnp.nan])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_keeps_a_byte_an_output(dtype):
    x = np.asarray(drawn((2, 8, 8, 3), dtype))
    kept = {f.__name__: kept_by(Side(lambda x, f=f: [f(x, 3, 2, "SAME")], False), [x])[0] for f in POOLS}
    assert kept == {"max_pool": 2 * 4 * 4 * 3, "avg_pool": 0}


def test_half_precision_is_added_in_float32():
    """Of 400 windows over one entry, bars of 1: a sum in bfloat16 itself would stop at 256."""
    x = jnp.zeros((1, 39, 39, 1), jnp.bfloat16).at[0, 19, 19].set(1)
    y, pullback = jax.vjp(lambda x: nn.max_pool(x, 20), x)
    assert pullback(jnp.ones_like(y))[0][0, 19, 19, 0] == 400


@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
def test_second_derivatives_are_those_of_the_plain_one(pool):
    x = drawn((1, 5, 4, 1), round_to=0.5)

    def loss(f):
        return lambda x: jnp.sum(f(x, (2, 2), (2, 1), "SAME") ** 3)

    f = functools.partial(plain, pool.__name__)
    np.testing.assert_allclose(jax.hessian(loss(pool))(x), jax.hessian(loss(f))(x), rtol=1e-5, atol=1e-6)
    twice = [jax.grad(lambda x, f=f: jnp.sum(jax.grad(loss(f))(x) ** 2))(x) for f in (pool, f)]
    np.testing.assert_allclose(*twice, rtol=1e-5, atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
def test_is_flaxs(pool):
    linen = pytest.importorskip("flax.linen")
    x, args = drawn((2, 9, 8, 3)), ((3, 2), (2, 2), "SAME")
    for some in (x, x[0]):
        with jax.numpy_dtype_promotion("standard"):
            want = getattr(linen, pool.__name__)(some, *args)
        np.testing.assert_array_equal(pool(some, *args), want)


@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("shape", "args", "message"),
    [
        ((5, 2), (2,), r"x \(\.\.\., \*spatial, C\).*float32\[5,2\], window 2"),
        ((1, 5, 2), ((2, 2, 2),), r"float32\[1,5,2\], window \(2, 2, 2\)"),
        ((1, 5, 2), (0,), "window must be a positive integer"),
        ((1, 5, 2), (2, (1, 1)), r"strides must be a positive integer.*\(1, 1\)"),
        ((1, 5, 2), (2, 0), "strides must be a positive integer"),
        ((1, 5, 2), (2, 1, "FULL"), "padding must be 'SAME'.*'FULL'"),
        ((1, 5, 2), (2, 1, (1, 1)), r"padding.*1 spatial axes.*\(1, 1\)"),
    ],
)
def test_refuses(pool, shape, args, message):
    with pytest.raises(RuleError, match=f"rule nn.{pool.__name__}: .*{message}"):
        pool(jnp.ones(shape), *args)


@pytest.mark.parametrize("pool", POOLS, ids=lambda f: f.__name__)
def test_refuses_what_is_not_real(pool):
    with pytest.raises(RuleError, match=rf"rule nn.{pool.__name__}: input x must be float.*int32\[1,5,2\]"):
        pool(jnp.ones((1, 5, 2), jnp.int32), 2)
    with pytest.raises(
        RuleError, match=rf"rule nn.{pool.__name__}: input x must be real.*complex64\[1,5,2\]"
    ):
        pool(jnp.ones((1, 5, 2), jnp.complex64), 2)

"""Convolution beside jax.grad of the plain one: every way that windows can lie, digits, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from overbar import RuleError, nn
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by
from overbar.nn import convolution

pytestmark = pytest.mark.once  # the registry's tests run on every version

LAYOUT = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


def plain(x, kernel, bias=None, *, strides=1, padding="SAME", dilation=1, groups=1):
    """What anybody would write."""
    n = kernel.ndim - 2
    every = [(v,) * n if isinstance(v, int) else v for v in (strides, dilation)]
    padding = [(padding, padding)] * n if isinstance(padding, int) else padding
    y = jax.lax.conv_general_dilated(
        x,
        kernel,
        every[0],
        padding,
        rhs_dilation=every[1],
        dimension_numbers=LAYOUT[n],
        feature_group_count=groups,
    )
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def drawn(*shapes, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def bars(f, y_bar, *args):
    return jax.jit(lambda *a: jax.vjp(f, *a)[1](y_bar))(*args)


# x, kernel and options: strides, dilations, paddings of both signs, rows left over, nothing to see at all.
WAYS = [
    ((2, 7, 2), (3, 2, 3), {}),
    ((2, 8, 2), (2, 2, 3), {"strides": 3, "padding": "VALID"}),
    ((2, 9, 10), (3, 10, 3), {"strides": 2, "dilation": 3, "padding": ((4, 1),)}),
    ((2, 9, 2), (3, 2, 3), {"strides": 2, "dilation": 2, "padding": ((0, 5),)}),
    ((2, 6, 2), (3, 2, 2), {"padding": ((-1, -2),)}),
    ((2, 2, 2), (3, 2, 2), {"padding": "VALID"}),
    ((2, 5, 6, 2), (3, 2, 1, 4), {"groups": 2, "strides": (2, 1), "padding": "SAME_LOWER"}),
    ((2, 5, 6, 4), (2, 3, 2, 6), {"groups": 2, "dilation": (1, 2)}),
    ((2, 6, 5, 12), (1, 1, 12, 3), {"strides": (2, 3)}),
    ((2, 4, 5, 12), (3, 3, 12, 3), {"strides": (1, 2), "padding": 2}),
    ((2, 4, 4, 1), (3, 3, 1, 16), {}),
    ((1, 4, 3, 5, 2), (2, 3, 1, 2, 3), {"strides": (1, 2, 3), "padding": ((1, 0), (0, 2), (2, 2))}),
    ((1, 4, 4, 3, 4), (2, 2, 3, 2, 2), {"groups": 2, "padding": "VALID"}),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("x", "kernel", "options"), WAYS)
def test_is_the_plain_convolution_and_its_gradient(x, kernel, options):
    x, kernel, bias = drawn(x, kernel, kernel[-1:], dtype=jnp.float64)
    y = plain(x, kernel, bias, **options)
    np.testing.assert_array_equal(nn.conv(x, kernel, bias, **options), y)
    (y_bar,) = drawn(y.shape, dtype=y.dtype)
    got = bars(lambda *a: nn.conv(*a, **options), y_bar, x, kernel, bias)
    want = bars(lambda *a: plain(*a, **options), y_bar, x, kernel, bias)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("x", "kernel", "options"), WAYS)
def test_both_forms_of_backward_are_the_same(x, kernel, options):
    """The convolutions, which other devices take, and the products, whatever the CPU chooses."""
    groups = options.get("groups", 1)
    x, kernel = drawn(x, kernel, dtype=jnp.float64)
    arguments = {"strides": 1, "padding": "SAME", "dilation": 1, "groups": 1} | options
    over = convolution._checked(x, kernel, None, **arguments)
    (y_bar,) = drawn((x.shape[0], *over.outputs, kernel.shape[-1]), dtype=jnp.float64)
    a = convolution._kernel_bar(x, y_bar, over, groups)
    b = convolution._kernel_bar_by_offsets(x, y_bar, over, groups)
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    if groups == 1 or kernel.shape[-2] == 1:
        a = convolution._x_bar(kernel, y_bar, over, groups)
        b = convolution._x_bar_by_offsets(kernel, y_bar, over, groups)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
@pytest.mark.parametrize(
    ("x", "kernel", "groups"),
    [
        ((8, 12, 12, 1), (5, 5, 1, 16), 1),
        ((8, 12, 12, 8), (3, 3, 1, 8), 8),
        ((4, 6, 6, 6, 12), (3, 3, 3, 12, 9), 1),
    ],
)
def test_errors_are_at_most_autodiffs(x, kernel, groups, dtype):
    """Against float64, root mean square; the numbers are summed in another order, so with a few per cent."""
    x, kernel = drawn(x, kernel, dtype=dtype)
    (y_bar,) = drawn(plain(x, kernel, groups=groups).shape, dtype=dtype)
    wide = [a.astype(jnp.float64) for a in (y_bar, x, kernel)]
    truth = bars(lambda *a: plain(*a, groups=groups), *wide)

    def errors(f):
        got = bars(lambda *a: f(*a, groups=groups), y_bar, x, kernel)
        return [
            float(jnp.sqrt(jnp.mean((a.astype(jnp.float64) - b) ** 2)))
            for a, b in zip(got, truth, strict=True)
        ]

    for ours, jaxs in zip(errors(nn.conv), errors(plain), strict=True):
        assert ours <= 1.05 * jaxs


def test_half_precision_is_summed_without_losing_the_batch():
    """4096 ones in bfloat16: a sum in bfloat16 itself would stop at 256."""
    x, kernel, bias = (jnp.ones(s, jnp.bfloat16) for s in [(64, 64, 1), (1, 1, 1), (1,)])
    _, kernel_bar, bias_bar = jax.grad(lambda *a: nn.conv(*a).astype(jnp.float32).sum(), (0, 1, 2))(
        x, kernel, bias
    )
    assert kernel_bar.item() == bias_bar.item() == 4096


def test_keeps_what_autodiff_keeps():
    x, kernel = drawn((2, 8, 8, 3), (3, 3, 3, 4))
    inputs = [np.asarray(x), np.asarray(kernel)]
    kept = [kept_by(Side(lambda *a, f=f: [f(*a)], False), inputs)[0] for f in (nn.conv, plain)]
    assert kept == [4 * (x.size + kernel.size)] * 2


def test_second_derivatives_are_those_of_the_plain_one():
    x, kernel = drawn((1, 4, 2), (3, 2, 2))

    def loss(f):
        return lambda x, kernel: jnp.sum(f(x, kernel, strides=2) ** 3)

    got, want = (jax.hessian(loss(f), (0, 1))(x, kernel) for f in (nn.conv, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)
    twice = [jax.grad(lambda k, f=f: jnp.sum(jax.grad(loss(f))(x, k) ** 2))(kernel) for f in (nn.conv, plain)]
    np.testing.assert_allclose(*twice, rtol=2e-5)


def test_leading_axes_are_one_batch():
    x, kernel = drawn((2, 3, 5, 2), (3, 2, 4))
    np.testing.assert_array_equal(nn.conv(x, kernel), nn.conv(x.reshape(6, 5, 2), kernel).reshape(2, 3, 5, 4))
    np.testing.assert_array_equal(nn.conv(x[0, 0], kernel), nn.conv(x, kernel)[0, 0])
    assert jax.grad(lambda x: nn.conv(x, kernel).sum())(x[0, 0]).shape == (5, 2)


def test_paddings_are_written_in_several_ways():
    x, kernel = drawn((1, 5, 6, 1), (3, 3, 1, 1))
    for same in (1, (1, 1), ((1, 1), (1, 1)), (1, (1, 1)), "same", "SAME"):
        np.testing.assert_array_equal(nn.conv(x, kernel, padding=same), nn.conv(x, kernel))


@pytest.mark.parametrize(
    ("x", "kernel", "options", "message"),
    [
        (
            (5, 2),
            (2, 3),
            {},
            r"kernel \(\*window, C_in / groups, C_out\).*x float32\[5,2\], kernel float32\[2,3\]",
        ),
        ((2,), (3, 2, 2), {}, r"x \(\.\.\., \*spatial, C_in\).*x float32\[2\]"),
        ((1, 1, 1, 1, 1, 2), (1, 1, 1, 1, 2, 2), {}, "1 to 3 spatial axes"),
        ((1, 5, 3), (3, 1, 4), {"groups": 2}, r"channels divisible by groups.*C_in = 3, C_out = 4"),
        ((1, 5, 4), (3, 2, 3), {"groups": 2}, r"channels divisible by groups.*C_in = 4, C_out = 3"),
        ((1, 5, 4), (3, 4, 2), {"groups": 2}, r"C_in / groups = 2.*kernel float32\[3,4,2\]"),
        ((1, 5, 4), (0, 4, 2), {}, "window of at least 1"),
        ((1, 5, 4), (3, 4, 2), {"groups": 0}, "groups must be a positive integer"),
        ((1, 5, 4), (3, 4, 2), {"padding": "CIRCULAR"}, r"padding must be 'SAME'.*'CIRCULAR'"),
        (
            (1, 5, 4),
            (3, 4, 2),
            {"padding": ((1, 1), (1, 1))},
            r"padding.*1 spatial axes.*\(\(1, 1\), \(1, 1\)\)",
        ),
        ((1, 5, 4), (3, 4, 2), {"padding": {1: 1}}, "padding must be hashable"),
        ((1, 5, 4), (3, 4, 2), {"strides": (1, 1)}, r"strides must be a positive integer.*\(1, 1\)"),
        ((1, 5, 4), (3, 4, 2), {"strides": 0}, "strides must be a positive integer"),
        ((1, 5, 4), (3, 4, 2), {"dilation": 1.5}, "dilation must be a positive integer"),
    ],
)
def test_refuses(x, kernel, options, message):
    with pytest.raises(RuleError, match=f"rule nn.conv: .*{message}"):
        nn.conv(jnp.ones(x), jnp.ones(kernel), **options)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            (jnp.ones((1, 5, 4)), jnp.ones((3, 4, 2)), jnp.ones(3)),
            r"bias \(2,\) = \(C_out,\).*bias float32\[3\]",
        ),
        ((jnp.ones((1, 5, 4)), jnp.ones((3, 4, 2), jnp.bfloat16)), r"one dtype.*kernel bfloat16\[3,4,2\]"),
        ((jnp.ones((1, 5, 4), jnp.int32), jnp.ones((3, 4, 2))), r"input x must be float.*int32\[1,5,4\]"),
    ],
)
def test_refuses_arrays(args, message):
    with pytest.raises(RuleError, match=f"rule nn.conv: .*{message}"):
        nn.conv(*args)

"""The regression losses beside optax's: same values, same refusals, and bars nearer to the truth."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax.losses
import pytest

import truth
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

NAMES = ["squared_error", "l2_loss"]


def pairs(dtype):
    """Predictions over the whole range of the dtype, targets of their size or far from it."""
    rng = np.random.default_rng(3)
    y = truth.every_finite(dtype)[::7] if dtype in truth.HALVES else truth.whole_range(dtype)
    largest = float(jnp.finfo(dtype).max)
    with np.errstate(under="ignore", over="ignore"):
        near = np.clip(np.asarray(y, np.float64) * rng.normal(1, 0.5, y.shape), -largest, largest)
        t = np.where(rng.random(y.shape) < 0.5, near, rng.normal(size=y.shape)).astype(dtype)
        y_bar = truth.random_bars(y.shape, dtype)
    # The CPU backend reads subnormal numbers as 0: what is subnormal is no input here.
    normal = np.all([np.abs(v) >= jnp.finfo(dtype).tiny for v in (y, t, y_bar)], axis=0)
    return y[normal], t[normal], y_bar[normal]


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("with_targets", [True, False])
@pytest.mark.parametrize(("name", "factor"), [("squared_error", 2), ("l2_loss", 1)])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    [(jnp.float32, 4.0), (jnp.float64, 4.0), (jnp.float16, 1.0), (jnp.bfloat16, 1.0)],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_bars_are_accurate(name, factor, dtype, bound, with_targets):
    y, t, y_bar = pairs(dtype)
    loss = getattr(losses, name)
    args = (y, t) if with_targets else (y,)
    got = jax.jit(lambda y_bar, *args: jax.vjp(loss, *args)[1](y_bar))(*map(jnp.asarray, (y_bar, *args)))
    with mpmath.workprec(3000):  # the difference of numbers as far apart as a dtype has them, exactly
        as_list = [np.asarray(v, np.float64).tolist() for v in (y, t if with_targets else 0 * y, y_bar)]
        errors = [mpmath.mpf(p) - mpmath.mpf(q) for p, q, _ in zip(*as_list, strict=True)]
        # Where y − t is itself subnormal or overflows, the primal has no value either.
        tiny, largest = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
        errors = [e if tiny <= abs(e) <= largest else mpmath.mpf(0) for e in errors]
        want = [factor * mpmath.mpf(b) * e for b, e in zip(as_list[2], errors, strict=True)]
        for bar, sign in zip(got, (1, -1), strict=False):
            ulps = truth.ulp_errors(bar, [sign * w for w in want], dtype)
            worst = ulps.argmax()
            assert ulps[worst] <= bound, (
                f"{ulps[worst]} ULP at y = {y[worst]}, t = {t[worst]}, L̄ = {y_bar[worst]}"
            )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_is_optaxs(name, shape):
    y, t = jax.random.normal(jax.random.key(0), (2, *shape))
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    np.testing.assert_array_equal(ours(y, t), theirs(y, t))
    np.testing.assert_array_equal(ours(predictions=y, targets=t), theirs(predictions=y, targets=t))
    np.testing.assert_array_equal(ours(y), theirs(y))


@pytest.mark.parametrize("name", NAMES)
def test_a_python_number_as_target_takes_the_dtype_of_the_prediction(name):
    ours, theirs = getattr(losses, name), getattr(optax.losses, name)
    y = jnp.bfloat16(1.5)
    assert ours(y, 1.0) == theirs(y, 1.0)
    assert ours(y, 1.0).dtype == jnp.bfloat16
    assert [bar.dtype for bar in jax.grad(ours, (0, 1))(y, 1.0)] == [jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.ones((3, 2), np.float32), np.ones(3, np.float32)), r"targets.*float32\[3,2\].*float32\[3\]"),
        ((np.ones(3, np.float32), np.ones(3, np.float16)), r"float32\[3\].*float16\[3\]"),
        ((np.arange(3), np.ones(3, np.float32)), r"predictions must be float.*int32\[3\]"),
        ((np.ones(3, np.complex64),), r"predictions must be real floats.*complex64\[3\]"),
        (("abc",), r"predictions must be an array.*str 'abc'"),
        ((), "missing a required argument: 'predictions'"),
    ],
)
def test_refuses(name, args, message):
    for call in (getattr(losses, name), jax.grad(lambda *a: getattr(losses, name)(*a).sum())):
        if call is getattr(losses, name) or (args and getattr(args[0], "dtype", None) == np.float32):
            with pytest.raises(RuleError, match=rf"rule losses\.{name}: .*{message}"):
                call(*args)

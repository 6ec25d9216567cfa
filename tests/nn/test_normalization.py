"""The normalizations beside jax.grad of the same written plainly: errors, bytes, edges, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import namesake
import overbar
from overbar import RuleError, nn

pytestmark = pytest.mark.once  # the registry's tests run on every version


def normalized(x, axes, eps=1e-5):
    mean = jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps), mean, variance


def plain_layer_norm(x, scale, bias):
    return normalized(x, -1)[0] * scale[None] + bias[None]


def plain_rms_norm(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) * scale[None]


def plain_group_norm(x, scale, bias):
    split = x.reshape(*x.shape[:-1], 4, -1)
    return normalized(split, (1, 3))[0].reshape(x.shape) * scale[None, None] + bias[None, None]


def plain_batch_norm(x, scale, bias):
    n, mean, variance = normalized(x, 0)
    return n * scale[None] + bias[None], mean[0], variance[0]


def parameters(rng, size):
    return [1 + 0.3 * rng.normal(size=size), rng.normal(size=size)]


CASES = {
    "layer_norm": (nn.layer_norm, plain_layer_norm, (32, 100), 2),
    "rms_norm": (nn.rms_norm, plain_rms_norm, (32, 100), 1),
    "group_norm": (lambda *a: nn.group_norm(*a, groups=4), plain_group_norm, (4, 30, 8), 2),
    "batch_norm": (nn.batch_norm, plain_batch_norm, (100, 16), 2),
    "standardize": (nn.standardize, jax.nn.standardize, (32, 100), 0),
}


def arguments(name, rng):
    _, _, shape, number = CASES[name]
    return [2 + rng.normal(size=shape), *parameters(rng, shape[-1])[:number]]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1.1), (jnp.bfloat16, 1.0)])
def test_errors_beside_jax_grads(name, dtype, bound):
    f, g, *_ = CASES[name]
    if name == "batch_norm" and dtype == jnp.bfloat16:
        g = overbar.twin(f)  # the statistics of the plain one are bfloat16
        bound = 1.1
    for ours, jaxs in namesake.mean_errors(f, g, lambda rng: arguments(name, rng), dtype):
        assert ours <= bound * jaxs, (ours, jaxs)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_bytes_kept(name, dtype):
    f, g, *_ = CASES[name]
    args = [jnp.asarray(a, dtype) for a in arguments(name, np.random.default_rng(0))]
    assert namesake.kept_bytes(f, args) <= namesake.kept_bytes(overbar.twin(f), args)
    if dtype == jnp.float32:
        assert namesake.kept_bytes(f, args) <= namesake.kept_bytes(g, args)


def test_layer_norm_keeps_x_and_two_numbers_a_row():
    x, p = jnp.ones((8, 100)), jnp.ones(100)
    assert namesake.kept_bytes(nn.layer_norm, (x, p, p)) == x.nbytes + p.nbytes + 2 * 8 * 4


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
@pytest.mark.parametrize("spec", [P("d", None), P(None, "d")])
def test_on_a_mesh_with_explicit_axes(spec):
    """Rows or features sharded: the bars are those of one device."""
    args = arguments("layer_norm", np.random.default_rng(0))
    x, scale, bias = (jnp.asarray(a[..., :6], jnp.float32) for a in args)
    x = x[:4]
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    for f, parameters in ((nn.layer_norm, (scale, bias)), (nn.rms_norm, (scale,))):
        bars = jax.grad(lambda *a, f=f: jnp.sum(f(*a) ** 3), tuple(range(1 + len(parameters))))
        with jax.set_mesh(mesh):
            got = bars(jax.device_put(x, spec), *(jax.device_put(p, P(spec[1])) for p in parameters))
        for a, b in zip(got, bars(x, *parameters), strict=True):
            np.testing.assert_allclose(np.asarray(a), b, rtol=1e-5, atol=1e-5)


def test_constant_rows_have_finite_bars():
    x = jnp.full((2, 3), 5.0)
    for f in (nn.layer_norm, nn.rms_norm, nn.standardize):
        bars = jax.vjp(f, x)[1](jnp.array([[1.0, 2.0, 4.0], [0.0, 0.0, 0.0]]))[0]
        assert np.isfinite(bars).all()


def test_batch_norm_has_bars_of_its_statistics():
    x, one = jnp.array([[1.0], [2.0], [6.0]]), jnp.ones(1)
    mean_bar = jax.grad(lambda x: nn.batch_norm(x, one, one)[1].sum())(x)
    variance_bar = jax.grad(lambda x: nn.batch_norm(x, one, one)[2].sum())(x)
    np.testing.assert_allclose(mean_bar, np.full((3, 1), 1 / 3), rtol=1e-6)
    np.testing.assert_allclose(variance_bar, 2 / 3 * (np.array(x) - 3), rtol=1e-6)


def test_batch_norm_at_inference_is_that_in_training_by_the_same_statistics():
    rng = np.random.default_rng(0)
    x, scale, bias = (jnp.asarray(a, jnp.bfloat16) for a in (rng.normal(size=(9, 4)), *parameters(rng, 4)))
    y, mean, variance = nn.batch_norm(x, scale, bias)
    assert (y.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    given = nn.batch_norm_inference(x, scale, bias, mean, variance)
    np.testing.assert_array_equal(np.asarray(given, np.float32), np.asarray(y, np.float32))


@pytest.mark.parametrize("algorithm", ["fast", "stable"])
@pytest.mark.parametrize("given", [(), ("mean",), ("variance",), ("mean", "variance")], ids="-".join)
def test_standardize_is_jax_nns(algorithm, given):
    rng = np.random.default_rng(0)
    x, where = rng.normal(1, 1, (4, 30)).astype(np.float32), rng.random((4, 30)) < 0.7
    values = {n: jnp.asarray(rng.uniform(0.5, 1, (4, 1)), jnp.float32) for n in given}

    def of(home):
        def f(x, epsilon, values):
            return home.standardize(x, **values, epsilon=epsilon, where=where, algorithm=algorithm)

        return f

    namesake.assert_same_outputs(of(nn), of(jax.nn), x, jnp.float32(1e-3), values)
    y_bar = jnp.asarray(rng.normal(size=x.shape), jnp.float32)
    got, want = (jax.vjp(of(home), x, jnp.float32(1e-3), values)[1](y_bar) for home in (nn, jax.nn))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * np.abs(b).max())


@pytest.mark.once
@pytest.mark.usefixtures("x64")
def test_batch_norm_at_inference_has_jax_grads_errors_in_the_bar_of_the_variance():
    """By v + ε, not by r³, which has the error of a square root three times: 1.3 of jax.grad's."""

    def make(rng):
        return [rng.normal(size=(16, 64)), *rng.normal(size=(3, 64)), 0.5 + rng.random(64)]

    f = nn.batch_norm_inference
    ours, jaxs = namesake.mean_errors(f, overbar.twin(f), make, jnp.float32, seeds=8)[-1]
    assert ours <= 1.1 * jaxs


def test_standardize_takes_integers_for_given_statistics():
    x = jnp.array([1.0, 3.0])
    np.testing.assert_array_equal(nn.standardize(x, mean=1, variance=4, epsilon=0), [0.0, 1.0])
    np.testing.assert_array_equal(
        jax.grad(lambda x: nn.standardize(x, mean=1, variance=4, epsilon=0).sum())(x), 0.5
    )


def test_refusals():
    x = jnp.ones((2, 6))
    with pytest.raises(RuleError, match=r"nn\.layer_norm: expected scale of shape \(6,\).*float32\[5\]"):
        nn.layer_norm(x, jnp.ones(5))
    with pytest.raises(RuleError, match=r"nn\.layer_norm: axis must name axes of x"):
        nn.layer_norm(x, axis=2)
    with pytest.raises(RuleError, match=r"nn\.rms_norm: expected one dtype"):
        nn.rms_norm(x, jnp.ones(6, jnp.bfloat16))
    with pytest.raises(RuleError, match=r"nn\.group_norm: groups must divide the 6 channels"):
        nn.group_norm(x, jnp.ones(6), jnp.ones(6), groups=4)
    with pytest.raises(RuleError, match=r"nn\.standardize: algorithm must be"):
        nn.standardize(x, algorithm="slow")

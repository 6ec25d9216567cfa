"""The regularizers over pytrees of every kind."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import namesake
import overbar
import truth
from overbar import RuleError, regularizers

pytestmark = pytest.mark.once  # the registry's tests run on every version


def test_leaves_of_several_dtypes():
    """The value is of the widest dtype; each bar is of its leaf's."""
    params = {"half": jnp.full(3, 2.0, jnp.bfloat16), "whole": jnp.array([1.0, 3.0])}
    value, bars = jax.value_and_grad(regularizers.l2)(params)
    assert value == 11
    assert value.dtype == jnp.float32
    assert jax.tree.map(lambda w: w.dtype, bars) == jax.tree.map(lambda w: w.dtype, params)
    np.testing.assert_array_equal(bars["whole"], params["whole"])


def test_half_precision_is_summed_in_float32():
    assert regularizers.l2(jnp.ones(8192, jnp.bfloat16)) == 4096  # in bfloat16 itself it would stop at 128


def test_no_leaves():
    assert regularizers.l2({}) == 0
    assert regularizers.l2({"b": None}) == 0
    for other in (regularizers.l1, regularizers.elastic_net, regularizers.group_lasso):
        assert other({}) == 0


@pytest.mark.parametrize("name", ["l2", "l1", "elastic_net", "group_lasso"])
@pytest.mark.parametrize("leaf", [np.arange(3), np.ones(2, np.complex64), np.array([True])])
def test_refuses_a_leaf_that_is_not_real_float(name, leaf):
    with pytest.raises(
        RuleError, match=rf"rule regularizers\.{name}: .*(\['steps'\]).*(int32|complex64|bool)\["
    ):
        getattr(regularizers, name)({"w": jnp.ones(2), "steps": leaf})


def test_refuses_what_is_no_array():
    with pytest.raises(RuleError, match=r"rule regularizers\.l2: input params must be an array.*str 'w'"):
        regularizers.l2({"w": "w"})


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_bars_are_rounded_once(dtype):
    """At most half an ULP from R̄ w, over the whole range."""
    w = truth.whole_range(dtype, 500)
    for r_bar in truth.random_bars(6, dtype):
        got = jax.vjp(regularizers.l2, jnp.asarray(w))[1](jnp.asarray(r_bar))[0]
        with mpmath.workprec(120):
            want = [mpmath.mpf(float(r_bar)) * mpmath.mpf(v) for v in np.asarray(w, np.float64).tolist()]
            assert truth.ulp_errors(got, want, dtype).max() <= 0.5


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [*truth.HALVES, *truth.WHOLES], ids=lambda d: d.__name__)
def test_bars_of_a_group_have_no_squares(dtype):
    """w/‖w‖ within 4 ULP (1 in half precision) for entries as large and as small as there are."""
    largest, tiny = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).tiny)
    rows = [[3 * s, 4 * s, 12 * s] for s in (1.0, largest / 16, tiny, largest / 2**40, tiny * 2**20)]
    w = jnp.asarray(np.array(rows).astype(dtype))
    value, bar = jax.value_and_grad(lambda w: regularizers.group_lasso(w[1:2]))(w)
    np.testing.assert_allclose(float(value), float(w[1, 0]) / 3 * 13, rtol=float(jnp.finfo(dtype).eps))
    bar = jax.grad(regularizers.group_lasso)(w)
    with mpmath.workprec(120):
        want = []
        for row in np.asarray(w, np.float64).tolist():
            norm = mpmath.sqrt(sum(mpmath.mpf(v) ** 2 for v in row))
            want += [mpmath.mpf(v) / norm for v in row]
        bound = 1 if dtype in truth.HALVES else 4
        assert truth.ulp_errors(np.asarray(bar, np.float64).ravel(), want, dtype).max() <= bound


@pytest.mark.parametrize("axis", [0, (0, 1), None, -1])
def test_groups_lie_along_the_axis(axis):
    w = jax.random.normal(jax.random.key(0), (3, 4))
    axes = (0, 1) if axis is None else axis
    np.testing.assert_allclose(
        regularizers.group_lasso(w, axis), np.sqrt((np.asarray(w) ** 2).sum(axes)).sum(), rtol=1e-6
    )


def test_kinks():
    """0 at 0, and at a group of zeros; second derivatives there are numbers."""
    w = jnp.array([[0.0, -0.0, 0.0], [1.0, 0.0, -2.0]])
    np.testing.assert_array_equal(jax.grad(regularizers.l1)(w), [[0, 0, 0], [1, 0, -1]])
    np.testing.assert_array_equal(jax.grad(regularizers.elastic_net)(w), [[0, 0, 0], [1, 0, -1.5]])
    np.testing.assert_allclose(
        jax.grad(regularizers.group_lasso)(w), [[0, 0, 0], [1 / 5**0.5, 0, -2 / 5**0.5]], rtol=1e-6
    )
    assert np.isfinite(jax.hessian(regularizers.group_lasso)(w)).all()


def test_elastic_net_is_l1_and_l2():
    w = {"w": jax.random.normal(jax.random.key(0), (3, 4))}
    np.testing.assert_allclose(regularizers.elastic_net(w, 1), regularizers.l1(w), rtol=1e-6)
    np.testing.assert_allclose(regularizers.elastic_net(w, 0.0), regularizers.l2(w), rtol=1e-6)
    slope = jax.grad(regularizers.elastic_net, 1)(w, 0.3)
    np.testing.assert_allclose(slope, regularizers.l1(w) - regularizers.l2(w), rtol=1e-5)


def test_refuses_an_axis_that_is_not_there():
    with pytest.raises(RuleError, match=r"rule regularizers\.group_lasso: option axis 1"):
        regularizers.group_lasso({"w": jnp.ones((2, 3)), "b": jnp.ones(3)}, 1)
    with pytest.raises(RuleError, match=r"rule regularizers\.elastic_net: l1_ratio must be a number"):
        regularizers.elastic_net(jnp.ones(3), jnp.ones(3))


@pytest.mark.usefixtures("x64")
def test_group_lassos_bars_are_as_near_to_the_truth_as_jax_grads():
    """Rounded once an entry and once a group; R̄ (v/n) would be rounded twice an entry."""
    f = regularizers.group_lasso
    draw = lambda rng: [rng.normal(size=(16, 32))]  # noqa: E731
    ours, jaxs = namesake.mean_errors(f, overbar.twin(f), draw, jnp.float32, seeds=48)[0]
    assert ours <= jaxs


def test_group_lassos_bar_of_the_largest_and_the_smallest_numbers():
    """Where the norm, or R̄ over it, could leave the range of float32."""
    large, small = float(jnp.finfo(jnp.float32).max), float(jnp.finfo(jnp.float32).tiny)
    for w in (large, small, 1.0):
        for r_bar in (large, 2 * small):
            bar = jax.vjp(regularizers.group_lasso, jnp.float32(w))[1](jnp.float32(r_bar))[0]
            np.testing.assert_array_equal(bar, np.float32(r_bar))

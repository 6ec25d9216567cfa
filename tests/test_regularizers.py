"""The L2 regularizer over pytrees of every kind."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import truth
from overbar import RuleError, regularizers


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


@pytest.mark.parametrize("leaf", [np.arange(3), np.ones(2, np.complex64), np.array([True])])
def test_refuses_a_leaf_that_is_not_real_float(leaf):
    with pytest.raises(RuleError, match=r"rule regularizers\.l2: .*(\['steps'\]).*(int32|complex64|bool)\["):
        regularizers.l2({"w": jnp.ones(2), "steps": leaf})


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

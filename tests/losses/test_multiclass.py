"""Hinge, perceptron and sparsemax losses of several classes beside optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

import namesake
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

NAMES = ["multiclass_hinge_loss", "multiclass_perceptron_loss", "multiclass_sparsemax_loss"]


def both(name):
    return getattr(losses, name), namesake.loosely(getattr(optax.losses, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [0.5])
def test_beside_optaxs(name, scale):
    ours, theirs = both(name)
    args = (scale * jax.random.normal(jax.random.key(0), (12, 9)), jnp.arange(12) % 9)
    got, want = (namesake.both_passes(f, args)[0] for f in (ours, theirs))
    np.testing.assert_array_equal(got, want)
    halves = () if name == "multiclass_sparsemax_loss" else (jnp.bfloat16,)  # optax cannot differentiate it
    for dtype in (jnp.float32, *halves):
        for error, allowed in namesake.errors(ours, theirs, args, dtype):
            assert error <= allowed, dtype
    assert namesake.kept_bytes(ours, args) <= namesake.kept_bytes(theirs, args)


@pytest.mark.parametrize("name", NAMES[:2])
def test_ties_are_shared_as_jax_grad_shares_them(name):
    ours, theirs = both(name)
    s = jnp.array([[1.0, 1.0, 0.0], [2.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    labels = jnp.array([0, 2, 1, 2])
    bars = [jax.grad(lambda s, f=f: (f(s, labels) * jnp.arange(1.0, 5.0)).sum())(s) for f in (ours, theirs)]
    np.testing.assert_allclose(*bars, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", [-4, -1, 3])
def test_labels_that_are_no_class(name, label):
    s = jnp.array([[1.0, 2.0, 3.0]])
    results = [jax.value_and_grad(lambda s, f=f: f(s, jnp.array([label])).sum())(s) for f in both(name)]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-6)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-6)


def test_a_class_that_is_impossible_leaves_the_others_alone():
    """Where optax multiplies −∞ by 0."""
    s = jnp.array([1.0, -jnp.inf, 3.0])
    assert losses.multiclass_perceptron_loss(s, 0) == 2
    np.testing.assert_array_equal(jax.grad(losses.multiclass_hinge_loss)(s, 0), [-1, 0, 1])


def test_sparsemax_near_certainty():
    """1 − p has the digits of the other classes' p."""
    s = jnp.array([[1.0, 2.0**-20, -1.0]])
    bar = jax.grad(lambda s: losses.multiclass_sparsemax_loss(s, jnp.array([0])).sum())(s)[0]
    assert bar[1] > 0
    assert bar[0] == -bar[1]


@pytest.mark.parametrize("name", NAMES)
def test_refuses(name):
    ours, _ = both(name)
    with pytest.raises(RuleError, match=rf"rule losses\.{name}: .*labels came as float32"):
        ours(jnp.ones((2, 3)), jnp.ones(2))
    with pytest.raises(RuleError, match=rf"rule losses\.{name}: expected scores.*float32\[2,3\].*int32\[4\]"):
        ours(jnp.ones((2, 3)), jnp.ones(4, int))

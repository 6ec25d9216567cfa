"""The ranking loss beside optax's, with each way to reduce it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

import namesake
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

X, T, W = (jax.random.uniform(k, (5, 6)) for k in jax.random.split(jax.random.key(0), 3))
MASK = jax.random.bernoulli(jax.random.key(1), 0.6, (5, 6)).at[2].set(False)


def largest(losses, where=None):
    return jnp.max(losses, where=where, initial=0.0)


@pytest.mark.parametrize("reduce_fn", [jnp.mean, jnp.sum, None, largest])
@pytest.mark.parametrize("options", [{}, {"where": MASK, "weights": W}])
def test_beside_optaxs(reduce_fn, options):
    ours, theirs = (
        lambda x, t, f=f: f(x, t, reduce_fn=reduce_fn, **options)
        for f in (losses.ranking_softmax_loss, optax.losses.ranking_softmax_loss)
    )
    got, want = (namesake.both_passes(f, (4 * X, T))[0] for f in (ours, theirs))
    np.testing.assert_array_equal(got, want)
    for dtype in (jnp.float32, jnp.bfloat16):
        for error, allowed in namesake.errors(ours, theirs, (4 * X, T), dtype):
            assert error <= allowed * (1.5 if dtype == jnp.float32 else 1.0) or not np.isfinite(allowed), (
                dtype
            )


def test_bar_of_the_weights():
    bars = [
        jax.grad(lambda w, f=f: f(X, T, weights=w))(W)
        for f in (losses.ranking_softmax_loss, optax.losses.ranking_softmax_loss)
    ]
    np.testing.assert_allclose(*bars, rtol=1e-6)


def test_no_list_counts():
    loss, bar = jax.value_and_grad(losses.ranking_softmax_loss)(X, T, where=jnp.zeros((5, 6), bool))
    assert loss == 0
    assert not bar.any()


def test_nan_is_not_hidden():
    assert np.isnan(losses.ranking_softmax_loss(X.at[0, 0].set(jnp.nan), T))


def test_refuses():
    with pytest.raises(
        RuleError, match=r"rule losses\.ranking_softmax_loss: expected weights of the shape.*\[6\]"
    ):
        losses.ranking_softmax_loss(X, T, weights=W[0])

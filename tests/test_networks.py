"""Networks drawn at random from the rules: their bars are those of the twin, in float64."""

import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overbar import losses, nn, regularizers, twin

ACTIVATIONS = [nn.sigmoid, nn.tanh, nn.relu, nn.softplus]
LOSSES = [losses.l2_loss, losses.squared_error]

layers = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(ACTIVATIONS), st.booleans()), min_size=1, max_size=5
)


@pytest.mark.once
@pytest.mark.usefixtures("x64")
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    layers=layers,
    leading=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    features=st.integers(1, 4),
    loss=st.sampled_from(LOSSES),
    seed=st.integers(0, 2**32 - 1),
)
def test_bars_of_a_random_network(layers, leading, features, loss, seed):
    keys = iter(jax.random.split(jax.random.key(seed), 2 * len(layers) + 2))
    params, n = [], features
    for m, _, bias in layers:
        w = jax.random.normal(next(keys), (n, m), jnp.float64)
        params.append((w, jax.random.normal(next(keys), (m,), jnp.float64) if bias else None))
        n = m
    x = jax.random.normal(next(keys), (*leading, features), jnp.float64)
    t = jax.random.normal(next(keys), (*leading, n), jnp.float64)

    def cost(params, x, t):
        y = x
        for (w, b), (_, activation, _) in zip(params, layers, strict=True):
            y = activation(nn.linear(y, w, b))
        return loss(y, t).sum() + 0.1 * regularizers.l2(params)

    @jax.jit
    def both(*args):
        return [jax.grad(f, (0, 1, 2))(*args) for f in (cost, twin(cost))]

    got, want = both(params, x, t)
    chex.assert_trees_all_close(got, want, rtol=1e-9, atol=1e-12)

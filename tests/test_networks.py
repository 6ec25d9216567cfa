"""Networks drawn at random from the rules: their bars are those of the twin, in float64."""

import chex
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

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


def convolutional(params, x, labels):
    h = nn.max_pool(nn.relu(nn.conv(x, params["k"], params["b"])), 3, 2, "SAME")
    h = nn.dropout(jax.random.key(3), nn.avg_pool(h, 2), 0.25)
    h = nn.group_norm(h, params["s"], params["b"], groups=2)
    z = nn.linear(h.reshape(len(h), -1), params["v"])
    return losses.softmax_cross_entropy_with_integer_labels(z, labels).mean()


def transformer(params, ids, following):
    x = nn.embedding(params["table"], ids)
    a = nn.rms_norm(x, params["s"])
    q, k, v = (nn.linear(a, params[n]).reshape(*a.shape[:2], 2, -1) for n in "qkv")
    x = x + nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
    x = x + nn.linear(nn.gelu(nn.linear(nn.layer_norm(x), params["up"])), params["down"])
    return losses.linear_cross_entropy(x, params["head"], following).mean()


def compared(params, x, labels):
    """By losses that look across the batch or along its sequences."""
    z = nn.linear(x, params["w"])
    words = jnp.stack([labels % 3 + 1, labels % 4 + 1], 1)
    by_paths = losses.ctc_loss(z, jnp.zeros_like(z[..., 0]), words, jnp.zeros_like(z[:, :2, 0]))
    by_margin = losses.multiclass_sparsemax_loss(z[:, 0], labels)
    return (by_paths + by_margin).mean() + losses.ntxent(z[:, 1], labels // 2)


@pytest.mark.parametrize("network", [convolutional, transformer, compared])
def test_a_batch_sharded_on_a_mesh_with_explicit_axes(network):
    """Each operation there has to know how its result is sharded; a rule's backward is placed by XLA."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    if network is convolutional:
        params = {"k": jax.random.normal(next(keys), (3, 3, 1, 4)), "b": jnp.ones(4), "s": jnp.ones(4)}
        params["v"] = jax.random.normal(next(keys), (36, 5))
        x = jax.random.normal(next(keys), (4, 8, 8, 1))
        labels = jnp.arange(4)
    elif network is compared:
        params = {"w": jax.random.normal(next(keys), (3, 6))}
        x = jax.random.normal(next(keys), (4, 5, 3))
        labels = jnp.arange(4)
    else:
        sizes = {"table": (11, 8), "up": (8, 16), "down": (16, 8), "head": (8, 11)} | dict.fromkeys(
            "qkv", (8, 8)
        )
        params = {n: jax.random.normal(next(keys), size) / 3 for n, size in sizes.items()}
        params["s"] = jnp.ones(8)
        x, labels = jax.random.randint(next(keys), (2, 4, 6), 0, 11)
    both = jax.jit(jax.value_and_grad(network))
    want = both(params, x, labels)
    with jax.set_mesh(jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))):
        got = both(jax.device_put(params, P()), *(jax.device_put(a, P("data")) for a in (x, labels)))
    chex.assert_trees_all_close(jax.device_get(got), want, rtol=2e-4, atol=2e-6)

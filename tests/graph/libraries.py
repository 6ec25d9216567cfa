"""Models as people write them with Flax and with Equinox: (function, arguments), or None if not installed."""

import functools

import jax
import jax.numpy as jnp


@functools.cache
def of_flax():
    try:
        from flax import linen
    except ImportError:
        return None

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = linen.Dense(3)(x)
            a = jnp.tanh(h)
            return linen.Dense(1)(a)

    net, x = Net(), jnp.arange(8.0).reshape(2, 4) / 8
    params = jax.tree.map(
        lambda p: jnp.linspace(-0.5, 1.0, p.size).reshape(p.shape), net.init(jax.random.key(0), x)
    )

    def loss(params, x):
        y = net.apply(params, x)
        L = jnp.sum(y**2)
        return L

    return loss, (params, x)


@functools.cache
def of_equinox():
    try:
        import equinox as eqx
    except ImportError:
        return None

    mlp = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    weights = eqx.filter(mlp, eqx.is_array)
    set_ = jax.tree.map(lambda p: jnp.linspace(-0.5, 1.0, p.size).reshape(p.shape), weights)
    mlp = eqx.combine(set_, eqx.filter(mlp, eqx.is_array, inverse=True))

    def loss(model, x):
        y = model(x)
        L = jnp.sum(y**2)
        return L

    return loss, (mlp, jnp.array([0.5, -1.0]))


LIBRARIES = {"flax": of_flax, "equinox": of_equinox}

"""`from overbar import nn` in the place of `from jax import nn`: every name, and whole models."""

import contextlib
import inspect
import sys
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import overbar
from overbar import nn


def public(module):
    return {name for name in dir(module) if not name.startswith("_")}


def shared():
    """The names that are rules here and functions there."""
    return sorted(n for n in public(jax.nn) & public(nn) if isinstance(getattr(nn, n), overbar.Rule))


def test_every_public_name_of_jax_nn_is_there():
    assert public(jax.nn) - set(nn.__all__) == set()


@pytest.mark.parametrize("name", shared())
def test_signature_is_jax_nns(name):
    """Names, order, kinds and defaults; sigmoid has an option more, and one that jax.nn.tanh has."""
    ours, theirs = (inspect.signature(getattr(home, name)).parameters.values() for home in (nn, jax.nn))
    ours = [p for p in ours if p.name != "accuracy"]
    theirs = [p for p in theirs if p.name != "accuracy"]
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]


class Jax:
    """jax with the nn of now: rules call their namesakes, and would call themselves in their place."""

    nn = types.SimpleNamespace(**vars(jax.nn))

    def __getattr__(self, name):
        return getattr(jax, name)


@contextlib.contextmanager
def replaced():
    """jax.nn's functions made the rules of their names, wherever these libraries hold them by name."""
    ours = {id(getattr(jax.nn, n)): getattr(nn, n) for n in shared()}
    with pytest.MonkeyPatch.context() as patch:
        for home, module in list(sys.modules.items()):
            if home == "jax.nn" or home.startswith(("flax.", "equinox.")):
                for name, value in list(vars(module).items()):
                    if id(value) in ours:
                        patch.setattr(module, name, ours[id(value)])
            if home.startswith("overbar.nn.") and hasattr(module, "jax"):
                patch.setattr(module, "jax", Jax())
        yield


def everything(x, layers):
    """x through each function of jax.nn that is a rule here, a layer of the library's between them.

    Written with jax.nn's names, as a user's model is, and looked up when called.
    """
    values = iter(layers)
    plain = [n for n in shared() if n not in SPECIAL]
    for name in plain:
        f = getattr(jax.nn, name)
        x = x + next(values)(f(jnp.abs(x) + 0.1 if name == "log1mexp" else x))
    x = jax.nn.glu(jnp.concatenate([x, next(values)(x)], axis=-1))
    if "dot_product_attention" in shared():
        heads = x.reshape(1, -1, 2, x.shape[-1] // 2)
        x = x + jax.nn.dot_product_attention(heads, heads, heads, is_causal=True).reshape(x.shape)
    x = jax.nn.standardize(x) + jax.nn.softmax(next(values)(x))
    return jax.nn.log_softmax(x, axis=-1).mean() + jax.nn.logsumexp(x) + jax.nn.logmeanexp(x, axis=0).sum()


SPECIAL = {"dot_product_attention", "glu", "log_softmax", "logmeanexp", "logsumexp", "softmax", "standardize"}


class Flax(nnx.Module):
    """Layers of Flax, its own attention and norm, its own names of the activations, and then everything."""

    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 8, rngs=rngs) for _ in range(40)])

    def __call__(self, x):
        x = x + self.attention(self.norm(x))
        for name in shared():
            if hasattr(nnx, name) and name not in SPECIAL - {"softmax", "log_softmax"}:
                x = x + 0.1 * getattr(nnx, name)(x)
        return everything(x, self.layers)


class Equinox(eqx.Module):
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 43)
        self.norm = eqx.nn.LayerNorm(8)
        self.attention = eqx.nn.MultiheadAttention(2, 8, key=keys[0])
        # By name when called: a function in the model would be the one of the time it was built.
        self.mlp = eqx.nn.MLP(8, 8, 8, 2, activation=lambda x: jax.nn.relu(x), key=keys[1])
        self.layers = [eqx.nn.Linear(8, 8, key=k) for k in keys[2:]]

    def __call__(self, x):
        n = jax.vmap(self.norm)(x)
        x = x + self.attention(n, n, n) + jax.vmap(self.mlp)(x)
        return everything(x, [jax.vmap(layer) for layer in self.layers])


def flax_case():
    definition, state = nnx.split(Flax(nnx.Rngs(0)))
    return lambda state, x: nnx.merge(definition, state)(x), state


def equinox_case():
    arrays, rest = eqx.partition(Equinox(jax.random.key(0)), eqx.is_inexact_array)
    return lambda arrays, x: eqx.combine(arrays, rest)(x), arrays


@pytest.mark.parametrize("case", [pytest.param(flax_case, marks=pytest.mark.once), equinox_case])
def test_a_model_is_the_same(case):
    x = jax.random.normal(jax.random.key(1), (5, 8))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        f, parameters = case()
        want_y, want = jax.jit(jax.value_and_grad(lambda p, x: f(p, x), (0, 1)))(parameters, x)
        plain = f(parameters, x)
        with replaced():
            assert jax.nn.softmax is nn.softmax
            used = str(jax.make_jaxpr(lambda p, x: f(p, x))(parameters, x))
            got_y, got = jax.jit(jax.value_and_grad(lambda p, x: f(p, x), (0, 1)))(parameters, x)
            np.testing.assert_array_equal(f(parameters, x), plain)
        assert jax.nn.softmax is not nn.softmax
    for name in shared():
        assert f"name=nn.{getattr(nn, name).__name__}" in used
    np.testing.assert_allclose(got_y, want_y, rtol=1e-6)
    assert np.isfinite(got_y)
    largest = max(np.abs(b).max() for b in jax.tree.leaves(want))  # beside it some are 0 but for rounding
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6 * largest)


@pytest.mark.once
def test_in_jax_nn_itself(monkeypatch):
    """Ours call what stood there when they were imported, not themselves."""
    names = [rule.__name__ for name, rule in overbar.registry.items() if name.startswith("nn.")]
    names = [name for name in names if hasattr(jax.nn, name)]
    for name in names:
        monkeypatch.setattr(jax.nn, name, getattr(nn, name))
    assert len(names) > 25
    x = jnp.linspace(-2.0, -1.0, 4)
    for name in names:
        f = getattr(jax.nn, name)
        args = [x.reshape(1, 1, 1, 4)] * 3 if name == "dot_product_attention" else [x]
        assert jnp.isfinite(jax.grad(lambda x, *rest, f=f: f(x, *rest).sum())(*args)).all()

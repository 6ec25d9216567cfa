"""Fenchel-Young losses: one rule for all that the factory makes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest
from jax.scipy.special import logsumexp

import namesake
from overbar import RuleError, losses, nn, registry

pytestmark = pytest.mark.once  # the registry's tests run on every version

S, T = (
    2 * jax.random.normal(jax.random.key(0), (4, 6)),
    jax.nn.softmax(jax.random.normal(jax.random.key(1), (4, 6))),
)


@pytest.mark.parametrize("targets", [T, jax.nn.one_hot(jnp.arange(4), 6)])
def test_beside_optaxs(targets):
    ours, theirs = (home.make_fenchel_young_loss(logsumexp) for home in (losses, optax.losses))
    got, want = (namesake.both_passes(f, (S, targets))[0] for f in (ours, theirs))
    np.testing.assert_array_equal(got, want)
    for dtype in (jnp.float32, jnp.bfloat16):
        for error, allowed in namesake.errors(ours, theirs, (S, targets), dtype):
            assert error <= allowed * 1.5, dtype
    assert namesake.kept_bytes(ours, (S, targets)) <= namesake.kept_bytes(theirs, (S, targets))


def test_the_registry_does_not_grow():
    before = len(registry)
    for _ in range(3):
        losses.make_fenchel_young_loss(lambda s: jnp.max(s))(S, T)
    assert len(registry) == before


def test_arguments_of_the_max_function():
    """They count; optax loses them, since jnp.vectorize passes no keyword arguments on."""
    loss = losses.make_fenchel_young_loss(logsumexp)
    b = jnp.arange(1.0, 7.0)
    want = jax.vmap(lambda s: logsumexp(s, b=b))(S) - (S * T).sum(-1)
    np.testing.assert_allclose(loss(S, T, b=b), want, rtol=1e-6)
    want = jax.grad(lambda b: jax.vmap(lambda s: logsumexp(s, b=b))(S).sum())(b)
    np.testing.assert_allclose(jax.grad(lambda b: loss(S, T, b=b).sum())(b), want, rtol=1e-5)


def test_a_rule_as_the_max_function():
    """Twice differentiable too: only rules' backward passes are differentiated."""
    loss = losses.make_fenchel_young_loss(lambda s: nn.softplus(s).sum())
    np.testing.assert_allclose(jax.grad(lambda s: loss(s, T).sum())(S), jax.nn.sigmoid(S) - T, atol=1e-6)
    second = jax.hessian(lambda s: loss(s, T[0]))(S[0])
    np.testing.assert_allclose(jnp.diag(second), jax.nn.sigmoid(S[0]) * jax.nn.sigmoid(-S[0]), rtol=1e-5)


def test_refuses():
    loss = losses.make_fenchel_young_loss(logsumexp)
    with pytest.raises(
        RuleError, match=r"rule losses\.fenchel_young_loss: .*float32\[4,6\], targets float32\[4\]"
    ):
        loss(S, T[:, 0])
    with pytest.raises(RuleError, match=r"rule losses\.fenchel_young_loss: .*1 more by position"):
        loss(S, T, 0)

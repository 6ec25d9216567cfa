"""glu, dropout and embedding: edges, bytes, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import namesake
import overbar
from overbar import RuleError, nn

pytestmark = pytest.mark.once  # the registry's tests run on every version


@pytest.mark.parametrize("g", [-200.0, 200.0, 1e30])
def test_glus_bars_are_finite_where_the_gate_is_shut_or_open(g):
    """ȳ a overflows there, and σ′(g) is 0."""
    x, y_bar = jnp.array([1e30, g]), jnp.full(1, 1e20)
    np.testing.assert_array_equal(jax.vjp(nn.glu, x)[1](y_bar)[0], [y_bar[0] if g > 0 else 0.0, 0.0])


def test_glu_is_jax_nns():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)
    namesake.assert_same_outputs(lambda x: nn.glu(x, 1), lambda x: jax.nn.glu(x, 1), x)
    ours, theirs = (namesake.kept_bytes(lambda x, glu=glu: glu(x, 1), [x]) for glu in (nn.glu, jax.nn.glu))
    assert ours <= theirs
    with pytest.raises(RuleError, match=r"nn\.glu: the size along axis -1 must be even"):
        nn.glu(x)


@pytest.mark.parametrize("key", [jax.random.key(3), jax.random.PRNGKey(3)], ids=["new", "raw"])
def test_dropout_drops_the_same_in_both_passes(key):
    x = jnp.asarray(np.random.default_rng(0).normal(size=1000), jnp.float32)
    y, pullback = jax.vjp(lambda x: nn.dropout(key, x, 0.25), x)
    kept = np.asarray(y) != 0
    assert 700 < kept.sum() < 800
    np.testing.assert_array_equal(y, np.where(kept, x / np.float32(0.75), 0))
    np.testing.assert_array_equal(pullback(jnp.full(1000, jnp.inf))[0], np.where(kept, np.inf, 0))
    kept = namesake.kept_bytes(lambda x: nn.dropout(key, x, 0.25), [x])
    assert kept <= 16  # the key, and nothing of x's size


def test_dropout_at_its_ends():
    x = jnp.array([1.0, jnp.nan])
    for rate, want in ((0, [1.0, np.nan]), (1, [0.0, 0.0])):
        np.testing.assert_array_equal(nn.dropout(jax.random.key(0), x, rate), want)
        np.testing.assert_array_equal(
            jax.vjp(lambda x, r=rate: nn.dropout(jax.random.key(0), x, r), x)[1](x)[0], want
        )


def test_dropout_refuses():
    with pytest.raises(RuleError, match=r"rate must be a number from 0 to 1, but came 1\.5"):
        nn.dropout(jax.random.key(0), jnp.ones(2), 1.5)
    with pytest.raises(RuleError, match=r"input key came as float32|one PRNG key"):
        nn.dropout(jnp.ones(2), jax.random.key(0), 0.5)


def test_embedding_takes_as_jnp_take_does():
    table, ids = jnp.arange(8.0).reshape(4, 2), jnp.array([-1, -4, -5, 3, 4])
    namesake.assert_same_outputs(lambda t: nn.embedding(t, ids), lambda t: jnp.take(t, ids, axis=0), table)
    bar = jax.grad(lambda t: nn.embedding(t, ids)[:, 0].sum())(table)
    np.testing.assert_array_equal(bar, [[1, 0], [0, 0], [0, 0], [2, 0]])  # what is out of range adds nowhere


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1.0), (jnp.bfloat16, 0.2)])
def test_embedding_sums_in_float32(dtype, bound):
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 10, 2000))
    ((ours, jaxs),) = namesake.mean_errors(
        lambda t: nn.embedding(t, ids),
        lambda t: jnp.take(t, ids, axis=0),
        lambda rng: [rng.normal(size=(10, 4))],
        dtype,
    )
    assert ours <= bound * jaxs


def test_embedding_keeps_the_ids_only():
    ids, table = jnp.arange(50), jnp.ones((1000, 32))
    assert namesake.kept_bytes(lambda t: nn.embedding(t, ids), [table]) <= ids.nbytes
    assert namesake.kept_bytes(overbar.twin(lambda t: nn.embedding(t, ids)), [table]) >= ids.nbytes


def test_embedding_refuses_ids_that_are_no_integers():
    with pytest.raises(RuleError, match=r"input ids came as float32|ids must be integers"):
        nn.embedding(jnp.ones((3, 2)), jnp.ones(2))

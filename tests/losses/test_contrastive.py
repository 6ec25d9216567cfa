"""NT-Xent and the triplet loss beside optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

import namesake
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version


@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_ntxent_beside_optaxs(tau):
    labels = jnp.arange(12) // 3
    args = (jax.random.normal(jax.random.key(0), (12, 5)), jnp.float32(tau))
    ours, theirs = (lambda e, tau, f=f: f(e, labels, tau) for f in (losses.ntxent, optax.losses.ntxent))
    namesake.assert_same_outputs(ours, theirs, *args, ulps=1)
    for dtype, more in ((jnp.float32, 1.5), (jnp.bfloat16, 1.0)):
        for error, allowed in namesake.errors(ours, theirs, args, dtype):
            assert error <= allowed * more, dtype
    assert namesake.kept_bytes(ours, args) < namesake.kept_bytes(theirs, args) / 3


@pytest.mark.once
def test_ntxent_where_there_are_no_negatives():
    """The loss is 0 whatever the embeddings; jax.grad of optax's is nan."""
    e = jax.random.normal(jax.random.key(0), (4, 3))
    loss, bar = jax.value_and_grad(losses.ntxent)(e, jnp.zeros(4, int))
    assert loss == 0
    assert not bar.any()


def test_ntxent_of_an_embedding_of_zeros():
    e = jax.random.normal(jax.random.key(0), (4, 3)).at[1].set(0.0)
    labels = jnp.array([0, 0, 1, 1])
    bars = [jax.grad(namesake.loosely(f))(e, labels) for f in (losses.ntxent, optax.losses.ntxent)]
    np.testing.assert_allclose(*bars, rtol=1e-4, atol=1e-4 * float(jnp.abs(bars[1]).max()))


def triplets(ordered=False):
    a, p, n = (jax.random.normal(k, (16, 6)) for k in jax.random.split(jax.random.key(1), 3))
    return (a, a - jnp.abs(p), a - jnp.abs(n)) if ordered else (a, p, n)


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (triplets(), {}),
        (triplets(), {"margin": jnp.arange(16.0) / 8, "axis": 1, "eps": 1e-3}),
        (triplets(), {"norm_degree": -2}),
        (triplets(ordered=True), {"norm_degree": 3}),
        (triplets(ordered=True), {"norm_degree": 2.5}),
    ],
)
def test_triplets_beside_optaxs(args, options):
    ours, theirs = (
        lambda *a, f=f: f(*a, **options)
        for f in (losses.triplet_margin_loss, optax.losses.triplet_margin_loss)
    )
    got, want = (namesake.both_passes(f, args)[0] for f in (ours, theirs))
    np.testing.assert_allclose(got, want, rtol=0 if options.get("norm_degree", 2) == 2 else 3e-7, atol=3e-7)
    for dtype, more in ((jnp.float32, 1.5), (jnp.bfloat16, 1.0)):
        for error, allowed in namesake.errors(ours, theirs, args, dtype):
            assert error <= allowed * more, dtype
    assert namesake.kept_bytes(ours, args) <= namesake.kept_bytes(theirs, args)


@pytest.mark.once
def test_triplets_at_the_kink():
    """A tie is shared by halves, as jax.grad shares it."""
    x = jnp.array([[1.0, 0.0]])
    for margin, share in ((0.0, 0.5), (1.0, 1.0), (-1.0, 0.0)):
        bars = [
            jax.grad(lambda m, f=f: f(x, -x, -x, margin=m).sum())(margin)
            for f in (losses.triplet_margin_loss, optax.losses.triplet_margin_loss)
        ]
        assert bars == [share, share]


@pytest.mark.once
def test_bars_of_the_triplets_numbers():
    a, p, n = triplets(ordered=True)
    bars = [
        jax.grad(lambda k, m, e, f=f: f(a, p, n, norm_degree=k, margin=m, eps=e).sum(), (0, 1, 2))(
            2.5, 0.5, 1e-3
        )
        for f in (losses.triplet_margin_loss, optax.losses.triplet_margin_loss)
    ]
    np.testing.assert_allclose(*bars, rtol=1e-4)


def test_refuses():
    with pytest.raises(RuleError, match=r"rule losses\.ntxent: expected embeddings.*labels int32\[3\]"):
        losses.ntxent(jnp.ones((2, 3)), jnp.arange(3))
    with pytest.raises(RuleError, match=r"rule losses\.triplet_margin_loss: expected arrays.*float32\[4,3\]"):
        losses.triplet_margin_loss(jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.ones((4, 3)))


def test_a_negative_infinitely_far_ends_the_triplet():
    a, p, n = jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.array([[jnp.inf, 0.0, 0.0], [1.0, 1.0, 2.0]])
    bars = jax.grad(lambda *xs: losses.triplet_margin_loss(*xs, margin=2.0).sum(), (0, 1, 2))(a, p, n)
    for bar in bars:
        np.testing.assert_array_equal(bar[0], 0)
        assert jnp.isfinite(bar).all()
        assert jnp.any(bar[1] != 0)

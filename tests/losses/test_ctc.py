"""CTC beside optax's: the same α bit for bit, and posteriors that are nearer to the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

import namesake
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

NAMES = ["ctc_loss", "ctc_loss_with_forward_probs"]


def operands(b=3, t=9, n=4, k=5):
    x = 2 * jax.random.normal(jax.random.key(0), (b, t, k))
    pads = (jnp.arange(t)[None] >= t - jnp.arange(b)[:, None]).astype(jnp.float32)
    labels = jax.random.randint(jax.random.key(1), (b, n), 1, k).at[0, :2].set(2)
    absent = (jnp.arange(n)[None] >= n - jnp.arange(b)[:, None]).astype(jnp.float32)
    return x, pads, labels, absent


def both(name, labels, absent, **options):
    """Functions of logits, paddings and log_epsilon."""

    def of(f):
        return lambda x, pads, eta: f(x, pads, labels, absent, log_epsilon=eta, **options)

    return of(getattr(losses, name)), of(getattr(optax.losses, name))


@pytest.mark.parametrize("name", NAMES)
def test_beside_optaxs(name):
    x, pads, labels, absent = operands()
    ours, theirs = both(name, labels, absent)
    args = (x, pads, jnp.float32(-30.0))
    got, want = (namesake.both_passes(f, args)[0] for f in (ours, theirs))
    jax.tree.map(np.testing.assert_array_equal, got, want)
    # log ε has one number for a bar, whose error is chance on both sides.
    for (error, allowed), more in zip(
        namesake.errors(ours, theirs, args, jnp.float32), (1.5, 1.5, 4.0), strict=True
    ):
        assert error <= allowed * more
    assert namesake.kept_bytes(ours, args) < 0.6 * namesake.kept_bytes(theirs, args)


@pytest.mark.once
def test_the_softmax_minus_the_posteriors():
    """Two frames, one label a of three classes: "_a", "a_" and "aa" spell it."""
    x = jnp.log(jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3]]]))
    args = (jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1)))
    bar = jax.grad(lambda x: losses.ctc_loss(x, *args).sum())(x)[0]
    paths = {"_a": 0.5 * 0.6, "a_": 0.3 * 0.1, "aa": 0.3 * 0.6}
    whole = sum(paths.values())
    first = np.array([paths["_a"], paths["a_"] + paths["aa"], 0]) / whole
    second = np.array([paths["a_"], paths["_a"] + paths["aa"], 0]) / whole
    np.testing.assert_allclose(bar, np.exp(x[0]) - np.stack([first, second]), atol=1e-6)


@pytest.mark.once
def test_no_bar_at_padding_and_rows_that_sum_to_zero():
    x, pads, labels, absent = operands()
    bar = jax.grad(lambda x: losses.ctc_loss(x, pads, labels, absent).sum())(x)
    np.testing.assert_array_equal(bar[pads == 1], 0)
    np.testing.assert_allclose(bar.sum(-1), 0, atol=1e-5)


def test_labels_that_are_no_class_and_half_precision():
    x, pads, labels, absent = operands()
    labels = labels.at[0, 0].set(-1).at[1, 1].set(9)
    ours, theirs = both("ctc_loss", labels, absent)
    args = (x, pads, jnp.float32(-1e5))
    np.testing.assert_array_equal(jax.jit(ours)(*args), jax.jit(theirs)(*args))
    for error, allowed in namesake.errors(ours, theirs, args, jnp.float32)[:2]:  # nothing of it reaches x̄
        assert error <= allowed
    half = x.astype(jnp.bfloat16)
    got = losses.ctc_loss(half, pads, labels, absent)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(
        got, losses.ctc_loss(half.astype(jnp.float32), pads, labels, absent), rtol=1e-6
    )


def test_an_impossible_class_harms_no_other():
    x, pads, labels, absent = operands()
    x = x.at[:, 3, 4].set(-jnp.inf)
    loss, bar = jax.value_and_grad(lambda x: losses.ctc_loss(x, pads, labels * 0 + 1, absent).sum())(x)
    assert np.isfinite(loss)
    assert np.isfinite(bar).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.ones((2, 4), int)}, r"labels \(B, N\).*labels int32\[2,4\]"),
        ({"labels": np.ones((3, 4), np.float32)}, r"labels came as float32"),
        ({"logits": np.ones((3, 0, 5), np.float32), "logit_paddings": np.ones((3, 0))}, r"one frame or more"),
        ({"blank_id": 5}, r"blank_id 5"),
    ],
)
def test_refuses(change, message):
    names = ("logits", "logit_paddings", "labels", "label_paddings")
    given = dict(zip(names, operands(), strict=True)) | change
    options = {"blank_id": given.pop("blank_id", 0)}
    with pytest.raises(RuleError, match=rf"rule losses\.ctc_loss: .*{message}"):
        functools.partial(losses.ctc_loss, **options)(**given)

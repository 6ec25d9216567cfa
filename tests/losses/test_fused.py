"""linear_cross_entropy beside the logits held whole: blocks, memory, accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import namesake
import overbar
from overbar import RuleError, losses
from overbar.losses import fused

pytestmark = pytest.mark.once  # the registry's tests run on every version


def plain(h, w, labels):
    z = jnp.matmul(h, w)
    return losses.softmax_cross_entropy_with_integer_labels.primal(z, labels)


def operands(rows=6, features=5, classes=300):
    kh, kw, kl = jax.random.split(jax.random.key(0), 3)
    h, w = jax.random.normal(kh, (rows, features)), jax.random.normal(kw, (features, classes))
    return h, w, jax.random.randint(kl, (rows,), 0, classes).at[:2].set(jnp.array([0, classes - 1]))


@pytest.mark.parametrize("classes", [1, 100, 128, 256, 300])
def test_any_number_of_classes(monkeypatch, classes):
    """Less than a block, whole blocks, and a last one that is narrower."""
    monkeypatch.setattr(fused, "ENTRIES", 1)
    args = operands(classes=classes)
    got, want = (namesake.both_passes(f, args) for f in (losses.linear_cross_entropy, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_further_from_the_truth(monkeypatch, dtype):
    monkeypatch.setattr(fused, "ENTRIES", 1)
    for error, allowed in namesake.errors(losses.linear_cross_entropy, plain, operands(rows=40), dtype):
        assert error <= allowed * (1.5 if dtype == jnp.float32 else 1.0)


def test_near_certainty():
    """1 − p is the sum of the others: the bar and the loss keep their digits."""
    h, w = jnp.array([[1.0]]), jnp.array([[30.0, 0.0, 1.0]])
    loss, bar = jax.value_and_grad(lambda w: losses.linear_cross_entropy(h, w, jnp.array([0])).sum())(w)
    others = np.exp([-30.0, -29.0])
    np.testing.assert_allclose(loss, others.sum(), rtol=1e-5)
    np.testing.assert_allclose(bar[0], [-others.sum(), *others], rtol=1e-5)


def test_labels_that_are_no_class():
    h, w, _ = operands()
    labels = jnp.array([-1, -300, -301, 300, 0, 299])
    got, want = (namesake.both_passes(f, (h, w, labels)) for f in (losses.linear_cross_entropy, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), got, want)
    assert np.isnan(got[0]).tolist() == [False, False, True, True, False, False]


def test_memory():
    """An eighth at the most of the temporary memory of the logits held whole, and of the twin's."""
    h, w, labels = jnp.zeros((2048, 256)), jnp.zeros((256, 8192)), jnp.zeros(2048, int)

    def temporary(f):
        program = jax.jit(jax.value_and_grad(lambda h, w: f(h, w, labels).mean(), (0, 1)))
        return program.lower(h, w).compile().memory_analysis().temp_size_in_bytes

    ours = temporary(losses.linear_cross_entropy)
    assert 8 * ours <= temporary(plain)
    assert 8 * ours <= temporary(overbar.twin(losses.linear_cross_entropy))
    args = (h, w, labels)
    assert namesake.kept_bytes(losses.linear_cross_entropy, args) < namesake.kept_bytes(plain, args) / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.ones((4, 7), np.float32)}, r"w float32\[4,7\]"),
        ({"w": np.ones((5, 7), np.float16)}, r"one dtype.*w float16\[5,7\]"),
        ({"labels": np.ones(6, np.float32)}, r"labels came as float32"),
        ({"labels": np.ones(5, int)}, r"labels int32\[5\]"),
    ],
)
def test_refuses(change, message):
    given = dict(zip(("h", "w", "labels"), operands(), strict=True)) | change
    with pytest.raises(RuleError, match=rf"rule losses\.linear_cross_entropy: .*{message}"):
        losses.linear_cross_entropy(**given)

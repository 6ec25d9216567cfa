"""The softmax cross-entropies beside optax's: values bit for bit, bars no further from the truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

import namesake
from overbar import RuleError, losses

pytestmark = pytest.mark.once  # the registry's tests run on every version

DENSE = ["softmax_cross_entropy", "safe_softmax_cross_entropy"]
NUMBERED = "softmax_cross_entropy_with_integer_labels"


def logits(*shape, scale=3.0):
    return scale * jax.random.normal(jax.random.key(1), shape)


def distribution(*shape):
    return jax.nn.softmax(2 * jax.random.normal(jax.random.key(2), shape), -1)


MASK = jax.random.bernoulli(jax.random.key(3), 0.6, (4, 3, 5)).at[1, 2].set(False)
CASES = [
    *((name, (logits(6, 7), distribution(6, 7)), {}) for name in DENSE),
    ("softmax_cross_entropy", (logits(4, 3, 5), distribution(4, 3, 5)), {"where": MASK}),
    (
        "softmax_cross_entropy",
        (logits(4, 3, 5), distribution(4, 1, 5)),
        {"axis": (0, 2), "where": MASK[0, :, 0]},
    ),
    ("softmax_cross_entropy", (logits(4, 3), jnp.array([0, 1, 1])), {"axis": None}),
    (NUMBERED, (logits(6, 7), jnp.array([0, 6, -1, -7, 3, 3])), {}),
    (NUMBERED, (logits(4, 3, 5), jax.random.randint(jax.random.key(4), (4, 3), 0, 5)), {"where": MASK}),
    (NUMBERED, (logits(4, 3, 5), jnp.array([0, 7, 19])), {"axis": (2, 0), "where": MASK}),
    (NUMBERED, (logits(4, 3, 5), jnp.ones((3, 5), jnp.uint8)), {"axis": 0}),
]


@pytest.mark.parametrize(("name", "args", "options"), CASES)
def test_beside_optaxs(name, args, options):
    """The value is optax's bit for bit, and no bar is further from the truth than jax.grad's."""
    ours, theirs = (functools.partial(getattr(home, name), **options) for home in (losses, optax.losses))
    got, want = (namesake.both_passes(f, args)[0] for f in (ours, theirs))
    np.testing.assert_array_equal(got, want)
    for dtype in (jnp.float32, jnp.bfloat16):
        for error, allowed in namesake.errors(ours, theirs, args, dtype):
            assert error <= allowed * 1.001, dtype
    assert namesake.kept_bytes(ours, args) <= namesake.kept_bytes(theirs, args) + 4 * got.size


def test_labels_that_are_no_class():
    """nan, as optax has it, and a bar without a 1 taken off; negative ones count from the end."""
    x = jnp.array([1.0, 2.0, 3.0])
    for label in (-4, -3, -1, 0, 2, 3):
        ours, theirs = (
            jax.value_and_grad(getattr(home, NUMBERED))(x, jnp.int32(label))
            for home in (losses, optax.losses)
        )
        np.testing.assert_allclose(ours[0], theirs[0], rtol=0)
        np.testing.assert_array_equal(ours[1], theirs[1])


@pytest.mark.parametrize("name", [*DENSE, NUMBERED])
def test_edges(name):
    """−∞ with label 0, a row of −∞, ∞, nan: the values are optax's, and bars are finite where optax's are."""
    rows = [
        [0.0, -jnp.inf, 1.0],
        [-jnp.inf] * 3,
        [jnp.inf, 0.0, 1.0],
        [jnp.nan, 0.0, 1.0],
        [3e38, -3e38, 0.0],
    ]
    x = jnp.array(rows)
    labels = jnp.zeros(5, int) if name == NUMBERED else jax.nn.one_hot(jnp.zeros(5, int), 3)
    values, bars = [], []
    for f in (getattr(losses, name), getattr(optax.losses, name)):
        y, pullback = jax.vjp(lambda x, f=f: f(x, labels), x)
        values.append(y)
        bars.append(pullback(jnp.ones_like(y))[0])
    np.testing.assert_array_equal(*values)
    finite = np.isfinite(bars[1])
    np.testing.assert_array_max_ulp(np.asarray(bars[0])[finite], np.asarray(bars[1])[finite], 1)


def test_nothing_counts():
    x, mask = logits(2, 3), jnp.zeros((2, 3), bool)
    for f, labels in (
        (losses.softmax_cross_entropy, distribution(2, 3)),
        (getattr(losses, NUMBERED), jnp.zeros(2, int)),
    ):
        y, pullback = jax.vjp(lambda x, f=f, t=labels: f(x, t, where=mask), x)
        assert not y.any()
        assert not pullback(jnp.ones(2))[0].any()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    x, t = logits(5, 300).astype(dtype), distribution(5, 300).astype(dtype)
    want = optax.losses.softmax_cross_entropy(x.astype(jnp.float32), t.astype(jnp.float32)).astype(dtype)
    got = losses.softmax_cross_entropy(x, t)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, want)
    numbers = jnp.arange(5)
    got = getattr(losses, NUMBERED)(x, numbers)
    np.testing.assert_array_equal(
        got, getattr(losses, NUMBERED)(x.astype(jnp.float32), numbers).astype(dtype)
    )


@pytest.mark.parametrize(
    ("name", "args", "options", "message"),
    [
        (
            "softmax_cross_entropy",
            (np.arange(3), np.ones(3, np.float32)),
            {},
            r"logits must be float.*int32\[3\]",
        ),
        (
            "softmax_cross_entropy",
            (np.ones((2, 3), np.float32), np.ones(2, np.float32)),
            {},
            r"broadcast.*\[2\]",
        ),
        (
            "softmax_cross_entropy",
            (np.ones(3, np.float32), np.ones(3, np.float32)),
            {"axis": 1},
            r"axes of logits",
        ),
        (
            NUMBERED,
            (np.ones((2, 3), np.float32), np.ones(2, bool)),
            {},
            r"labels must be integers.*bool\[2\]",
        ),
        (NUMBERED, (np.ones((2, 3), np.float32), np.ones((2, 3), int)), {}, r"labels of the logits' shape"),
        (NUMBERED, (np.ones((2, 3), np.float32), np.ones(2, int)), {"axis": None}, r"int or a tuple"),
    ],
)
def test_refuses(name, args, options, message):
    with pytest.raises(RuleError, match=rf"rule losses\.{name}: .*{message}"):
        getattr(losses, name)(*args, **options)

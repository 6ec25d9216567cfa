"""overbar.losses in the place of optax.losses: the same names, the same outputs, the same gradients."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax.losses
import pytest

from overbar import losses

pytestmark = pytest.mark.once  # the registry's tests run on every version


def public(module):
    return {n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))}


def test_every_public_name_is_there():
    assert public(optax.losses) - set(losses.__all__) == set()


KEY = jax.random.key(5)
X, Y = 2 * jax.random.normal(KEY, (2, 3, 4))
SOFT = jax.random.uniform(KEY, (3, 4))
HARD = (SOFT > 0.5).astype(jnp.float32)
LOG_P, LOG_T = jax.nn.log_softmax(X), jax.nn.log_softmax(Y)
MASK = jnp.arange(12).reshape(3, 4) % 5 > 0
IMAGES, SEGMENTS = jax.random.normal(KEY, (2, 3, 2, 4)), jax.random.uniform(KEY, (2, 3, 2, 4))

# name, arguments, options; gradients are compared by all the float arguments.
CALLS = [
    *((n, (X, Y), {}) for n in ("squared_error", "l2_loss", "huber_loss", "log_cosh", "hinge_loss")),
    *((n, (X,), {}) for n in ("squared_error", "l2_loss", "huber_loss", "log_cosh")),
    ("huber_loss", (X, Y[:1]), {"delta": jnp.array([[0.5], [1.0], [2.0]])}),
    ("log_cosh", (X, Y[:1]), {}),
    ("perceptron_loss", (X, Y), {}),
    ("perceptron_loss", (jnp.zeros(3), jnp.array([1.0, -1.0, 0.0])), {}),
    ("hinge_loss", (jnp.array([1.0, -1.0, 2.0]), jnp.array([1.0, -1.0, 0.5])), {}),
    ("sparsemax_loss", (X, HARD), {}),
    ("sparsemax_loss", (X, HARD.astype(bool)), {}),
    ("sigmoid_binary_cross_entropy", (X, SOFT), {}),
    ("sigmoid_binary_cross_entropy", (X, HARD.astype(jnp.int32)), {}),
    ("sigmoid_binary_cross_entropy", (X[:, :1], HARD.astype(bool)), {}),
    ("sigmoid_focal_loss", (X, SOFT), {}),
    ("sigmoid_focal_loss", (X, HARD.astype(jnp.int32)), {"alpha": 0.25, "gamma": 1.5}),
    ("sigmoid_focal_loss", (X, SOFT[:1]), {"alpha": jnp.full((3, 1), 0.3), "gamma": jnp.float32(0.5)}),
    *((n, (X, Y), {}) for n in ("cosine_similarity", "cosine_distance")),
    ("cosine_similarity", (X, Y), {"axis": (0, 1), "where": MASK}),
    ("cosine_distance", (X, Y[:1]), {"epsilon": 9.0, "where": MASK}),
    ("cosine_similarity", (jnp.zeros((1, 3)), jnp.ones((1, 3))), {"epsilon": 1e-6}),
    *(
        (n, (LOG_P, jnp.exp(LOG_T)), o)
        for n in ("kl_divergence", "generalized_kl_divergence", "convex_kl_divergence")
        for o in ({}, {"axis": (0, 1), "where": MASK}, {"axis": None})
    ),
    ("kl_divergence_with_log_targets", (LOG_P, LOG_T), {}),
    ("kl_divergence_with_log_targets", (LOG_P, LOG_T[:1]), {"axis": 0, "where": MASK}),
    ("smooth_labels", (SOFT, jnp.float32(0.1)), {}),
    ("smooth_labels", (SOFT, 0.1), {"axis": None}),
    ("smooth_labels", (SOFT, 0.1), {"where": MASK, "axis": (0, 1)}),
    ("poly_loss_cross_entropy", (X, SOFT), {}),
    ("poly_loss_cross_entropy", (X, SOFT[:1]), {"epsilon": -1.0, "axis": (0, 1)}),
    ("poly_loss_cross_entropy", (X, SOFT), {"where": MASK}),
    ("dice_loss", (IMAGES, SEGMENTS), {}),
    ("dice_loss", (IMAGES, SEGMENTS), {"alpha": 0.3, "beta": 0.7, "smooth": 0.1, "reduction": "none"}),
    ("dice_loss", (IMAGES, SEGMENTS), {"ignore_background": True, "reduction": "sum", "axis": (0, 1, 2)}),
    ("dice_loss", (IMAGES[..., 0], SEGMENTS[..., :1]), {}),
    ("dice_loss", (jnp.full_like(IMAGES, 0.25), SEGMENTS), {"apply_softmax": False}),
    ("dice_loss", (IMAGES[0, 0], HARD[:2, :4]), {"class_weights": jnp.array([1.0, 2.0, 3.0, 4.0])}),
    ("binary_dice_loss", (IMAGES, SEGMENTS), {}),
    ("binary_dice_loss", (IMAGES[..., :1], SEGMENTS[..., :1]), {"smooth": 0.1}),
    ("multiclass_generalized_dice_loss", (IMAGES, SEGMENTS), {}),
    ("multiclass_generalized_dice_loss", (IMAGES, SEGMENTS), {"ignore_background": True}),
]


def both(name):
    return getattr(losses, name), getattr(optax.losses, name)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CALLS}))
def test_signature_is_optaxs(name):
    ours, theirs = (
        [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()] for f in both(name)
    )
    assert ours == theirs


@pytest.mark.filterwarnings("ignore:.*deprecated.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "args", "options"), CALLS, ids=lambda v: v if isinstance(v, str) else "")
def test_output_bit_for_bit_and_gradients(name, args, options):
    floats = [i for i, x in enumerate(args) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)]
    arrays = {n: v for n, v in options.items() if isinstance(v, jax.Array) and v.dtype != bool}

    def pulled(f, dtype):
        def of_floats(xs, named):
            filled = list(args)
            for i, x in zip(floats, xs, strict=True):
                filled[i] = x
            return f(*filled, **{**options, **named})

        xs, named = jax.tree.map(lambda x: jnp.asarray(x, dtype), ([args[i] for i in floats], arrays))
        y, pullback = jax.vjp(of_floats, xs, named)
        return y, pullback(jax.random.normal(KEY, y.shape).astype(y.dtype))

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        (ours, our_bars), (theirs, their_bars) = (pulled(f, jnp.float32) for f in both(name))
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_array_equal(ours, theirs)
        half = [jnp.asarray(x, jnp.bfloat16) if i in floats else x for i, x in enumerate(args)]
        named = {n: jnp.asarray(v, jnp.bfloat16) for n, v in arrays.items()}
        low, theirs_low = (f(*half, **{**options, **named}) for f in both(name))
        assert low.dtype == theirs_low.dtype
    for got, want in zip(jax.tree.leaves(our_bars), jax.tree.leaves(their_bars), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        known = np.isfinite(want)  # elsewhere jax.grad has lost it, as at what is masked
        assert np.isfinite(got).all()
        size = np.max(np.abs(want[known]), initial=1.0)
        np.testing.assert_allclose(got[known], want[known], rtol=3e-5, atol=3e-6 * size)

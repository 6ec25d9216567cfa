"""Losses of two classes: elementwise rules of a score and a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._jax_nn import jax_nn
from overbar._tails import tail
from overbar.elementwise import elementwise
from overbar.losses._inputs import beside, real_floats, same_shape
from overbar.rule import Sample


def _scores_and(draw: Any, kinks: bool = False, equal: bool = False) -> Any:
    """Samples of scores beside labels that draw(key, shape) makes."""

    def samples(key: jax.Array) -> Iterator[Sample]:
        def make(shape: tuple[int, ...], other: tuple[int, ...] | None = None, scale: float = 2.0) -> Any:
            kx, kt = jax.random.split(key)
            return scale * draws.normal(kx, shape), draw(kt, other or shape)

        yield Sample("matrix", make((3, 4)))
        yield Sample("scalar", make(()))
        if not equal:
            yield Sample("broadcast", make((2, 3), (1, 3)))
        yield Sample("size 1", make((4, 1)))
        yield Sample("empty", make((0, 2)))
        yield Sample("large", make((8,), scale=40.0))
        if kinks:
            x = jnp.array([0.0, 1.0, -1.0, 1.0, 0.0])
            yield Sample("kinks", (x, jnp.array([1.0, 1.0, -1.0, 0.0, 0.0])), tags=("kink",))
        yield Sample("bench", make((1024, 1024)), tags=("bench",))

    return samples


# Derivation for L = −t log σ(x) − (1 − t) log σ(−x).
#   (1) d log σ(x) = σ(−x) dx, and d log σ(−x) = −σ(x) dx
#   (2) x̄ = L̄ ((1 − t) σ(x) − t σ(−x)), which is L̄ (σ(x) − t): but in (2) a label of 0 or 1 leaves one
#       term, with all its digits, where σ(x) − 1 has none
#   (3) with E = e^−|x|, t₁ = t for x ≥ 0, else 1 − t, and t₀ = 1 − t₁:  x̄ = ±L̄ (t₀ − t₁ E)/(1 + E)
#   (4) t₀ = 0: the label is what x says, and x̄ = ∓L̄ E/(1 + E), with the E last, in factors, so that nothing
#       underflows before the bar does
#   (5) log σ(x) − log σ(−x) = x, so t̄ = −L̄ x
def _cross_entropy_bar(y_bar: jax.Array, logits: jax.Array, labels: jax.Array) -> jax.Array:
    negative = logits < 0
    e = tail(jnp.where(negative, -logits, logits))
    E = e.small
    near, far = jnp.where(negative, 1 - labels, labels), jnp.where(negative, labels, 1 - labels)
    sure = far == 0
    size = jnp.where(sure, -e.q, far - near * E) / (1 + E)
    slope = jnp.where(negative, -size, size)
    return jnp.where(sure, e.times(y_bar, slope), y_bar * slope)  # (4), (3)


def _cross_entropy_reference(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))


@elementwise(
    {"logits": _cross_entropy_bar, "labels": lambda logits: -logits},  # (5)
    {"logits": "x̄ = L̄ ((1 − t) σ(x) − t σ(−x))", "labels": "t̄ = −L̄ x"},
    integers=("labels",),
    reference=_cross_entropy_reference,
    samples=_scores_and(draws.uniform),
)
def sigmoid_binary_cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Cross-entropy of a probability σ(x) and a label t; as `optax.losses.sigmoid_binary_cross_entropy`.

    Backward: x̄ = L̄ ((1 − t) σ(x) − t σ(−x)), accurate however sure σ(x) is of a label of 0 or 1, and
    t̄ = −L̄ x.

    Args:
      logits: x, any shape; float16, bfloat16, float32 or float64.
      labels: t from 0 to 1, broadcasts against x; floats, integers or booleans.

    Returns:
      −t log σ(x) − (1 − t) log σ(−x), of the broadcast shape, in x's dtype.

    Raises:
      RuleError: logits are not real floats.

    Source: Goodfellow, Bengio, Courville, "Deep Learning", 2016, section 6.2.2.2.

    >>> import jax
    >>> from overbar import losses
    >>> print(f"{losses.sigmoid_binary_cross_entropy(0.0, 1):.4f}")
    0.6931
    >>> print(f"{jax.grad(losses.sigmoid_binary_cross_entropy)(30.0, 1):.4g}")
    -9.358e-14
    """
    x = real_floats("losses.sigmoid_binary_cross_entropy", "logits", logits)
    t = jnp.astype(jnp.asarray(labels), x.dtype)
    log_p, log_not_p = jax_nn.log_sigmoid(x), jax_nn.log_sigmoid(-x)
    return -t * log_p - (1.0 - t) * log_not_p


# Derivation for L = max(0, 1 − y t).
#   (1) 1 − y t > 0: L̇ = −t ẏ − y ṫ, so ȳ = −L̄ t and t̄ = −L̄ y
#   (2) 1 − y t < 0: L̇ = 0
#   (3) 1 − y t = 0: any value between the two; half of (1), as JAX has it for a maximum
# and for L = max(0, −y t) with −y t in the place of 1 − y t, whose sign is told by those of y and t
# where the product is too small for a float.
def _slope_of_hinge(above: jax.Array, at: jax.Array, y_bar: jax.Array, other: jax.Array) -> jax.Array:
    full = -y_bar * other
    return jnp.where(above, full, jnp.where(at, full / 2, jnp.zeros_like(full)))


def _hinge(y_bar: jax.Array, predictor_outputs: jax.Array, targets: jax.Array, other: jax.Array) -> jax.Array:
    product = predictor_outputs * targets
    return _slope_of_hinge(product < 1, product == 1, y_bar, other)


def _perceptron(
    y_bar: jax.Array, predictor_outputs: jax.Array, targets: jax.Array, other: jax.Array
) -> jax.Array:
    sign = jnp.sign(predictor_outputs) * jnp.sign(targets)
    return _slope_of_hinge(sign < 0, sign == 0, y_bar, other)


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return draws.rademacher(key, shape)


def _by_both(bar: Any) -> dict[str, Any]:
    """The derivatives by score and target, where each has the other one as its factor."""
    return {
        "predictor_outputs": lambda y_bar, predictor_outputs, targets: bar(
            y_bar, predictor_outputs, targets, targets
        ),
        "targets": lambda y_bar, predictor_outputs, targets: bar(
            y_bar, predictor_outputs, targets, predictor_outputs
        ),
    }


@elementwise(
    _by_both(_hinge),
    {
        "predictor_outputs": "ȳ = −L̄ t where y t < 1, else 0",
        "targets": "t̄ = −L̄ y where y t < 1, else 0",
    },
    integers=("targets",),
    reference=lambda predictor_outputs, targets: jax_nn.relu(1 - predictor_outputs * targets),
    samples=_scores_and(_signs, kinks=True),
)
def hinge_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Hinge loss of a score y and a sign t, L = max(0, 1 − y t); as `optax.losses.hinge_loss`.

    Backward: ȳ = −L̄ t and t̄ = −L̄ y where y t < 1, and 0 where y t > 1; half of it at y t = 1, as
    jax.grad has it.

    Args:
      predictor_outputs: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, −1 or 1, broadcasts against y; y's dtype or integers.

    Returns:
      L, of the broadcast shape, in y's dtype.

    Raises:
      RuleError: predictor_outputs are not real floats; targets of another float dtype.

    Source: Cortes and Vapnik, "Support-vector networks", 1995.

    >>> import jax
    >>> from overbar import losses
    >>> print(*jax.value_and_grad(losses.hinge_loss)(0.25, 1))
    0.75 -1.0
    """
    y = real_floats("losses.hinge_loss", "predictor_outputs", predictor_outputs)
    t = beside("losses.hinge_loss", "targets", targets, "predictor_outputs", y)
    return jnp.maximum(0, 1 - y * t)


@elementwise(
    _by_both(_perceptron),
    {
        "predictor_outputs": "ȳ = −L̄ t where y t < 0, else 0",
        "targets": "t̄ = −L̄ y where y t < 0, else 0",
    },
    integers=("targets",),
    reference=lambda predictor_outputs, targets: jax_nn.relu(-predictor_outputs * targets),
    samples=_scores_and(_signs, kinks=True, equal=True),
)
def perceptron_loss(predictor_outputs: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Perceptron loss of a score y and a sign t, L = max(0, −y t); as `optax.losses.perceptron_loss`.

    Backward: ȳ = −L̄ t and t̄ = −L̄ y where y t < 0, and 0 where y t > 0; half of it at y t = 0, as
    jax.grad has it.

    Args:
      predictor_outputs: y, any shape; float16, bfloat16, float32 or float64.
      targets: t, −1 or 1, of y's shape; y's dtype or integers.

    Returns:
      L, with y's shape and dtype.

    Raises:
      RuleError: predictor_outputs are not real floats; targets of another shape or float dtype.

    Source: Rosenblatt, "The perceptron", 1958.

    >>> import jax
    >>> from overbar import losses
    >>> print(*jax.value_and_grad(losses.perceptron_loss)(-0.25, 1))
    0.25 -1.0
    """
    y = real_floats("losses.perceptron_loss", "predictor_outputs", predictor_outputs)
    t = beside("losses.perceptron_loss", "targets", targets, "predictor_outputs", y)
    same_shape("losses.perceptron_loss", "targets", t, "predictor_outputs", y)
    return jnp.maximum(0, -y * t)


# Derivation for L = s(z), where z = −x for a label that is not 0, else x, and
# s(z) = 0 for z ≤ −1, (z + 1)²/4 between, and z for z ≥ 1.
#   (1) s'(z) = 0, (z + 1)/2 and 1: (z + 1)/2, held between 0 and 1, which overflows nowhere
#   (2) x̄ = ∓L̄ s'(z)
#   (3) a label is only asked whether it is 0: t̄ = 0
def _sparsemax_slope(logits: jax.Array, labels: jax.Array) -> jax.Array:
    z = jnp.where(labels != 0, -logits, logits)
    slope = jnp.clip((z + 1) / 2, 0, 1)  # (1)
    return jnp.where(labels != 0, -slope, slope)  # (2)


def _sparsemax_reference(logits: jax.Array, labels: jax.Array) -> jax.Array:
    z = logits * (1 - 2 * (labels != 0).astype(logits.dtype))
    p = jnp.clip(z / 2 + 0.5, 0, 1)  # the sparse sigmoid, whose integral is the loss
    return p * (z + 1) - p * p


def _coins(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return draws.bernoulli(key, 0.5, shape).astype(jnp.float32)


@elementwise(
    {"logits": _sparsemax_slope, "labels": lambda labels: jnp.zeros_like(labels, bool)},  # (3)
    {"logits": "x̄ = ∓L̄ clip((1 ∓ x)/2, 0, 1), − where t ≠ 0", "labels": "t̄ = 0"},
    integers=("labels",),
    reference=_sparsemax_reference,
    samples=_scores_and(_coins),
)
def sparsemax_loss(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Binary sparsemax loss of a score x and a label t; as `optax.losses.sparsemax_loss`.

    Backward: x̄ = L̄ clip((1 + x)/2, 0, 1) for a label of 0, x̄ = −L̄ clip((1 − x)/2, 0, 1) for another, finite
    for all x. A label has no derivative: t̄ = 0.

    Args:
      logits: x, any shape; float16, bfloat16, float32 or float64.
      labels: t, 0 or 1, broadcasts against x; integers, booleans or floats.

    Returns:
      z for z ≥ 1, 0 for z ≤ −1 and (z + 1)²/4 between, where z is −x for a label of 1, else x.

    Raises:
      RuleError: logits are not real floats.

    Source: Blondel, Martins, Niculae, "Learning with Fenchel-Young losses", 2020, section 4.4.

    >>> import jax
    >>> from overbar import losses
    >>> jax.value_and_grad(losses.sparsemax_loss)(0.5, 1)
    (Array(0.0625, dtype=float32, weak_type=True), Array(-0.25, dtype=float32, weak_type=True))
    """
    x = real_floats("losses.sparsemax_loss", "logits", logits)
    return jax_nn.sparse_plus(jnp.where(jnp.asarray(labels), -x, x))

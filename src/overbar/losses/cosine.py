"""Cosine similarity and distance: of two vectors, along one or more axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._dtypes import computing
from overbar.losses._inputs import Axis, bar_of, beside, real_floats, spread, where_given
from overbar.rule import Rule, Sample, rule

_DECLARED: dict[str, Any] = {
    "residuals": {
        "predictions": "a, kept anyway by the layer before",
        "targets": "b, the data",
        "epsilon": "ε, the least squared norm",
        "where": "which elements count, or None",
        "c": "the similarity, one number a pair of vectors",
    },
    "static": ("axis",),
    "arrays": ("predictions", "targets", "epsilon", "where"),
    "integers": ("epsilon",),
}


def _unit(x: jax.Array, epsilon: Any, axis: Axis, where: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x/|x|, |x| and |x|², where |x|² is at least ε."""
    square = jnp.square(x).sum(axis=axis, where=where, keepdims=True)
    norm = jnp.sqrt(square.clip(epsilon))
    return x / norm, norm, square


def _similarity(name: str, predictions: Any, targets: Any, epsilon: Any, axis: Axis, where: Any) -> jax.Array:
    rule = f"losses.{name}"
    a = real_floats(rule, "predictions", predictions)
    b = beside(rule, "targets", real_floats(rule, "targets", targets), "predictions", a)
    return (_unit(a, epsilon, axis, where)[0] * _unit(b, epsilon, axis, where)[0]).sum(axis=axis, where=where)


@rule(
    bars={
        "predictions": "ā = L̄ (b/|b| − c a/|a|)/|a|",
        "targets": "b̄ = L̄ (a/|a| − c b/|b|)/|b|",
        "epsilon": "ε̄ = −Σ L̄ c/(2ε) for each of a and b that is shorter than √ε",
    },
    **_DECLARED,
)
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cosine similarity, c = ⟨a, b⟩/(|a| |b|); as `optax.losses.cosine_similarity`.

    Backward: ā = L̄ (b/|b| − c a/|a|)/|a|, and b̄ alike; without the part along a where |a|² < ε, for the
    norm is √ε then. Where `where` is false, bars are 0.

    Args:
      predictions: a, any shape; float16, bfloat16, float32 or float64.
      targets: b, broadcasts against a, its dtype.
      epsilon: ε ≥ 0, the least squared norm divided by. With 0, a zero vector gives NaN.
      axis: the axis or axes of the vectors, None for all.
      where: which elements count, booleans that broadcast; None for all.

    Returns:
      c, without the axes of the vectors, in a's dtype.

    Raises:
      RuleError: an input is not real floats, or of another dtype.

    Source: https://en.wikipedia.org/wiki/Cosine_similarity

    >>> import jax, jax.numpy as jnp
    >>> from overbar import losses
    >>> a, b = jnp.array([2.0, 0.0]), jnp.array([3.0, 4.0])
    >>> print(f"{losses.cosine_similarity(a, b):.4f}")
    0.6000
    >>> print(*(f"{x:.4f}" for x in jax.grad(losses.cosine_similarity)(a, b)))
    0.0000 0.4000
    """
    return _similarity("cosine_similarity", predictions, targets, epsilon, axis, where)


@rule(
    bars={
        "predictions": "ā = −L̄ (b/|b| − c a/|a|)/|a|",
        "targets": "b̄ = −L̄ (a/|a| − c b/|b|)/|b|",
        "epsilon": "ε̄ = Σ L̄ c/(2ε) for each of a and b that is shorter than √ε",
    },
    **_DECLARED,
)
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cosine distance, 1 − ⟨a, b⟩/(|a| |b|); as `optax.losses.cosine_distance`.

    Backward: the bars of `cosine_similarity`, negated.

    Args:
      predictions: a, any shape; float16, bfloat16, float32 or float64.
      targets: b, broadcasts against a, its dtype.
      epsilon: ε ≥ 0, the least squared norm divided by. With 0, a zero vector gives NaN.
      axis: the axis or axes of the vectors, None for all.
      where: which elements count, booleans that broadcast; None for all.

    Returns:
      1 − c, without the axes of the vectors, in a's dtype.

    Raises:
      RuleError: an input is not real floats, or of another dtype.

    Source: https://en.wikipedia.org/wiki/Cosine_similarity

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> print(f"{losses.cosine_distance(jnp.array([2.0, 0.0]), jnp.array([3.0, 4.0])):.4f}")
    0.4000
    """
    return 1.0 - _similarity("cosine_distance", predictions, targets, epsilon, axis, where)


# Derivation for c = ⟨u, v⟩, u = a/m, v = b/n, m = √max(|a|², ε), n alike.
#   (1) ċ = ⟨v, u̇⟩ + ⟨u, v̇⟩
#   (2) u̇ = ȧ/m − u ṁ/m, and ṁ = ⟨u, ȧ⟩ where |a|² > ε, else ε̇/(2m)
#   (3) ⟨v, u̇⟩ = ⟨v − c u, ȧ⟩/m where |a|² > ε, else ⟨v, ȧ⟩/m − c ε̇/(2ε), for m² = ε
#   (4) so ā = L̄ (v − c u)/m or L̄ v/m; halfway between the two at |a|² = ε, as JAX has it
#   (5) v − c u = (b − (c n/m) a)/n: of the inputs themselves, which have not been rounded
#   (6) (5) is at right angles to a. What rounding has left of a in it is taken out: where a and b are
#       nearly parallel, it is as large as the bar
#   (7) ε̄ = −Σ L̄ c/(2ε) for each of the two norms that is √ε
def _declare(loss: Rule[..., jax.Array], sign: int) -> None:
    """Declares both passes of sign · c, plus a constant."""

    @loss.forward
    def forward(axis: Axis, **values: Any) -> tuple[jax.Array, dict[str, Any]]:
        c = cosine_similarity.primal(axis=axis, **values)
        return (c if sign > 0 else 1.0 - c), {**values, "c": c}

    @loss.backward
    def backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axis) -> dict[str, Any]:
        a, b, where = residuals["predictions"], residuals["targets"], residuals["where"]
        wide = computing(y_bar.dtype)
        epsilon = residuals["epsilon"].astype(wide)
        (_, m, aa), (_, n, bb) = (_unit(x.astype(wide), epsilon, axis, where) for x in (a, b))
        c, c_bar = (spread(x.astype(wide), axis, m.ndim) for x in (residuals["c"], sign * y_bar))

        def free(square: jax.Array) -> jax.Array:
            """How much of a norm moves with its vector: all, none, or half of it at ε."""
            return jnp.where(square > epsilon, 1.0, jnp.where(square == epsilon, 0.5, 0.0)).astype(wide)

        def bar(a: jax.Array, b: jax.Array, ratio: jax.Array, square: jax.Array) -> jax.Array:
            a, b = where_given(where, a.astype(wide)), where_given(where, b.astype(wide))
            moves = free(square)
            ratio = jnp.where(jnp.isfinite(ratio), ratio, 0.0)  # c is 0 where a norm has overflowed
            across = b - moves * c * ratio * a  # (5)
            along = (across * a).sum(axis=axis, keepdims=True) / jnp.where(square > 0, square, 1)
            return c_bar / m / n * (across - jnp.floor(moves) * along * a)  # (6)

        bound = 2 - free(aa) - free(bb)
        epsilon_bar = jnp.where(bound > 0, -c_bar * c * bound / (2 * epsilon), jnp.zeros_like(c))  # (7)
        return {
            "predictions": bar_of(a, bar(a, b, n / m, aa)),
            "targets": bar_of(b, bar(b, a, m / n, bb)),
            "epsilon": bar_of(residuals["epsilon"], epsilon_bar),
        }


_declare(cosine_similarity, 1)
_declare(cosine_distance, -1)


@cosine_similarity.reference
def cosine_similarity_reference(
    predictions: Any, targets: Any, *, epsilon: Any, axis: Axis, where: Any
) -> jax.Array:
    counts = 1 if where is None else jnp.asarray(where, predictions.dtype)

    def square(x: jax.Array) -> jax.Array:
        return jnp.maximum((counts * x * x).sum(axis, keepdims=True), epsilon)

    product = (counts * predictions * targets).sum(axis, keepdims=True)
    return (product * (square(predictions) * square(targets)) ** -0.5).sum(axis)


@cosine_distance.reference
def cosine_distance_reference(
    predictions: Any, targets: Any, *, epsilon: Any, axis: Axis, where: Any
) -> jax.Array:
    return 1 - cosine_similarity_reference(predictions, targets, epsilon=epsilon, axis=axis, where=where)


def _samples(key: jax.Array) -> Iterator[Sample]:
    def make(shape: tuple[int, ...], other: tuple[int, ...] | None = None) -> tuple[jax.Array, jax.Array]:
        ka, kb = jax.random.split(key)
        return draws.normal(ka, shape), draws.normal(kb, other or shape)

    yield Sample("rows", make((3, 4)))
    yield Sample(
        "masked, short ones", make((3, 4)), {"epsilon": 2.5, "where": jnp.arange(12).reshape(3, 4) % 5 > 0}
    )
    yield Sample("one target for all rows", make((3, 4), (1, 4)))
    yield Sample("two axes", make((2, 3, 2)), {"axis": (0, -1)})
    yield Sample("all axes", make((2, 1, 3)), {"axis": None})
    yield Sample("0-d", make(()), {"axis": None})
    yield Sample("no rows", make((0, 3)))
    yield Sample("bench", make((1024, 512)), tags=("bench",))


for _loss in (cosine_similarity, cosine_distance):
    _loss.samples(_samples)

"""Focal loss of two classes: an elementwise rule with four inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._tails import tail
from overbar.elementwise import elementwise
from overbar.losses._inputs import real_floats
from overbar.rule import Sample

# Derivation for L = a c r^γ, with
#       c = −t log σ(x) − (1 − t) log σ(−x)    the cross-entropy,
#       r = (1 − t) σ(x) + t σ(−x)             the probability of being wrong,
#       a = α t + (1 − α)(1 − t), or 1 without α.
#   (1) Let u = |x|, E = e^−u, s = 1 + E, and t₁ the weight of the label that x speaks for: t for x ≥ 0, else
#       1 − t; t₀ = 1 − t₁. Then c = t₀ u + log s and r = (t₀ + t₁ E)/s: sums of positive terms.
#   (2) ċ = ±(t₀ − t₁ E)/s ẋ,  ṙ = ±(t₀ − t₁) E/s² ẋ, with the sign of x
#   (3) x̄ = ±L̄ a r^γ [(t₀ − t₁ E) + γ c (t₀ − t₁) E/(t₀ + t₁ E)]/s
#   (4) ċ = −x ṫ,  ṙ = ∓(1 − E)/s ṫ:  t̄ = ∓L̄ r^γ {a [u + γ c (1 − E)/(t₀ + t₁ E)] ∓ (2α − 1) c}
#   (5) γ̄ = Σ L̄ a c r^γ log r
#   (6) ᾱ = Σ L̄ (2t − 1) c r^γ
#   (7) Where x is right and the label hard, t₀ = 0, all of it dies out with E: r = E/s, c = log s = κ E with
#       κ from log 2 to 1. In (3) the bracket is −E (1 + γ κ), and in (4) c/(t₀ + t₁E) is κ.
#   (8) r^γ = e^−γρ, ρ = −log r: as forward has it, rounded, and what that lacks. With a hard label, where
#       ρ = t₁ u + log s, that is log s − (ρ − t₁ u); else it is 1 − r e^ρ. E and e^−γρ are multiplied last,
#       in factors, so that nothing underflows before the bar does.


class _Parts(NamedTuple):
    """The quantities of (1) and (7)."""

    sign: jax.Array  # of x
    u: jax.Array
    E: jax.Array
    s: jax.Array
    near: jax.Array  # t₁
    far: jax.Array  # t₀
    sure: jax.Array  # whether (7) holds
    h: jax.Array  # t₀ + t₁ E, without the E where (7) holds
    entropy: jax.Array  # c, without its E where (7) holds
    power: Any  # v, w -> v (w r^γ): v may be close to the smallest or the largest number, w not
    times_E: Any  # v -> v E where (7) holds, else v


def _parts(x: jax.Array, t: jax.Array, gamma: jax.Array) -> _Parts:
    info = jnp.finfo(x.dtype)
    u = jnp.minimum(jnp.where(x < 0, -x, x), info.max)  # at ∞ · E the limit is 0
    sign = jnp.where(x < 0, -jnp.ones_like(x), jnp.ones_like(x))
    e = tail(u)
    E = jnp.exp(-jnp.abs(x))  # as forward has it, so that a compiler takes it once
    s = 1 + E
    near, far = jnp.where(x < 0, 1 - t, t), jnp.where(x < 0, t, 1 - t)
    sure = (far == 0) & (gamma >= 0)
    h = jnp.where(sure, near, far + near * E)
    log_s = jnp.log1p(E)
    tiny = info.eps > E
    kappa = jnp.where(tiny, jnp.ones_like(E), log_s / jnp.where(tiny, 1, E))

    def times_E(v: jax.Array) -> jax.Array:
        return jnp.where(sure, e.times(v, e.q), v)

    entropy = jnp.where(sure, kappa, far * u + log_s)
    size = jnp.minimum(-_log_wrong(*_log_sigmoids(x), t), info.max)
    lost = jnp.where((far == 0) | (near == 0), log_s - (size - u * near), 1 - h / s * jnp.exp(size))
    return _Parts(sign, u, E, s, near, far, sure, h, entropy, _power(gamma, size, lost), times_E)


def _power(gamma: jax.Array, size: jax.Array, lost: jax.Array) -> Any:
    """v, w -> v (w r^γ), where −log r is size + lost.

    An error of the exponent comes out as large in its power: so what size and its product with γ have
    lost by rounding is put back.
    """
    gamma = jnp.minimum(gamma, jnp.finfo(gamma.dtype).max)
    exponent = gamma * size
    e = tail(exponent, _product_error(gamma, size, exponent) + gamma * lost)
    return lambda v, w: e.times(v, w * e.q)


def _product_error(a: jax.Array, b: jax.Array, product: jax.Array) -> jax.Array:
    """What a · b has more than the rounded product, from products of half as many digits, which are exact."""
    a, b, product = map(jax.lax.stop_gradient, (a, b, product))
    exponent, mantissa = (8, 11) if jnp.finfo(b.dtype).bits == 32 else (11, 25)
    (a0, a1), (b0, b1) = (
        (high, v - high) for v in (a, b) for high in (jax.lax.reduce_precision(v, exponent, mantissa),)
    )
    error = ((a0 * b0 - product) + (a0 * b1 + a1 * b0)) + a1 * b1
    return jnp.where(jnp.abs(error) < 1, error, jnp.zeros_like(error))  # else it is ∞ − ∞, and r^γ is 0


def _log_sigmoids(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log σ(x) and log σ(−x), as `jax.nn.log_sigmoid` computes each, with one logarithm for both."""
    log_s = jnp.log1p(jnp.exp(-jnp.abs(x)))
    return -(jnp.maximum(-x, 0) + log_s), -(jnp.maximum(x, 0) + log_s)


def _log_wrong(log_p: jax.Array, log_q: jax.Array, t: jax.Array) -> jax.Array:
    """log r = log ((1 − t) σ(x) + t σ(−x)), with the arithmetic of `jax.scipy.special.logsumexp`.

    Of the two exponentials over the larger one the other is 1: it need not be computed, nor the two
    be stacked in an array.
    """
    a, b = jnp.where(1 - t != 0, log_p, -jnp.inf), jnp.where(t != 0, log_q, -jnp.inf)
    first = a > b
    high, low = jnp.where(first, a, b), jnp.where(first, b, a)
    of_high, of_low = jnp.where(first, 1 - t, t), jnp.where(first, t, 1 - t)
    most = jnp.where(high == -jnp.inf, 0, high)
    less = jnp.where(low == -jnp.inf, 0, jnp.exp(low - most) * of_low)
    r = jnp.where(high == -jnp.inf, 0, of_high) + less
    return jnp.where(r < 0, jnp.nan, jnp.log(jnp.abs(r)) + most)


def _weight(t: jax.Array, alpha: jax.Array | None) -> Any:
    return 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)


def _by_logits(y_bar: Any, logits: Any, labels: Any, alpha: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels, gamma)
    wrong = (p.far - p.near * p.E) + gamma * ((p.far - p.near) * (p.entropy * (p.E / p.h)))
    slope = jnp.where(p.sure, -(1 + gamma * p.entropy), wrong) / p.s
    return p.times_E(p.power(y_bar * _weight(labels, alpha), p.sign * slope))  # (3)


def _by_labels(y_bar: Any, logits: Any, labels: Any, alpha: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels, gamma)
    slope = -p.sign * (p.u + gamma * (p.entropy * (1 - p.E) / p.h)) * _weight(labels, alpha)
    if alpha is not None:
        slope = slope + (2 * alpha - 1) * jnp.where(p.sure, p.entropy * p.E, p.entropy)
    return p.power(y_bar, slope)  # (4)


def _by_alpha(y_bar: Any, logits: Any, labels: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels, gamma)
    return p.times_E(p.power(y_bar, (2 * labels - 1) * p.entropy))  # (6)


def _by_gamma(y_bar: Any, logits: Any, labels: Any, alpha: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels, gamma)
    right = (p.near + p.far * p.E) / p.s  # 1 − r
    likely = right < 0.25  # to where log1p is exact: before JAX 0.12 XLA's lost 126 ULP at −0.41 in float64
    near_1 = jnp.log1p(-jnp.where(likely, right, 0))
    log_r = jnp.where(likely, near_1, jnp.log(p.h) - jnp.log1p(p.E))
    log_r = jnp.where(p.sure, -p.u - jnp.log1p(p.E), log_r)
    return p.times_E(p.power(y_bar * _weight(labels, alpha), p.entropy * log_r))  # (5)


def _reference(logits: Any, labels: Any, *, alpha: Any, gamma: Any) -> jax.Array:
    t = labels.astype(logits.dtype)
    entropy = t * jnp.logaddexp(0, -logits) + (1 - t) * jnp.logaddexp(0, logits)
    wrong = (1 - t) / (1 + jnp.exp(-logits)) + t / (1 + jnp.exp(logits))
    loss = entropy * wrong**gamma
    return loss if alpha is None else loss * (alpha * t + (1 - alpha) * (1 - t))


def _samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt = jax.random.split(key)
    x, t = 2 * jax.random.normal(kx, (3, 4)), jax.random.uniform(kt, (3, 4))
    hard = (t > 0.5).astype(jnp.float32)
    yield Sample("soft labels", (x, t), {"alpha": 0.3, "gamma": 1.5})
    yield Sample("hard labels", (10 * x, hard))
    yield Sample("integer labels", (x, hard.astype(jnp.int32)), {"gamma": 0.5})
    yield Sample("broadcast", (x, t[:1]), {"alpha": jnp.full((3, 1), 0.25)})
    yield Sample("scalar", (x[0, 0], t[0, 0]))
    yield Sample("empty", (x[:0], t[:0]))
    big = jax.random.normal(kx, (512, 1024))
    yield Sample("bench", (big, (big > 1).astype(jnp.float32)), {"alpha": 0.25}, tags=("bench",))


@elementwise(
    {"logits": _by_logits, "labels": _by_labels, "alpha": _by_alpha, "gamma": _by_gamma},
    {
        "logits": "x̄ = L̄ a (c′ r^γ + c γ r^(γ−1) r′), c′ = (1 − t) σ(x) − t σ(−x), r′ = (1 − 2t) σ(x) σ(−x)",
        "labels": "t̄ = L̄ r^γ ((2α − 1) c − a (x + c γ tanh(x/2)/r))",
        "alpha": "ᾱ = Σ L̄ (2t − 1) c r^γ",
        "gamma": "γ̄ = Σ L̄ a c r^γ log r",
    },
    integers=("labels", "alpha", "gamma"),
    reference=_reference,
    samples=_samples,
)
def sigmoid_focal_loss(
    logits: ArrayLike, labels: ArrayLike, *, alpha: ArrayLike | None = None, gamma: ArrayLike = 2.0
) -> jax.Array:
    """Focal loss, L = a c r^γ: the cross-entropy c, weighted by how probable a mistake is, r = (1 − t) σ(x) +
    t σ(−x); as `optax.losses.sigmoid_focal_loss`.

    Backward: x̄ = L̄ a (c′ r^γ + c γ r^(γ−1) r′) with c′ = (1 − t) σ(x) − t σ(−x) and r′ = (1 − 2t) σ(x) σ(−x),
    accurate and finite for all x.

    Args:
      logits: x, any shape; float16, bfloat16, float32 or float64.
      labels: t from 0 to 1, broadcasts against x; floats, integers or booleans.
      alpha: a = α t + (1 − α)(1 − t) balances the two labels; None for a = 1. Broadcasts against x.
      gamma: γ ≥ 0, how little is cared for what is right already. Broadcasts against x.

    Returns:
      L, of the broadcast shape, in x's dtype.

    Raises:
      RuleError: logits are not real floats.

    Source: Lin et al., "Focal loss for dense object detection", 2017.

    >>> import jax
    >>> from overbar import losses
    >>> print(f"{losses.sigmoid_focal_loss(0.0, 1):.4f}")
    0.1733
    >>> print(f"{jax.grad(losses.sigmoid_focal_loss)(10.0, 1):.4g}")
    -2.807e-13
    """
    x = real_floats("losses.sigmoid_focal_loss", "logits", logits)
    t = jnp.astype(jnp.asarray(labels), x.dtype)
    log_p, log_q = _log_sigmoids(x)
    entropy = -t * log_p - (1.0 - t) * log_q
    log_r = _log_wrong(log_p, log_q, t)
    loss = entropy * jnp.exp(gamma * log_r)
    return loss if alpha is None else jnp.asarray((alpha * t + (1.0 - alpha) * (1.0 - t)) * loss)

"""Focal loss of two classes: an elementwise rule with four inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._tails import exp_series, log_parts, once, plain, ratio, tail, two_sum
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
#   (7) Where x is right, t₀ ≤ t₁ E, all of it dies out with E, and E is taken out: let A = t₀/E and B = t₁
#       there, else A = t₀ and B = t₁ E, and h = A + B. Then there, and elsewhere without the E: r = E h/s;
#       c = E C, with C = A u + log s/E, else C = c; (t₀ − t₁) E = E D, D = t₀ − t₁, else D = (t₀ − t₁) E.
#   (8) With 1/s from r, (3) is x̄ = ±L̄ a r^(γ + 1) [(A − B) + γ C D/h]/h; and with E from r, c r^γ is
#       C r^(γ + 1) s/h where x is right, else C r^γ: nothing but a power of r is small.
#   (9) r^n = e^−nρ with ρ = −log r = log s − log h, and u more where x is right: as a pair of numbers, since
#       an error of the exponent comes out as large in its power


class _Parts(NamedTuple):
    """The quantities of (1), (7) and (9)."""

    sign: jax.Array  # of x
    u: jax.Array
    E: jax.Array
    s: jax.Array
    near: jax.Array  # t₁
    far: jax.Array  # t₀
    sure: jax.Array  # whether x is right
    A: jax.Array
    B: jax.Array
    entropy: jax.Array  # C
    rho: jax.Array
    rho_low: jax.Array

    @property
    def h(self) -> jax.Array:
        return self.A + self.B

    def power(self, gamma: jax.Array, more: Any, v: jax.Array, w: jax.Array) -> jax.Array:
        """v (w r^(gamma + more)): v may be close to the smallest or the largest number, w not."""
        n, lost = two_sum(jnp.minimum(gamma, jnp.finfo(gamma.dtype).max), jnp.asarray(more, gamma.dtype))
        exponent = n * self.rho
        low = _product_error(n, self.rho, exponent) + (n * self.rho_low + lost * self.rho)
        e = tail(exponent, low)
        less = jnp.abs(w) < 1  # then v before q: a small w and a small q would vanish before v lifts them
        return e.times(jnp.where(less, v * w, v), jnp.where(less, 1, w) * e.q)

    def entropy_power(self, gamma: jax.Array, v: jax.Array, w: jax.Array) -> jax.Array:
        """v (w c r^γ), by (8)."""
        factor = self.entropy * jnp.where(self.sure, ratio(self.s, self.h), 1)
        return self.power(gamma, self.sure, v, w * factor)


def _parts(x: jax.Array, t: jax.Array) -> _Parts:
    info = jnp.finfo(x.dtype)
    u = jnp.minimum(jnp.where(x < 0, -x, x), info.max)  # at ∞ · E the limit is 0
    sign = jnp.where(x < 0, -jnp.ones_like(x), jnp.ones_like(x))
    E = plain(x)  # as forward has it, so that a compiler takes it once
    s, s_lost = two_sum(E, jnp.ones_like(E))  # in this order: XLA takes (1 + E) − 1 for E
    rest, rest_lost = two_sum(-t, jnp.ones_like(t))  # 1 − t
    near, far = jnp.where(x < 0, rest, t), jnp.where(x < 0, t, rest)
    sure = far <= near * E
    some = info.tiny < E
    divisor = jnp.where(some, E, jnp.ones_like(E))
    inverse = once(ratio(jnp.ones_like(E), divisor))
    A, B = jnp.where(sure, far * inverse, far), jnp.where(sure, near, near * E)
    h = A + B
    # What E, 1 − t, A, B and h have lost to rounding: an ULP of h would be γ ULP of r^γ.
    high, low = log_parts(divisor, jnp.zeros_like(E))
    e = jnp.where(some, -(u + high) - low, jnp.zeros_like(E))  # by the part e
    product = _product_error(jnp.where(sure, A, near), E, jnp.where(sure, far, B))
    of_near, of_far = jnp.where(x < 0, rest_lost, 0), jnp.where(x < 0, 0, rest_lost)
    lost = jnp.where(
        sure, of_near + (of_far - product) * inverse - A * e, of_far + of_near * E + product + B * e
    )
    s_high, s_low = log_parts(s, s_lost + e * E)
    h_high, h_low = log_parts(h, jnp.where(A < B, A - (h - B), B - (h - A)) + lost)
    log_s = s_high + s_low
    kappa = jnp.where(some, once(ratio(log_s, divisor)), jnp.ones_like(E))
    entropy = A * u + jnp.where(sure, kappa, log_s)

    rho, low = two_sum(s_high, -h_high)
    rho, lower = two_sum(rho, jnp.where(sure, u, jnp.zeros_like(u)))
    rho, low = two_sum(rho, (s_low - h_low) + (low + lower))
    rho = jnp.where(h > 0, rho, jnp.where(h < 0, jnp.nan, info.max))
    return _Parts(sign, u, E, s, near, far, sure, A, B, entropy, rho, low)


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
    p = _parts(logits, labels)
    D = jnp.where(p.sure, p.far - p.near, (p.far - p.near) * p.E)
    slope = ratio((p.A - p.B) + gamma * (p.entropy * ratio(D, p.h)), p.h)
    return p.power(gamma, 1, y_bar * _weight(labels, alpha), p.sign * slope)  # (3), (8)


def _by_labels(y_bar: Any, logits: Any, labels: Any, alpha: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels)
    near_0 = p.u < 0.5
    z = jnp.where(near_0, p.u, 0)
    less = jnp.where(near_0, z * exp_series(-z, 1, 0.5), 1 - p.E)  # 1 − E
    part = jnp.where(p.u > 2.0**100, 2.0**-8, 1.0)  # of a sum that would overflow where its product does not
    u, entropy = part * p.u, part * p.entropy
    slope = -p.sign * (u + gamma * ratio(entropy * less, p.h)) * _weight(labels, alpha)
    if alpha is not None:
        slope = slope + (2 * alpha - 1) * jnp.where(p.sure, entropy * p.E, entropy)
    return p.power(gamma, 0, y_bar, slope) / part  # (4)


def _by_alpha(y_bar: Any, logits: Any, labels: Any, gamma: Any) -> jax.Array:
    return _parts(logits, labels).entropy_power(gamma, y_bar, 2 * labels - 1)  # (6)


def _by_gamma(y_bar: Any, logits: Any, labels: Any, alpha: Any, gamma: Any) -> jax.Array:
    p = _parts(logits, labels)
    right = (p.near + p.far * p.E) / p.s  # 1 − r
    likely = right < 0.25  # to where log1p is exact: before JAX 0.12 XLA's lost 126 ULP at −0.41 in float64
    log_r = jnp.where(likely, jnp.log1p(-jnp.where(likely, right, 0)), -p.rho)
    return p.entropy_power(gamma, y_bar * _weight(labels, alpha), log_r)  # (5)


def _reference(logits: Any, labels: Any, *, alpha: Any, gamma: Any) -> jax.Array:
    t = labels.astype(logits.dtype)
    entropy = t * jnp.logaddexp(0, -logits) + (1 - t) * jnp.logaddexp(0, logits)
    wrong = (1 - t) / (1 + jnp.exp(-logits)) + t / (1 + jnp.exp(logits))
    loss = entropy * wrong**gamma
    return loss if alpha is None else loss * (alpha * t + (1 - alpha) * (1 - t))


def _samples(key: jax.Array) -> Iterator[Sample]:
    kx, kt = jax.random.split(key)
    x, t = 2 * draws.normal(kx, (3, 4)), draws.uniform(kt, (3, 4))
    hard = (t > 0.5).astype(jnp.float32)
    yield Sample("soft labels", (x, t), {"alpha": 0.3, "gamma": 1.5})
    yield Sample("hard labels", (10 * x, hard))
    yield Sample("integer labels", (x, hard.astype(jnp.int32)), {"gamma": 0.5})
    yield Sample("broadcast", (x, t[:1]), {"alpha": jnp.full((3, 1), 0.25)})
    yield Sample("scalar", (x[0, 0], t[0, 0]))
    yield Sample("empty", (x[:0], t[:0]))
    big = draws.normal(kx, (512, 1024))
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

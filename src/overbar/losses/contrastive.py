"""Losses over embeddings: positive pairs beside the negative ones; as `optax.losses` has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, laid
from overbar._contract import RuleError, describe, is_float
from overbar._dtypes import computing, widest
from overbar.losses._inputs import bar_of, check_axis, real_floats
from overbar.rule import Sample, rule


@rule(
    bars={
        "embeddings": "ū = (C̄ + C̄ᵀ) u/τ, ē = (ū − u ⟨u, ū⟩)/‖e‖, u = e/‖e‖",
        "labels": "0: they are only compared",
        "temperature": "τ̄ = −Σ C̄ C/τ²",
    },
    residuals={
        "embeddings": "e",
        "labels": "the data",
        "temperature": "τ, a number",
        "similarities": "C/τ, the cosines of all pairs",
    },
    arrays=("embeddings", "labels", "temperature"),
    integers=("labels", "temperature"),
)
def ntxent(embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike = 0.07) -> jax.Array:
    """Normalized temperature-scaled cross-entropy (NT-Xent); the rule under `optax.losses`' name.

    With C_ij the cosine of e_i and e_j, the mean over all positive pairs (i ≠ j of one label) of
    −log(exp(C_ij/τ) / (exp(C_ij/τ) + Σ over the negatives k of i of exp(C_ik/τ))).

    Backward: of a positive pair the bar of C_ij/τ is minus what its negatives take, of a negative
    one the sum of what it takes from the positives; from there by two matrix products.

    Args:
      embeddings: e, (batch, features); float16, bfloat16, float32 or float64.
      labels: (batch,), equal for what belongs together.
      temperature: τ, a number; it has a bar where it is float.

    Returns:
      The loss, 0-d, of the embeddings' dtype; nan where there is no positive pair.

    Raises:
      RuleError: embeddings are not float or not (batch, features), or labels not (batch,).

    Source: Chen et al., "A simple framework for contrastive learning of visual representations", 2020.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> e = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> print(f"{losses.ntxent(e, jnp.array([0, 0, 1, 1]), temperature=1.0):.4f}")
    0.5514
    """
    loss, _ = _ntxent(*_pairs(embeddings, labels, temperature))
    return loss.astype(jnp.asarray(embeddings).dtype)


def _pairs(
    embeddings: ArrayLike, labels: ArrayLike, temperature: ArrayLike
) -> tuple[jax.Array, float, jax.Array, jax.Array]:
    """Embeddings, the least ‖e‖², labels, temperature as computed with; refuses what does not fit."""
    name = "losses.ntxent"
    e = real_floats(name, "embeddings", embeddings, least=1)
    labels, tau = jnp.asarray(labels), jnp.asarray(temperature)
    if e.ndim != 2 or labels.shape != e.shape[:1] or tau.ndim:
        raise RuleError(
            f"rule {name}: expected embeddings (batch, features), labels (batch,) and a number temperature, "
            f"but came embeddings {describe(e)}, labels {describe(labels)}, temperature {describe(tau)}."
        )
    wide = computing(e.dtype)
    return e.astype(wide), float(jnp.finfo(e.dtype).eps), labels, tau.astype(wide)


def _units(e: jax.Array, least: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """e/‖e‖ with ‖e‖² at least as given, that norm, and how much of it follows e: 1, at the kink ½, or 0."""
    square = jnp.sum(jnp.square(e), axis=-1, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(square, least))
    follows = jnp.where(square > least, 1.0, jnp.where(square == least, 0.5, 0.0))
    return e / norm, norm, jax.lax.stop_gradient(follows).astype(e.dtype)


def _everywhere(x: jax.Array) -> jax.Array:
    """x whole on each device of a mesh with explicit axes: what each row of a batch is compared with."""
    return laid(x, explicit_sharding(x, slice(0)))


def _matching(labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pairs are positive, an entry and itself apart, and which are negative."""
    same = labels[:, None] == _everywhere(labels)[None, :]
    return same & ~jnp.eye(labels.shape[0], dtype=bool), ~same


def _ntxent(e: jax.Array, least: float, labels: jax.Array, tau: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss and C/τ, with optax's arithmetic: products summed, no matrix product."""
    u, _, _ = _units(e, least)
    x = jnp.sum(_everywhere(u)[None, :, :] * u[:, None, :], axis=-1) / tau
    positive, negative = _matching(labels)
    peak = _peak(x, positive, negative)
    of_negative = jnp.sum(jnp.exp(jnp.where(negative, x, -jnp.inf) - peak), axis=1, keepdims=True)
    shifted = jnp.where(positive, x, -jnp.inf) - peak
    log_p = shifted - jnp.log(of_negative + jnp.exp(shifted))
    kept = jnp.where(positive, log_p, jnp.zeros((), x.dtype))
    return -kept.sum() / positive.sum().astype(x.dtype), x


def _peak(x: jax.Array, positive: jax.Array, negative: jax.Array) -> jax.Array:
    peak = jnp.max(x, axis=1, where=positive | negative, initial=-jnp.inf, keepdims=True)
    return jax.lax.stop_gradient(peak)


@ntxent.forward
def ntxent_forward(
    embeddings: jax.Array, labels: jax.Array, temperature: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    loss, x = _ntxent(*_pairs(embeddings, labels, temperature))
    kept = {"embeddings": embeddings, "labels": labels, "temperature": temperature, "similarities": x}
    return loss.astype(embeddings.dtype), kept


# Derivation for L = (1/M) Σ over the positive pairs of [log(D_i + exp X_ij) − X_ij], where X = C/τ,
# D_i = Σ_k exp X_ik over the negatives of i, M the number of positive pairs.
#   (1) of a positive pair X̄_ij = (L̄/M) (exp X_ij/(D_i + exp X_ij) − 1) = −(L̄/M) D_i/(D_i + exp X_ij):
#       nothing cancels
#   (2) of a negative pair X̄_ik = (L̄/M) exp X_ik Σ_j 1/(D_i + exp X_ij) over the positives j of i
#   (3) X = C/τ: C̄ = X̄/τ and τ̄ = −Σ X̄ X/τ
#   (4) C = u uᵀ: ū = (C̄ + C̄ᵀ) u, since each u is used in a row and in a column
#   (5) u = e/n: ē = ū/n + e n̄/n with n̄ = −⟨ū, u⟩/n, where n = ‖e‖ is not the least norm; else n̄ ends
@ntxent.backward
def ntxent_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    embeddings, temperature, x = (residuals[n] for n in ("embeddings", "temperature", "similarities"))
    e, least, labels, tau = _pairs(embeddings, residuals["labels"], temperature)
    nothing = jnp.zeros((), x.dtype)
    positive, negative = _matching(labels)
    power = jnp.exp(x - _peak(x, positive, negative))
    of_negative = jnp.sum(jnp.where(negative, power, nothing), axis=1, keepdims=True)
    share = y_bar.astype(x.dtype) / positive.sum().astype(x.dtype)
    each = jnp.where(positive, share / (of_negative + power), nothing)
    x_bar = jnp.where(negative, power * jnp.sum(each, axis=1, keepdims=True), -each * of_negative)  # (1, 2)
    x_bar = jnp.where(positive | negative, x_bar, nothing)
    u, norm, follows = _units(e, least)
    highest = jax.lax.Precision.HIGHEST
    u_bar = jnp.matmul((x_bar + x_bar.T) / tau, u, precision=highest)  # (3, 4)
    along = follows * jnp.sum(u_bar * u, axis=-1, keepdims=True)
    bars = {"embeddings": ((u_bar - u * along) / norm).astype(embeddings.dtype)}  # (5)
    if is_float(temperature):
        bars["temperature"] = (-jnp.sum(x_bar * x) / tau).astype(temperature.dtype)  # (3)
    if is_float(residuals["labels"]):
        bars["labels"] = jnp.zeros_like(residuals["labels"])
    return bars


@ntxent.reference
def ntxent_reference(embeddings: jax.Array, labels: jax.Array, temperature: jax.Array) -> jax.Array:
    u = embeddings / jnp.linalg.norm(embeddings, axis=1, keepdims=True)
    powers = jnp.exp(u @ u.T / temperature)
    same = jax.vmap(lambda label: labels == label)(labels)
    others = jnp.where(same, 0, powers).sum(1, keepdims=True)
    pairs = jnp.where(jnp.identity(labels.size, bool), False, same)
    return jnp.where(pairs, jnp.log1p(others / powers), 0).sum() / pairs.sum().astype(powers.dtype)


@ntxent.samples
def ntxent_samples(key: jax.Array) -> Iterator[Sample]:
    def normal(*shape: int) -> jax.Array:
        return draws.normal(key, shape)

    yield Sample("two pairs", (normal(4, 3), jnp.array([0, 0, 1, 1])), {"temperature": 0.5})
    yield Sample("one alone", (normal(5, 2), jnp.array([0, 1, 0, 2, 0]), jnp.float32(0.7)))
    yield Sample("one feature", (normal(4, 1), jnp.array([0, 1, 0, 1]), jnp.float32(1.0)))
    yield Sample("no positive pair", (normal(0, 3), jnp.zeros(0, int), jnp.float32(0.5)), tags=("kink",))
    yield Sample("bench", (normal(256, 64), jnp.arange(256) // 2), tags=("bench",))


# ---------------------------------------------------------------------- triplets


@rule(
    bars={
        "anchors": "ā = L̄ [L > 0] (∂d⁺/∂a − ∂d⁻/∂a), ∂d/∂x = d x^(k−1)/S",
        "positives": "p̄ = −L̄ [L > 0] ∂d⁺/∂a",
        "negatives": "n̄ = L̄ [L > 0] ∂d⁻/∂a",
        "norm_degree": "k̄ = L̄ [L > 0] (∂d⁺/∂k − ∂d⁻/∂k), ∂d/∂k = d (Σ x^k log x/S − log S/k)/k",
        "margin": "m̄ = L̄ [L > 0]",
        "eps": "ε̄ = L̄ [L > 0] (d⁺/S⁺ − d⁻/S⁻)/k",
    },
    residuals={
        "near": "a − p",
        "far": "a − n",
        "shapes": "arrays of the inputs' shapes and dtypes without an entry",
        "norm_degree": "k, a number",
        "margin": "m",
        "eps": "ε",
    },
    static=("axis",),
    arrays=("anchors", "positives", "negatives", "norm_degree", "margin", "eps"),
    integers=("norm_degree", "margin", "eps"),
)
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
) -> jax.Array:
    """Triplet loss, L = max(d(a, p) − d(a, n) + margin, 0); the rule under `optax.losses`' name.

    d(a, x) = (Σ (a − x)^k + ε)^(1/k), with k = norm_degree; no absolute value is taken, as in optax.

    Backward: with S = Σ (a − x)^k + ε and d = S^(1/k), the bar of a − x is d̄ d (a − x)^(k−1)/S. 0
    where the loss is 0, half at the kink.

    Args:
      anchors, positives, negatives: (..., features), which broadcast against each other; float16,
        bfloat16, float32 or float64.
      axis: the axis of the features, or several.
      norm_degree: k, a number; an integer has no bar. The bar of a float one is nan where a − x < 0.
      margin, eps: numbers, or arrays that broadcast against the loss; they have bars where they are float.

    Returns:
      One loss a row, of the inputs' dtype.

    Raises:
      RuleError: inputs are not float or do not broadcast; there is no such axis.

    Source: Balntas et al., "Learning shallow convolutional feature descriptors with triplet losses", 2016.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> a, p, n = jnp.array([0.0, 0.0]), jnp.array([0.0, 1.0]), jnp.array([1.5, 0.0])
    >>> print(f"{losses.triplet_margin_loss(a, p, n):.4f}")
    0.5000
    """
    ap, an, dtype = _differences(anchors, positives, negatives, norm_degree, axis)
    k, margin, eps = _numbers(norm_degree, margin, eps, ap.dtype)
    near, far = (_root(_power(x, k).sum(axis) + eps, k) for x in (ap, an))
    return jnp.maximum(near - far + margin, 0).astype(dtype)


def _differences(
    anchors: ArrayLike, positives: ArrayLike, negatives: ArrayLike, norm_degree: ArrayLike, axis: Any
) -> tuple[jax.Array, jax.Array, Any]:
    """a − p and a − n, and the dtype of the loss; refuses what does not fit."""
    name = "losses.triplet_margin_loss"
    arrays = {"anchors": anchors, "positives": positives, "negatives": negatives}
    for what, given in arrays.items():
        check_axis(name, what, real_floats(name, what, given, least=1), axis)
    a, p, n = (jnp.asarray(x) for x in arrays.values())
    came = f"anchors {describe(a)}, positives {describe(p)}, negatives {describe(n)}"
    if jnp.ndim(norm_degree) or not a.ndim == p.ndim == n.ndim:
        raise RuleError(
            f"rule {name}: expected arrays of one rank and a number norm_degree, "
            f"but came {came}, norm_degree {describe(jnp.asarray(norm_degree))}."
        )
    dtype = widest([a.dtype, p.dtype, n.dtype])
    a, p, n = (x.astype(computing(dtype)) for x in (a, p, n))
    try:
        return a - p, a - n, dtype
    except (TypeError, ValueError):
        raise RuleError(f"rule {name}: expected arrays that broadcast, but came {came}.") from None


def _numbers(norm_degree: ArrayLike, margin: ArrayLike, eps: ArrayLike, wide: Any) -> list[jax.Array]:
    """The numbers as they are computed with: an integer degree stays one."""
    k, *others = (jnp.asarray(x) for x in (norm_degree, margin, eps))
    return [k.astype(wide) if is_float(k) else k, *(x.astype(wide) for x in others)]


def _power(x: jax.Array, k: jax.Array) -> jax.Array:
    """x^k. By squaring where k is an integer, as jnp.power does it for a Python integer."""
    if is_float(k):
        return jnp.power(x, k)
    size, result, square = jnp.abs(k), jnp.ones_like(x), x
    for bit in range(4):
        result = jnp.where((size >> bit) & 1 == 1, result * square, result)
        square = square * square
    result = jax.lax.cond(size < 16, lambda: result, lambda: jax.lax.pow(x, size.astype(x.dtype)))
    return jnp.where(k < 0, 1 / result, result)


def _root(x: jax.Array, k: jax.Array) -> jax.Array:
    return jnp.power(x, 1 / k.astype(x.dtype))


@triplet_margin_loss.forward
def triplet_margin_loss_forward(axis: int, **values: Any) -> tuple[jax.Array, dict[str, Any]]:
    inputs = {n: values[n] for n in ("anchors", "positives", "negatives")}
    numbers = {n: values[n] for n in ("norm_degree", "margin", "eps")}
    near, far, dtype = _differences(**inputs, norm_degree=numbers["norm_degree"], axis=axis)
    return triplet_margin_loss.primal(**inputs, **numbers, axis=axis), {
        "near": near.astype(dtype),
        "far": far.astype(dtype),
        "shapes": {n: jnp.zeros((0, *x.shape), x.dtype) for n, x in inputs.items()},
        **numbers,
    }


# Derivation for L = max(d⁺ − d⁻ + m, 0), d = S^(1/k), S = Σ x^k + ε, x = a − p or a − n.
#   (1) L̇ = h (ḋ⁺ − ḋ⁻ + ṁ), h = 1 where the sum is positive, 0 where it is negative. At 0 any h in
#       between is a subgradient: ½, as jax.grad takes it
#   (2) Ṡ = Σ k x^(k−1) ẋ + k̇ Σ x^k log x + ε̇
#   (3) ḋ = d/(k S) Ṡ − k̇ d log S/k², so x̄ = d̄ d x^(k−1)/S, ε̄ = d̄ d/(k S), k̄ as the table has it
#   (4) a is used in both differences: ā = x̄⁺ + x̄⁻, p̄ = −x̄⁺, n̄ = −x̄⁻, with d̄⁺ = h L̄, d̄⁻ = −h L̄
@triplet_margin_loss.backward
def triplet_margin_loss_backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: int) -> dict[str, Any]:
    wide = computing(residuals["near"].dtype)
    ap, an = (residuals[n].astype(wide) for n in ("near", "far"))
    numbers = {n: residuals[n] for n in ("norm_degree", "margin", "eps")}
    k, margin, eps = _numbers(**numbers, wide=wide)
    axes = check_axis("losses", "anchors", ap, axis)
    sums = [_power(x, k).sum(axis) + eps for x in (ap, an)]
    near, far = (_root(s, k) for s in sums)
    slack = near - far + margin
    half = jnp.where(slack == 0, 0.5, 1.0).astype(wide)
    ends = slack < 0  # also where a negative is infinitely far

    def unless_it_ends(bar: jax.Array) -> jax.Array:
        return jnp.where(ends if bar.ndim == ends.ndim else jnp.expand_dims(ends, axes), 0.0, bar)

    h_bar = unless_it_ends(half * y_bar.astype(wide))  # (1)
    of_x, of_eps, of_k = [], [], []
    for x, s, d, d_bar in ((ap, sums[0], near, h_bar), (an, sums[1], far, -h_bar)):
        infinite = jnp.power(jnp.inf, 1 / k.astype(wide) - 1)  # the limit of d/S
        share = unless_it_ends(jnp.where(jnp.isinf(s), d_bar * infinite, d_bar * d / s))
        of_x.append(unless_it_ends(jnp.expand_dims(share, axes) * _power(x, k - 1)))  # (3)
        of_eps.append(share / k.astype(wide))
        if is_float(k):
            logs = jnp.where(x == 0, jnp.zeros((), wide), _power(x, k) * jnp.log(jnp.where(x == 0, 1.0, x)))
            of_k.append(unless_it_ends(share / k * logs.sum(axis) - d_bar * d * jnp.log(s) / (k * k)))
    bars = {"anchors": of_x[0] + of_x[1], "positives": -of_x[0], "negatives": -of_x[1]}  # (4)
    bars |= {"margin": h_bar, "eps": of_eps[0] + of_eps[1]}
    if of_k:
        bars["norm_degree"] = jnp.sum(of_k[0] + of_k[1])
    inputs = {n: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for n, x in residuals["shapes"].items()}
    inputs |= numbers
    return {n: bar_of(inputs[n], bar) for n, bar in bars.items() if is_float(inputs[n])}


@triplet_margin_loss.reference
def triplet_margin_loss_reference(
    anchors: Any, positives: Any, negatives: Any, axis: int, norm_degree: Any, margin: Any, eps: Any
) -> jax.Array:
    def distance(x: jax.Array) -> jax.Array:
        size, degree = jnp.abs(x), norm_degree.astype(x.dtype)
        sign = jnp.where(x < 0, jnp.cos(jnp.pi * degree), 1.0)  # of a negative number to an integer power
        powers = sign * jnp.exp(degree * jnp.log(jnp.where(size > 0, size, 1)))
        return jnp.exp(jnp.log(jnp.where(size > 0, powers, 0).sum(axis) + eps.astype(x.dtype)) / degree)

    slack = distance(anchors - positives) - distance(anchors - negatives)
    slack = slack + margin.astype(slack.dtype)
    return jnp.where(slack > 0, slack, 0)


@triplet_margin_loss.samples
def triplet_margin_loss_samples(key: jax.Array) -> Iterator[Sample]:
    def make(*shape: int) -> tuple[jax.Array, ...]:
        return tuple(draws.normal(k, shape) for k in jax.random.split(key, 3))

    a, p, n = make(3, 4)
    yield Sample("rows", make(5, 3), {"margin": 1.5})
    yield Sample("first axis, one anchor", (a[:, :1], p, n), {"axis": 0, "eps": 1e-3})
    ordered = (a, a - 1 - jnp.abs(p), a - 0.5 - jnp.abs(n))
    yield Sample("cubes, a margin each", ordered, {"norm_degree": 3, "margin": jnp.array([0.5, 1.0, 2.0])})
    yield Sample("a degree that has a bar", ordered, {"norm_degree": 2.5})
    yield Sample("one feature, no rows", make(0, 1))
    yield Sample("bench", make(4096, 256), tags=("bench",))

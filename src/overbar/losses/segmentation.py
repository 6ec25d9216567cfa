"""Dice losses: how far two segmentations are from covering each other, class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn
from overbar._like import summed_to
from overbar._tails import apart
from overbar.losses._inputs import Axis, bar_of, beside, keep_inputs, real_floats, same_shape
from overbar.rule import Sample, rule

LEAST_FREQUENCY = 1e-7  # beside the squared frequency of a class, against a division by 0

# ---------------------------------------------------------------------- what the three have in common


def _aligned(name: str, predictions: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both with an axis of classes, the last one, also where one of them came without it."""
    x = real_floats(name, "predictions", predictions)
    t = beside(name, "targets", targets, "predictions", x)
    if x.ndim == t.ndim - 1:
        x = x[..., None]
    if t.ndim == x.ndim - 1:
        t = t[..., None]
    same_shape(name, "targets", t, "predictions", x)
    if x.ndim == 0:
        raise RuleError(f"rule {name}: predictions need an axis of classes, but came as {describe(x)}.")
    return x, t


def _probabilities(x: jax.Array, apply: bool) -> jax.Array:
    if not apply:
        return x
    return jax_nn.sigmoid(x) if x.shape[-1] == 1 else jax_nn.softmax(x, axis=-1)


class _Dice(NamedTuple):
    """1 − (I + s)/(I + α (P − I) + β (T − I) + s) of each class, and what it is made of."""

    loss: jax.Array
    p: jax.Array  # the probabilities
    coefficient: jax.Array
    denominator: jax.Array
    both: jax.Array  # I = Σ p t
    predicted: jax.Array  # P = Σ p
    wanted: jax.Array  # T = Σ t


def _dice(
    x: jax.Array,
    t: jax.Array,
    smooth: Any,
    alpha: Any = 0.5,
    beta: Any = 0.5,
    *,
    apply: bool,
    axis: Axis = None,
) -> _Dice:
    p = _probabilities(x, apply)
    both, predicted, wanted = (jnp.sum(v, axis=_pixels(x, axis)) for v in (p * t, p, t))
    denominator = both + alpha * (predicted - both) + beta * (wanted - both) + smooth
    coefficient = (both + smooth) / denominator
    return _Dice(1.0 - coefficient, p, coefficient, denominator, both, predicted, wanted)


def _pixels(x: jax.Array, axis: Axis) -> Any:
    """The axes that are summed over: by default all but the first and the last."""
    return tuple(range(1, x.ndim - 1)) if axis is None else axis


def _along_classes(w: jax.Array, loss: jax.Array) -> jax.Array:
    """A number for each class, to stand beside the losses of (batch, classes)."""
    return jnp.expand_dims(w, tuple(range(loss.ndim - 1)))


def _without_background(loss: jax.Array, x: jax.Array, ignore_background: bool) -> jax.Array:
    return loss[..., 1:] if ignore_background and x.shape[-1] > 1 else loss


def _with_background(bar: jax.Array, x: jax.Array, ignore_background: bool) -> jax.Array:
    """The bar of what `_without_background` was given: 0 for the background."""
    if ignore_background and x.shape[-1] > 1:
        return jnp.concatenate([jnp.zeros_like(bar, shape=(*bar.shape[:-1], 1)), bar], axis=-1)
    return bar


# Derivation for d = 1 − f of a class, f = N/D, N = I + s, D = (1 − α − β) I + α P + β T + s.
#   (1) ḋ = −(Ṅ − f Ḋ)/D; k = −d̄/D is what multiplies Ṅ − f Ḋ
#   (2) Ī = k (1 − f (1 − α − β)), P̄ = −k f α, T̄ = −k f β, s̄ = Σ k (1 − f)
#   (3) ᾱ = −Σ k f (P − I), β̄ = −Σ k f (T − I)
#   (4) I = Σ p t, P = Σ p, T = Σ t over the pixels: p̄ = Ī t + P̄ and t̄ = Ī p + T̄ at each
#   (5) p = softmax(x): x̄ = p (p̄ − Σ p p̄); p = σ(x): x̄ = p̄ p (1 − p); p = x: x̄ = p̄
def _dice_bars(
    x: jax.Array,
    t: jax.Array,
    d_bar: jax.Array,
    found: _Dice,
    alpha: Any = 0.5,
    beta: Any = 0.5,
    *,
    apply: bool,
    axis: Axis = None,
) -> dict[str, jax.Array]:
    p, f = found.p, found.coefficient
    k = -d_bar / found.denominator  # (1)

    def to_pixels(bar: jax.Array) -> jax.Array:
        return jnp.expand_dims(bar, _pixels(x, axis))

    both_bar = to_pixels(k * (1 - f * (1 - alpha - beta)))  # (2)
    p_bar = both_bar * t + to_pixels(-k * f * alpha)  # (4)
    if not apply:
        x_bar = p_bar
    elif x.shape[-1] == 1:
        x_bar = p_bar * (p * (1 - p))
    else:
        along = apart(jnp.sum(p * p_bar, axis=-1, keepdims=True))
        x_bar = p * (p_bar - along)  # (5)
    return {
        "predictions": x_bar,
        "targets": both_bar * p + to_pixels(-k * f * beta),
        "smooth": k * (1 - f),
        "alpha": -k * f * (found.predicted - found.both),  # (3)
        "beta": -k * f * (found.wanted - found.both),
    }


def _back(inputs: Mapping[str, Any], bars: Mapping[str, jax.Array]) -> dict[str, Any]:
    """The bars of the inputs there are, in their shapes: without the axis of classes if it was added."""

    def shaped(x: jax.Array, bar: jax.Array) -> jax.Array:
        return bar_of(x, bar.reshape(x.shape) if bar.size == x.size else bar)

    return {n: shaped(inputs[n], bar) for n, bar in bars.items() if inputs.get(n) is not None}


_LABELS = {"predictions": "x, kept anyway by the layer before", "targets": "t, the data"}

# ---------------------------------------------------------------------- the rules


@rule(
    bars={
        "predictions": "x̄ = p (p̄ − Σ p p̄), p̄ = Ī t + P̄",
        "targets": "t̄ = Ī p + T̄",
        "class_weights": "w̄ = Σ L̄ (1 − f)",
        "smooth": "s̄ = −Σ L̄ w (1 − f)/D",
        "alpha": "ᾱ = Σ L̄ w f (P − I)/D",
        "beta": "β̄ = Σ L̄ w f (T − I)/D",
    },
    residuals={**_LABELS, "class_weights": "w", "smooth": "s", "alpha": "α", "beta": "β"},
    static=("apply_softmax", "reduction", "ignore_background", "axis"),
    arrays=("predictions", "targets", "class_weights", "smooth", "alpha", "beta"),
    integers=("targets", "class_weights", "smooth", "alpha", "beta"),
)
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: str = "mean",
    ignore_background: bool = False,
    axis: Axis = None,
) -> jax.Array:
    """Dice (or Tversky) loss, 1 − (I + s)/(I + α (P − I) + β (T − I) + s), over the classes; as
    `optax.losses.dice_loss`. I = Σ p t, P = Σ p and T = Σ t are sums over the pixels.

    Backward: with k = −L̄ w/D, Ī = k (1 − f (1 − α − β)), P̄ = −k f α and T̄ = −k f β, where f is the
    fraction and D its denominator, p̄ = Ī t + P̄ and t̄ = Ī p + T̄ at each pixel; then through the softmax,
    x̄ = p (p̄ − Σ p p̄), or the sigmoid of a single class, x̄ = p̄ p (1 − p).

    Args:
      predictions: x, logits of shape (batch, ..., classes); without the last axis for one class. float16,
        bfloat16, float32 or float64.
      targets: t, of x's shape; its dtype, integers or booleans.
      class_weights: (classes,), or None for 1.
      smooth: s > 0, against a division by 0.
      alpha: what is predicted and not there counts α, 0.5 in the Dice loss.
      beta: what is there and not predicted counts β.
      apply_softmax: whether x are logits; else probabilities, which must sum to 1 over the classes.
      reduction: "mean" or "sum" over the classes, or "none".
      ignore_background: whether to leave the first class out.
      axis: the axis or axes of the pixels; None for all but the first and the last one.

    Returns:
      (batch,), or (batch, classes) for "none", in x's dtype.

    Raises:
      RuleError: x is no float or 0-d; t of another shape or float dtype; another reduction; class_weights
        that are no vector.

    Source: Milletari et al., "V-Net", 2016; Salehi et al., "Tversky loss function", 2017.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> x, t = jnp.zeros((1, 2, 2)), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> losses.dice_loss(x, t)
    Array([0.25], dtype=float32)
    """
    name = "losses.dice_loss"
    x, t = _aligned(name, predictions, targets)
    if reduction not in ("mean", "sum", "none"):
        raise RuleError(f'rule {name}: reduction must be "mean", "sum" or "none", but came as {reduction!r}.')
    loss = _dice(x, t, smooth, alpha, beta, apply=apply_softmax, axis=axis).loss
    if class_weights is not None:
        if jnp.ndim(class_weights) != 1:
            raise RuleError(
                f"rule {name}: class_weights must have rank 1, but came as {describe(class_weights)}."
            )
        loss = loss * _along_classes(jnp.asarray(class_weights), loss)
    loss = _without_background(loss, x, ignore_background)
    return loss if reduction == "none" else getattr(jnp, reduction)(loss, axis=-1)


keep_inputs(dice_loss)


def _wide(residuals: Mapping[str, Any], names: tuple[str, ...], dtype: Any) -> list[jax.Array]:
    return [jnp.asarray(residuals[n]).astype(dtype) for n in names]


@dice_loss.backward
def dice_backward(
    residuals: Mapping[str, Any],
    y_bar: jax.Array,
    apply_softmax: bool,
    reduction: str,
    ignore_background: bool,
    axis: Axis,
) -> dict[str, Any]:
    wide = computing(y_bar.dtype)
    x, t = _aligned("losses.dice_loss", *_wide(residuals, ("predictions", "targets"), wide))
    smooth, alpha, beta = _wide(residuals, ("smooth", "alpha", "beta"), wide)
    found = _dice(x, t, smooth, alpha, beta, apply=apply_softmax, axis=axis)
    weights = residuals["class_weights"]
    w = None if weights is None else _along_classes(weights.astype(wide), found.loss)
    weighted = found.loss if w is None else found.loss * w
    counted = _without_background(weighted, x, ignore_background).shape
    bar = y_bar.astype(wide)
    if reduction != "none":
        bar = jnp.broadcast_to(bar[..., None] / (counted[-1] if reduction == "mean" else 1), counted)
    bar = _with_background(bar, x, ignore_background)
    d_bar = bar if w is None else summed_to(found.loss.shape, bar * w)
    bars = _dice_bars(x, t, d_bar, found, alpha, beta, apply=apply_softmax, axis=axis)
    return _back(residuals, {**bars, "class_weights": bar * found.loss})


@rule(
    bars={
        "predictions": "x̄ = p̄ p (1 − p), p̄ = Ī t + P̄",
        "targets": "t̄ = Ī p + T̄",
        "smooth": "s̄ = −Σ L̄ (1 − f)/D",
    },
    residuals={**_LABELS, "smooth": "s"},
    static=("apply_sigmoid",),
    arrays=("predictions", "targets", "smooth"),
    integers=("targets", "smooth"),
)
def binary_dice_loss(
    predictions: ArrayLike, targets: ArrayLike, *, smooth: ArrayLike = 1.0, apply_sigmoid: bool = True
) -> jax.Array:
    """Dice loss of one class, 1 − (2 I + 2 s)/(P + T + 2 s); as `optax.losses.binary_dice_loss`.

    Backward: that of `dice_loss` with α = β = ½, through the sigmoid: x̄ = p̄ p (1 − p).

    Args:
      predictions: x, logits of shape (batch, ...) or (batch, ..., 1); float16, bfloat16, float32 or float64.
      targets: t, of x's shape; its dtype, integers or booleans.
      smooth: s > 0, against a division by 0.
      apply_sigmoid: whether x are logits, not probabilities.

    Returns:
      (batch,), in x's dtype.

    Raises:
      RuleError: x is no float or 0-d; t of another shape or float dtype.

    Source: Milletari et al., "V-Net", 2016.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> print(losses.binary_dice_loss(jnp.array([[9.0, -9.0]]), jnp.array([[1, 0]])).round(4))
    [0.0001]
    """
    x, t = _binary(predictions, targets)
    return jnp.mean(_dice(x, t, smooth, apply=apply_sigmoid).loss, axis=-1)


def _binary(predictions: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both with an axis of one class."""
    name = "losses.binary_dice_loss"
    x = real_floats(name, "predictions", predictions)
    t = beside(name, "targets", targets, "predictions", x)
    if x.ndim == 0:
        raise RuleError(f"rule {name}: predictions need an axis, but came as {describe(x)}.")
    if x.ndim == t.ndim and x.shape[-1] != 1:
        x, t = x[..., None], t[..., None]
    return _aligned(name, x, t)


keep_inputs(binary_dice_loss)


@binary_dice_loss.backward
def binary_dice_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, apply_sigmoid: bool
) -> dict[str, Any]:
    wide = computing(y_bar.dtype)
    *both, smooth = _wide(residuals, ("predictions", "targets", "smooth"), wide)
    x, t = _binary(*both)
    found = _dice(x, t, smooth, apply=apply_sigmoid)
    d_bar = jnp.broadcast_to(y_bar.astype(wide)[..., None] / found.loss.shape[-1], found.loss.shape)
    return _back(residuals, _dice_bars(x, t, d_bar, found, apply=apply_sigmoid))


@rule(
    bars={
        "predictions": "x̄ = p (p̄ − Σ p p̄), p̄ = Ī t + P̄",
        "targets": "t̄ = Ī p + T̄ + n̄",
        "smooth": "s̄ = −L̄ mean w (1 − f)/D",
    },
    residuals={**_LABELS, "smooth": "s"},
    static=("apply_softmax", "ignore_background"),
    arrays=("predictions", "targets", "smooth"),
    integers=("targets", "smooth"),
)
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    """Mean of the Dice losses of all classes, a class weighted by 1/(its number of pixels)²; as
    `optax.losses.multiclass_generalized_dice_loss`.

    Backward: that of `dice_loss`; targets have another bar through the weights, n̄ = −2 n ū/(n² + 1e-7)².

    Args:
      predictions: x, logits of shape (batch, ..., classes); float16, bfloat16, float32 or float64.
      targets: t, of x's shape; its dtype, integers or booleans.
      smooth: s > 0, against a division by 0.
      apply_softmax: whether x are logits; else probabilities, which must sum to 1 over the classes.
      ignore_background: whether to leave the first class out.

    Returns:
      One number, in x's dtype.

    Raises:
      RuleError: x is no float or 0-d; t of another shape or float dtype.

    Source: Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations", 2017.

    >>> import jax.numpy as jnp
    >>> from overbar import losses
    >>> x, t = jnp.zeros((1, 2, 2)), jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> losses.multiclass_generalized_dice_loss(x, t)
    Array(0.25, dtype=float32)
    """
    name = "losses.multiclass_generalized_dice_loss"
    x = real_floats(name, "predictions", predictions)
    t = beside(name, "targets", targets, "predictions", x)
    same_shape(name, "targets", t, "predictions", x)
    x, t = _aligned(name, x, t)
    loss = _dice(x, t, smooth, apply=apply_softmax).loss
    loss = loss * _along_classes(_rarity(t)[0], loss)
    return jnp.mean(_without_background(loss, x, ignore_background))


def _rarity(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The classes' weights w = C u/Σu, u = 1/(n² + 1e-7), Σu and the frequencies n."""
    n = jnp.sum(t, axis=tuple(range(t.ndim - 1)))
    u = 1.0 / (n**2 + LEAST_FREQUENCY)
    total = jnp.sum(u)
    return u / total * len(u), u, total, n


keep_inputs(multiclass_generalized_dice_loss)


# Derivation for L = mean w d, over the batch and the C classes, w = C u/U, U = Σ u, u = 1/(n² + 1e-7).
#   (1) d̄ = w L̄/size, and from there as above; w̄ = Σ d L̄/size over the batch
#   (2) ẇ = C (u̇/U − u Σ u̇/U²), so ū = C (w̄ − Σ w̄ u/U)/U
#   (3) u̇ = −2 n u² ṅ, so n̄ = −2 n u² ū; n = Σ t: n̄ is added to t̄ at each pixel
@multiclass_generalized_dice_loss.backward
def generalized_dice_backward(
    residuals: Mapping[str, Any], y_bar: jax.Array, apply_softmax: bool, ignore_background: bool
) -> dict[str, Any]:
    wide = computing(y_bar.dtype)
    x, t, smooth = _wide(residuals, ("predictions", "targets", "smooth"), wide)
    found = _dice(x, t, smooth, apply=apply_softmax)
    w, u, total, n = _rarity(t)
    counted = _without_background(found.loss, x, ignore_background)
    bar = jnp.broadcast_to(y_bar.astype(wide) / max(counted.size, 1), counted.shape)
    bar = _with_background(bar, x, ignore_background)
    bars = _dice_bars(x, t, bar * _along_classes(w, bar), found, apply=apply_softmax)  # (1)
    w_bar = jnp.sum(bar * found.loss, axis=tuple(range(bar.ndim - 1)))
    u_bar = len(u) * (w_bar - jnp.sum(w_bar * u) / total) / total  # (2)
    n_bar = -2 * n * u * u * u_bar  # (3)
    return _back(residuals, {**bars, "targets": bars["targets"] + jnp.broadcast_to(n_bar, t.shape)})


# ---------------------------------------------------------------------- references and samples


def _plain(x: Any, t: Any, smooth: Any, alpha: Any, beta: Any, apply: bool, axis: Any) -> jax.Array:
    """The Dice losses of all classes, by the shares of true and false positives and false negatives."""
    if apply:
        e = jnp.exp(x - jax.lax.stop_gradient(x.max(-1, keepdims=True, initial=0.0)))
        x = 1 / (1 + jnp.exp(-x)) if x.shape[-1] == 1 else e / e.sum(-1, keepdims=True)
    true, false, missed = ((v).sum(axis) for v in (x * t, x * (1 - t), (1 - x) * t))
    return (alpha * false + beta * missed) / (true + alpha * false + beta * missed + smooth)


@dice_loss.reference
def dice_reference(predictions: Any, targets: Any, **given: Any) -> jax.Array:
    x, t = predictions, targets.astype(predictions.dtype)
    if x.ndim < t.ndim:
        x = x[..., None]
    axis = tuple(range(1, x.ndim - 1)) if given["axis"] is None else given["axis"]
    smooth, alpha, beta = (given[n] for n in ("smooth", "alpha", "beta"))
    loss = _plain(x, t, smooth, alpha, beta, given["apply_softmax"], axis)
    if given["class_weights"] is not None:
        loss = jnp.einsum("...c,c->...c", loss, given["class_weights"])
    loss = loss[..., 1:] if given["ignore_background"] else loss
    return {"none": loss, "sum": loss.sum(-1), "mean": loss.sum(-1) / loss.shape[-1]}[given["reduction"]]


@binary_dice_loss.reference
def binary_dice_reference(predictions: Any, targets: Any, *, smooth: Any, apply_sigmoid: bool) -> jax.Array:
    x, t = predictions, targets.astype(predictions.dtype)
    if x.shape[-1] != 1:
        x, t = x[..., None], t[..., None]
    return _plain(x, t, smooth, 0.5, 0.5, apply_sigmoid, tuple(range(1, x.ndim - 1))).mean(-1)


@multiclass_generalized_dice_loss.reference
def generalized_dice_reference(
    predictions: Any, targets: Any, *, smooth: Any, apply_softmax: bool, ignore_background: bool
) -> jax.Array:
    t = targets.astype(predictions.dtype)
    loss = _plain(predictions, t, smooth, 0.5, 0.5, apply_softmax, tuple(range(1, t.ndim - 1)))
    rare = (t.reshape(-1, t.shape[-1]).sum(0) ** 2 + 1e-7) ** -1
    loss = jnp.einsum("...c,c->...c", loss, rare / rare.mean())
    return (loss[..., 1:] if ignore_background else loss).mean()


def _segments(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    kx, kt = jax.random.split(key)
    return draws.normal(kx, shape), draws.uniform(kt, shape)


@dice_loss.samples
def dice_samples(key: jax.Array) -> Iterator[Sample]:
    x, t = _segments(key, (2, 2, 3, 3))
    yield Sample("images", (x, t), {"class_weights": jnp.array([0.5, 1.0, 2.0]), "alpha": 0.3, "beta": 0.6})
    yield Sample("one class", (x[..., 0], t[..., :1]), {"smooth": 0.5})
    yield Sample("no background", (x, t), {"ignore_background": True, "reduction": "sum"})
    yield Sample("probabilities", (jax_nn.softmax(x), t), {"apply_softmax": False, "reduction": "none"})
    yield Sample("other axes", (x, t), {"axis": (0, 2)})
    yield Sample("integers", (x[0], jnp.round(t[0]).astype(jnp.int32)))
    yield Sample("no images", _segments(key, (0, 2, 3)))
    yield Sample("bench", _segments(key, (8, 128, 128, 4)), tags=("bench",))


@binary_dice_loss.samples
def binary_dice_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("images", _segments(key, (2, 3, 4)))
    yield Sample("an axis of one class", _segments(key, (2, 3, 1)), {"smooth": 0.5})
    yield Sample("vector", _segments(key, (5,)))
    yield Sample("no images", _segments(key, (0, 3)))
    yield Sample("bench", _segments(key, (8, 256, 256)), tags=("bench",))


@multiclass_generalized_dice_loss.samples
def generalized_dice_samples(key: jax.Array) -> Iterator[Sample]:
    x, t = _segments(key, (2, 2, 3, 3))
    yield Sample("images", (x, t))
    yield Sample("no background", (x, t), {"ignore_background": True, "smooth": 0.5})
    yield Sample("one class", (x[..., :1], t[..., :1]))
    yield Sample("no pixels", _segments(key, (2, 0, 3)))
    yield Sample("bench", _segments(key, (8, 128, 128, 4)), tags=("bench",))

"""Convolution over 1 to 3 spatial axes, channels last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar.nn._windows import Ints, Padding, Windows, padding_of_reference, windows
from overbar.rule import Sample, rule


@rule(
    bars={
        "x": "x̄_p = Σ ȳ_i k_oᵀ over the windows i that see p through offset o",
        "kernel": "k̄_o = Σ x_p ȳ_iᵀ over the windows i, where p is seen through offset o",
        "bias": "b̄ = Σ ȳ over all but the last axis",
    },
    residuals={"x": "the input, for k̄", "kernel": "the kernel, for x̄"},
    static=("strides", "padding", "dilation", "groups"),
    arrays=("x", "kernel", "bias"),
)
def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    strides: int | Ints = 1,
    padding: Padding = "SAME",
    dilation: int | Ints = 1,
    groups: int = 1,
) -> jax.Array:
    """Convolution, y_i = b + Σ_o x_p(i,o) k_o with p(i, o) = i·stride + o·dilation − padding before.

    As in all of the field it is a correlation: the kernel is not turned round. The values are those
    of `jax.lax.conv_general_dilated` and so of `flax.linen.Conv`. Backward: x̄ is a transposed
    convolution of ȳ, k̄ a convolution of x with ȳ in which the examples are summed over; on the
    CPU both are matrix products where these are quicker.

    Args:
      x: (..., *spatial, C_in), 1 to 3 spatial axes, as many as the kernel has; float or complex.
      kernel: (*window, C_in / groups, C_out), x's dtype.
      bias: (C_out,), x's dtype, or None for no bias.
      strides, dilation: an integer or a tuple; dilation is that of the kernel.
      padding: "SAME", "SAME_LOWER", "VALID", or numbers of zeros to add: an integer, or for each
        spatial axis an integer or a pair (before, after); negative ones take entries away.
      groups: into how many groups the channels are divided; group g of the output sees group g of
        the input only.

    Returns:
      (..., *outputs, C_out), x's dtype.

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or an option.

    Source: Dumoulin, Visin, "A guide to convolution arithmetic for deep learning", 2016.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> x, kernel = jnp.arange(5.0).reshape(1, 5, 1), jnp.array([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    >>> nn.conv(x, kernel, padding="VALID").ravel()
    Array([-2., -2., -2.], dtype=float32)
    >>> jax.grad(lambda x: nn.conv(x, kernel, padding="VALID").sum())(x).ravel()
    Array([ 1.,  1.,  0., -1., -1.], dtype=float32)
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    bias = None if bias is None else jnp.asarray(bias)
    over = _checked(x, kernel, bias, strides, padding, dilation, groups)
    y = jax.lax.conv_general_dilated(
        over.batched(x),
        kernel,
        over.strides,
        over.padding,
        rhs_dilation=over.dilation,
        dimension_numbers=_channels_last(len(over.window)),
        feature_group_count=groups,
    )
    y = y.reshape(*x.shape[: x.ndim - kernel.ndim + 1], *y.shape[1:])
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


def _checked(
    x: jax.Array, kernel: jax.Array, bias: Any, strides: Any, padding: Any, dilation: Any, groups: Any
) -> Windows:
    """The windows of a call, or a RuleError that says what does not fit."""
    came = f"came x {describe(x)}, kernel {describe(kernel)}, bias {describe(bias)}, groups {groups!r}"
    n = kernel.ndim - 2
    if not 1 <= n <= 3 or x.ndim < n + 1:
        raise RuleError(
            "rule nn.conv: expected x (..., *spatial, C_in) and kernel (*window, C_in / groups, C_out) with "
            f"1 to 3 spatial axes, but {came}."
        )
    if type(groups) is not int or groups < 1:
        raise RuleError(f"rule nn.conv: option groups must be a positive integer, but {came}.")
    inputs, outputs = x.shape[-1], kernel.shape[-1]
    if inputs % groups or outputs % groups:
        raise RuleError(
            f"rule nn.conv: expected channels divisible by groups, but {came}: "
            f"C_in = {inputs}, C_out = {outputs}."
        )
    if kernel.shape[-2] != inputs // groups or 0 in kernel.shape[:n]:
        raise RuleError(
            f"rule nn.conv: expected kernel (*window, C_in / groups = {inputs // groups}, C_out) with a "
            f"window of at least 1, but {came}."
        )
    if bias is not None and bias.shape != (outputs,):
        raise RuleError(f"rule nn.conv: expected bias ({outputs},) = (C_out,) of kernel, but {came}.")
    if kernel.dtype != x.dtype or (bias is not None and bias.dtype != x.dtype):
        raise RuleError(f"rule nn.conv: expected one dtype for x, kernel and bias, but {came}.")
    return windows("nn.conv", x.shape[-n - 1 : -1], kernel.shape[:n], strides, padding, dilation)


def _channels_last(n: int) -> jax.lax.ConvDimensionNumbers:
    """x (N, *spatial, C_in), kernel (*window, C_in, C_out), y (N, *outputs, C_out)."""
    spatial = tuple(range(1, n + 1))
    return jax.lax.ConvDimensionNumbers((0, n + 1, *spatial), (n + 1, n, *range(n)), (0, n + 1, *spatial))


@conv.forward
def conv_forward(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, **options: Any
) -> tuple[jax.Array, dict[str, Any]]:
    return conv.primal(x, kernel, bias, **options), {"x": x, "kernel": kernel}


# Derivation for y_i = b + Σ_o x_p(i,o) k_o, where p(i, o) = s i + d o − l along each axis for output i and
# offset o (s the stride, d the dilation, l the padding before). x_p and y_i are rows, over the channels, k_o
# is a matrix, and Σ_i runs over the examples as well. x is zero in the padding.
#   (1) ẏ_i = ḃ + Σ_o ẋ_p(i,o) k_o + Σ_o x_p(i,o) k̇_o
#   (2) ⟨ȳ, ẏ⟩ = ⟨Σ_i ȳ_i, ḃ⟩ + Σ_i Σ_o ⟨ȳ_i k_oᵀ, ẋ_p(i,o)⟩ + Σ_o ⟨Σ_i x_p(i,o)ᵀ ȳ_i, k̇_o⟩
#   (3) what stands before ḃ:    b̄ = Σ_i ȳ_i
#   (4) what stands before ẋ_p:  x̄_p = Σ ȳ_i k_oᵀ over the pairs (i, o) with s i + d o = p + l
#   (5) what stands before k̇_o:  k̄_o = Σ_i x_p(i,o)ᵀ ȳ_i
# (4) as a convolution. Along an axis let there be I outputs, w offsets and S entries of x, u = d (w − 1), and
# o' = w − 1 − o (the kernel turned round); let z be the bar with s − 1 zeros between entries, z_(s i) = ȳ_i.
#   (6) s i = p + l − d o = p + d o' − (u − l), so x̄_p = Σ_o' z_(p + d o' − (u − l)) k_(w−1−o')ᵀ: the
#       convolution of z with stride 1, dilation d, and u − l before as padding
#   (7) it has S results if z, of length s (I − 1) + 1, and its padding are S + u long: the padding after is
#       S + l − (s (I − 1) + 1); entries that no window saw get the zeros in it
# (5) as a convolution, in which the bar is the window and the examples are summed over as channels are.
#   (8) k̄_o = Σ_i x_(d o + s i − l)ᵀ ȳ_i has stride d, dilation s and l before as padding; it has w results if
#       x and its padding are u + s (I − 1) + 1 long: the padding after is u + s (I − 1) + 1 − S − l, negative
#       where windows left entries over
# With groups, (4) and (5) hold for the channels of each group by themselves.
@conv.backward
def conv_backward(
    residuals: Mapping[str, Any],
    y_bar: jax.Array,
    strides: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> dict[str, Any]:
    x, kernel = residuals["x"], residuals["kernel"]
    over = _checked(x, kernel, None, strides, padding, dilation, groups)
    rows, bars = over.batched(x), over.batched(y_bar)
    x_bar = jax.lax.platform_dependent(
        kernel,
        bars,
        cpu=lambda k, b: _x_bar_on_cpu(k, b, over, groups),
        default=lambda k, b: _x_bar(k, b, over, groups),
    )
    kernel_bar = jax.lax.platform_dependent(
        rows,
        bars,
        cpu=lambda r, b: _kernel_bar_on_cpu(r, b, over, groups),
        default=lambda r, b: _kernel_bar(r, b, over, groups),
    )
    return {
        "x": x_bar.reshape(x.shape),  # (4)
        "kernel": kernel_bar,  # (5)
        "bias": jnp.sum(y_bar, axis=tuple(range(y_bar.ndim - 1))),  # (3)
    }


# ---------------------------------------------------------------------- as convolutions


def _x_bar(kernel: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    """Step (4) as the convolution of steps (6) and (7)."""
    n = len(over.window)
    along = zip(over.sizes, over.reach, over.spans, over.padding, strict=True)
    around = [(reach - 1 - low, size + low - span) for size, reach, span, (low, _) in along]  # (6), (7)
    turned = jnp.flip(_by_group(kernel, groups), axis=tuple(range(n)))
    transposed = jnp.moveaxis(turned, -1, n)  # (*window, C_out / groups, C_in / groups, groups)
    shape = (*over.window, kernel.shape[-1] // groups, groups * kernel.shape[-2])
    transposed = jnp.swapaxes(transposed, -1, -2).reshape(shape)
    return jax.lax.conv_general_dilated(
        y_bar,
        transposed,
        (1,) * n,
        around,
        lhs_dilation=over.strides,
        rhs_dilation=over.dilation,
        dimension_numbers=_channels_last(n),
        feature_group_count=groups,
    )


def _by_group(x: jax.Array, groups: int) -> jax.Array:
    """The last axis as two: (..., groups, C / groups)."""
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _kernel_bar(x: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    """Step (5) as the convolution of step (8): examples are its input channels, x's channels its examples."""
    n = len(over.window)
    if 0 in over.outputs:
        return jnp.zeros((*over.window, x.shape[-1] // groups, y_bar.shape[-1]), x.dtype)
    along = zip(over.sizes, over.reach, over.spans, over.padding, strict=True)
    around = [(low, reach - 1 + span - size - low) for size, reach, span, (low, _) in along]  # (8)
    spatial = tuple(range(1, n + 1))
    examples_summed = jax.lax.ConvDimensionNumbers(
        (n + 1, 0, *spatial), (n + 1, 0, *spatial), (n, n + 1, *range(n))
    )
    return jax.lax.conv_general_dilated(
        x,
        y_bar,
        over.dilation,
        around,
        rhs_dilation=over.strides,
        dimension_numbers=examples_summed,
        batch_group_count=groups,
    )


# ---------------------------------------------------------------------- as matrix products


# What the CPU backend's convolutions are slow at, measured on 2 cores: few output channels (in x̄ these are
# C_in), three axes, a window of 1, groups in k̄ (one number at a time). There the products are quicker, though
# they move the arrays once for each offset. On other devices, and for all else, the convolutions stay.
FEW = 8  # channels
MOST = 64  # offsets that are written out


def _x_bar_on_cpu(kernel: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    each = kernel.shape[-2]
    dense = groups == 1 and (over.area == 1 or len(over.window) == 3 or each <= FEW)
    if over.area <= MOST and (dense or (groups > 1 and each == 1)):
        return _x_bar_by_offsets(kernel, y_bar, over, groups)
    return _x_bar(kernel, y_bar, over, groups)


def _kernel_bar_on_cpu(x: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    inputs, outputs = x.shape[-1] // groups, y_bar.shape[-1] // groups
    few = over.area * inputs <= 32 and outputs >= 2 * FEW
    if over.area <= MOST and (over.area == 1 or len(over.window) == 3 or groups > 1 or few):
        return _kernel_bar_by_offsets(x, y_bar, over, groups)
    return _kernel_bar(x, y_bar, over, groups)


def _x_bar_by_offsets(kernel: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    """Step (4): ȳ k_oᵀ for each offset, added where its window saw it."""
    n, wide = len(over.window), computing(y_bar.dtype)
    bars = _by_group(y_bar.astype(wide), groups)
    flat = _by_group(kernel.astype(wide), groups)
    flat = flat.reshape(over.area, *flat.shape[n:])
    flat = jnp.concatenate([flat, jnp.zeros_like(flat[:1])])  # what is for no offset is zero

    def product(some: jax.Array) -> jax.Array:
        """Some offsets' part of flat -> (N, *outputs, offsets, C_in)."""
        if groups == 1:
            return jnp.tensordot(bars[..., 0, :], some[:, :, 0], axes=(-1, -1))
        # One input channel a group: sums of a few products, no matrices.
        return (jnp.expand_dims(bars, n + 1) * jnp.expand_dims(some[:, 0], range(n + 1))).sum(axis=-1)

    every = product(flat) if groups == 1 and kernel.shape[-2] <= FEW else None

    def seen(numbers: np.ndarray[Any, Any]) -> jax.Array:
        chosen = numbers.ravel().tolist()
        if every is None:
            some = product(jnp.stack([flat[i] for i in chosen]))
        else:
            some = jnp.stack([every[..., i, :] for i in chosen], axis=-2)
        some = some.reshape(*y_bar.shape[:-1], *over.strides, some.shape[-1])
        return some.transpose(0, *(a for i in range(1, n + 1) for a in (i, i + n)), 2 * n + 1)

    return over.spread(seen).astype(y_bar.dtype)


def _kernel_bar_by_offsets(x: jax.Array, y_bar: jax.Array, over: Windows, groups: int) -> jax.Array:
    """Step (5): for each offset a product over the examples and outputs, or one for all offsets."""
    wide = computing(y_bar.dtype)
    rows = math.prod(y_bar.shape[:-1])
    bars = _by_group(y_bar.astype(wide).reshape(rows, y_bar.shape[-1]), groups)
    views = [_by_group(view.reshape(rows, x.shape[-1]), groups) for view in over.views(x.astype(wide))]
    if groups == 1 and over.area * x.shape[-1] <= 4 * FEW:
        views = [jnp.concatenate(views, axis=-1)]
    products = [_product(view, bars) for view in views]
    by_group = jnp.concatenate(products, axis=1).astype(y_bar.dtype)  # (groups, offsets · C_in / groups, ...)
    return jnp.moveaxis(by_group, 0, 1).reshape(*over.window, x.shape[-1] // groups, y_bar.shape[-1])


def _product(x: jax.Array, y_bar: jax.Array) -> jax.Array:
    """Σ_r x_rᵀ ȳ_r for each group: (groups, C_in / groups, C_out / groups)."""
    if x.shape[-1] == y_bar.shape[-1] == 1:  # no matrices
        return (x * y_bar).sum(axis=0)[..., None]
    return jax.lax.dot_general(x, y_bar, (((0,), (0,)), ((1,), (1,))))


# ---------------------------------------------------------------------- reference and samples


@conv.reference
def conv_reference(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    *,
    strides: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> jax.Array:
    """Indexing, and one sum of products."""
    n = kernel.ndim - 2
    first = x.ndim - n - 1
    strides, dilation = np.broadcast_to(strides, n).tolist(), np.broadcast_to(dilation, n).tolist()
    reach = [d * (w - 1) + 1 for w, d in zip(kernel.shape[:n], dilation, strict=True)]
    pairs = padding_of_reference(padding, x.shape[first:-1], reach, strides)
    x = jnp.pad(x, [(0, 0)] * first + pairs + [(0, 0)])
    for axis in range(n):
        starts = np.arange(0, x.shape[first + axis] - reach[axis] + 1, strides[axis])
        seen = starts[:, None] + dilation[axis] * np.arange(kernel.shape[axis])
        x = jnp.moveaxis(jnp.take(x, seen, axis=first + axis), first + axis + 1, -1)
    outputs = x.shape[: x.ndim - n - 1]
    x = x.reshape(*outputs, groups, kernel.shape[n], math.prod(kernel.shape[:n]))
    y = jnp.einsum("...gcw,wcgo->...go", x, kernel.reshape(x.shape[-1], x.shape[-2], groups, -1))
    y = y.reshape(*outputs, kernel.shape[-1])
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@conv.samples
def conv_samples(key: jax.Array) -> Iterator[Sample]:
    def make(
        name: str, x: Ints, kernel: Ints, *, bias: bool = False, tags: Any = (), **options: Any
    ) -> Sample:
        kx, kk, kb = jax.random.split(key, 3)
        scale = 1 / math.sqrt(max(1, math.prod(kernel[:-1])))
        args = [draws.normal(kx, x), scale * draws.normal(kk, kernel)]
        if bias:
            args.append(draws.normal(kb, kernel[-1:]))
        return Sample(name, tuple(args), options, tags)

    yield make("two axes", (2, 5, 4, 2), (3, 2, 2, 3), bias=True)
    yield make("unused last rows", (2, 6, 7, 9), (2, 3, 9, 4), strides=(3, 2), padding="VALID")
    yield make("one axis, no leading one", (9, 2), (3, 2, 2), strides=2, padding=((0, 3),), dilation=2)
    yield make("three axes", (1, 4, 3, 3, 2), (2, 1, 2, 2, 2), strides=(2, 1, 1), padding=(1, 0, (0, 1)))
    yield make("groups", (3, 6, 4), (3, 2, 6), bias=True, groups=2, padding=2)
    yield make("a group a channel", (2, 5, 5, 2), (3, 3, 1, 4), groups=2, strides=2)
    yield make("sizes of 1", (1, 1, 1, 1), (1, 1, 1, 1), bias=True)
    yield make("empty batch", (0, 4, 2), (3, 2, 2))
    yield make("bench", (64, 14, 14, 32), (3, 3, 32, 64), bias=True, tags=("bench",))
    yield make("bench, one channel", (128, 28, 28, 1), (3, 3, 1, 32), bias=True, tags=("bench",))

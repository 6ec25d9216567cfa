"""Regularizers over pytrees of parameters.

float16 and bfloat16 leaves are computed in float32 and rounded once. None leaves are skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe
from overbar._dtypes import computing, widest
from overbar.rule import Sample, rule


@rule(
    bars={"params": "w̄ = R̄ w, for every leaf w"},
    residuals={"params": "the parameters, kept anyway"},
)
def l2(params: Any) -> jax.Array:
    """The L2 regularizer, R = ½ Σ w² over all the entries of all the leaves.

    Backward: w̄ = R̄ w for every leaf.

    Args:
      params: a pytree of float arrays of any shapes; None leaves are skipped.

    Returns:
      R, 0-d; the widest dtype of the leaves (float32 when there are none). float16 and bfloat16
      leaves are summed in float32.

    Raises:
      RuleError: a leaf is not real float, named by its path.

    Source: lecture on backpropagation, the regularized cost L_reg = L + λ R.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import regularizers
    >>> params = {"w": jnp.array([3.0, 4.0])}
    >>> regularizers.l2(params)
    Array(12.5, dtype=float32)
    >>> jax.grad(regularizers.l2)(params)
    {'w': Array([3., 4.], dtype=float32)}
    """
    leaves, dtype = _leaves("regularizers.l2", params)
    return (_sum(leaves, jnp.square) / 2).astype(dtype)


def _leaves(rule: str, params: Any) -> tuple[list[jax.Array], Any]:
    """The leaves in the dtype to compute in, and the widest of theirs; refuses one that is not real float."""
    leaves = [(path, jnp.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    for path, w in leaves:
        if not jnp.issubdtype(w.dtype, jnp.floating):
            raise RuleError(
                f"rule {rule}: params{jax.tree_util.keystr(path)} must be real float, "
                f"but came as {describe(w)}."
            )
    dtype = widest(w.dtype for _, w in leaves) if leaves else jnp.dtype(jnp.float32)
    return [w.astype(computing(dtype)) for _, w in leaves], dtype


def _sum(leaves: list[jax.Array], term: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Σ term(w) over all the entries of all the leaves."""
    nothing = jnp.zeros((), leaves[0].dtype if leaves else jnp.float32)
    return functools.reduce(jnp.add, (jnp.sum(term(w)) for w in leaves), nothing)


def _bars(params: Any, y_bar: jax.Array, bar: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
    """bar(w, R̄) of each leaf, computed in a dtype that holds both and rounded to the leaf's."""
    wide = computing(y_bar.dtype)  # at least as wide as every leaf
    return jax.tree.map(lambda w: bar(w.astype(wide), y_bar.astype(wide)).astype(w.dtype), params)


@l2.forward
def l2_forward(params: Any) -> tuple[jax.Array, dict[str, Any]]:
    return l2.primal(params), {"params": params}


# Derivation for R = ½ Σ_k w_k².
#   (1) Ṙ = Σ_k w_k ẇ_k
#   (2) R̄ Ṙ = Σ_k (R̄ w_k) ẇ_k, so w̄_k = R̄ w_k
@l2.backward
def l2_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    return {"params": _bars(residuals["params"], y_bar, lambda w, r_bar: r_bar * w)}  # (2)


@l2.reference
def l2_reference(params: Any) -> jax.Array:
    flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(params)]
    w = jnp.concatenate(flat) if flat else jnp.zeros(0)
    return 0.5 * jnp.vdot(w, w)


def _trees(key: jax.Array) -> Iterator[tuple[str, Any, tuple[str, ...]]]:
    """Parameters of every kind: name, pytree, tags."""

    def normal(number: int, shape: tuple[int, ...]) -> jax.Array:
        return draws.normal(jax.random.fold_in(key, number), shape)

    yield "array", normal(0, (3, 4)), ()
    yield "scalar", normal(1, ()), ()
    yield "layers", [{"w": normal(2, (3, 2)), "b": normal(3, (2,))}, {"w": normal(4, (2, 1)), "b": None}], ()
    yield "empty and size 1", (normal(5, (0, 3)), normal(6, (1, 1))), ()
    yield "bench", {"w": normal(7, (1024, 1024)), "b": normal(8, (1024,))}, ("bench",)


@l2.samples
def l2_samples(key: jax.Array) -> Iterator[Sample]:
    for name, params, tags in _trees(key):
        yield Sample(name, (params,), tags=tags)


@rule(
    bars={"params": "w̄ = R̄ sign(w), 0 at 0, for every leaf w"},
    residuals={"signs": "a byte an entry", "kinds": "an empty array of each leaf's dtype"},
)
def l1(params: Any) -> jax.Array:
    """The L1 regularizer, R = Σ |w| over all the entries of all the leaves.

    Backward: w̄ = R̄ sign(w) for every leaf; 0 at the kink w = 0.

    Args:
      params: a pytree of float arrays of any shapes; None leaves are skipped.

    Returns:
      R, 0-d; the widest dtype of the leaves (float32 when there are none).

    Raises:
      RuleError: a leaf is not real float, named by its path.

    Source: Tibshirani, "Regression shrinkage and selection via the lasso", 1996.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import regularizers
    >>> jax.value_and_grad(regularizers.l1)(jnp.array([3.0, 0.0, -4.0]))
    (Array(7., dtype=float32), Array([ 1.,  0., -1.], dtype=float32))
    """
    leaves, dtype = _leaves("regularizers.l1", params)
    return _sum(leaves, jnp.abs).astype(dtype)


@l1.forward
def l1_forward(params: Any) -> tuple[jax.Array, dict[str, Any]]:
    signs = jax.tree.map(lambda w: (w > 0).astype(jnp.int8) - (w < 0).astype(jnp.int8), params)
    return l1.primal(params), {"signs": signs, "kinds": jax.tree.map(lambda w: jnp.zeros(0, w.dtype), params)}


# Derivation for R = Σ_k |w_k|.
#   (1) Ṙ = Σ_k sign(w_k) ẇ_k, where no w_k is 0
#   (2) at 0 any number in [−1, 1] is a subgradient; 0 is taken, the one that leaves a 0 where it is
#   (3) w̄_k = R̄ sign(w_k)
@l1.backward
def l1_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    r_bar = y_bar.astype(computing(y_bar.dtype))

    def bar(sign: jax.Array, like: jax.Array) -> jax.Array:
        return (r_bar * sign.astype(r_bar.dtype)).astype(like.dtype)  # (3)

    return {"params": jax.tree.map(bar, residuals["signs"], residuals["kinds"])}


@l1.reference
def l1_reference(params: Any) -> jax.Array:
    flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(params)]
    w = jnp.concatenate(flat) if flat else jnp.zeros(0)
    return jnp.where(w > 0, w, -w).sum()


@l1.samples
def l1_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("zeros", ({"w": jnp.array([0.0, 1.0, -0.0])},), tags=("kink",))
    yield from l2_samples(key)


@rule(
    bars={
        "params": "w̄ = R̄ (ρ sign(w) + (1 − ρ) w), for every leaf w",
        "l1_ratio": "ρ̄ = R̄ Σ (|w| − ½ w²)",
    },
    residuals={
        "params": "the parameters, kept anyway",
        "l1_ratio": "ρ, a number",
        "difference": "A − B, a number: both sums have been taken",
    },
    arrays=("l1_ratio",),
    integers=("l1_ratio",),
)
def elastic_net(params: Any, l1_ratio: ArrayLike = 0.5) -> jax.Array:
    """The elastic net, R = ρ Σ |w| + (1 − ρ) ½ Σ w² over all the entries of all the leaves.

    Backward: w̄ = R̄ (ρ sign(w) + (1 − ρ) w) for every leaf, 0 at the kink w = 0.

    Args:
      params: a pytree of float arrays of any shapes; None leaves are skipped.
      l1_ratio: ρ, a number: 1 is `l1`, 0 is `l2`. It has a bar where it is float.

    Returns:
      R, 0-d; the widest dtype of the leaves (float32 when there are none).

    Raises:
      RuleError: a leaf is not real float, named by its path; l1_ratio is no number.

    Source: Zou and Hastie, "Regularization and variable selection via the elastic net", 2005.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import regularizers
    >>> jax.value_and_grad(regularizers.elastic_net)(jnp.array([2.0, 0.0]))
    (Array(2., dtype=float32), Array([1.5, 0. ], dtype=float32))
    """
    absolute, half_squares, ratio, dtype = _parts(params, l1_ratio)
    return (ratio * absolute + (1 - ratio) * half_squares).astype(dtype)


def _parts(params: Any, l1_ratio: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """A = Σ |w|, B = ½ Σ w² and ρ as computed with, and the dtype of R."""
    leaves, dtype = _leaves("regularizers.elastic_net", params)
    ratio = jnp.asarray(l1_ratio)
    if ratio.ndim:
        raise RuleError(
            f"rule regularizers.elastic_net: l1_ratio must be a number, but came as {describe(ratio)}."
        )
    return _sum(leaves, jnp.abs), _sum(leaves, jnp.square) / 2, ratio.astype(computing(dtype)), dtype


@elastic_net.forward
def elastic_net_forward(params: Any, l1_ratio: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    absolute, half_squares, ratio, dtype = _parts(params, l1_ratio)
    y = (ratio * absolute + (1 - ratio) * half_squares).astype(dtype)
    return y, {"params": params, "l1_ratio": l1_ratio, "difference": absolute - half_squares}


# Derivation for R = ρ A + (1 − ρ) B, A = Σ |w|, B = ½ Σ w².
#   (1) Ṙ = ρ̇ (A − B) + ρ Ȧ + (1 − ρ) Ḃ
#   (2) Ȧ and Ḃ are those of l1 and l2: w̄ = R̄ (ρ sign(w) + (1 − ρ) w)
#   (3) ρ̄ = R̄ (A − B)
@elastic_net.backward
def elastic_net_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    params, l1_ratio = residuals["params"], residuals["l1_ratio"]
    wide = computing(y_bar.dtype)
    ratio = l1_ratio.astype(wide)
    return {
        "params": _bars(
            params, y_bar, lambda w, r_bar: r_bar * (ratio * jnp.sign(w) + (1 - ratio) * w)
        ),  # (2)
        "l1_ratio": (y_bar.astype(wide) * residuals["difference"].astype(wide)).astype(l1_ratio.dtype),  # (3)
    }


@elastic_net.reference
def elastic_net_reference(params: Any, l1_ratio: jax.Array) -> jax.Array:
    flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(params)]
    w = jnp.concatenate(flat) if flat else jnp.zeros(0)
    ratio = l1_ratio.astype(w.dtype)
    return (jnp.where(w > 0, w, -w) * ratio + (w / 2) * w * (1 - ratio)).sum()


@elastic_net.samples
def elastic_net_samples(key: jax.Array) -> Iterator[Sample]:
    yield Sample("zeros", ({"w": jnp.array([0.0, 1.0, -0.0])}, jnp.float32(0.75)), tags=("kink",))
    for name, params, tags in _trees(key):
        yield Sample(name, (params, jnp.float32(0.3)), tags=tags)


Axes = int | tuple[int, ...] | None


@rule(
    bars={"params": "w̄ = R̄ w/‖w_g‖, 0 where the whole group is 0, for every leaf w"},
    residuals={"params": "the parameters, kept anyway"},
    static=("axis",),
)
def group_lasso(params: Any, axis: Axes = -1) -> jax.Array:
    """The group lasso, R = Σ_g ‖w_g‖₂ over the groups of all the leaves.

    The entries of a leaf that differ in their place along `axis` only are one group: with the
    default, the rows of a matrix (in, out), that is all the weights that one input has. No factor
    for the size of a group is put in; the norms are taken without overflow or underflow of squares.

    Backward: w̄ = R̄ w/‖w_g‖ for every leaf; 0 at the kink, where the whole group is 0.

    Args:
      params: a pytree of float arrays of any shapes; None leaves are skipped. A 0-d leaf is a group.
      axis: the axis or axes along which a group lies, which every leaf must have; None: a leaf is a group.

    Returns:
      R, 0-d; the widest dtype of the leaves (float32 when there are none).

    Raises:
      RuleError: a leaf is not real float, named by its path, or has no such axis.

    Source: Yuan and Lin, "Model selection and estimation in regression with grouped variables", 2006.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import regularizers
    >>> jax.value_and_grad(regularizers.group_lasso)(jnp.array([[3.0, 4.0], [0.0, 0.0]]))
    (Array(5., dtype=float32), Array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32))
    """
    leaves, dtype = _leaves("regularizers.group_lasso", params)

    def norms(w: jax.Array) -> jax.Array:
        (low, high), _, norm = _scaled_norm(w, axis)
        return low * (high * norm)

    return _sum(leaves, norms).astype(dtype)


def _scaled_norm(w: jax.Array, axis: Axes) -> tuple[tuple[jax.Array, jax.Array], jax.Array, jax.Array]:
    """(c, v, n) with w = c v and ‖w_g‖ = c n: c a power of 2 near the largest entry, 1 where all are 0.

    c comes as two factors, since 1/c may be no number.
    """
    try:
        axes = () if not w.ndim else axis
        largest = jnp.max(jnp.abs(w), axis=axes, initial=0.0, keepdims=True)
    except ValueError as error:
        raise RuleError(f"rule regularizers.group_lasso: option axis {axis!r}: {error}") from None
    # One less than frexp's: then n is 1 or more, and R̄/n no larger than R̄.
    exponent = jnp.frexp(jax.lax.stop_gradient(largest))[1] - 1
    # Halved, so that both factors are normal numbers where 2^−exponent itself is none.
    one = jnp.ones_like(largest)
    low, high = jnp.ldexp(one, exponent // 2), jnp.ldexp(one, exponent - exponent // 2)
    usable = jax.lax.stop_gradient(jnp.isfinite(largest) & (largest > 0))
    low, high = (jax.lax.stop_gradient(jnp.where(usable, part, one)) for part in (low, high))
    v = w / low / high
    square = jnp.sum(jnp.square(v), axis=axes, keepdims=True)
    empty = square == 0
    norm = jnp.where(empty, 0.0, jnp.sqrt(jnp.where(empty, 1.0, square)))
    return (low, high), v, norm


@group_lasso.forward
def group_lasso_forward(params: Any, axis: Axes) -> tuple[jax.Array, dict[str, Any]]:
    return group_lasso.primal(params, axis), {"params": params}


# Derivation for R = Σ_g n_g, n_g = √(Σ_k∈g w_k²).
#   (1) ṅ_g = Σ_k w_k ẇ_k/n_g where n_g is not 0, so w̄_k = R̄ w_k/n_g
#   (2) at a group of zeros any vector of norm 1 or less is a subgradient; 0 is taken
#   (3) w/n is the same for c w and c n: it is taken of entries near 1, whose squares are numbers
@group_lasso.backward
def group_lasso_backward(residuals: Mapping[str, Any], y_bar: jax.Array, axis: Axes) -> dict[str, Any]:
    def bar(w: jax.Array, r_bar: jax.Array) -> jax.Array:
        _, v, norm = _scaled_norm(w, axis)
        share = r_bar / jnp.where(norm == 0, 1.0, norm)  # one division a group, so one rounding an entry
        return v * share  # (2, 3)

    return {"params": _bars(residuals["params"], y_bar, bar)}


@group_lasso.reference
def group_lasso_reference(params: Any, axis: Axes) -> jax.Array:
    def norms(w: jax.Array) -> jax.Array:
        axes = () if not w.ndim else axis
        squares = (w * w).sum(axes)
        return jnp.exp(0.5 * jnp.log(squares)).sum() if w.size else jnp.zeros((), w.dtype)

    return sum((norms(leaf) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


@group_lasso.samples
def group_lasso_samples(key: jax.Array) -> Iterator[Sample]:
    w = draws.normal(key, (2, 3, 4))
    yield Sample("two axes", (w,), {"axis": (0, 2)})
    yield Sample("a group of zeros", (w[0].at[1].set(0.0),), tags=("kink",))
    for name, params, tags in _trees(key):
        yield Sample(name, (params,), tags=tags)

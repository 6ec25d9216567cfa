"""Regularizers over pytrees of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

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
    leaves = [(path, jnp.asarray(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    for path, w in leaves:
        if not jnp.issubdtype(w.dtype, jnp.floating):
            raise RuleError(
                f"rule regularizers.l2: params{jax.tree_util.keystr(path)} must be real float, "
                f"but came as {describe(w)}."
            )
    dtype = widest(w.dtype for _, w in leaves) if leaves else jnp.dtype(jnp.float32)
    wide = computing(dtype)
    total = sum((jnp.sum(jnp.square(w.astype(wide))) for _, w in leaves), start=jnp.zeros((), wide))
    return (total / 2).astype(dtype)


@l2.forward
def l2_forward(params: Any) -> tuple[jax.Array, dict[str, Any]]:
    return l2.primal(params), {"params": params}


# Derivation for R = ½ Σ_k w_k².
#   (1) Ṙ = Σ_k w_k ẇ_k
#   (2) R̄ Ṙ = Σ_k (R̄ w_k) ẇ_k, so w̄_k = R̄ w_k
@l2.backward
def l2_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, Any]:
    def bar(w: jax.Array) -> jax.Array:
        wide = computing(y_bar.dtype)  # at least as wide as every leaf
        return (y_bar.astype(wide) * w.astype(wide)).astype(w.dtype)  # (2)

    return {"params": jax.tree.map(bar, residuals["params"])}


@l2.reference
def l2_reference(params: Any) -> jax.Array:
    flat = [jnp.ravel(leaf) for leaf in jax.tree.leaves(params)]
    w = jnp.concatenate(flat) if flat else jnp.zeros(0)
    return 0.5 * jnp.vdot(w, w)


@l2.samples
def l2_samples(key: jax.Array) -> Iterator[Sample]:
    def normal(number: int, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, number), shape)

    yield Sample("array", (normal(0, (3, 4)),))
    yield Sample("scalar", (normal(1, ()),))
    yield Sample(
        "layers", ([{"w": normal(2, (3, 2)), "b": normal(3, (2,))}, {"w": normal(4, (2, 1)), "b": None}],)
    )
    yield Sample("empty and size 1", ((normal(5, (0, 3)), normal(6, (1, 1))),))
    yield Sample("bench", ({"w": normal(7, (1024, 1024)), "b": normal(8, (1024,))},), tags=("bench",))

"""Embedding: rows of a table, by number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, run_placed
from overbar._contract import RuleError, describe
from overbar._like import cast
from overbar.nn._wide import shape_of, wide
from overbar.rule import Sample, rule


@rule(
    bars={"table": "row v of the table has Σ ȳ over the places where v is the id"},
    residuals={
        "ids": "the numbers, data that the caller has anyway",
        "table": "an array without entries that tells the table's shape and dtype: no bytes",
    },
    arrays=("table", "ids"),
)
def embedding(table: ArrayLike, ids: ArrayLike) -> jax.Array:
    """Rows of a table by their numbers, y[...] = table[ids[...]].

    Ids are taken as `jnp.take` takes them by default: −1 is the last row, and so on; an id outside
    [−rows, rows) gives a row of nan, so that it does not go unseen, and adds to no bar.

    Backward: each row's bar is the sum of ȳ over the places that took it, in float32 at least: in half
    precision a sum of many rows would stop growing.

    Args:
      table: (rows, ...), of rank 1 or more; float or complex.
      ids: integers of any shape.

    Returns:
      ids.shape + table.shape[1:], with the table's dtype.

    Raises:
      RuleError: the table is not float or has no rows to be counted; ids are no integers.

    Source: Bengio et al., "A neural probabilistic language model", 2003.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> table, ids = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 1])
    >>> nn.embedding(table, ids).tolist()
    [[3.0, 4.0], [3.0, 4.0]]
    >>> jax.grad(lambda t: nn.embedding(t, ids).sum())(table).tolist()
    [[0.0, 0.0], [2.0, 2.0]]
    """
    table, ids = jnp.asarray(table), jnp.asarray(ids)
    if table.ndim < 1:
        raise RuleError(f"rule nn.embedding: expected table (rows, ...), but came {describe(table)}.")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise RuleError(f"rule nn.embedding: ids must be integers, but came {describe(ids)}.")
    if table.shape[0] == 0:  # jnp.take refuses it even for no ids
        return jnp.full((*ids.shape, *table.shape[1:]), jnp.nan, table.dtype)
    sharding = explicit_sharding(ids, slice(None), (table, slice(1, None)))
    return run_placed(lambda t, i: [jnp.take(t, i, axis=0)], (table, ids), [sharding])[0]


@embedding.forward
def embedding_forward(table: jax.Array, ids: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    return embedding.primal(table, ids), {"ids": ids, "table": shape_of(table)}


# Derivation for y_n = t_v with v = ids_n, that is y_n = Σ_v [v = ids_n] t_v.
#   (1) Σ_n ȳ_n ẏ_n = Σ_v (Σ_n [v = ids_n] ȳ_n) ṫ_v
#   (2) t̄_v = Σ_n [v = ids_n] ȳ_n: each ȳ_n is added to the row that it came from
@embedding.backward
def embedding_backward(residuals: Mapping[str, Any], y_bar: jax.Array) -> dict[str, jax.Array]:
    ids, like = residuals["ids"], residuals["table"]
    g = wide(y_bar)
    table_bar = jnp.zeros(like.shape[1:], g.dtype).at[ids].add(g, mode="drop")  # (2)
    return {"table": cast(table_bar, like.dtype)}


@embedding.reference
def embedding_reference(table: jax.Array, ids: jax.Array) -> jax.Array:
    rows = table.shape[0]
    flat = jnp.where(ids < 0, ids + rows, ids).reshape(ids.size, 1) == jnp.arange(rows, dtype=ids.dtype)[None]
    y = jnp.tensordot(flat.astype(table.dtype), table, axes=1)
    return y.reshape(*ids.shape, *table.shape[1:])


@embedding.samples
def embedding_samples(key: jax.Array) -> Iterator[Sample]:
    def make(name: str, table: tuple[int, ...], ids: Any, tags: Any = ()) -> Sample:
        return Sample(name, (draws.normal(key, table), jnp.asarray(ids, jnp.int32)), tags=tags)

    yield make("some twice", (5, 3), [0, 2, 2, 4, 2])
    yield make("two axes, from the end", (4, 2), [[-1, 0], [3, -4]])
    yield make("one id", (3, 2), 1)
    yield make("numbers", (4,), [1, 3, 1])
    yield make("one row", (1, 2), [0, 0])
    yield make("no ids", (3, 2), jnp.zeros((0,)))
    yield make("bench", (8192, 256), draws.randint(key, (4096,), 0, 8192), tags=("bench",))

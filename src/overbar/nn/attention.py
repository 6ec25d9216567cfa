"""Attention under `jax.nn`'s name, whose probabilities are never kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar._contract import RuleError, describe, is_float
from overbar.nn._attention_blocks import Problem, attend, pull_back
from overbar.rule import Sample, rule

# Logits of one head up to which jax.nn itself computes the output, bit for bit: as long as they are few,
# and a little longer where no gradient is taken. Beyond that its memory, which grows as they do, is saved.
EXACT = 512 * 512
EXACT_ALONE = 2048 * 2048


@rule(
    bars={
        "query": "q̄_t = c Σ_s x̄_ts k_s, where p = softmax(x), x̄_ts = p_ts (ȳ_t·v_s − Σ_r p_tr ȳ_t·v_r)",
        "key": "k̄_s = c Σ_t x̄_ts q_t",
        "value": "v̄_s = Σ_t p_ts ȳ_t",
        "bias": "b̄ = x̄, summed where b was broadcast; 0 where masked",
        "scale": "c̄ = Σ_ts x̄_ts q_t·k_s",
    },
    residuals={
        "query": "the input; with the others, backward computes the probabilities again, block by block",
        "key": "the input",
        "value": "the input",
        "bias": "the input, or None",
        "mask": "the input, or None",
        "scale": "c, the input, or None",
        "query_seq_lengths": "the input, or None",
        "key_value_seq_lengths": "the input, or None",
    },
    static=("is_causal", "local_window_size", "implementation", "return_residual"),
    arrays=(
        "query",
        "key",
        "value",
        "bias",
        "mask",
        "scale",
        "query_seq_lengths",
        "key_value_seq_lengths",
    ),
    integers=("bias", "scale"),
)
def dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    *,
    scale: ArrayLike | None = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Literal["xla", "cudnn"] | None = None,
    return_residual: bool = False,
) -> Any:
    """TODO"""
    inputs = (query, key, value, bias, mask, scale, query_seq_lengths, key_value_seq_lengths)
    options = (is_causal, local_window_size, implementation, return_residual)
    return _attention(inputs, options, EXACT_ALONE)


def _attention(inputs: tuple[Any, ...], options: tuple[Any, ...], exact: int) -> Any:
    is_causal, window, implementation, return_residual = options
    problem = _problem(*inputs, is_causal=is_causal, window=window)
    if implementation not in (None, "xla", "cudnn"):
        raise RuleError(
            f"rule nn.dot_product_attention: option implementation must be None, 'xla' or 'cudnn', "
            f"but came as {implementation!r}."
        )
    queries, keys = problem.sizes
    few = queries * keys <= exact and problem.query.dtype != jnp.float64
    if few or implementation == "cudnn":
        return _namesake(inputs, options)
    shape = jnp.shape(inputs[0])
    y, log_sum = attend(problem)
    if problem.query_lengths is not None:
        y = y * _within(problem, y.dtype)
    if not return_residual:
        return y.reshape(shape)
    return y.reshape(shape), jax.lax.stop_gradient(log_sum).reshape(shape[:-1])


def _namesake(inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
    query, key, value, bias, mask, scale, query_lengths, key_lengths = inputs
    is_causal, window, implementation, return_residual = options
    if implementation == "cudnn" and scale is not None:  # which takes numbers only: q carries it
        wide = jnp.asarray(query).astype(jnp.float32)
        query = (wide * (scale * math.sqrt(wide.shape[-1]))).astype(jnp.asarray(query).dtype)
        scale = None
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias,
        mask,
        scale=scale,
        is_causal=is_causal,
        query_seq_lengths=query_lengths,
        key_value_seq_lengths=key_lengths,
        local_window_size=window,
        implementation=implementation,
        return_residual=return_residual,
    )


def _within(problem: Problem, dtype: Any) -> jax.Array:
    """1 for the rows of each sequence, 0 for those behind its end: (B, T, 1, 1, 1)."""
    rows = jnp.arange(problem.sizes[0], dtype=jnp.int32)[None, :]
    return (rows < problem.query_lengths[:, None])[:, :, None, None, None].astype(dtype)


def _problem(
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    mask: Any,
    scale: Any,
    query_lengths: Any,
    key_lengths: Any,
    *,
    is_causal: bool,
    window: Any,
) -> Problem:
    """The inputs as blocks take them, or what is wrong with them."""
    query, key, value, bias, mask, scale, query_lengths, key_lengths = (
        None if x is None else jnp.asarray(x)
        for x in (query, key, value, bias, mask, scale, query_lengths, key_lengths)
    )
    came = f"but came query {describe(query)}, key {describe(key)}, value {describe(value)}"

    def refuse(expected: str) -> RuleError:
        return RuleError(f"rule nn.dot_product_attention: expected {expected}, {came}.")

    ranks = {x.ndim for x in (query, key, value)}
    if not ranks <= {3, 4}:
        raise refuse("query (B, T, N, H) or (T, N, H), key and value (B, S, K, H) or (S, K, H)")
    q, k, v = (x if x.ndim == 4 else x[None] for x in (query, key, value))
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    if k.shape != (B, S, K, H) or v.shape != k.shape:
        raise refuse("key and value of one shape, their B and H the query's")
    if not K or N % K:
        raise refuse("a number of query heads that is a multiple of that of key heads")
    if not (q.dtype == k.dtype == v.dtype) or not jnp.issubdtype(q.dtype, jnp.floating):
        raise refuse("one real float dtype for query, key and value")
    for name, x, boolean in (("bias", bias, False), ("mask", mask, True)):
        if x is None:
            continue
        came = f"but came {describe(x)}"
        if boolean and x.dtype != jnp.bool_:
            raise refuse(f"a boolean {name} (what is added to the logits is the bias)")
        shape = (1,) * (4 - x.ndim) + x.shape
        if any(have not in (1, want) for have, want in zip(shape, (B, N, T, S), strict=False)) or x.ndim > 4:
            raise refuse(f"a {name} that broadcasts to (B, N, T, S) = {(B, N, T, S)}")
    for name, x in (("query_seq_lengths", query_lengths), ("key_value_seq_lengths", key_lengths)):
        if x is not None and (x.shape != (B,) or x.dtype != jnp.int32):
            came = f"but came {describe(x)}"
            raise refuse(f"{name} int32[{B}], one for each sequence")
    if scale is not None and scale.shape != ():
        came = f"but came {describe(scale)}"
        raise refuse("one number for scale")
    left, right = _band(T + S, is_causal, window)
    return Problem(
        query=q.reshape(B, T, K, N // K, H),
        key=k.transpose(0, 2, 1, 3),
        value=v.transpose(0, 2, 1, 3),
        scale=jnp.asarray(1 / math.sqrt(H) if scale is None else scale),
        bias=_grouped(bias, K),
        mask=_grouped(mask, K),
        query_lengths=query_lengths,
        key_lengths=key_lengths,
        left=left,
        right=right,
    )


def _band(everything: int, is_causal: bool, window: Any) -> tuple[int, int]:
    """How many keys a row sees to its left and to its right."""
    if window is None:
        return everything, 0 if is_causal else everything
    left, right = (window, window) if isinstance(window, int) else window
    return left, min(right, 0) if is_causal else right


def _grouped(x: jax.Array | None, groups: int) -> jax.Array | None:
    """(N|1, T|1, S|1), or of another rank up to 4, as (B|1, K|1, G|1, T|1, S|1)."""
    if x is None:
        return None
    B, N, T, S = (1,) * (4 - x.ndim) + x.shape
    return x.reshape(B, 1, 1, T, S) if N == 1 else x.reshape(B, groups, N // groups, T, S)


@dot_product_attention.forward
def dot_product_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    bias: Any,
    mask: Any,
    scale: Any,
    is_causal: bool,
    query_seq_lengths: Any,
    key_value_seq_lengths: Any,
    local_window_size: Any,
    implementation: Any,
    return_residual: bool,
) -> tuple[Any, dict[str, Any]]:
    inputs = (query, key, value, bias, mask, scale, query_seq_lengths, key_value_seq_lengths)
    options = (is_causal, local_window_size, implementation, return_residual)
    names = dot_product_attention.inputs
    return _attention(inputs, options, EXACT), dict(
        query=query,
        key=key,
        value=value,
        bias=bias,
        mask=mask,
        scale=scale,
        query_seq_lengths=query_seq_lengths,
        key_value_seq_lengths=key_value_seq_lengths,
    )


@dot_product_attention.backward
def dot_product_attention_backward(
    residuals: Mapping[str, Any],
    y_bar: Any,
    is_causal: bool,
    local_window_size: Any,
    return_residual: bool,
) -> dict[str, Any]:
    r = residuals
    problem = _problem(
        r["query"],
        r["key"],
        r["value"],
        r["bias"],
        r["mask"],
        r["scale"],
        r["query_seq_lengths"],
        r["key_value_seq_lengths"],
        is_causal=is_causal,
        window=local_window_size,
    )
    y_bar = (y_bar[0] if return_residual else y_bar).reshape(problem.query.shape)
    if problem.query_lengths is not None:
        y_bar = y_bar * _within(problem, y_bar.dtype)
    bars = pull_back(problem, y_bar)
    as_given = {
        "query": bars["query"],
        "key": bars["key"].transpose(0, 2, 1, 3),
        "value": bars["value"].transpose(0, 2, 1, 3),
        "bias": bars["bias"],
        "scale": bars["scale"],
    }
    return {
        n: bar.reshape(r[n].shape).astype(r[n].dtype)
        for n, bar in as_given.items()
        if bar is not None and r[n] is not None and is_float(r[n])
    }


@dot_product_attention.reference
def dot_product_attention_reference(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None,
    mask: jax.Array | None,
    scale: jax.Array | None,
    is_causal: bool,
    query_seq_lengths: jax.Array | None,
    key_value_seq_lengths: jax.Array | None,
    local_window_size: Any,
    implementation: Any,
    return_residual: bool,
) -> Any:
    shape = query.shape
    query, key, value = (x if x.ndim == 4 else x[None] for x in (query, key, value))
    (B, T, N, H), S = query.shape, key.shape[1]
    key, value = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (key, value))
    x = jnp.einsum("bthd,bshd->bhts", query, key)
    x = x / H**0.5 if scale is None else x * scale.astype(x.dtype)
    if bias is not None:
        x = x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)
    t, s = jnp.arange(T, dtype=jnp.int32)[:, None], jnp.arange(S, dtype=jnp.int32)[None, :]
    seen = jnp.ones((B, N, T, S), bool)
    if mask is not None:
        seen = seen & jnp.broadcast_to(mask, seen.shape)
    if is_causal:
        seen = seen & (s <= t)[None, None]
    if local_window_size is not None:
        left, right = (local_window_size,) * 2 if isinstance(local_window_size, int) else local_window_size
        seen = seen & ((t - left <= s) & (s <= t + right))[None, None]
    if key_value_seq_lengths is not None:
        seen = seen & (s[None] < key_value_seq_lengths[:, None, None])[:, None]
    inside = jnp.ones((B, T), bool)
    if query_seq_lengths is not None:
        inside = t.T < query_seq_lengths[:, None]
    seen = seen & inside[:, None, :, None]
    any_seen = seen.any(-1, keepdims=True)
    largest = jax.lax.stop_gradient(jnp.where(seen, x, -jnp.inf).max(-1, keepdims=True, initial=-jnp.inf))
    largest = jnp.where(any_seen, largest, 0)
    weights = jnp.where(seen, jnp.exp(jnp.where(seen, x, largest) - largest), 0)
    weights = jnp.where(any_seen, weights, 1.0)  # a row that sees no key attends to all of them alike
    y = jnp.einsum("bhts,bshd->bthd", weights, value)
    y = y / jnp.swapaxes(weights.sum(-1), 1, 2)[..., None] if S else y
    y = jnp.where(inside[:, :, None, None], y, 0).reshape(shape)
    if not return_residual:
        return y
    smallest = -0.7 * float(jnp.finfo(jnp.float32).max)
    log_sum = jnp.where(any_seen, largest + jnp.log(weights.sum(-1, keepdims=True)), smallest)
    return y, jax.lax.stop_gradient(jnp.swapaxes(log_sum[..., 0], 1, 2)).reshape(shape[:-1])


@dot_product_attention.samples
def dot_product_attention_samples(key: jax.Array) -> Iterator[Sample]:
    def make(
        name: str, q: tuple[int, ...], kv: tuple[int, ...], *rest: Any, tags: Any = (), **options: Any
    ) -> Sample:
        keys = jax.random.split(key, 3)
        arrays = [jax.random.normal(k, s) for k, s in zip(keys, (q, kv, kv), strict=True)]
        return Sample(name, (*arrays, *rest), options, tags)

    def normal(*shape: int) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, 1), shape)

    def some(*shape: int) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, 2), 0.6, shape)

    yield make("causal", (2, 5, 2, 3), (2, 5, 2, 3), is_causal=True)
    yield make(
        "grouped heads, bias, mask with a row of none, scale",
        (2, 3, 4, 2), (2, 4, 2, 2), normal(4, 3, 1), some(2, 1, 3, 4).at[0, 0, 1].set(False), scale=0.7,
    )  # fmt: skip
    yield make(
        "lengths, window, no batch, residual",
        (5, 2, 3), (5, 1, 3), query_seq_lengths=jnp.array([4], jnp.int32),
        key_value_seq_lengths=jnp.array([2], jnp.int32), local_window_size=(1, 2), return_residual=True,
    )  # fmt: skip
    yield make(
        "by blocks", (1, 150, 1, 1), (1, 130, 1, 1), normal(1, 130), is_causal=True, local_window_size=70
    )
    yield make("empty batch", (0, 3, 1, 2), (0, 3, 1, 2))
    yield make("no keys", (1, 2, 1, 2), (1, 0, 1, 2))
    yield make("bench", (1, 1024, 8, 64), (1, 1024, 8, 64), is_causal=True, tags=("bench",))
    yield make("bench grouped", (2, 256, 8, 64), (2, 256, 2, 64), tags=("bench",))

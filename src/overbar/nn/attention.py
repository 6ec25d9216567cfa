"""Attention under `jax.nn`'s name, whose probabilities, where they are many, are never kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._contract import RuleError, describe, is_float
from overbar._jax_nn import jax_nn
from overbar.nn._attention_blocks import Problem, attend, attend_at_once, pull_back
from overbar.rule import Sample, rule

# Logits of one head up to which jax.nn itself computes the output, so that it is the same bit for bit:
# under differentiation, and where no gradient is taken. Beyond, what they take of memory is saved.
EXACT = 512 * 512
EXACT_ALONE = 2048 * 2048
KEPT = 256 * 256  # logits of one head up to which probabilities are kept: few, and not computed twice

_INPUTS = ("query", "key", "value", "bias", "mask", "scale", "query_seq_lengths", "key_value_seq_lengths")


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
        "weights": "e and Σ e, of p = e / Σ e, where T S is at most 256², else None: computed again",
    },
    static=("is_causal", "local_window_size", "implementation", "return_residual"),
    arrays=_INPUTS,
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
    """Scaled dot-product attention, softmax(c q kᵀ + b) v; the rule under its name in `jax.nn`.

    Backward: v̄ = pᵀ ȳ; x̄ = p ⊙ (p̄ − Σ p ⊙ p̄) with p̄ = ȳ vᵀ; q̄ = c x̄ k; k̄ = c x̄ᵀ q; b̄ = x̄, summed where b
    was broadcast; c̄ = Σ x̄ ⊙ q kᵀ. Beyond 256 × 256 logits a head the probabilities p are never kept:
    backward computes them again from the inputs, a block of queries at a time. Temporary memory grows as
    T + S, not as T S, and of what causality or a local window hides, most is not computed. The
    log-sum-exp has no bar, as in `jax.nn`.

    Outputs are jax.nn's, in float32 bit for bit, up to 2048 × 2048 logits a head, and under
    differentiation up to 512 × 512. Beyond, they come from the blocks and differ by rounding, as
    jax.nn's own do between a jitted and an eager call. In bfloat16 the same holds of calls without
    differentiation; else, and in float16, the arithmetic is float32's and rounded once. In float64 the
    softmax is float64's too, which jax.nn rounds to float32.

    A masked logit is a large negative number, as in `jax.nn`: a row that sees no key attends to all of
    them alike, and its bars are finite. Rows behind `query_seq_lengths` are 0.

    Args:
      query: (B, T, N, H), or (T, N, H); float16, bfloat16, float32 or float64.
      key: (B, S, K, H), or (S, K, H), the same dtype; N is a multiple of K, and each key head serves
        N / K consecutive query heads.
      value: shape and dtype of key.
      bias: added to the logits; broadcasts to (B, N, T, S), of any dtype.
      mask: which keys may be attended to; bool, broadcasts to (B, N, T, S).
      scale: c, one number, which has a bar too where it is an array; by default 1/√H.
      is_causal: whether query t sees the keys up to t only.
      query_seq_lengths, key_value_seq_lengths: int32 (B,), how many queries and keys of each sequence count.
      local_window_size: (left, right), query t sees the keys t − left to t + right only; or one number
        for both.
      implementation: None or "xla"; "cudnn" takes jax.nn's output by cuDNN, on a GPU that has it, and its
        backward is the same as of the others.
      return_residual: whether to return the log-sum-exp of each row's logits as well.

    Returns:
      query's shape and dtype; with return_residual a pair, the second (B, T, N), or (T, N).

    Raises:
      RuleError: a rank, a size or a dtype does not fit, or an option is something else.

    Source: Vaswani et al., "Attention is all you need", 2017; for the recomputation by blocks, Rabe and
    Staats, "Self-attention does not need O(n²) memory", 2021, and Dao et al., "FlashAttention", 2022.

    >>> import jax, jax.numpy as jnp
    >>> from overbar import nn
    >>> q, k, v = (jax.random.normal(key, (1, 6, 2, 4)) for key in jax.random.split(jax.random.key(0), 3))
    >>> nn.dot_product_attention(q, k, v, is_causal=True).shape
    (1, 6, 2, 4)
    >>> v_bar = jax.grad(lambda v: nn.dot_product_attention(q, k, v, is_causal=True).sum())(v)
    >>> bool(v_bar[0, 0, 0, 0] > v_bar[0, 5, 0, 0])  # all six queries see the first value, one the last
    True
    """
    inputs = (query, key, value, bias, mask, scale, query_seq_lengths, key_value_seq_lengths)
    return _attention(inputs, (is_causal, local_window_size, implementation, return_residual), EXACT_ALONE)


def _attention(inputs: tuple[Any, ...], options: tuple[Any, ...], exact: int) -> Any:
    """By jax.nn, where the logits of a head are few, or by blocks."""
    _, window, implementation, _ = options
    if implementation not in (None, "xla", "cudnn"):
        raise _refused_option("implementation", "None, 'xla' or 'cudnn'", implementation)
    if not (window is None or isinstance(window, int) or _is_pair(window)):
        raise _refused_option("local_window_size", "a whole number or a pair of them", window)
    q, k, _ = _checked(*inputs)
    few = q.shape[1] * k.shape[1] <= exact and q.dtype in (jnp.float32, jnp.bfloat16)
    if few or implementation == "cudnn":
        return _namesake(inputs, options)
    problem = _problem(inputs, options)
    return _finished(problem, *attend(problem), inputs[0], options)


def _finished(
    problem: Problem, y: jax.Array, log_sum: jax.Array, query: Any, options: tuple[Any, ...]
) -> Any:
    """What is returned, from all rows of the output (B, T, K, G, H) and their log-sum-exp (B, T, K, G)."""
    *_, return_residual = options
    shape = jnp.shape(query)
    if problem.query_lengths is not None:
        y = y * _within(problem.query_lengths, y)
    if not return_residual:
        return y.reshape(shape)
    return y.reshape(shape), jax.lax.stop_gradient(log_sum).reshape(shape[:-1])


def _within(lengths: jax.Array, y: jax.Array) -> jax.Array:
    """1 for the rows of each sequence in y (B, T, K, G, H), 0 for those behind its end."""
    rows = jnp.arange(y.shape[1], dtype=jnp.int32)[None, :]
    return (rows < lengths[:, None])[:, :, None, None, None].astype(y.dtype)


def _namesake(inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Any:
    query, key, value, bias, mask, scale, query_lengths, key_lengths = inputs
    is_causal, window, implementation, return_residual = options
    if implementation == "cudnn" and scale is not None:  # which takes numbers only: q carries it
        wide = jnp.asarray(query).astype(jnp.float32)
        query = (wide * (scale * math.sqrt(wide.shape[-1]))).astype(jnp.asarray(query).dtype)
        scale = None
    with jax.numpy_dtype_promotion("standard"):  # in bfloat16 jax.nn promotes the logits
        return jax_nn.dot_product_attention(
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


def _refused(expected: str, **came: Any) -> RuleError:
    named = ", ".join(f"{name} {describe(jnp.asarray(x))}" for name, x in came.items())
    return RuleError(f"rule nn.dot_product_attention: expected {expected}, but came {named}.")


def _refused_option(name: str, expected: str, came: Any) -> RuleError:
    return RuleError(
        f"rule nn.dot_product_attention: option {name} must be {expected}, but came as {came!r}."
    )


def _checked(
    query: Any, key: Any, value: Any, bias: Any, mask: Any, scale: Any, query_lengths: Any, key_lengths: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query (B, T, N, H), key and value (B, S, K, H); refuses inputs that do not fit."""
    came = {"query": jnp.asarray(query), "key": jnp.asarray(key), "value": jnp.asarray(value)}
    if not {x.ndim for x in came.values()} <= {3, 4}:
        raise _refused("query (B, T, N, H) or (T, N, H), key and value (B, S, K, H) or (S, K, H)", **came)
    q, k, v = (x if x.ndim == 4 else x[None] for x in came.values())
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    if k.shape != (B, S, K, H) or v.shape != k.shape:
        raise _refused("key and value of one shape, their B and H the query's", **came)
    if not K or N % K:
        raise _refused("a number of query heads that is a multiple of that of key heads", **came)
    if not q.dtype == k.dtype == v.dtype or not jnp.issubdtype(q.dtype, jnp.floating):
        raise _refused("one real float dtype for query, key and value", **came)
    for name, x in {"bias": bias, "mask": mask}.items():
        sizes = () if x is None else zip(jnp.shape(x)[::-1], (S, T, N, B), strict=False)
        if x is not None and (jnp.ndim(x) > 4 or any(have not in (1, want) for have, want in sizes)):
            raise _refused(f"a {name} that broadcasts to (B, N, T, S) = {(B, N, T, S)}", **{name: x})
    if mask is not None and jnp.asarray(mask).dtype != jnp.bool_:
        raise _refused("a boolean mask; what is added to the logits is the bias", mask=mask)
    for name, x in {"query_seq_lengths": query_lengths, "key_value_seq_lengths": key_lengths}.items():
        if x is not None and (jnp.shape(x) != (B,) or jnp.asarray(x).dtype != jnp.int32):
            raise _refused(f"{name} int32[{B}], one of each sequence", **{name: x})
    if scale is not None and jnp.shape(scale) != ():
        raise _refused("one number for scale", scale=scale)
    return q, k, v


def _problem(inputs: tuple[Any, ...], options: tuple[Any, ...]) -> Problem:
    """The inputs as the blocks take them."""
    q, k, v = _checked(*inputs)
    (B, T, N, H), (S, K) = q.shape, k.shape[1:3]
    _, _, _, bias, mask, scale, query_lengths, key_lengths = inputs
    is_causal, window, *_ = options
    left, right = (window, window) if isinstance(window, int) else window or (T + S, T + S)
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
        right=min(right, 0) if is_causal else right,
    )


def _is_pair(window: Any) -> bool:
    return isinstance(window, tuple) and len(window) == 2 and all(isinstance(w, int) for w in window)


def _grouped(x: Any, groups: int) -> jax.Array | None:
    """A bias or a mask as (B|1, K|1, G|1, T|1, S|1)."""
    if x is None:
        return None
    x = jnp.asarray(x)
    B, N, T, S = (1,) * (4 - x.ndim) + x.shape
    return x.reshape(B, 1, 1, T, S) if N == 1 else x.reshape(B, groups, N // groups, T, S)


@dot_product_attention.forward
def dot_product_attention_forward(
    is_causal: bool, local_window_size: Any, implementation: Any, return_residual: bool, **inputs: Any
) -> tuple[Any, dict[str, Any]]:
    options = (is_causal, local_window_size, implementation, return_residual)
    values = tuple(inputs[n] for n in _INPUTS)
    q, k, _ = _checked(*values)
    if q.shape[1] * k.shape[1] > KEPT or implementation == "cudnn":
        return _attention(values, options, EXACT), {**inputs, "weights": None}
    problem = _problem(values, options)
    y, log_sum, weights = attend_at_once(problem)
    return _finished(problem, y, log_sum, inputs["query"], options), {**inputs, "weights": weights}


# The derivation stands beside the arithmetic, above `pull_back`.
@dot_product_attention.backward
def dot_product_attention_backward(
    residuals: Mapping[str, Any], y_bar: Any, is_causal: bool, local_window_size: Any, return_residual: bool
) -> dict[str, Any]:
    options = (is_causal, local_window_size, None, return_residual)
    problem = _problem(tuple(residuals[n] for n in _INPUTS), options)
    y_bar = (y_bar[0] if return_residual else y_bar).reshape(problem.query.shape)
    if problem.query_lengths is not None:
        y_bar = y_bar * _within(problem.query_lengths, y_bar)
    bars = pull_back(problem, y_bar, residuals["weights"])
    bars |= {n: bars[n].transpose(0, 2, 1, 3) for n in ("key", "value")}

    def as_given(bar: jax.Array, given: jax.Array) -> jax.Array:
        return bar.reshape(given.shape).astype(given.dtype)

    given = {n: residuals[n] for n in bars if residuals[n] is not None and is_float(residuals[n])}
    return {n: as_given(bars[n], x) for n, x in given.items()}


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
        inside = query_seq_lengths[:, None] > t.T
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
        arrays = [draws.normal(k, s) for k, s in zip(keys, (q, kv, kv), strict=True)]
        return Sample(name, (*arrays, *rest), options, tags)

    def normal(*shape: int) -> jax.Array:
        return draws.normal(jax.random.fold_in(key, 1), shape)

    def some(*shape: int) -> jax.Array:
        return draws.bernoulli(jax.random.fold_in(key, 2), 0.6, shape)

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
    yield make("bench", (1, 1024, 8, 64), (1, 1024, 8, 64), is_causal=True, tags=("bench",))
    yield make("bench grouped", (2, 256, 8, 64), (2, 256, 2, 64), tags=("bench",))

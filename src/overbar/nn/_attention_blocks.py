"""The arithmetic of attention by blocks of queries: forward, and backward that recomputes.

A block is a few rows of the matrix of logits, each whole: its softmax needs no second look, and one
block of probabilities is all that is ever held. A row sees a band of keys, all of them or those that
causality and a local window leave; of the others a block computes nothing.

A masked logit of `jax.nn` is not −∞ but one large negative number L. A row of which every key is
masked therefore attends to all of them alike, those included that its block left out. So what is
left out enters the sums of a row as what it is: n more keys of logit L, and the sum of their values.
Everywhere else their weight e^(L − m) is 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from overbar._adapter import vary_over, varying_axes
from overbar._contract import is_float
from overbar._dtypes import computing
from overbar._jax_nn import jax_nn

ROWS = 64  # of a block
STRETCHES = 4  # programs that the blocks of a band share: more skip more, and compile longer


class Problem(NamedTuple):
    """One attention, its heads grouped by the key that they share.

    query (B, T, K, G, H); key and value (B, K, S, H); bias and mask (B|1, K|1, G|1, T|1, S|1) or None;
    query_lengths and key_lengths (B,) or None; row t sees the keys from t − left to t + right.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    scale: jax.Array
    bias: jax.Array | None
    mask: jax.Array | None
    query_lengths: jax.Array | None
    key_lengths: jax.Array | None
    left: int
    right: int

    @property
    def sizes(self) -> tuple[int, int]:
        """(T, S)."""
        return self.query.shape[1], self.key.shape[2]


# ---------------------------------------------------------------------- which blocks there are


class Stretch(NamedTuple):
    """Consecutive blocks of one shape: the first row, rows a block, how many blocks, keys they see."""

    first: int
    rows: int
    blocks: int
    keys: int


def stretches(queries: int, keys: int, left: int, right: int) -> list[Stretch]:
    """The blocks of a band, consecutive ones of the same shape together.

    >>> stretches(512, 512, 512, 0)  # causal
    [Stretch(first=0, rows=64, blocks=2, keys=128), Stretch(first=128, rows=64, blocks=2, keys=256), \
Stretch(first=256, rows=64, blocks=2, keys=384), Stretch(first=384, rows=64, blocks=2, keys=512)]
    >>> stretches(512, 512, 512, 512)
    [Stretch(first=0, rows=64, blocks=8, keys=512)]
    """
    if queries <= ROWS or not keys:
        return [Stretch(0, queries, 1, keys)]
    rows = math.ceil(queries / math.ceil(queries / ROWS))
    firsts = range(0, queries, rows)

    def seen(first: int) -> int:
        last = min(first + rows, queries) - 1
        return max(1, min(keys, last + right + 1) - max(0, first - left))

    # Two blocks at least, since XLA unrolls a loop of one and runs what is unrolled all at once.
    together = max(2, math.ceil(len(firsts) / STRETCHES))
    made: list[Stretch] = []
    for start in range(0, len(firsts), together):
        chunk = firsts[start : start + together]
        most = max(map(seen, chunk))
        for first in chunk:
            here = min(rows, queries - first)
            if made and (made[-1].rows, made[-1].keys) == (here, most):
                made[-1] = made[-1]._replace(blocks=made[-1].blocks + 1)
            else:
                made.append(Stretch(first, here, 1, most))
    return made


def _stretches(problem: Problem) -> list[Stretch]:
    return stretches(*problem.sizes, problem.left, problem.right)


class Block(NamedTuple):
    """Where a block lies: its first row and how many, its first key and how many."""

    row: Any
    rows: int
    start: Any
    keys: int

    def of_rows(self, x: jax.Array, axis: int) -> jax.Array:
        return _cut(x, self.row, self.rows, axis)

    def of_keys(self, x: jax.Array, axis: int) -> jax.Array:
        return _cut(x, self.start, self.keys, axis)

    def of_both(self, x: jax.Array) -> jax.Array:
        """Of a bias or a mask."""
        return self.of_keys(self.of_rows(x, 3), 4)


def _cut(x: jax.Array, start: Any, size: int, axis: int) -> jax.Array:
    return x if x.shape[axis] in (1, size) else lax.dynamic_slice_in_dim(x, start, size, axis)


def _over_blocks(
    problem: Problem, body: Callable[[Any, Block], tuple[Any, Any]], carry: Any
) -> tuple[Any, list[Any]]:
    """Runs the body over the blocks, one after the other: the carry, and for each stretch the results
    of its blocks along a leading axis."""
    queries, keys = problem.sizes
    results = []
    for stretch in _stretches(problem):

        def step(carry: Any, number: Any, stretch: Stretch = stretch) -> tuple[Any, Any]:
            row = stretch.first + number * stretch.rows
            start = jnp.int32(0)
            if problem.left < queries - 1:
                start = jnp.clip(row - problem.left, 0, keys - stretch.keys)
            return body(carry, Block(row, stretch.rows, start, stretch.keys))

        if stretch.blocks == 1:
            carry, result = step(carry, jnp.int32(0))
            result = jax.tree.map(lambda x: x[None], result)
        else:
            carry, result = lax.scan(step, carry, jnp.arange(stretch.blocks, dtype=jnp.int32))
        results.append(result)
    return carry, results


def _joined(parts: list[jax.Array]) -> jax.Array:
    """(blocks, B, rows, ...) of each stretch -> (B, T, ...)."""

    def flat(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], *x.shape[3:])

    return jnp.concatenate([flat(x) for x in parts], 1) if len(parts) > 1 else flat(parts[0])


# ---------------------------------------------------------------------- one block


def masked_logit(dtype: Any) -> float:
    """L, the logit of a masked key; as jax.nn has it."""
    return -0.7 * float(min(jnp.finfo(dtype).max, jnp.finfo(jnp.float32).max))


def _allowed(problem: Problem, block: Block) -> jax.Array | None:
    """Which keys of a block its rows may attend to, (B|1, K|1, G|1, rows|1, keys|1); None for all."""
    queries, keys = problem.sizes
    rows = (block.row + jnp.arange(block.rows, dtype=jnp.int32)).reshape(1, 1, 1, -1, 1)
    columns = (block.start + jnp.arange(block.keys, dtype=jnp.int32)).reshape(1, 1, 1, 1, -1)
    parts: list[jax.Array] = []
    if problem.right < keys - 1:
        parts.append(columns <= rows + problem.right)
    if problem.left < queries - 1:
        parts.append(columns >= rows - problem.left)
    if problem.mask is not None:
        parts.append(block.of_both(problem.mask))
    if problem.query_lengths is not None:
        parts.append(rows < problem.query_lengths.reshape(-1, 1, 1, 1, 1))
    if problem.key_lengths is not None:
        parts.append(columns < problem.key_lengths.reshape(-1, 1, 1, 1, 1))
    return functools.reduce(jnp.logical_and, parts) if parts else None


class Weights(NamedTuple):
    """A block of probabilities as they were computed, p = e / Σ; B, K, G, then rows and keys."""

    e: jax.Array  # (B, K, G, rows, keys)
    total: jax.Array  # (B, K, G, rows, 1)


class _Softmax(NamedTuple):
    """A block of weights, what they were computed from, what was left out."""

    query: jax.Array  # (B, K, G, rows, H), as all here in the computing dtype
    key: jax.Array  # (B, K, keys, H)
    value: jax.Array  # (B, K, keys, H)
    allowed: jax.Array | None
    weights: Weights
    log_sum: Any  # (B, K, G, rows, 1), the log-sum-exp of each row; None where the weights were known
    left: _LeftOut | None


class _LeftOut(NamedTuple):
    """The keys of a row that its block left out."""

    e: jax.Array  # (B, K, G, rows, 1), the weight of each of them before it is divided by the total
    value: jax.Array  # (B, K, 1, 1, H), the sum of their values


def _sum_of_values(problem: Problem) -> jax.Array:
    """Of all the keys, (B, K, H)."""
    return problem.value.astype(computing(problem.value.dtype)).sum(2)


def _by_head(x: jax.Array) -> jax.Array:
    """(B, rows, K, G, H) -> (B, K, G, rows, H)."""
    return jnp.moveaxis(x, 1, 3)


def _softmax(problem: Problem, block: Block, values: jax.Array, known: Weights | None = None) -> _Softmax:
    """The softmax of a block, unless its weights are known; values are the sums of all keys', (B, K, H)."""
    wide = values.dtype
    query = _by_head(block.of_rows(problem.query, 1).astype(wide))
    key, value = (block.of_keys(x, 2).astype(wide) for x in (problem.key, problem.value))
    allowed = _allowed(problem, block)
    if known is not None:
        return _Softmax(query, key, value, allowed, known, None, None)
    x = jnp.einsum("bkgth,bksh->bkgts", query, key) * problem.scale.astype(wide)
    if problem.bias is not None:
        x = x + block.of_both(problem.bias).astype(wide)
    if allowed is not None:
        x = jnp.where(allowed, x, masked_logit(wide))
    left = problem.sizes[1] - block.keys
    least = masked_logit(wide) if left else -jnp.inf
    # The softmax does not depend on m, so neither do its derivatives.
    m = lax.stop_gradient(jnp.max(x, -1, keepdims=True, initial=least))
    e = jnp.exp(x - m)
    total = e.sum(-1, keepdims=True)
    left_out = None
    if left:
        e_left = jnp.exp(masked_logit(wide) - m)
        total = total + left * e_left
        left_out = _LeftOut(e_left, (values - value.sum(2))[:, :, None, None])
    return _Softmax(query, key, value, allowed, Weights(e, total), m + jnp.log(total), left_out)


def _added(total: jax.Array, part: jax.Array, starts: dict[int, Any]) -> jax.Array:
    """total with part added to it, from these starts on along the axes where it is smaller."""
    part = part.astype(total.dtype)
    if part.shape == total.shape:
        return total + part
    where = [jnp.int32(starts.get(i, 0) if part.shape[i] < total.shape[i] else 0) for i in range(total.ndim)]
    here = lax.dynamic_slice(total, where, part.shape)
    return lax.dynamic_update_slice(total, here + part, where)


# ---------------------------------------------------------------------- all blocks


def _output(problem: Problem, s: _Softmax) -> tuple[jax.Array, jax.Array]:
    """The rows of a block (B, rows, K, G, H), and the log-sum-exp of each (B, rows, K, G)."""
    e, total = s.weights
    y = jnp.einsum("bkgts,bksh->bkgth", e / total, s.value)
    if s.left is not None:
        y = y + s.left.e / total * s.left.value
    y, log_sum = (jnp.moveaxis(x, 3, 1).astype(problem.query.dtype) for x in (y, s.log_sum))
    return y, log_sum[..., 0]


def attend(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """The output (B, T, K, G, H) and the log-sum-exp of each row (B, T, K, G)."""
    values = _sum_of_values(problem)

    def body(carry: Any, block: Block) -> Any:
        return carry, _output(problem, _softmax(problem, block, values))

    _, results = _over_blocks(problem, body, ())
    y, log_sum = zip(*results, strict=True)
    return _joined(list(y)), _joined(list(log_sum))


def attend_at_once(problem: Problem) -> tuple[jax.Array, jax.Array, Weights]:
    """As attend, and the weights (B, K, G, T, S); the operations and their order are jax.nn's."""
    wide = computing(problem.query.dtype)
    key, value = (x.transpose(0, 2, 1, 3).astype(wide) for x in (problem.key, problem.value))
    allowed = _allowed(problem, _everything(problem))

    def of_group(query: jax.Array, bias: jax.Array | None, allowed: jax.Array | None) -> Any:
        x = jnp.einsum("btkh,bskh->bkts", query.astype(wide), key) * problem.scale.astype(wide)
        if bias is not None:
            x = x + bias.astype(wide)
        if allowed is not None:
            x = jnp.where(allowed, x, masked_logit(wide))
        e = jnp.exp(x - jnp.max(x, -1, keepdims=True, initial=-jnp.inf))
        total = e.sum(-1, keepdims=True)
        y = jnp.einsum("bkts,bskh->btkh", e / total, value)
        return y, jax_nn.logsumexp(x, -1), Weights(e, total)

    groups = problem.query.shape[3]
    whole = [None if x is None else _repeated(x, groups) for x in (problem.bias, allowed)]
    y, log_sum, weights = jax.vmap(of_group, in_axes=(3, 2, 2), out_axes=(3, 3, 2))(problem.query, *whole)
    y, log_sum = (x.astype(problem.query.dtype) for x in (y, jnp.moveaxis(log_sum, 2, 1)))
    return y, log_sum, weights


def _repeated(x: jax.Array, groups: int) -> jax.Array:
    return jnp.broadcast_to(x, (*x.shape[:2], groups, *x.shape[3:]))


def _everything(problem: Problem) -> Block:
    queries, keys = problem.sizes
    return Block(jnp.int32(0), queries, jnp.int32(0), keys)


# Derivation, of one row t and its head: x_s = c q·k_s + b_s, or L where s is masked; p = softmax(x);
# y = Σ_s p_s v_s.
#   (1) ẏ = Σ_s ṗ_s v_s + p_s v̇_s, so p̄_s = ȳ·v_s  and  v̄_s = Σ_t p_ts ȳ_t
#   (2) ṗ_s = p_s (ẋ_s − Σ_r p_r ẋ_r), so x̄_s = p_s (p̄_s − Σ_r p_r p̄_r);
#       0 where s is masked, since L is a constant
#   (3) ẋ_s = ċ q·k_s + c q̇·k_s + c q·k̇_s + ḃ_s, so with u = Σ_s x̄_s k_s
#       q̄ = c u,  k̄_s = c Σ_t x̄_ts q_t,  c̄ = Σ_t q_t·u_t,  b̄ = x̄, summed where b was broadcast
#   (4) a key that the block left out has p_left, so Σ_left p_r p̄_r = p_left ȳ·Σ_left v_r, and to its v̄
#       comes Σ_t p_left ȳ_t, the same for all of them
# A row's probabilities come from q, k and b alone, so nothing but the inputs is kept. p̄ has to be
# computed anyway, so Σ_r p_r p̄_r is taken from it and not from y·ȳ, for which y would have to be kept.
# p = e / Σ is not rounded to a number of its own, nor written out: x̄_s = e_s (p̄_s / Σ − Σ_r e_r p̄_r / Σ²)
# in (2), v̄_s = Σ_t e_ts (ȳ_t / Σ_t) in (1).
def pull_back(problem: Problem, y_bar: jax.Array, known: Weights | None) -> dict[str, jax.Array]:
    """The bars of query, key, value, scale and bias, shaped as they are, in the computing dtype.

    With the weights (B, K, G, T, S) known, all is one block.
    """
    wide = computing(problem.query.dtype)
    values = _sum_of_values(problem)
    bias = problem.bias if problem.bias is not None and is_float(problem.bias) else None

    def body(carry: Any, block: Block) -> Any:
        key_bar, value_bar, bias_bar = carry
        s = _softmax(problem, block, values, known)
        e, total = s.weights
        y_bar_here = _by_head(block.of_rows(y_bar, 1).astype(wide))
        p_bar = jnp.einsum("bkgth,bksh->bkgts", y_bar_here, s.value)  # (1)
        y_bar_here = y_bar_here / total
        mean = (p_bar * (1 / (total * total)) * e).sum(-1, keepdims=True)
        left_bar = None
        if s.left is not None:
            e_left, v_left = s.left
            mean = mean + e_left / total * (y_bar_here * v_left).sum(-1, keepdims=True)  # (4)
            left_bar = ((e_left * y_bar_here).sum((2, 3)), block.start)
        x_bar = e * (p_bar / total - mean)  # (2)
        if s.allowed is not None:
            x_bar = jnp.where(s.allowed, x_bar, 0)
        value_bar = _added(value_bar, jnp.einsum("bkgts,bkgth->bksh", e, y_bar_here), {2: block.start})
        key_bar = _added(key_bar, jnp.einsum("bkgts,bkgth->bksh", x_bar, s.query), {2: block.start})  # (3)
        if bias is not None:
            repeated = [i for i in range(5) if bias.shape[i] == 1 != x_bar.shape[i]]
            summed = x_bar.sum(repeated, keepdims=True)
            bias_bar = _added(bias_bar, summed, {3: block.row, 4: block.start})
        u = jnp.moveaxis(jnp.einsum("bkgts,bksh->bkgth", x_bar, s.key), 3, 1)
        return (key_bar, value_bar, bias_bar), (u, left_bar)

    bars = [jnp.zeros(problem.key.shape, wide), jnp.zeros(problem.value.shape, wide), None]
    if bias is not None:  # an entry that belongs to one row is written once
        bars[2] = jnp.zeros(bias.shape, bias.dtype if bias.shape[3] > 1 else wide)
    carry = tuple(vary_over(bars, varying_axes((problem, y_bar))))
    if known is not None:
        (key_bar, value_bar, bias_bar), (u, _) = body(carry, _everything(problem))
    else:
        (key_bar, value_bar, bias_bar), results = _over_blocks(problem, body, carry)
        u = _joined([u for u, _ in results])
        for stretch, (_, left_bar) in zip(_stretches(problem), results, strict=True):
            if left_bar is not None:
                value_bar = value_bar + _of_left_out(stretch, problem.sizes[1], *left_bar)
    scale = problem.scale.astype(wide)
    found = {"query": u * scale, "key": key_bar * scale, "value": value_bar, "bias": bias_bar}
    found["scale"] = jnp.vdot(problem.query.astype(wide), u)
    return {name: bar for name, bar in found.items() if bar is not None}


def _of_left_out(stretch: Stretch, keys: int, bars: jax.Array, starts: jax.Array) -> jax.Array:
    """v̄ (B, K, S, H) from the blocks (blocks, B, K, H) that left a key out, by (4)."""
    first = jnp.broadcast_to(starts, (stretch.blocks,))[:, None]
    position = jnp.arange(keys, dtype=jnp.int32)[None, :]
    outside = (position < first) | (position >= first + stretch.keys)
    return jnp.einsum("ns,nbkh->bksh", outside.astype(bars.dtype), bars)

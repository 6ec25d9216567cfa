"""What the recurrent layers share: what they take, how a scan starts, the products after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from overbar import _draws as draws
from overbar._adapter import explicit_sharding, laid, vary_over, varying_axes
from overbar._contract import RuleError, describe
from overbar._dtypes import computing
from overbar.rule import Sample


def checked(
    rule: str,
    gates: int,
    weights: tuple[ArrayLike, ArrayLike, ArrayLike],
    biases: Mapping[str, ArrayLike],
    states: Mapping[str, ArrayLike | None],
) -> tuple[Any, ...]:
    """The inputs as arrays, None for a state that is left out.

    Args:
      rule: the rule's name, for the errors.
      gates: the columns of the weights for each unit of the state.
      weights: x, w_ih and w_hh.
      biases, states: by name.

    Raises:
      RuleError: they do not fit together; with the names and shapes of all that came.
    """
    named = {**dict(zip(("x", "w_ih", "w_hh"), weights, strict=True)), **biases, **states}
    given = {name: jnp.asarray(value) for name, value in named.items() if value is not None}
    x, w_ih, w_hh = given["x"], given["w_ih"], given["w_hh"]
    came = "but came " + ", ".join(f"{name} {describe(value)}" for name, value in given.items())
    many = "" if gates == 1 else str(gates)
    ranks = x.ndim == 3 and w_ih.ndim == 2 and w_hh.ndim == 2
    h = w_hh.shape[0] if ranks else 0
    if not ranks or w_ih.shape != (x.shape[2], gates * h) or w_hh.shape != (h, gates * h):
        expected = f"x (T, B, D), w_ih (D, {many}H) and w_hh (H, {many}H)"
        raise RuleError(f"rule {rule}: expected {expected}, {came}.")
    for name in biases:
        if given[name].shape != (gates * h,):
            raise RuleError(f"rule {rule}: expected {name} ({gates * h},) = ({many}H,), {came}.")
    for name in states:
        if name in given and given[name].shape != (x.shape[1], h):
            raise RuleError(f"rule {rule}: expected {name} {(x.shape[1], h)} = (B, H), {came}.")
    if any(value.dtype != x.dtype for value in given.values()):
        raise RuleError(f"rule {rule}: expected one dtype for all the inputs, {came}.")
    if jnp.iscomplexobj(x):
        raise RuleError(f"rule {rule}: the inputs must be real, {came}.")
    return tuple(given.get(name) for name in named)


def wide(*arrays: jax.Array | None) -> tuple[Any, ...]:
    """The arrays as they are computed with: half precision in float32, all along the sequence."""
    return tuple(None if a is None else a.astype(computing(a.dtype)) for a in arrays)


def first(state: jax.Array | None, sequence: jax.Array, w_hh: jax.Array) -> jax.Array:
    """What a scan over a (T, B, ...) sequence starts with: the state (B, H), zeros if it is None."""
    if state is None:
        state = jnp.zeros((sequence.shape[1], w_hh.shape[0]), sequence.dtype)
    state = laid(state, explicit_sharding(sequence, slice(1, 2)))  # its batch lies where the sequence's does
    return vary_over(state, varying_axes((sequence, w_hh)))


def before(h: jax.Array, h0: jax.Array) -> jax.Array:
    """The state that each step began with: h0, then the states after all the steps but the last."""
    return jnp.concatenate([h0[None], h])[: h.shape[0]]


def side_by_side(*blocks: jax.Array) -> list[jax.Array]:
    """The blocks (B, H) as they are, but each computed by itself before anything made of them.

    XLA's CPU backend would join their exponentials, where they are not kept, in one loop with all that
    follows and with the reading of the step's slice, and then not vectorize it. Written side by side
    behind a barrier they are loops of their own: the forward scan alone takes 0.6 of the time.
    """
    return jnp.split(jax.lax.optimization_barrier(jnp.concatenate(blocks, axis=-1)), len(blocks), axis=-1)


Step = Callable[[Any, Any, Any], tuple[Any, jax.Array]]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def scan_back_over(step: Step, weights: Any, start: Any, xs: Any, over: jax.Array) -> tuple[Any, jax.Array]:
    """`jax.lax.scan` from the last step to the first, with its outputs written over an array of no more use.

    XLA makes the array that a scan's outputs go into as soon as it can, before the forward scan, and
    holds it all along; and what backward makes of a recurrent layer is as large as what forward keeps.

    Args:
      step: (weights, carry, the step's xs) -> (carry, output).
      weights: what all steps use.
      start: the first carry.
      xs: along the sequence.
      over: an array of the outputs' shape and dtype, whatever it holds.

    Returns:
      The last carry and the outputs of all steps.
    """
    if not over.shape[0]:
        return start, over

    def body(carry: tuple[Any, jax.Array], at: tuple[jax.Array, Any]) -> tuple[Any, None]:
        (carry, outputs), (t, x) = carry, at
        carry, output = step(weights, carry, x)
        return (carry, jax.lax.dynamic_update_slice(outputs, output[None], (t, *[0] * output.ndim))), None

    (end, outputs), _ = jax.lax.scan(body, (start, over), (jnp.arange(over.shape[0]), xs), reverse=True)
    return end, outputs


@scan_back_over.defjvp
def _scan_back_over_jvp(step: Step, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    """That of the plain scan: through the other one JAX would go through the whole array at every step."""

    def plain(weights: Any, start: Any, xs: Any) -> tuple[Any, jax.Array]:
        return jax.lax.scan(lambda carry, x: step(weights, carry, x), start, xs, reverse=True)

    return jax.jvp(plain, primals[:3], tangents[:3])


def summed(operands: jax.Array, z_bar: jax.Array) -> jax.Array:
    """Σ (operands)ᵀ z̄ over steps and batch, (T, B, N) and (T, B, M) → (N, M): one matrix product."""
    return jnp.tensordot(operands, z_bar, axes=((0, 1), (0, 1)))


# Derivation of the bars that come from z_t = x_t w_ih + h_{t−1} w_hh + b, with z̄ from the backward scan.
#   (1) the parameters are used once in every step, so their bars are sums over the steps:
#       w̄_ih = Σ_t x_tᵀ z̄_t,  w̄_hh = Σ_t h_{t−1}ᵀ z̄_t,  b̄ = Σ_t Σ_B z̄_t
#   (2) a sum of products over t is one product of the operands set one below another
#   (3) x̄_t = z̄_t w_ihᵀ has no sum, and is one product for all the steps
def products(x: jax.Array, h_before: jax.Array, z_bar: jax.Array, w_ih: jax.Array) -> dict[str, jax.Array]:
    """The bars of x, w_ih, w_hh and b, by name, where both weights make the one z (T, B, gH).

    Args:
      x: (T, B, D).
      h_before: (T, B, H), the state that each step began with.
      z_bar: (T, B, gH).
      w_ih: (D, gH).
    """
    return {
        "x": jnp.matmul(z_bar, w_ih.T),  # (3)
        "w_ih": summed(x, z_bar),  # (2)
        "w_hh": summed(h_before, z_bar),
        "b": jnp.sum(z_bar, axis=(0, 1)),  # (1)
    }


def sequence_samples(key: jax.Array, gates: int, biases: int) -> Iterator[Sample]:
    """Samples for a recurrent layer: sequences of each size, weights as they are initialised."""

    def make(name: str, *sizes: int, tags: Any = ()) -> Sample:
        t, b, d, h = sizes
        shapes = [(t, b, d), (d, gates * h), (h, gates * h), *[(gates * h,)] * biases]
        keys = jax.random.split(key, len(shapes))
        x, *parameters = (draws.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))
        return Sample(name, (x, *(h**-0.5 * p for p in parameters)), tags=tags)

    yield make("sequence", 3, 2, 3, 2)
    yield make("one step of one unit", 1, 1, 2, 1)
    yield make("no step", 0, 2, 1, 2)
    yield make("empty batch", 2, 0, 2, 1)
    yield make("bench", 128, 32, 64, 128, tags=("bench",))

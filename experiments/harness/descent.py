"""Descent step by step, for who wants to look at every state; and what to descend with, rules or twin."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import optax

import overbar

P = ParamSpec("P")
R = TypeVar("R")
Params = Any  # a pytree of arrays


class Diverged(Exception):
    """The loss is no longer finite, so that no further step would mean anything."""

    def __init__(self, step: int, loss: float, last: float | None) -> None:
        before = "there was no finite loss before" if last is None else f"the last finite loss was {last:.6g}"
        super().__init__(f"diverged at step {step}: the loss is {loss}; {before}")
        self.step, self.loss, self.last = step, loss, last


def select(loss: Callable[P, R], autodiff: bool) -> Callable[P, R]:
    """The loss with its hand-derived rules, or its twin, which JAX differentiates itself."""
    return overbar.twin(loss) if autodiff else loss


class State(NamedTuple):
    """Where a descent stands: after `step` updates, at `params`, where the loss is `loss`."""

    step: int
    loss: float
    params: Params


def descend(
    loss: Callable[..., jax.Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    batches: Iterable[tuple[Any, ...]],
) -> Iterator[State]:
    """Yields the state before each update; the loss is called as loss(params, *batch).

    Raises:
      Diverged: the loss is NaN or infinite.
    """

    @jax.jit
    def update(params: Params, memory: Any, batch: tuple[Any, ...]) -> tuple[jax.Array, Params, Any]:
        value, bars = jax.value_and_grad(loss)(params, *batch)
        change, memory = optimizer.update(bars, memory, params)
        return value, optax.apply_updates(params, change), memory

    memory = jax.jit(optimizer.init)(params)
    last: float | None = None
    for step, batch in enumerate(batches):
        value, after, memory = update(params, memory, batch)
        if not math.isfinite(value):
            raise Diverged(step, float(value), last)
        last = float(value)
        yield State(step, last, params)
        params = after

"""The jitted step: loss, bars, update; one at a time, several in a scan, or one in several parts."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harness import optimizers
from harness.descent import select
from harness.devices import Placement
from harness.tasks import Batch, Params, Task

Losses = Callable[[], np.ndarray]  # waits for them


class State(NamedTuple):
    """What a step changes: the parameters, and what the optimizer keeps of the steps before."""

    params: Params
    memory: Any


class Stepper:
    """Makes the state of a run, and takes it on step by step.

    Every step draws from a key that follows from the seed and the step's number.
    """

    def __init__(self, args: argparse.Namespace, task: Task, placement: Placement) -> None:
        self.parts: int = args.accumulate
        # Evaluations and checkpoints cut the scans, which so begin at the same steps however often a run is
        # resumed.
        cuts = (args.evaluate_every, args.checkpoint_every or 0)
        self.at_once = math.gcd(task.at_once, *cuts) if self.parts == 1 else 1
        self._task, self._seed, self._placement = task, args.seed, placement
        self._loss = select(precise(task.loss, args.precision), args.autodiff)
        self._optimizer = optimizers.optimizer(
            args.optimizer,
            optimizers.schedule(args.schedule, args.learning_rate, args.steps, args.warmup),
            clip=args.clip,
            accumulate=args.accumulate,
            seed=args.seed,
        )
        where: dict[str, Any] = {}
        if placement.mesh is not None:
            shardings = placement.state(jax.eval_shape(self._begun, np.uint32(0)))
            where = {"out_shardings": (shardings, placement.everywhere)}
        self._begin = jax.jit(self._begun, out_shardings=where["out_shardings"][0] if where else None)
        self._update = jax.jit(self._updated, donate_argnums=0, **where)
        self._updates = jax.jit(partial(jax.lax.scan, self._scanned), donate_argnums=0, **where)
        self._measure = jax.jit(self._measured, out_shardings=placement.everywhere)

    def begin(self) -> State:
        return self._begin(np.uint32(self._seed))

    def take(self, state: State, batches: Sequence[Batch], step: int) -> tuple[State, Losses]:
        """The state after a step for each batch, and their losses; the state that came is used up."""
        if len(batches) > 1:
            numbers = np.arange(step, step + len(batches), dtype=np.int32)
            stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
            state, values = self._updates(state, (self._placement.batch(stacked, axis=1), numbers))
            return state, partial(np.asarray, values)
        losses = []
        for number, part in self._parts(batches[0], step):
            state, value = self._update(state, part, number)
            losses.append(value)
        return state, partial(_mean, losses)

    def losses(self, state: State, batch: Batch, step: int) -> Losses:
        """The loss of a batch that no step is taken on."""
        return partial(
            _mean, [self._measure(state.params, part, number) for number, part in self._parts(batch, step)]
        )

    def _parts(self, batch: Batch, step: int) -> list[tuple[np.int32, Batch]]:
        """A batch in as many parts as are accumulated, each with its number in the run."""
        n = self.parts
        parts = (
            jax.tree.map(lambda x, k=k: x[k * len(x) // n : (k + 1) * len(x) // n], batch) for k in range(n)
        )
        return [(np.int32(step * n + k), self._placement.batch(part)) for k, part in enumerate(parts)]

    def _begun(self, seed: Any) -> State:
        params = self._task.init(jax.random.key(seed))
        return State(params, self._optimizer.init(params))

    def _updated(self, state: State, batch: Batch, number: Any) -> tuple[State, jax.Array]:
        value, bars = jax.value_and_grad(self._measured)(state.params, batch, number)
        change, memory = self._optimizer.update(bars, state.memory, state.params)
        return State(optax.apply_updates(state.params, change), memory), value

    def _scanned(self, state: State, numbered: tuple[Batch, Any]) -> tuple[State, jax.Array]:
        return self._updated(state, *numbered)

    def _measured(self, params: Params, batch: Batch, number: Any) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(self._seed), number)
        return self._loss(params, batch, key)


def _mean(losses: Sequence[jax.Array]) -> np.ndarray:
    return np.mean([np.asarray(value) for value in losses], keepdims=True)


def precise(function: Callable[..., Any], precision: str) -> Callable[..., Any]:
    """The function computed in that precision, with results, parameters and bars in float32."""
    if precision == "float32":
        return function

    def to(dtype: Any, tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)

    def computed(params: Params, batch: Batch, *rest: Any) -> Any:
        return to(jnp.float32, function(to(precision, params), to(precision, batch), *rest))

    return computed


class Evaluator:
    """The means of a task's scores over all that is tested on, some at a time."""

    def __init__(self, args: argparse.Namespace, task: Task, placement: Placement) -> None:
        self._task, self._placement = task, placement
        size, axis = task.test_batch or args.batch, placement.axis("data")
        self._size = math.ceil(size / axis) * axis
        self._scores = None if task.scores is None else precise(task.scores, args.precision)
        self._sums = jax.jit(self._summed, out_shardings=placement.everywhere)

    def __call__(self, params: Params) -> dict[str, float]:
        if self._scores is None:
            return {}
        examples = len(jax.tree.leaves(self._task.test)[0])
        totals: dict[str, float] = {}
        for first in range(0, examples, self._size):
            numbers = np.arange(first, first + self._size)
            batch = jax.tree.map(lambda x: x[np.minimum(numbers, examples - 1)], self._task.test)  # noqa: B023
            placed = self._placement.batch({"batch": batch, "counts": numbers < examples})
            for name, value in self._sums(params, placed["batch"], placed["counts"]).items():
                totals[name] = totals.get(name, 0.0) + float(value)
        return {f"test_{name}": total / examples for name, total in totals.items()}

    def _summed(self, params: Params, batch: Batch, counts: jax.Array) -> dict[str, jax.Array]:
        assert self._scores is not None
        scores = self._scores(params, batch)
        return {name: jnp.where(counts, value, 0).astype(jnp.float32).sum() for name, value in scores.items()}

"""What is trained: a task, and how it is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from harness.data import Set
from overbar import losses

Params = Any  # a pytree of arrays
Batch = Any  # a pytree of arrays, each with an entry an example
Scores = dict[str, jax.Array]


@dataclass(frozen=True)
class Task:
    """What `train` needs to know.

    Args:
      init: key -> parameters.
      loss: (parameters, batch, key) -> the mean over the batch, regularizers and all; the key is each
        step's own, for what is drawn in it (dropout).
      examples: how many there are to train on.
      batch: numbers of examples -> those, as numpy arrays.
      scores: (parameters, batch) -> for each score, by name, an entry an example. Their means over `test`
        are what an evaluation tells, as test_NAME; a score `loss` decides which checkpoint is the best.
      test: the batch of all that is tested on.
      at_once: how many steps are taken in one lax.scan, which calls nothing between them. Steps a second,
        called one by one and 20 in a scan, interleaved on 2 cores, JAX 0.10.2: xor 18,000 and 59,000, parity
        11,000 and 84,000 (105,000 at 100), digits 17,000 and 31,000, mnist1d's logistic model 14,000 and
        63,000, MLP (relu's then) 6,300 and 10,800, GRU 680 and 770, char_lm's transformer 21 and 32, LSTM 101
        and 110; but Fashion-MNIST's MLP 340 and 320, mnist1d's CNN 1,480 and 330: on the CPU a convolution in
        a scan takes several times as long (jax issue 12868).
      test_batch: how many are tested in one call; the default is as many as are trained on in a step.
    """

    init: Callable[[jax.Array], Params]
    loss: Callable[[Params, Batch, jax.Array], jax.Array]
    examples: int
    batch: Callable[[np.ndarray], Batch]
    scores: Callable[[Params, Batch], Scores] | None = None
    test: Batch = None
    at_once: int = 1
    test_batch: int | None = None


@dataclass(frozen=True)
class Trained:
    """What a training comes to: the parameters as numpy arrays, and the lines of metrics.jsonl."""

    params: Params
    lines: Sequence[Mapping[str, Any]]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in self.lines]

    @property
    def scores(self) -> Mapping[str, float]:
        """The last evaluation."""
        return {name: value for name, value in self.lines[-1].items() if name not in ("step", "loss")}

    def measured(self, name: str) -> list[tuple[int, float]]:
        """(step, score) of every evaluation."""
        return [(line["step"], line[name]) for line in self.lines if name in line]


def classification(
    data: Set,
    init: Callable[[jax.Array], Params],
    predict: Callable[[Params, ArrayLike, jax.Array | None], jax.Array],
    *,
    at_once: int = 1,
    test_batch: int | None = None,
) -> Task:
    """The cross-entropy of labels, and the share of test examples that are right.

    Args:
      predict: (parameters, x, key) -> scores of the classes, (n, classes); the key is a step's own, and
        None in an evaluation.
    """

    def rows(params: Params, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        z = predict(params, batch["x"], key)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))  # the classes are compared in full precision
        return z, losses.softmax_cross_entropy_with_integer_labels(z, batch["labels"])

    def loss(params: Params, batch: Batch, key: jax.Array) -> jax.Array:
        return rows(params, batch, key)[1].mean()

    def scores(params: Params, batch: Batch) -> Scores:
        z, row = rows(params, batch, None)
        return {"loss": row, "accuracy": z.argmax(-1) == batch["labels"]}

    return Task(
        init,
        loss,
        len(data.x),
        lambda chosen: {"x": data.x[chosen], "labels": data.labels[chosen]},
        scores,
        {"x": data.x_test, "labels": data.labels_test},
        at_once,
        test_batch,
    )


def weights(key: jax.Array, *shape: int, gain: float = 1.0) -> jax.Array:
    """Random weights of variance gain² over the number of inputs, which are all axes but the last."""
    return gain * jax.random.normal(key, shape) / math.sqrt(max(1, math.prod(shape[:-1])))

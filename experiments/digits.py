"""Handwritten digits: scikit-learn's 1797 images of 8 by 8 pixels, by rules alone.

    h     = tanh(x W₁ + b₁)
    y     = σ(h W₂ + b₂)                 one output a digit
    L_reg = mean over the batch of Σ ½(y − t)²  +  λ ½ Σ w² over W₁ and W₂

where t is 1 for the digit that it is and 0 for the nine others. A quarter of the images, each digit
in proportion, is never trained on; this split is the same for every seed. The seed decides the first
weights and the order of the mini-batches, which are shuffled anew for every pass over the images.

Run it as `python experiments/digits.py`. In metrics.jsonl each line's `loss` is that of its
mini-batch; once in a pass `test_loss`, without the regularizer, and `test_accuracy` stand beside it. The exit
status is 1 if a run of the default number of steps or more gets less than 97 % of the test images right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import harness
from harness import data
from overbar import losses, nn, regularizers

Params = dict[str, jax.Array]

CLASSES = 10
BATCH = 64
STEPS = 1500
GOAL = 0.97


def init(key: jax.Array, pixels: int, hidden: int) -> Params:
    """Weights that keep the size of their inputs (LeCun): variance 1 over the number of inputs."""
    key_1, key_2 = jax.random.split(key)
    return {
        "W₁": jax.random.normal(key_1, (pixels, hidden)) / pixels**0.5,
        "b₁": jnp.zeros(hidden),
        "W₂": jax.random.normal(key_2, (hidden, CLASSES)) / hidden**0.5,
        "b₂": jnp.zeros(CLASSES),
    }


def predict(params: Params, x: ArrayLike) -> jax.Array:
    h = nn.tanh(nn.linear(x, params["W₁"], params["b₁"]))
    return nn.sigmoid(nn.linear(h, params["W₂"], params["b₂"]))


def task(args: argparse.Namespace) -> harness.Task:
    images = data.digits()
    one_hot = np.eye(CLASSES, dtype=np.float32)

    def batch(x: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": x.reshape(len(x), -1), "t": one_hot[labels]}

    def error(params: Params, batch: Any) -> jax.Array:
        return losses.l2_loss(predict(params, batch["x"]), batch["t"]).sum(axis=-1)

    def loss(params: Params, batch: Any, key: jax.Array) -> jax.Array:
        return error(params, batch).mean() + args.lam * regularizers.l2((params["W₁"], params["W₂"]))

    def scores(params: Params, batch: Any) -> dict[str, jax.Array]:
        right = predict(params, batch["x"]).argmax(axis=-1) == batch["t"].argmax(axis=-1)
        return {"loss": error(params, batch), "accuracy": right}

    return harness.Task(
        init=lambda key: init(key, images.x[0].size, args.hidden),
        loss=loss,
        examples=len(images.x),
        batch=lambda chosen: batch(images.x[chosen], images.labels[chosen]),
        scores=scores,
        test=batch(images.x_test, images.labels_test),
        at_once=21,  # a pass
        test_batch=len(images.x_test),
    )


# ---------------------------------------------------------------------- what it shows


def draw(run: harness.Run, trained: harness.Trained, test: Any) -> None:
    figure = harness.paper(10, 4)
    halves: Any = figure.subfigures(1, 2)
    left, right = halves

    axes = left.subplots()
    harness.draw_losses(axes, trained.losses, "the loss falls, the accuracy rises")
    axes.yaxis.label.set_color(harness.BLUE)
    accuracy = axes.twinx()
    steps, shares = zip(*trained.measured("test_accuracy"), strict=True)
    accuracy.plot(steps, [100 * share for share in shares], "o-", color=harness.VERMILION, markersize=3)
    accuracy.set_ylabel("test images right, %", color=harness.VERMILION)
    accuracy.set_ylim(0, 102)
    accuracy.spines[["top"]].set_visible(False)

    y = np.asarray(predict(trained.params, test["x"]))
    # The surest ones would look alike: these are the test images the network is least sure of.
    margin = np.sort(y, axis=1)[:, -1] - np.sort(y, axis=1)[:, -2]
    right.suptitle("what it says of the test images it is least sure of", fontsize="large")
    for axes, i in zip(right.subplots(3, 6).ravel(), np.argsort(margin), strict=False):
        said, truth = y[i].argmax(), test["t"][i].argmax()
        axes.imshow(test["x"][i].reshape(8, 8), cmap="Greys")
        color = "black" if said == truth else harness.VERMILION
        axes.set_title(f"{said}" if said == truth else f"{said}, not {truth}", fontsize=9, color=color)
        axes.set_axis_off()
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run, task: harness.Task) -> int:
    trained = harness.train(args, run, task)
    draw(run, trained, task.test)
    accuracy = trained.scores["test_accuracy"]
    run.say(f"digits: {100 * accuracy:.1f} % of {len(task.test['x'])} test images right")
    return 1 if accuracy < GOAL and args.steps >= STEPS else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "digits",
        __doc__,
        steps=STEPS,
        batch=BATCH,
        learning_rate=0.01,
        schedule="cosine",
        evaluate_every=21,  # a pass
        checkpoint_every=0,
    )
    harness.add_lambda(parser, 1e-5)
    parser.add_argument(
        "--hidden", type=harness.count, default=128, metavar="N", help="hidden units (default: 128)"
    )
    return harness.launch_training(task, parser, argv, experiment)


if __name__ == "__main__":
    sys.exit(main())

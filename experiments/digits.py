"""Handwritten digits: scikit-learn's 1797 images of 8 by 8 pixels, by rules alone.

    h     = tanh(x W₁ + b₁)
    y     = σ(h W₂ + b₂)                 one output a digit
    L_reg = mean over the batch of Σ ½(y − t)²  +  λ ½ Σ w² over W₁ and W₂

where t is 1 for the digit that it is and 0 for the nine others. A quarter of the images, each digit
in proportion, is never trained on; this split is the same for every seed. The seed decides the first
weights and the order of the mini-batches, which are shuffled anew for every pass over the images.

Run it as `python experiments/digits.py`. In metrics.jsonl each line's `loss` is that of its
mini-batch; once in a pass `test_loss` and `test_accuracy` stand beside it. The exit status is 1 if
a run of the default number of steps or more gets less than 97 % of the test images right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

import harness
from overbar import losses, nn, regularizers

Params = dict[str, jax.Array]
Loss = Callable[[Params, ArrayLike, ArrayLike], jax.Array]

CLASSES = 10
BATCH = 64
STEPS = 1500
GOAL = 0.97


class Images(NamedTuple):
    """Images x, (n, 64) in [0, 1], and their digits as targets t, (n, 10) of 0 and 1."""

    x: np.ndarray
    t: np.ndarray


def load() -> tuple[Images, Images]:
    """The images to train on and those to test on."""
    from sklearn.datasets import load_digits  # slow to import, and not needed for --help
    from sklearn.model_selection import train_test_split

    pixels, digits = load_digits(return_X_y=True)
    x, t = (pixels / 16).astype(np.float32), np.eye(CLASSES, dtype=np.float32)[digits]
    x, x_test, t, t_test = train_test_split(x, t, test_size=0.25, stratify=digits, random_state=0)
    return Images(x, t), Images(x_test, t_test)


def minibatches(images: Images, key: jax.Array) -> Iterator[Images]:
    """Batches without end; what a pass leaves over for less than a batch waits for another pass."""
    passes = 0
    while True:
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, passes), len(images.x)))
        for chosen in order[: len(order) // BATCH * BATCH].reshape(-1, BATCH):
            yield Images(images.x[chosen], images.t[chosen])
        passes += 1


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


def make_loss(lam: float) -> Loss:
    def loss(params: Params, x: ArrayLike, t: ArrayLike) -> jax.Array:
        error = losses.l2_loss(predict(params, x), t).sum(axis=-1).mean()
        return error + lam * regularizers.l2((params["W₁"], params["W₂"]))

    return loss


def descent(
    loss: Loss, images: Images, key: jax.Array, *, hidden: int, learning_rate: float, steps: int
) -> Iterator[harness.State]:
    """Adam, with a step size that falls to 0 over the steps: the noise of the batches dies down."""
    key_init, key_order = jax.random.split(key)
    params = init(key_init, images.x.shape[1], hidden)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    return harness.descend(loss, params, optimizer, minibatches(images, key_order))


# ---------------------------------------------------------------------- what it shows


def draw(
    run: harness.Run, curve: Sequence[float], tests: Sequence[tuple[int, float]], test: Images, y: np.ndarray
) -> None:
    figure = harness.paper(10, 4)
    halves: Any = figure.subfigures(1, 2)
    left, right = halves

    axes = left.subplots()
    harness.draw_losses(axes, curve, "the loss falls, the accuracy rises")
    axes.yaxis.label.set_color(harness.BLUE)
    accuracy = axes.twinx()
    steps, shares = zip(*tests, strict=True)
    accuracy.plot(steps, [100 * share for share in shares], "o-", color=harness.VERMILION, markersize=3)
    accuracy.set_ylabel("test images right, %", color=harness.VERMILION)
    accuracy.set_ylim(0, 102)
    accuracy.spines[["top"]].set_visible(False)

    # The surest ones would look alike: these are the test images the network is least sure of.
    margin = np.sort(y, axis=1)[:, -1] - np.sort(y, axis=1)[:, -2]
    right.suptitle("what it says of the test images it is least sure of", fontsize="large")
    for axes, i in zip(right.subplots(3, 6).ravel(), np.argsort(margin), strict=False):
        said, truth = y[i].argmax(), test.t[i].argmax()
        axes.imshow(test.x[i].reshape(8, 8), cmap="Greys")
        color = "black" if said == truth else harness.VERMILION
        axes.set_title(f"{said}" if said == truth else f"{said}, not {truth}", fontsize=9, color=color)
        axes.set_axis_off()
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    images, test = load()
    a_pass = len(images.x) // BATCH
    loss, key = make_loss(args.lam), jax.random.key(args.seed)
    tests: list[tuple[int, float]] = []

    @jax.jit
    def on_test(params: Params) -> tuple[jax.Array, jax.Array]:
        right = predict(params, test.x).argmax(axis=-1) == test.t.argmax(axis=-1)
        return loss(params, test.x, test.t), right.mean()

    def evaluate(state: harness.State) -> dict[str, Any]:
        if state.step % a_pass and state.step != args.steps:
            return {}
        test_loss, accuracy = map(float, on_test(state.params))
        tests.append((state.step, accuracy))
        return {"test_loss": test_loss, "test_accuracy": accuracy}

    states = descent(
        harness.select(loss, args.autodiff),
        images,
        key,
        hidden=args.hidden,
        learning_rate=args.learning_rate,
        steps=args.steps,
    )
    params, curve = harness.train(run, states, args.steps, evaluate)
    draw(run, curve, tests, test, np.asarray(predict(params, test.x)))
    _, accuracy = tests[-1]
    run.say(f"digits: {100 * accuracy:.1f} % of {len(test.x)} test images right")
    return 1 if accuracy < GOAL and args.steps >= STEPS else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser("digits", __doc__, steps=STEPS)
    harness.add_learning_rate(parser, 0.01)
    harness.add_lambda(parser, 1e-5)
    parser.add_argument(
        "--hidden", type=harness.count, default=128, metavar="N", help="hidden units (default: 128)"
    )
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

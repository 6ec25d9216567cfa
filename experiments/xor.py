"""XOR, learnt by a two-layer sigmoid network through hand-derived bars.

    h     = σ(x W₁ + b₁)
    y     = σ(h W₂ + b₂)
    L_reg = mean over the samples of ½(y − t)²  +  λ ½ Σ w² over W₁ and W₂

Run it as `python experiments/xor.py`. Before training it shows for every parameter the bar by the
rules, the derivative by jax.grad of the twin, and their difference; at the end the table of truth,
prediction and error. The exit status is 0 if all four are right, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import harness
import overbar
from overbar import losses, nn, regularizers

# The course's table, in its order.
INPUTS = np.array([[0, 1], [1, 1], [0, 0], [1, 0]], np.float32)
TARGETS = np.array([[1], [0], [0], [1]], np.float32)

Params = dict[str, jax.Array]
Loss = Callable[[Params, ArrayLike, ArrayLike], jax.Array]


def init(key: jax.Array, hidden: int) -> Params:
    """Random weights, so that no two hidden units start alike, and biases of 0."""
    key_1, key_2 = jax.random.split(key)
    return {
        "W₁": jax.random.normal(key_1, (2, hidden)),
        "b₁": jnp.zeros(hidden),
        "W₂": jax.random.normal(key_2, (hidden, 1)),
        "b₂": jnp.zeros(1),
    }


def predict(params: Params, x: ArrayLike) -> jax.Array:
    h = nn.sigmoid(nn.linear(x, params["W₁"], params["b₁"]))
    return nn.sigmoid(nn.linear(h, params["W₂"], params["b₂"]))


def make_loss(lam: float) -> Loss:
    def loss(params: Params, x: ArrayLike, t: ArrayLike) -> jax.Array:
        error = losses.l2_loss(predict(params, x), t).mean()
        return error + lam * regularizers.l2((params["W₁"], params["W₂"]))

    return loss


def task(args: argparse.Namespace) -> harness.Task:
    loss = make_loss(args.lam)
    table = {"x": INPUTS, "t": TARGETS}
    return harness.Task(
        init=lambda key: init(key, args.hidden),
        loss=lambda params, batch, key: loss(params, batch["x"], batch["t"]),
        examples=len(INPUTS),
        batch=lambda chosen: {name: column[chosen] for name, column in table.items()},
        at_once=100,
    )


def count_right(params: Params) -> int:
    return int(jnp.sum((predict(params, INPUTS) > 0.5) == (TARGETS == 1)))


# ---------------------------------------------------------------------- what it shows


def show_bars(run: harness.Run, loss: Loss, params: Params) -> None:
    bars = jax.device_get(jax.jit(jax.grad(loss))(params, INPUTS, TARGETS))
    expected = jax.device_get(jax.jit(jax.grad(overbar.twin(loss)))(params, INPUTS, TARGETS))
    rows = []
    for name, values in params.items():
        for place in np.ndindex(values.shape):
            bar, other = bars[name][place], expected[name][place]
            entry = f"{name}[{','.join(map(str, place))}]"
            rows.append((entry, f"{values[place]:.6f}", f"{bar:.9f}", f"{other:.9f}", f"{bar - other:.1e}"))
    run.show(
        "every parameter before training", ("", "value", "bar, by the rules", "jax.grad", "difference"), rows
    )
    run.say()


def show_table(run: harness.Run, params: Params) -> None:
    y = np.asarray(predict(params, INPUTS))
    rows = [
        (f"{x[0]:.0f}, {x[1]:.0f}", f"{t:.0f}", f"{y_:.4f}", f"{y_ - t:+.4f}")
        for x, t, y_ in zip(INPUTS, TARGETS.ravel(), y.ravel(), strict=True)
    ]
    run.show("after training", ("x₁, x₂", "truth t", "prediction y", "error y − t"), rows)
    run.say()


def draw(run: harness.Run, curve: Sequence[float], params: Params) -> None:
    figure = harness.paper(10, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    harness.draw_losses(left, curve, "the loss falls")

    side = np.linspace(-0.5, 1.5, 201, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1)
    y = np.asarray(predict(params, grid))[..., 0]
    surface = right.contourf(side, side, y, levels=np.linspace(0, 1, 21), cmap="PuOr_r")
    right.contour(side, side, y, levels=[0.5], colors="black", linewidths=1.5)
    for value, marker in ((0, "o"), (1, "^")):
        points = INPUTS[TARGETS.ravel() == value]
        right.scatter(
            *points.T,
            marker=marker,
            s=130,
            color="white",
            edgecolor="black",
            linewidth=1.5,
            label=f"truth t = {value}",
        )
    right.set(title="what the network says between the four points", xlabel="x₁", ylabel="x₂", aspect="equal")
    right.set(xticks=(0, 1), yticks=(0, 1))
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, frameon=False)
    figure.colorbar(surface, ax=right, label="prediction y (black line: y = 0.5)", ticks=np.linspace(0, 1, 5))
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run, task: harness.Task) -> int:
    show_bars(run, make_loss(args.lam), task.init(jax.random.key(args.seed)))
    trained = harness.train(args, run, task)
    show_table(run, trained.params)
    draw(run, trained.losses, trained.params)
    right = count_right(trained.params)
    run.say(f"xor: {right}/{len(INPUTS)} right")
    return 0 if right == len(INPUTS) else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "xor", __doc__, steps=2000, batch=len(INPUTS), learning_rate=0.1, checkpoint_every=0
    )
    harness.add_lambda(parser, 3e-5)
    parser.add_argument(
        "--hidden", type=harness.count, default=4, metavar="N", help="hidden units (default: 4)"
    )
    return harness.launch_training(task, parser, argv, experiment)


if __name__ == "__main__":
    sys.exit(main())

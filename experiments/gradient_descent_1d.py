"""Gradient descent: the lecture's first picture, in one coordinate and in two.

The model is y = σ(w x + b) on three samples, its cost the average of the samples' ½(y − t)² plus
λ ½ w². With b held fixed the cost is a curve over w, and descent slides down it: each step goes
against the slope w̄ and is as long as the slope is steep. With b free as well the cost is a
landscape over (w, b), and each step goes against the gradient (w̄, b̄), straight across the contours.

Run it as `python experiments/gradient_descent_1d.py`. In metrics.jsonl `loss` and `w` are of the
descent in one coordinate, `loss_2d`, `w_2d` and `b_2d` of the one in two.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import harness
from overbar import losses, nn, regularizers

X = np.array([[-2.0], [0.5], [1.0]], np.float32)
T = np.array([[0.0], [1.0], [0.0]], np.float32)
LAMBDA = 0.02

Params = dict[str, jax.Array]


def cost_2d(params: Params) -> jax.Array:
    """The cost over w and b."""
    y = nn.sigmoid(nn.linear(X, params["w"], params["b"]))
    return losses.l2_loss(y, T).mean() + LAMBDA * regularizers.l2(params["w"])


def cost_1d(params: Params) -> jax.Array:
    """The cost over w alone: b is 0."""
    return cost_2d({**params, "b": jnp.zeros(1)})


def init(key: jax.Array) -> Params:
    """A start on the far slope, somewhat different for each seed."""
    key_w, key_b = jax.random.split(key)
    return {
        "w": jax.random.uniform(key_w, (1, 1), minval=-4.4, maxval=-3.6),
        "b": jax.random.uniform(key_b, (1,), minval=2.2, maxval=3.0),
    }


# ---------------------------------------------------------------------- pictures


def heights(w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cost at every (w, b) of two arrays of one shape."""

    def at(w: jax.Array, b: jax.Array) -> jax.Array:
        return cost_2d({"w": w.reshape(1, 1), "b": b.reshape(1)})

    flat = jax.jit(jax.vmap(at))(jnp.ravel(w), jnp.ravel(b))
    return np.asarray(flat).reshape(w.shape)


def span(path: np.ndarray, margin: float = 1.0) -> np.ndarray:
    """200 places from a little before a path to a little behind it."""
    return np.linspace(path.min() - margin, path.max() + margin, 200, dtype=np.float32)


def mark_ends(axes: Any, xs: np.ndarray, ys: np.ndarray) -> None:
    """Draws a path of descent with its start and its end."""
    axes.plot(xs, ys, "o-", color=harness.VERMILION, markersize=4, linewidth=1.2, label="a step of descent")
    axes.plot(xs[0], ys[0], "s", color="black", markersize=8, label="start")
    axes.plot(xs[-1], ys[-1], "*", color="black", markersize=13, label="end")


def draw(run: harness.Run, one: np.ndarray, costs: np.ndarray, two: np.ndarray) -> None:
    figure = harness.paper(10, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))

    w = span(one)
    left.plot(w, heights(w, np.zeros_like(w)), color=harness.BLUE, linewidth=2, label="cost")
    mark_ends(left, one, costs)
    left.set(title="one coordinate: down the slope", xlabel="w  (b = 0)", ylabel="cost")
    left.legend(frameon=False)
    harness.tidy(left)

    w, b = np.meshgrid(span(two[:, 0]), span(two[:, 1]))
    landscape = right.contourf(w, b, heights(w, b), levels=20, cmap="Blues")
    mark_ends(right, two[:, 0], two[:, 1])
    right.set(title="two coordinates: across the contours", xlabel="w", ylabel="b", aspect="equal")
    figure.colorbar(landscape, ax=right, label="cost")
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    start, sgd = init(jax.random.key(args.seed)), optax.sgd(args.learning_rate)

    def descent(cost: Any, params: Params) -> Any:
        batches = itertools.repeat((), args.steps + 1)
        return harness.descend(harness.select(cost, args.autodiff), params, sgd, batches)

    path_1d, costs, path_2d = [], [], []
    with run.progress(args.steps) as report:
        both = zip(descent(cost_1d, {"w": start["w"]}), descent(cost_2d, start), strict=True)
        for (step, loss, one), (_, loss_2d, two) in both:
            w, w_2d, b_2d = one["w"].item(), two["w"].item(), two["b"].item()
            run.record(step, loss, w=w, loss_2d=loss_2d, w_2d=w_2d, b_2d=b_2d)
            report(step, f"cost {loss:.6g} in one coordinate, {loss_2d:.6g} in two")
            path_1d.append(w)
            costs.append(loss)
            path_2d.append((w_2d, b_2d))
    draw(run, np.array(path_1d), np.array(costs), np.array(path_2d))
    run.say(f"gradient_descent_1d: one coordinate ends at w = {w:.4f}, two at w = {w_2d:.4f}, b = {b_2d:.4f}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser("gradient_descent_1d", __doc__, steps=60)
    harness.add_learning_rate(parser, 5.0)
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

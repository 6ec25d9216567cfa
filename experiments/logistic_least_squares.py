"""The lecture's model, univariate logistic least squares with a regularizer, forward and backward.

    forward                      backward
    z     = w x + b              L̄_reg = 1
    y     = σ(z)                 R̄     = L̄_reg λ
    L     = ½ (y − t)²           L̄     = L̄_reg
    R     = ½ w²                 ȳ     = L̄ (y − t)
    L_reg = L + λ R              z̄     = ȳ σ'(z)
                                 w̄     = z̄ x + R̄ w      (w is used twice: a sum)
                                 b̄     = z̄

Run it as `python experiments/logistic_least_squares.py`. It prints both columns with their values
for one sample, the bars beside jax.grad of the twin, and then fits w and b to a small data set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import harness
import overbar
from overbar import losses, nn, regularizers

Params = dict[str, jax.Array]
Values = dict[str, jax.Array]

SAMPLES = 40


def make_data(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x in [−3, 3], and t = 1 the more often the larger x is, by the curve that is to be found."""
    key_x, key_t = jax.random.split(key)
    x = jax.random.uniform(key_x, (SAMPLES, 1), minval=-3.0, maxval=3.0)
    return x, jax.random.bernoulli(key_t, jax.nn.sigmoid(2 * x - 1)).astype(jnp.float32)


# ---------------------------------------------------------------------- one sample, step by step


def forward_and_bars(params: Params, x: jax.Array, t: jax.Array, lam: float) -> tuple[Values, Values]:
    """The lecture's two columns: each rule once forward, then each once backward, in reverse."""
    w, b = params["w"], params["b"]
    z, backward_of_z = jax.vjp(nn.linear, x, w, b)
    y, backward_of_y = jax.vjp(nn.sigmoid, z)
    L, backward_of_L = jax.vjp(losses.l2_loss, y, t)
    R, backward_of_R = jax.vjp(regularizers.l2, w)
    L_reg = L + lam * R

    L_reg_bar = jnp.ones_like(L_reg)
    R_bar = (L_reg_bar * lam).sum()
    L_bar = L_reg_bar
    y_bar, _ = backward_of_L(L_bar)
    (z_bar,) = backward_of_y(y_bar)
    _, w_bar_by_z, b_bar = backward_of_z(z_bar)
    (w_bar_by_R,) = backward_of_R(R_bar)
    w_bar = w_bar_by_z + w_bar_by_R  # w has two children, and each sends it a message

    values = {"z": z, "y": y, "L": L, "R": R, "L_reg": L_reg}
    bars = {"L_reg": L_reg_bar, "R": R_bar, "L": L_bar, "y": y_bar, "z": z_bar, "w": w_bar, "b": b_bar}
    return values, bars


def autodiff_bars(params: Params, x: jax.Array, t: jax.Array, lam: float) -> Values:
    """The same bars by jax.grad of the twin.

    The bar of a node is the derivative of the cost by a nudge added to that node, at nudge 0.
    """

    def cost(nudge: Values) -> jax.Array:
        w, b = params["w"] + nudge["w"], params["b"] + nudge["b"]
        z = nn.linear(x, w, b) + nudge["z"]
        y = nn.sigmoid(z) + nudge["y"]
        L = losses.l2_loss(y, t) + nudge["L"]
        R = regularizers.l2(w) + nudge["R"]
        return (L + lam * R + nudge["L_reg"]).sum()

    nudges = {n: jnp.zeros_like(v) for n, v in params.items()}
    nudges |= {n: jnp.zeros(1) for n in ("z", "y", "L", "L_reg")} | {"R": jnp.zeros(())}
    bars: Values = jax.grad(overbar.twin(cost))(nudges)
    return bars


FORWARD = {"z": "w x + b", "y": "σ(z)", "L": "½ (y − t)²", "R": "½ w²", "L_reg": "L + λ R"}
BACKWARD = {
    "L_reg": ("L̄_reg", "1"),
    "R": ("R̄", "L̄_reg λ"),
    "L": ("L̄", "L̄_reg"),
    "y": ("ȳ", "L̄ (y − t)"),
    "z": ("z̄", "ȳ σ'(z)"),
    "w": ("w̄", "z̄ x + R̄ w"),
    "b": ("b̄", "z̄"),
}


def show_columns(run: harness.Run, params: Params, x: jax.Array, t: jax.Array, lam: float) -> None:
    values, bars = jax.device_get(jax.jit(forward_and_bars)(params, x, t, lam))
    expected = jax.device_get(jax.jit(autodiff_bars)(params, x, t, lam))
    given = ", ".join(f"{n} = {v.item():.6f}" for n, v in {**params, "x": x, "t": t}.items())
    run.say(f"one sample: {given}, λ = {lam:g}")
    rows = [(name, f"= {formula}", f"{values[name].item():.9f}") for name, formula in FORWARD.items()]
    run.show("forward", ("", "", "value"), rows)
    lines = []
    for name, (symbol, formula) in BACKWARD.items():
        bar, other = bars[name].item(), expected[name].item()
        lines.append((symbol, f"= {formula}", f"{bar:.9f}", f"{other:.9f}", f"{bar - other:.1e}"))
    run.show("backward", ("", "", "bar, by the rules", "jax.grad", "difference"), lines)
    run.say()


# ---------------------------------------------------------------------- the fit


def cost(params: Params, x: jax.Array, t: jax.Array, lam: float) -> jax.Array:
    y = nn.sigmoid(nn.linear(x, params["w"], params["b"]))
    return losses.l2_loss(y, t).mean() + lam * regularizers.l2(params["w"])


def draw(run: harness.Run, curve: Sequence[float], params: Params, x: jax.Array, t: jax.Array) -> None:
    figure = harness.paper(10, 4)
    left, right = figure.subplots(1, 2)
    harness.draw_losses(left, curve, "the cost falls")

    line = np.linspace(-3.2, 3.2, 200, dtype=np.float32)[:, None]
    right.plot(
        line,
        nn.sigmoid(nn.linear(line, params["w"], params["b"])),
        color=harness.BLUE,
        label="y = σ(w x + b)",
    )
    right.scatter(x, t, s=45, color=harness.VERMILION, edgecolor="white", zorder=3, label="sample (x, t)")
    w, b = params["w"].item(), params["b"].item()
    right.set(title=f"the fit: w = {w:.2f}, b = {b:.2f}".replace("-", "−"), xlabel="x", ylabel="t and y")
    right.legend(loc="center left", frameon=False)
    harness.tidy(right)
    run.save(figure)


def task(args: argparse.Namespace) -> harness.Task:
    columns = dict(zip("xt", map(np.asarray, make_data(jax.random.key(args.seed))), strict=True))
    return harness.Task(
        init=lambda key: {"w": jnp.full((1, 1), -1.0), "b": jnp.full(1, 1.0)},
        loss=lambda params, batch, key: cost(params, batch["x"], batch["t"], args.lam),
        examples=SAMPLES,
        batch=lambda chosen: {name: column[chosen] for name, column in columns.items()},
        at_once=100,
    )


def experiment(args: argparse.Namespace, run: harness.Run, task: harness.Task) -> int:
    key = jax.random.key(args.seed)
    x, t = make_data(key)
    show_columns(run, task.init(key), x[0], t[0], args.lam)
    trained = harness.train(args, run, task)
    draw(run, trained.losses, trained.params, x, t)
    before, after = trained.losses[0], trained.losses[-1]
    run.say(f"logistic_least_squares: loss {before:.6f} before, {after:.6f} after {args.steps} steps")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "logistic_least_squares",
        __doc__,
        steps=500,
        batch=SAMPLES,
        learning_rate=1.0,
        optimizer="sgd",
        checkpoint_every=0,
    )
    harness.add_lambda(parser, 0.01)
    return harness.launch_training(task, parser, argv, experiment)


if __name__ == "__main__":
    sys.exit(main())

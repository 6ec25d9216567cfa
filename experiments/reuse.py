"""Why backpropagation: what it saves to compute each node's bar once.

A chain of d layers of width n, x_k = σ(x_{k−1} W_k) and L = Σ ½(x_d − t)², has d n² parameters.
All their derivatives are computed in three ways:

  (a) expanded: each derivative as a formula of its own, the way one writes it out by hand,
          ∂L/∂W_m[i, j] = ((x_d − t) σ'(z_d) W_dᵀ … σ'(z_{m+1}) W_{m+1}ᵀ σ'(z_m))[j]  x_{m−1}[i]
      with nothing reused: wherever an x_k or a z_k is mentioned, it is evaluated again from x;
  (b) forward mode: one jax.jvp a parameter, each with its own forward pass;
  (c) bars: jax.grad through the rules, one pass forward and one pass back for all parameters.

The work grows as d³ n⁴ in (a), as d² n⁴ in (b) and as d n² in (c). (Formula (a) is written with
vectors. With a sum over all the paths through the network it would grow as nᵈ.)

Operations are XLA's cost analysis of the compiled program: floating-point operations and calls of
transcendental functions. XLA would notice work that is done twice and share it, so the copies of x
reach (a) and (b) as separate arguments, which it cannot know to be equal. Time is the median of
interleaved repetitions, with quartiles. The parameters are independent of each other in (a) and
(b) and run there as one batch, which is kind to their time; below 0.1 ms a program costs mostly its
call.

Run it as `python experiments/reuse.py`. It measures `--steps` chains, the smallest first, each a
line of metrics.jsonl, where `step` counts the chains and `loss` is L. With `--autodiff` (c) is
jax.grad of the twin.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import harness
import overbar
from harness import timing
from overbar import losses, nn

DEPTH, WIDTH = 4, 8  # where the other one grows
DEPTHS, WIDTHS = (2, 4, 8, 16), (2, 4, 8, 16, 32)
ROUNDS = 25

Weights = list[jax.Array]
WAYS = {
    "expanded": ("(a) expanded", harness.VERMILION, "^"),
    "forward": ("(b) forward mode", harness.ORANGE, "s"),
    "bars": ("(c) bars", harness.BLUE, "o"),
}


class Chain(NamedTuple):
    depth: int
    width: int

    @property
    def parameters(self) -> int:
        return self.depth * self.width**2


CHAINS = sorted(
    {Chain(depth, WIDTH) for depth in DEPTHS} | {Chain(DEPTH, width) for width in WIDTHS},
    key=lambda chain: (chain.parameters, chain),
)


class Cost(NamedTuple):
    """Operations of a program, and the quartiles of its seconds, the median in the middle."""

    operations: float
    seconds: tuple[float, float, float]


class Measured(NamedTuple):
    """What was measured of a chain; `difference` is the largest of (a) and (b) to (c), of the largest bar."""

    chain: Chain
    loss: float
    difference: float
    costs: dict[str, Cost]


# ---------------------------------------------------------------------- the three ways


def layers(weights: Iterable[jax.Array], x: jax.Array) -> jax.Array:
    for w in weights:
        x = nn.sigmoid(nn.linear(x, w))
    return x


def loss(weights: Weights, x: jax.Array, t: jax.Array) -> jax.Array:
    return losses.l2_loss(layers(weights, x), t).sum()


def one_derivative(
    weights: Weights, copies: jax.Array, t: jax.Array, m: int, i: jax.Array, j: jax.Array
) -> jax.Array:
    """∂L/∂W_m[i, j] by its formula, of which every mention of a layer takes a copy of x of its own."""
    unused = iter(copies)

    def value(k: int) -> jax.Array:  # x_k
        return layers(weights[:k], next(unused))

    def slope(k: int) -> jax.Array:  # σ'(z_k)
        y = value(k)
        return y * (1 - y)

    d = len(weights)
    row = value(d) - t
    for k in range(d, m, -1):
        row = (row * slope(k)) @ weights[k - 1].T
    return row[j] * slope(m)[j] * value(m - 1)[i]


def expanded(weights: Weights, copies: list[jax.Array], t: jax.Array) -> Weights:
    """Way (a). copies[m − 1] is (n², mentions, n): for every entry of W_m, a copy of x a mention."""
    n = len(t)
    i, j = jnp.indices((n, n)).reshape(2, n * n)

    def layer(m: int) -> jax.Array:
        def entry(own: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
            return one_derivative(weights, own, t, m, i, j)

        return jax.vmap(entry)(copies[m - 1], i, j).reshape(n, n)

    return [layer(m) for m in range(1, len(weights) + 1)]


def forward_mode(weights: Weights, copies: jax.Array, t: jax.Array, directions: Weights) -> Weights:
    """Way (b). copies and directions have a row a parameter: its x, and 1 at its own place only."""
    plain = overbar.twin(loss)  # rules are for the way back: jax.jvp of one raises

    def one(x: jax.Array, direction: Weights) -> jax.Array:
        _, derivative = jax.jvp(lambda weights: plain(weights, x, t), (weights,), (direction,))
        return jnp.asarray(derivative)

    found = jax.vmap(one)(copies, directions)
    return list(found.reshape(len(weights), len(t), len(t)))


def programs(
    chain: Chain, key: jax.Array, autodiff: bool
) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Each way's function and arguments, by the way's name."""
    d, n = chain
    key_w, key_x = jax.random.split(key)
    # Scaled up, so that the derivative of the first layer of a deep chain does not vanish.
    weights = list(4 / n**0.5 * jax.random.normal(key_w, (d, n, n)))
    x, t = jax.random.normal(key_x, (n,)), jnp.full(n, 0.5)
    mentions = [d - m + 3 for m in range(1, d + 1)]  # of x_d, of σ'(z_d) … σ'(z_m), of x_{m−1}
    copies = [jnp.broadcast_to(x, (n * n, mentioned, n)) for mentioned in mentions]
    directions = jnp.eye(chain.parameters).reshape(chain.parameters, d, n, n)
    return {
        "expanded": (expanded, (weights, copies, t)),
        "forward": (
            forward_mode,
            (weights, jnp.broadcast_to(x, (chain.parameters, n)), t, [directions[:, k] for k in range(d)]),
        ),
        "bars": (jax.grad(harness.select(loss, autodiff)), (weights, x, t)),
    }


# ---------------------------------------------------------------------- measuring


def operations(compiled: Any) -> float:
    """Floating-point operations and calls of transcendental functions, by XLA's cost analysis."""
    found = compiled.cost_analysis()
    parts: Sequence[Any] = found if isinstance(found, list | tuple) else [found]
    return float(sum(part.get(kind, 0.0) for part in parts for kind in ("flops", "transcendentals")))


def measure(chain: Chain, key: jax.Array, autodiff: bool) -> Measured:
    made = programs(chain, key, autodiff)
    compiled = {name: jax.jit(f).lower(*args).compile() for name, (f, args) in made.items()}
    found = {name: np.stack(compiled[name](*args)) for name, (_, args) in made.items()}
    calls = {name: partial(compiled[name], *args) for name, (_, args) in made.items()}
    took = timing.interleaved(calls, ROUNDS)
    _, args = made["bars"]
    return Measured(
        chain,
        float(loss(*args)),
        max(float(np.abs(found[name] - found["bars"]).max() / np.abs(found["bars"]).max()) for name in made),
        {name: Cost(operations(compiled[name]), timing.quartiles(took[name])) for name in made},
    )


def growth(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent p of costs ~ sizesᵖ, between the two largest sizes; NaN if there is but one."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.log(costs[-1] / costs[-2]) / np.log(sizes[-1] / sizes[-2]))


# ---------------------------------------------------------------------- what it shows


def sweeps(measured: Sequence[Measured]) -> dict[str, tuple[list[int], list[Measured]]]:
    """The chains that differ in depth only and those that differ in width only, with their sizes."""
    deeper = [m for m in measured if m.chain.width == WIDTH]
    wider = [m for m in measured if m.chain.depth == DEPTH]
    return {
        "depth": ([m.chain.depth for m in deeper], deeper),
        "width": ([m.chain.width for m in wider], wider),
    }


def show(run: harness.Run, measured: Sequence[Measured]) -> None:
    rows = [
        (
            f"{m.chain.depth} × {m.chain.width}",
            f"{m.chain.parameters}",
            *(f"{m.costs[way].operations:,.0f}" for way in WAYS),
            *(f"{1000 * m.costs[way].seconds[1]:.3f}" for way in WAYS),
        )
        for m in measured
    ]
    columns = ("d × n", "parameters", "(a) ops", "(b) ops", "(c) ops", "(a) ms", "(b) ms", "(c) ms")
    run.show("operations and median time", columns, rows)
    for axis, (sizes, line) in sweeps(measured).items():
        found = (f"{way} {growth(sizes, [m.costs[way].operations for m in line]):.2f}" for way in WAYS)
        run.say(f"operations grow with {axis} to the power of: {', '.join(found)}")


def draw(run: harness.Run, measured: Sequence[Measured]) -> None:
    figure = harness.paper(10, 7)
    grid = figure.subplots(2, 2, sharex="col", sharey="row")
    ticks = {"depth": DEPTHS, "width": WIDTHS}  # the same, however few chains were measured
    fixed = {"depth": f"depth d (width n = {WIDTH})", "width": f"width n (depth d = {DEPTH})"}
    for column, (axis, (sizes, line)) in zip(grid.T, sweeps(measured).items(), strict=True):
        for way, (label, color, marker) in WAYS.items():
            style = {"color": color, "marker": marker, "linewidth": 1.8}
            counted = [m.costs[way].operations for m in line]
            power = growth(sizes, counted)
            grown = "" if np.isnan(power) else f": ∝ {axis}$^{{{power:.1f}}}$"
            column[0].plot(sizes, counted, label=label + grown, **style)
            low, middle, high = 1000 * np.reshape([m.costs[way].seconds for m in line], (-1, 3)).T
            column[1].errorbar(sizes, middle, (middle - low, high - middle), label=label, capsize=3, **style)
        column[1].set_xlabel(fixed[axis])
        for axes in column:
            axes.set(xscale="log", yscale="log", xlim=(ticks[axis][0] / 1.2, ticks[axis][-1] * 1.2))
            axes.set_xticks(ticks[axis], labels=[str(size) for size in ticks[axis]])
            axes.minorticks_off()
            axes.legend(frameon=False)
            harness.tidy(axes)
    grid[0, 0].set_ylabel("operations")
    grid[1, 0].set_ylabel("time, ms (median and quartiles)")
    figure.suptitle("the derivatives of all parameters, in three ways")
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    chains = CHAINS[: args.steps]
    if args.steps > len(chains):
        run.say(f"reuse: there are {len(chains)} chains to measure, not {args.steps}")
    measured: list[Measured] = []
    with run.progress(len(chains)) as report:
        for step, chain in enumerate(chains):
            report(step, f"compiling depth {chain.depth}, width {chain.width}")
            m = measure(chain, jax.random.key(args.seed), args.autodiff)
            columns = {f"{way}_operations": cost.operations for way, cost in m.costs.items()}
            columns |= {f"{way}_seconds": cost.seconds[1] for way, cost in m.costs.items()}
            spread = {f"{way}_seconds_quartiles": cost.seconds[::2] for way, cost in m.costs.items()}
            size = {"depth": chain.depth, "width": chain.width, "parameters": chain.parameters}
            run.record(step, m.loss, **size, difference=m.difference, **columns, **spread)
            measured.append(m)
        report(len(chains), "measured")
    show(run, measured)
    run.say()
    draw(run, measured)
    worst = max(m.difference for m in measured)
    run.say(f"reuse: the three ways agree to {worst:.1e} of the largest derivative")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(
        "reuse", __doc__, steps=len(CHAINS), steps_help="chains to measure, the smallest first; all at most"
    )
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

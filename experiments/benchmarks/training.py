"""Steps a second and peak memory of one training step: our rules, our twin, and their peers.

Flax NNX and Equinox with optax, and PyTorch, eager and compiled, train the same network on the same batch
with the same optimizer (Adam), from the same parameters: the losses of the first steps are compared, and what
is not alike is not timed. Then all take turns in this process. A size more is four times the work. `floor` is
the share of the machine's matrix products, measured in the same run, that a step reaches with its own.

Memory is XLA's own figure: everything that a compiled step holds, with parameters, optimizer and batch; of
PyTorch what its profiler sees. Both may use all the cores.

    python experiments/benchmarks/training.py --out DIR
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
from benchmarks.torch_training import Torch
from benchmarks.training_models import NETWORKS, Network
from benchmarks.training_peers import Equinox, Nnx
from harness import timing
from overbar import twin

RATE = 1e-3
PEERS = ["rules", "twin", "NNX", "Equinox", "torch", "torch.compile"]
COLORS = [harness.BLUE, harness.GREEN, harness.ORANGE, harness.VERMILION, harness.GREY, "black"]


class Jitted:
    """A training step under JAX: call it to take one and get the loss.

    Its arrays are listed first layer first or last layer first, whichever takes less memory. By their order
    XLA breaks ties of its schedule, in favour of one library's layers or another's.
    """

    def __init__(self, params: Any, loss: Callable[..., jax.Array], batch: Any) -> None:
        optimizer = optax.adam(RATE)
        leaves, tree = jax.tree.flatten(params)
        self.batch = jax.device_put(batch)

        def compiled(way: int) -> Any:
            def step(state: Any, x: Any, t: Any) -> Any:
                listed, memory = state
                value, bars = jax.value_and_grad(
                    lambda listed: loss(jax.tree.unflatten(tree, listed[::way]), x, t)
                )(listed)
                change, memory = optimizer.update(bars, memory, listed)
                return (optax.apply_updates(listed, change), memory), value

            # Their own copy, since a step uses up what it is given.
            listed = [jnp.array(leaf) for leaf in leaves[::way]]
            state = (listed, jax.jit(optimizer.init)(listed))
            return jax.jit(step, donate_argnums=0).lower(state, *self.batch).compile(), state

        self.compiled, self.state = min(map(compiled, (1, -1)), key=lambda made: peak_bytes(made[0]))

    def __call__(self) -> Any:
        self.state, value = self.compiled(self.state, *self.batch)
        return jax.block_until_ready(value)

    def peak_bytes(self) -> int:
        return peak_bytes(self.compiled)


def peak_bytes(compiled: Any) -> int:
    m = compiled.memory_analysis()
    return int(
        m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes
    )


def contenders(kind: str, network: Network) -> dict[str, Callable[[], Any]]:
    """How to make each one's step."""

    def with_layers_of(library: Callable[[], Any]) -> Jitted:
        params, loss = getattr(library(), kind)(network.params)
        return Jitted(params, loss, network.batch)

    return {
        "rules": lambda: Jitted(network.params, network.loss, network.batch),
        "twin": lambda: Jitted(network.params, twin(network.loss), network.batch),
        "NNX": lambda: with_layers_of(Nnx),
        "Equinox": lambda: with_layers_of(Equinox),
        "torch": lambda: Torch(network, kind, RATE, compiled=False),
        "torch.compile": lambda: Torch(network, kind, RATE, compiled=True),
    }


def made(run: harness.Run, kind: str, network: Network, names: Sequence[str]) -> dict[str, Any]:
    """The steps that run here and train alike."""
    steps: dict[str, Any] = {}
    expected: list[float] = []
    for name, make in contenders(kind, network).items():
        if name not in names:
            continue
        try:
            step = make()
            found = [float(step()) for _ in range(3)]
        except Exception as error:  # not installed, or no compiler for it here
            first = (str(error).splitlines() or [""])[0]
            run.say(f"training: {name} does not run here: {type(error).__name__}: {first[:120]}")
            continue
        expected = expected or found
        if not np.allclose(found, expected, rtol=1e-3):
            raise SystemExit(f"training: {network.kind}: the losses of {name}, {found}, are not {expected}")
        steps[name] = step
    return steps


def floor(rounds: int, n: int = 1024) -> float:
    """Multiplications and additions a second in matrix products of n × n."""
    a = jnp.ones((n, n))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    return n**3 / float(timing.interleaved({"product": lambda: product(a, a)}, rounds)["product"].min())


def measure(
    run: harness.Run, kind: str, network: Network, names: Sequence[str], rounds: int
) -> dict[str, Any]:
    steps = made(run, kind, network, names)
    gc.collect()
    speed = floor(10)
    seconds = timing.interleaved(steps, rounds, at_least=0.01)
    ours = seconds[next(iter(steps))]
    return {
        "network": network.kind,
        "size": network.size,
        "products": 3 * network.products,
        "floor_products_per_second": speed,
        "steps": {
            name: {
                "seconds": timing.quartiles(seconds[name]),
                "ratio_to_ours": timing.quartiles(ours / seconds[name]),
                "peak_bytes": step.peak_bytes(),
                "share_of_floor": 3 * network.products / speed / timing.quartiles(seconds[name])[1],
            }
            for name, step in steps.items()
        },
    }


def show(run: harness.Run, results: Sequence[dict[str, Any]]) -> None:
    columns = ["network", "size", "", "steps/s", "rules' time / its", "(quartiles)", "peak MB", "floor"]
    rows = []
    for result in results:
        for name, m in result["steps"].items():
            low, ratio, high = m["ratio_to_ours"]
            rows.append(
                (
                    result["network"],
                    result["size"],
                    name,
                    f"{1 / m['seconds'][1]:.4g}",
                    f"{ratio:.3f}",
                    f"{low:.3f}–{high:.3f}",
                    f"{m['peak_bytes'] / 1e6:.2f}",
                    f"{100 * m['share_of_floor']:.0f} %",
                )
            )
    run.show("a training step: below 1, the rules are faster", columns, rows)


def draw(run: harness.Run, results: Sequence[dict[str, Any]]) -> None:
    kinds = list(dict.fromkeys(r["network"] for r in results))
    figure = harness.paper(3.4 * len(kinds), 3.6)
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        some = [r for r in results if r["network"] == kind]
        for name, color in zip(PEERS, COLORS, strict=True):
            points = [(r["products"], r["steps"][name]["seconds"][1]) for r in some if name in r["steps"]]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", color=color, markersize=3, label=name)
        work = np.array([r["products"] for r in some])
        axes.plot(work, work / np.array([r["floor_products_per_second"] for r in some]), ":", color="black")
        axes.set(title=kind, xlabel="multiplications a step", xscale="log", yscale="log")
        harness.tidy(axes)
    figure.axes[0].set_ylabel("seconds a step (dotted: matrix products alone)")
    figure.axes[0].legend(frameon=False, fontsize=8)
    run.save(figure)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    results: list[dict[str, Any]] = []
    cases = [(kind, scale) for kind in args.networks for scale in range(args.sizes)]
    with run.progress(len(cases)) as report:
        for number, (kind, scale) in enumerate(cases, start=1):
            network = NETWORKS[kind](scale)
            results.append(measure(run, kind, network, args.peers, args.steps))
            report(number, f"{network.kind}, {network.size}")
    show(run, results)
    draw(run, results)
    run.results({"settings": run.settings, "results": results})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(
        "training",
        __doc__,
        steps=30,
        steps_help="rounds of timing",
        writes="results.json and training.png",
    )
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="(default: all four)"
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="(default: all of them)")
    parser.add_argument(
        "--sizes",
        type=harness.count,
        default=3,
        metavar="N",
        help="sizes, each of four times the work (default: 3)",
    )
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What the graph costs: its two passes under jit against jax.value_and_grad.

Both are compiled and their gradients compared; then they are timed in turns in this process. The
median of the rounds' ratios is told with its quartiles: 1 means that walking the graph costs nothing.
Temporary memory is XLA's own figure for the compiled function.

    python experiments/benchmarks/graph_passes.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
from harness import timing
from overbar import losses, make_graph, nn, regularizers


def sigmoid_network(params: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    y = x
    for w, b in params:
        y = nn.sigmoid(nn.linear(y, w, b))
    return losses.l2_loss(y, t).mean() + 1e-4 * regularizers.l2(params)


def normalized(x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5)


def transformer_block(p: Any, x: jax.Array, t: jax.Array) -> jax.Array:
    q, k, v = jnp.split(normalized(x) @ p["qkv"], 3, axis=-1)
    scores = q @ k.T / np.float32(np.sqrt(q.shape[-1]))
    mask = jnp.tril(jnp.ones(scores.shape, bool))
    x = x + jax.nn.softmax(jnp.where(mask, scores, -1e9)) @ v @ p["out"]
    x = x + jax.nn.gelu(normalized(x) @ p["up"]) @ p["down"]
    return ((x - t) ** 2).mean()


def network_arguments(key: jax.Array, batch: int, widths: Sequence[int]) -> tuple[Any, ...]:
    keys = iter(jax.random.split(key, len(widths) + 2))
    params = [
        (jax.random.normal(next(keys), (n, m)) / np.sqrt(n), jnp.zeros(m))
        for n, m in itertools.pairwise(widths)
    ]
    x = jax.random.normal(next(keys), (batch, widths[0]))
    return params, x, jax.random.uniform(next(keys), (batch, widths[-1]))


def block_arguments(key: jax.Array, length: int, d: int) -> tuple[Any, ...]:
    keys = iter(jax.random.split(key, 6))
    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    p = {name: jax.random.normal(next(keys), shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    return p, jax.random.normal(next(keys), (length, d)), jax.random.normal(next(keys), (length, d))


def cases(key: jax.Array) -> dict[str, tuple[Callable[..., jax.Array], tuple[Any, ...]]]:
    return {
        "sigmoid network, 256 × 784-256-256-10": (
            sigmoid_network,
            network_arguments(key, 256, (784, 256, 256, 10)),
        ),
        "transformer block, 128 × 128": (transformer_block, block_arguments(key, 128, 128)),
    }


def measure(name: str, f: Callable[..., jax.Array], args: tuple[Any, ...], rounds: int) -> dict[str, Any]:
    def by_graph(*args: Any) -> Any:
        graph = make_graph(f)(*args)
        graph.forward()
        return graph.value, graph.backprop()

    functions: dict[str, Callable[..., Any]] = {
        "graph": by_graph,
        "jax": jax.value_and_grad(f, tuple(range(len(args)))),
    }
    compiled: dict[str, Any] = {who: jax.jit(g).lower(*args).compile() for who, g in functions.items()}
    ours, theirs = (jax.tree.leaves(compiled[who](*args)) for who in ("graph", "jax"))
    difference = max(
        float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30))
        for a, b in zip(ours, theirs, strict=True)
    )
    if not difference < 1e-4:
        raise SystemExit(f"graph_passes: {name}: the gradients differ by {difference:.1e}; not timed")
    calls = {who: partial(step, *args) for who, step in compiled.items()}
    seconds = timing.interleaved(calls, rounds, at_least=0.005)
    return {
        "name": name,
        "graph_seconds": timing.quartiles(seconds["graph"]),
        "jax_seconds": timing.quartiles(seconds["jax"]),
        "time_ratio": timing.quartiles(seconds["graph"] / seconds["jax"]),
        "graph_temporary_bytes": compiled["graph"].memory_analysis().temp_size_in_bytes,
        "jax_temporary_bytes": compiled["jax"].memory_analysis().temp_size_in_bytes,
        "gradient_difference": difference,
    }


def show(run: harness.Run, results: Sequence[dict[str, Any]]) -> None:
    columns = ["function", "graph, ms", "jax, ms", "ratio (quartiles)", "temporary bytes", "jax's"]
    rows = []
    for r in results:
        low, ratio, high = r["time_ratio"]
        rows.append(
            [
                r["name"],
                f"{1e3 * r['graph_seconds'][1]:.3f}",
                f"{1e3 * r['jax_seconds'][1]:.3f}",
                f"{ratio:.3f} ({low:.3f}–{high:.3f})",
                f"{r['graph_temporary_bytes']:,}",
                f"{r['jax_temporary_bytes']:,}",
            ]
        )
    run.show("forward and backprop on the graph, under jit, against jax.value_and_grad", columns, rows)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    results: list[dict[str, Any]] = []
    drawn = cases(jax.random.key(args.seed))
    with run.progress(len(drawn)) as report:
        for number, (name, (f, given)) in enumerate(drawn.items(), start=1):
            results.append(measure(name, f, given, args.steps))
            report(number, name)
    show(run, results)
    run.results({"device": run.settings["device"], "jax": jax.__version__, "results": results})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(
        "graph_passes", __doc__, steps=60, steps_help="rounds of timing", writes="results.json"
    )
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

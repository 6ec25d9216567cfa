"""What the rules cost: the training step of a sigmoid network, with the rules and with its twin.

Both steps are compiled, their gradients compared, and then they are timed in turns in this process.
The ratio of each round is taken, and the median of the ratios with their quartiles is told: a ratio
of 1 means that a rule costs nothing. Temporary memory is XLA's own figure for the step compiled as
one trains with it, with parameters and optimizer state donated: where they are not, XLA lays what is
kept for backward into the buffers of the results, and the figure tells nothing.

    python experiments/benchmarks/sigmoid_network.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
from harness import timing
from overbar import losses, nn, regularizers, twin

# (batch, widths of the layers): small enough to be all overhead, as the digits, and all arithmetic.
SIZES = [
    (4, (2, 8, 1)),
    (128, (64, 64, 10)),
    (256, (784, 512, 512, 10)),
    (1024, (512, 512, 512, 512, 512)),
]
FORMS = {"default": None, "highest": jax.lax.AccuracyMode.HIGHEST}


def loss(params: Any, x: jax.Array, t: jax.Array, accuracy: Any) -> jax.Array:
    y = x
    for w, b in params:
        y = nn.sigmoid(nn.linear(y, w, b), accuracy=accuracy)
    return losses.l2_loss(y, t).mean() + 1e-4 * regularizers.l2(params)


def steps(batch: int, widths: tuple[int, ...], accuracy: Any, key: jax.Array) -> tuple[Any, Any, Any]:
    """The compiled steps of the rules and of the twin, the same with donation, and their arguments."""
    keys = iter(jax.random.split(key, 2 * len(widths) + 2))
    params = [
        (jax.random.normal(next(keys), (n, m)) / np.sqrt(n), jnp.zeros(m))
        for n, m in itertools.pairwise(widths)
    ]
    x = jax.random.normal(next(keys), (batch, widths[0]))
    t = jax.random.uniform(next(keys), (batch, widths[-1]))
    optimizer = optax.adam(1e-3)
    memory = optimizer.init(params)
    with_rules = partial(loss, accuracy=accuracy)

    def step(f: Any, params: Any, memory: Any, x: jax.Array, t: jax.Array) -> Any:
        value, bars = jax.value_and_grad(f)(params, x, t)
        change, memory = optimizer.update(bars, memory, params)
        return optax.apply_updates(params, change), memory, value, bars

    args = (params, memory, x, t)
    functions = {"rules": partial(step, with_rules), "twin": partial(step, twin(with_rules))}
    compiled = {name: jax.jit(f).lower(*args).compile() for name, f in functions.items()}
    donated = {
        name: jax.jit(f, donate_argnums=(0, 1)).lower(*args).compile() for name, f in functions.items()
    }
    return compiled, donated, args


def same_bars(compiled: dict[str, Any], args: Any) -> float:
    """The largest difference between the two gradients, relative to the largest entry of its leaf."""
    rules, reference = (jax.tree.leaves(compiled[name](*args)[3]) for name in ("rules", "twin"))
    return max(
        float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in zip(rules, reference, strict=True)
    )


def measure(form: str, batch: int, widths: tuple[int, ...], rounds: int, key: jax.Array) -> dict[str, Any]:
    compiled, donated, args = steps(batch, widths, FORMS[form], key)
    difference = same_bars(compiled, args)
    if not difference < 1e-4:
        raise SystemExit(f"sigmoid_network: the gradients differ by {difference:.1e}; not timed")
    calls = {name: partial(step, *args) for name, step in compiled.items()}
    seconds = timing.interleaved(calls, rounds, at_least=0.005)
    low, ratio, high = timing.quartiles(seconds["rules"] / seconds["twin"])
    return {
        "accuracy": form,
        "batch": batch,
        "widths": list(widths),
        "rules_seconds": timing.quartiles(seconds["rules"]),
        "twin_seconds": timing.quartiles(seconds["twin"]),
        "time_ratio": ratio,
        "time_ratio_quartiles": [low, high],
        "rules_temporary_bytes": donated["rules"].memory_analysis().temp_size_in_bytes,
        "twin_temporary_bytes": donated["twin"].memory_analysis().temp_size_in_bytes,
        "gradient_difference": difference,
    }


def show(run: harness.Run, results: Sequence[dict[str, Any]]) -> None:
    columns = [
        "accuracy",
        "batch × widths",
        "rules, ms",
        "twin, ms",
        "ratio (quartiles)",
        "temporary bytes",
        "twin's",
    ]
    rows = [
        [
            r["accuracy"],
            f"{r['batch']} × {'-'.join(map(str, r['widths']))}",
            f"{1e3 * r['rules_seconds'][1]:.3f}",
            f"{1e3 * r['twin_seconds'][1]:.3f}",
            f"{r['time_ratio']:.3f} ({r['time_ratio_quartiles'][0]:.3f}–{r['time_ratio_quartiles'][1]:.3f})",
            f"{r['rules_temporary_bytes']:,}",
            f"{r['twin_temporary_bytes']:,}",
        ]
        for r in results
    ]
    run.show("a training step: the rules against their twin", columns, rows)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    key = jax.random.key(args.seed)
    results: list[dict[str, Any]] = []
    cases = [(form, batch, widths) for form in FORMS for batch, widths in SIZES]
    with run.progress(len(cases)) as report:
        for number, (form, batch, widths) in enumerate(cases, start=1):
            results.append(measure(form, batch, widths, args.steps, key))
            report(number, f"{form}, {batch} × {widths}: ratio {results[-1]['time_ratio']:.3f}")
    show(run, results)
    run.results({"device": run.settings["device"], "jax": jax.__version__, "results": results})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(
        "sigmoid_network", __doc__, steps=100, steps_help="rounds of timing", writes="results.json"
    )
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

"""What the fused rules hold while they run, as the problem grows: XLA's temporary memory of both passes.

Causal attention over sequences twice as long each time, whose probabilities are never kept, and the
cross-entropy of logits that are never whole, over more and more classes: beside jax.nn's function, or
the plain one, under autodiff. Nothing is run; the figures are those of the compiled programs.

    python experiments/benchmarks/fused_memory.py
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
from overbar import losses, nn

LENGTHS = (1024, 2048, 4096, 8192)
HEADS, WIDTH = 8, 64
CLASSES = (8192, 16384, 32768)
ROWS, FEATURES = 2048, 256


def plain_cross_entropy(h: jax.Array, w: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(h @ w, labels)


def temporary_bytes(f: Callable[..., Any], *shapes: Any) -> int:
    """Of the program that computes f's sum and the bars of its float arguments."""
    floats = tuple(i for i, s in enumerate(shapes) if jnp.issubdtype(s.dtype, jnp.floating))
    both = jax.jit(jax.value_and_grad(lambda *args: f(*args).sum(), floats))
    analysis: Any = both.lower(*shapes).compile().memory_analysis()
    return int(analysis.temp_size_in_bytes)


def problems() -> list[tuple[str, Callable[..., Any], Callable[..., Any], list[Any]]]:
    """(what it is, the rule, its peer, the shapes of the arguments)."""
    causal = {"is_causal": True}
    ours, theirs = (partial(m.dot_product_attention, **causal) for m in (nn, jax.nn))
    made: list[Any] = []
    for length in LENGTHS:
        shape = jax.ShapeDtypeStruct((1, length, HEADS, WIDTH), jnp.float32)
        made.append((f"causal attention, {length} long", ours, theirs, 3 * [shape]))
    for classes in CLASSES:
        h, w = ((ROWS, FEATURES), (FEATURES, classes))
        shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (h, w)]
        shapes.append(jax.ShapeDtypeStruct((ROWS,), jnp.int32))
        told = f"linear_cross_entropy, {ROWS} rows, {classes} classes"
        made.append((told, losses.linear_cross_entropy, plain_cross_entropy, shapes))
    return made


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    results: list[dict[str, Any]] = []
    for told, rule, peer, shapes in problems():
        held = {
            "rule_bytes": temporary_bytes(rule, *shapes),
            "autodiff_bytes": temporary_bytes(peer, *shapes),
        }
        results.append({"problem": told, **held})
    rows = [
        [r["problem"], f"{r['rule_bytes'] / 1e6:,.1f}", f"{r['autodiff_bytes'] / 1e6:,.1f}"] for r in results
    ]
    run.show("temporary memory of both passes, float32", ["", "the rule, MB", "autodiff, MB"], rows)
    run.results({"device": run.settings["device"], "jax": jax.__version__, "results": results})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser("fused_memory", __doc__, steps=None, writes="results.json")
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

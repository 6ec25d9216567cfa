"""What each rule costs, and how near the truth it is, beside autodiff of the same function.

Every registered rule is timed on its samples tagged "bench", in turns, in one process, with three
others: the function of its name in jax.nn or optax.losses where there is one, its twin (its own
primal, differentiated by JAX), and its reference. Told are the medians of the rounds' ratios with
their quartiles, what is kept between forward and backward, XLA's temporary memory and the time to
compile. What overbar.check calls wrong is not timed.

    python experiments/benchmarks/rules.py                     all rules
    python experiments/benchmarks/rules.py nn.softmax losses   one, and a family
    python experiments/benchmarks/rules.py --torch             beside PyTorch's CPU kernels too
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
import overbar
from benchmarks import torch_peers, ulps
from harness import timing
from overbar import Rule, Sample, registry
from overbar.check.oracle import Side
from overbar.check.units.memory import kept_by
from overbar.rule import call_by_name

FORM = 1  # of results.json
MOST_REFERENCE = 2.0  # seconds of one call from which a reference is not timed


class Case(NamedTuple):
    """A function of its float inputs, and of its other arrays, which are left out for their own values."""

    function: Callable[..., list[jax.Array]]
    inputs: list[jax.Array]
    others: list[jax.Array]


def case(f: Callable[..., Any], sample: Sample) -> Case:
    numbers, tree = jax.tree.flatten(sample.args)
    numbers = [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in numbers]
    given, options = jax.tree.flatten(dict(sample.options))
    floats = [i for i, x in enumerate(numbers) if jnp.issubdtype(x.dtype, jnp.inexact)]
    every = [*numbers, *given]
    where = [i for i, x in enumerate(every) if i not in floats and isinstance(x, jax.Array)]
    others = [every[i] for i in where]

    def function(inputs: list[jax.Array], others: list[jax.Array] = others) -> list[jax.Array]:
        filled = list(every)
        for i, x in zip([*floats, *where], [*inputs, *others], strict=True):
            filled[i] = x
        args, named = filled[: len(numbers)], filled[len(numbers) :]
        y = f(*jax.tree.unflatten(tree, args), **jax.tree.unflatten(options, named))
        return [leaf for leaf in jax.tree.leaves(y) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    return Case(function, [numbers[i] for i in floats], others)


def namesake(rule: Rule[..., Any]) -> Callable[..., Any] | None:
    """The function of the rule's name in jax.nn or optax.losses."""
    home = {"nn": jax.nn, "losses": optax.losses}.get(rule.name.split(".")[0])
    return getattr(home, rule.__name__, None)


def peers(rule: Rule[..., Any], sample: Sample) -> dict[str, Case]:
    """The rule and what it is compared with, by name."""

    def reference(*args: Any, **options: Any) -> Any:
        inputs, static = rule.bind(*args, **options)
        return call_by_name(rule.parts["reference"], inputs | static)

    functions = {"rule": rule, "namesake": namesake(rule), "twin": overbar.twin(rule), "reference": reference}
    cases = {name: case(f, sample) for name, f in functions.items() if f is not None}
    if "namesake" in cases:
        try:
            jax.eval_shape(lambda xs: jax.vjp(cases["namesake"].function, xs)[0], cases["namesake"].inputs)
        except (TypeError, ValueError):  # it takes other arguments, or has no derivative for integers
            del cases["namesake"]
    return cases


# ---------------------------------------------------------------------- measuring


class Compiled(NamedTuple):
    forward: Callable[[], Any]
    both: Callable[[], Any]
    compile_seconds: float
    temporary_bytes: int
    kept_bytes: int


def compiled(this: Case, key: jax.Array) -> Compiled:
    """The function and its pullback as programs, and what XLA says of them."""
    shapes = jax.eval_shape(this.function, this.inputs)
    keys = jax.random.split(key, len(shapes))
    y_bars = [jax.random.normal(k, s.shape, s.dtype) for k, s in zip(keys, shapes, strict=True)]

    # All arrays are arguments: what XLA knows while it compiles it may work out then, or for minutes.
    def both(inputs: list[jax.Array], others: list[jax.Array], y_bars: list[jax.Array]) -> Any:
        y, pullback = jax.vjp(lambda xs: this.function(xs, others), inputs)
        return y, pullback(y_bars)[0]

    def loss(inputs: list[jax.Array], others: list[jax.Array], y_bars: list[jax.Array]) -> jax.Array:
        return sum(
            (jnp.vdot(a, b) for a, b in zip(y_bars, this.function(inputs, others), strict=True)),
            jnp.float32(0),
        ).real

    arrays = (this.inputs, this.others)
    forward = jax.jit(this.function).lower(*arrays).compile()
    start = time.perf_counter()
    program = jax.jit(both).lower(*arrays, y_bars).compile()
    seconds = time.perf_counter() - start
    analysis = jax.jit(jax.value_and_grad(loss)).lower(*arrays, y_bars).compile().memory_analysis()
    return Compiled(
        lambda: forward(*arrays),
        lambda: program(*arrays, y_bars),
        seconds,
        analysis.temp_size_in_bytes if analysis else 0,
        kept_by(Side(lambda *xs: this.function(list(xs)), False), [np.asarray(x) for x in this.inputs])[0],
    )


def seconds_of(call: Callable[[], Any]) -> float:
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def ratios(
    calls: dict[str, Callable[[], Any]], seconds: float, most: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quartiles of each one's seconds, and of the rule's ratio to each in the same round."""
    once = sum(map(seconds_of, calls.values()))
    at_least = 0.002
    rounds = int(np.clip(seconds / max(once, at_least * len(calls)), min(5, most), most))
    taken = timing.interleaved(calls, rounds, at_least=at_least)
    times = {name: timing.quartiles(t) for name, t in taken.items()}
    return times, {n: timing.quartiles(taken["rule"] / t) for n, t in taken.items() if n != "rule"}


def measure(rule: Rule[..., Any], sample: Sample, args: argparse.Namespace, key: jax.Array) -> dict[str, Any]:
    cases = peers(rule, sample)
    programs: dict[str, Compiled] = {}
    for name, this in cases.items():
        made = compiled(this, key)
        if name == "reference" and seconds_of(made.both) > MOST_REFERENCE:
            continue  # written to be plain, not quick
        programs[name] = made
    forward, forward_ratio = ratios({n: p.forward for n, p in programs.items()}, args.seconds / 3, args.steps)
    both, both_ratio = ratios({n: p.both for n, p in programs.items()}, args.seconds, args.steps)
    found: dict[str, Any] = {
        "sample": sample.name,
        "shapes": [f"{x.dtype}{list(x.shape)}" for x in cases["rule"].inputs],
        "elements": sum(x.size for x in cases["rule"].inputs),
        "options": {name: repr(value) for name, value in sample.options.items()},
        "forward_seconds": forward,
        "forward_ratio": forward_ratio,
        "seconds": both,
        "ratio": both_ratio,
        "kept_bytes": {n: p.kept_bytes for n, p in programs.items()},
        "temporary_bytes": {n: p.temporary_bytes for n, p in programs.items()},
        "compile_seconds": {n: p.compile_seconds for n, p in programs.items()},
    }
    if args.torch:
        found["torch"] = torch_peers.measure(rule, cases["rule"], sample, programs["rule"].both, args.steps)
    return found


def verdict(rule: Rule[..., Any], samples: Sequence[Sample]) -> str:
    """What the checker says of the rule on the first sample that it can compare."""
    said = "inconclusive"
    for sample in samples[:3]:
        said = overbar.check(rule, *sample.args, effort="quick", **sample.options).verdict
        if said != "inconclusive":
            break
    return said


def examine(rule: Rule[..., Any], args: argparse.Namespace, key: jax.Array) -> dict[str, Any]:
    """All that is told of one rule."""
    samples = list(rule.parts["samples"](key))
    small = [s for s in samples if "bench" not in s.tags]
    found: dict[str, Any] = {"rule": rule.name, "verdict": verdict(rule, small)}
    if found["verdict"] == "wrong":
        return found
    found["ulp"] = ulps.worst(peers, rule, small, key)
    found["bench"] = [measure(rule, s, args, key) for s in samples if "bench" in s.tags]
    return found


# ---------------------------------------------------------------------- telling


def autodiff(measured: dict[str, Any]) -> str:
    """Whom a rule is first of all compared with: the function it stands in for, else its twin."""
    return "namesake" if "namesake" in measured["ratio"] else "twin"


def mean_ratio(results: Sequence[dict[str, Any]], peer: str | None = None) -> float:
    """The geometric mean of the median time ratios over all bench samples."""
    every = [m["ratio"][peer or autodiff(m)][1] for r in results for m in r.get("bench", [])]
    return math.exp(sum(map(math.log, every)) / len(every)) if every else math.nan


def table(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for result in results:
        if result["verdict"] == "wrong":
            yield [result["rule"], "wrong: not timed", *[""] * 7]
        for m in result.get("bench", []):
            peer = autodiff(m)
            low, middle, high = m["ratio"][peer]
            reference = m["ratio"].get("reference")
            ulp = result["ulp"]
            yield [
                result["rule"],
                " ".join(m["shapes"]).replace("float", "f"),
                f"{1e3 * m['seconds']['rule'][1]:.3f}",
                f"{m['forward_ratio'][peer][1]:.2f}",
                f"{middle:.3f} ({low:.3f}–{high:.3f})",
                f"{reference[1]:.3f}" if reference else "—",
                f"{m['kept_bytes']['rule']:,} / {m['kept_bytes'][peer]:,}",
                f"{m['temporary_bytes']['rule']:,} / {m['temporary_bytes'][peer]:,}",
                f"{ulp['rule']:.2g} / {ulp[peer]:.2g}" if ulp and peer in ulp else "—",
            ]


def beside_torch(results: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for result in results:
        for m in result.get("bench", []):
            if m.get("torch"):
                low, middle, high = m["torch"]["ratio"]
                seconds = m["torch"]["seconds"]
                yield [
                    result["rule"],
                    " ".join(m["shapes"]).replace("float", "f"),
                    f"{1e3 * seconds['rule'][1]:.3f}",
                    f"{1e3 * seconds['torch'][1]:.3f}",
                    f"{middle:.3f} ({low:.3f}–{high:.3f})",
                ]


COLUMNS = [
    "rule",
    "inputs",
    "both passes, ms",
    "forward ratio",
    "ratio (quartiles)",
    "to reference",
    "bytes kept / autodiff",
    "temporary bytes",
    "ULP",
]


def draw(run: harness.Run, results: Sequence[dict[str, Any]]) -> None:
    """Each sample's time ratio with its quartiles, in order; 1 is autodiff."""
    rows = [(r["rule"], m) for r in results for m in r.get("bench", [])]
    rows.sort(key=lambda row: -row[1]["ratio"][autodiff(row[1])][1])
    figure = harness.paper(8, 1.5 + 0.17 * len(rows))
    axes = figure.subplots()
    for y, (_, m) in enumerate(rows):
        low, middle, high = m["ratio"][autodiff(m)]
        axes.plot([low, high], [y, y], color=harness.GREY, linewidth=2)
        axes.plot(middle, y, "o", color=harness.BLUE if middle <= 1.03 else harness.VERMILION, markersize=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="time of both passes, rule ÷ autodiff", title="what the rules cost")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=6)
    harness.tidy(axes)
    run.save(figure)


def chosen(names: Sequence[str]) -> list[Rule[..., Any]]:
    """The rules of these names, or of the families they begin with; all where there is none."""
    found = [
        r
        for r in registry.values()
        if not names or any(r.name == n or r.name.startswith(n + ".") for n in names)
    ]
    if not found:
        raise ValueError(f"no rule is called {', '.join(names)}; overbar rules lists them")
    return found


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    key, device, rules = jax.random.key(args.seed), jax.devices(args.device)[0], chosen(args.rules)
    results: list[dict[str, Any]] = []
    with jax.default_device(device), run.progress(len(rules)) as report:
        for number, rule in enumerate(rules, start=1):
            results.append(examine(rule, args, key))
            report(number, f"{rule.name}: {results[-1]['verdict']}")
            found = {
                "form": FORM,
                "device": f"{device.platform}: {device.device_kind}",
                "jax": jax.__version__,
                "optax": optax.__version__,
                "seed": args.seed,
                "results": results,
            }
            path = run.write("results.json", json.dumps(found, indent=1) + "\n")
    run.show("both passes of each rule, beside autodiff", COLUMNS, table(results))
    run.say(f"geometric mean of the time ratios: {mean_ratio(results):.3f} to the namesake, else the twin;")
    run.say(f"  to the twin {mean_ratio(results, 'twin'):.3f}")
    if args.torch:
        columns = ["rule", "inputs", "rule, ms", "torch, ms", "ratio (quartiles)"]
        run.show("both passes of each rule, beside PyTorch", columns, beside_torch(results))
    draw(run, results)
    run.say(f"results: {path}")
    return int(any(r["verdict"] == "wrong" for r in results))


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser(
        "rules",
        __doc__,
        steps=60,
        steps_help="rounds of timing at the most",
        writes="results.json and rules.png",
    )
    parser.add_argument(
        "rules", nargs="*", metavar="RULE", help="names, or families such as nn (default: all)"
    )
    parser.add_argument("--device", default=None, metavar="D", help="cpu, gpu or tpu (default: JAX's first)")
    parser.add_argument(
        "--seconds", type=harness.positive, default=2.0, metavar="S", help="of timing a sample (default: 2)"
    )
    parser.add_argument(
        "--torch", action="store_true", help="compare with PyTorch's CPU kernels, if installed"
    )
    args = parser.parse_args(argv)
    if args.torch and not importlib.util.find_spec("torch"):
        parser.error("argument --torch: PyTorch is not installed")
    try:
        jax.devices(args.device), chosen(args.rules)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error).splitlines()[0])
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

"""The rules that others have published, each through overbar.check.

Every rule listed in published_rules.py whose package is installed is checked on one sample, and its
verdict is told beside a figure of which the checker knows nothing: how far JAX's derivative of the
function, in float64, is from its differences along a random direction. What is not "correct" was
looked into by hand, and the explanation says whose it is: theirs, ours, or meant so.

The packages, to be installed into an environment of their own beside overbar:

    pip install optax equinox lineax flax optimistix diffrax jaxopt distrax rlax ott-jax numpyro \\
        e3nn-jax flowjax kfac-jax netket jax-md frozendict jaxoplanet qpax tfp-nightly
    python experiments/benchmarks/published.py

haiku, blackjax, quax and jaxlie have no rule of their own; those of s2fft and scico wrap libraries in
C. The exit status is 1 where a verdict is not the one that was established by hand at effort "normal":
"quick" leaves out other values, among which some are found.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
import overbar
from benchmarks.published_rules import SUBJECTS, Sample, Subject
from overbar.check import Finding

STEPS = (1e-2, 1e-3, 1e-4, 1e-5)  # of the differences


def version(package: str) -> str | None:
    """The version that is installed; None where the package is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def by_differences(sample: Sample) -> float:
    """How far JAX's derivative is from differences, in float64, relative to the larger of the two.

    One random direction and one random bar; of the steps the one is taken whose difference comes
    closest. Where the rule is declared to be another's (like=), it is compared with what JAX makes of
    that other.
    """
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        leaves, tree = jax.tree.flatten(sample.args)
        moved = [i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)]

        def of(f: Callable[..., Any]) -> Callable[[list[Any]], Any]:
            def flat(floats: list[Any]) -> Any:
                given = list(leaves)
                for i, x in zip(moved, floats, strict=True):
                    given[i] = x
                out = jax.tree.leaves(f(*jax.tree.unflatten(tree, given)))
                return [y for y in out if jnp.issubdtype(jnp.asarray(y).dtype, jnp.floating)]

            return flat

        at = [jnp.asarray(leaves[i], jnp.float64) for i in moved]
        y, backward = jax.vjp(of(sample.f), at)
        bars = [jnp.asarray(draw.normal(size=jnp.shape(b)), b.dtype) for b in y]
        (found,) = backward(bars)
        direction = [jnp.asarray(draw.normal(size=x.shape)) for x in at]
        slope = float(sum(jnp.vdot(a, b) for a, b in zip(found, direction, strict=True)))
        if "like" in sample.options:
            _, tangents = jax.jvp(of(sample.options["like"]), (at,), (direction,))
            meant = float(sum(jnp.vdot(a, b) for a, b in zip(bars, tangents, strict=True)))
            return abs(slope - meant) / max(abs(slope), abs(meant), 1e-30)

        def along(t: float) -> float:
            y = of(sample.f)([x + t * d for x, d in zip(at, direction, strict=True)])
            return float(sum(jnp.vdot(a, b) for a, b in zip(bars, y, strict=True)))

        def central(h: float) -> float:
            return (along(h) - along(-h)) / (2 * h)

        slopes = [(4 * central(h / 2) - central(h)) / 3 for h in STEPS]
        return min(abs(slope - s) / max(abs(slope), abs(s), 1e-30) for s in slopes)


def run(subject: Subject, effort: str) -> dict[str, Any]:
    """Checks one rule; what it says is a row of the table."""
    found: dict[str, Any] = {
        "package": subject.package,
        "version": version(subject.package),
        "rule": subject.name,
        "verdict": "not installed",
        "known": vars(subject.known) if subject.known else None,
    }
    if found["version"] is None:
        return found
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            sample = subject.sample()
            file, line = sample.place()
        except Exception as error:
            return {**found, "verdict": "cannot be imported", "found": _sentence(error)}
        start = time.perf_counter()
        try:
            options = {"effort": effort, **sample.options}
            report = overbar.check(sample.f, *sample.args, **options)
        except Exception as error:  # a fault of the checker, which is to say so itself
            found |= {"verdict": "crash", "found": _sentence(error)}
        else:
            told = [_finding(f) for f in report.findings] or [report.reason]
            found |= {
                "verdict": report.verdict,
                "oracle": report.oracle,
                "found": told[0],
                "report": json.loads(report.to_json()),
                "printed": str(report),
            }
        found |= {"seconds": time.perf_counter() - start, "file": _short(file), "line": line}
        try:
            found["differences"] = by_differences(sample)
        except Exception as error:
            found["differences"] = _sentence(error)
    return found


def _finding(finding: Finding) -> str:
    return f"{finding.check}: {finding.what}" + (f" ({finding.cause})" if finding.cause else "")


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _short(file: str) -> str:
    return file.split("site-packages/")[-1]


def show(run: harness.Run, rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title="published rules through overbar.check", title_justify="left", box=None)
    for column in ("package", "rule, where it stands", "verdict"):
        table.add_column(column, overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("oracle", overflow="fold")
    table.add_column("differences", justify="right")
    table.add_column("found", overflow="fold")
    for r in rows:
        place = f"\n{r['file']}:{r['line']}" if "file" in r else ""
        off = r.get("differences")
        table.add_row(
            f"{r['package']} {r['version'] or ''}".strip(),
            r["rule"] + place,
            r["verdict"],
            f"{r['seconds']:.1f}" if "seconds" in r else "",
            r.get("oracle", ""),
            f"{off:.0e}" if isinstance(off, float) else "none" if off else "",
            r.get("found", ""),
        )
    run.say()
    run.console.print(table)


def explain(run: harness.Run, rows: Sequence[dict[str, Any]]) -> int:
    """Tells what was found by hand about each verdict; returns how many were not foreseen."""
    unforeseen = 0
    for r in rows:
        if r["verdict"] in ("not installed", "cannot be imported"):
            continue
        known = r["known"]
        expected = known["verdict"] if known else "correct"
        if known:
            run.say(f"\n{r['package']}, {r['rule']}: {expected}; {known['whose']}.\n  {known['why']}")
        meant = known is not None and known["whose"] == "declared" and r["verdict"] == "correct"
        if r["verdict"] != expected and not meant:
            unforeseen += 1
            run.say(f"\n{r['package']}, {r['rule']}: {r['verdict']}, but by hand it is {expected}.")
            run.say(r.get("printed") or r["found"])
    return unforeseen


def experiment(args: argparse.Namespace, run_: harness.Run) -> int:
    chosen = [s for s in SUBJECTS if args.only is None or args.only in f"{s.package} {s.name}"]
    if not chosen:
        run_.say(f"published: no rule's package and name contain {args.only!r}")
        return 2
    rows: list[dict[str, Any]] = []
    with run_.progress(len(chosen)) as report:
        for number, subject in enumerate(chosen, start=1):
            rows.append(run(subject, args.effort))
            report(number, f"{subject.package}, {subject.name}: {rows[-1]['verdict']}")
            jax.clear_caches()
    show(run_, rows)
    unforeseen = explain(run_, rows)
    ran = [r for r in rows if "seconds" in r]
    counts = {v: sum(r["verdict"] == v for r in rows) for v in dict.fromkeys(r["verdict"] for r in rows)}
    run_.say(
        f"\n{len(ran)} rules of {len({r['package'] for r in ran})} packages: "
        + ", ".join(f"{n} {v}" for v, n in counts.items())
        + f"; {unforeseen} not as established by hand"
    )
    found = {
        "jax": jax.__version__,
        "overbar": overbar.__version__ if hasattr(overbar, "__version__") else version("overbar"),
        "effort": args.effort,
        "results": rows,
    }
    run_.results(found, also=args.json)
    return 1 if unforeseen else 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser("published", __doc__, steps=None, writes="results.json")
    parser.add_argument("--only", metavar="TEXT", help="only rules with TEXT in their package and name")
    parser.add_argument(
        "--effort", choices=("quick", "normal"), default="normal", help="of the checks (default: normal)"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here too")
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

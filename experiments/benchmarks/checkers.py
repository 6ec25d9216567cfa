"""Gradient checkers on the same planted suite: what each catches, and how often it cries wolf.

The suite is tests/planted.py: wrong backward rules, each a bug that people make, and right ones that
are tricky. The others are given the settings that a user who knows them would choose: modes=["rev"],
without which they raise on every custom_vjp, the tolerances they come with, and, once more, arguments
promoted to float64. What overbar.check is told of a function (like=, intentional=) they cannot be
told; how many cases that concerns is said below the table. An integer or a key among the arguments is
handed to all alike.

    python experiments/benchmarks/checkers.py --every 10
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.test_util import check_grads

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the harness stands

import harness
import overbar

chex = importlib.import_module("chex")  # it has no types

Outcome = Literal["raised", "passed", "cannot run"]

TOLD = {  # the options of overbar.check: what is left of a case's options is the function's own
    name
    for name, parameter in inspect.signature(overbar.check).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}


class Checker(NamedTuple):
    """A checker: raises AssertionError where it finds fault, anything else where it cannot run."""

    settings: str
    run: Callable[[Any], None]


class Inconclusive(Exception):
    """overbar.check could not tell."""


def bound(case: Any) -> Callable[..., Any]:
    """A case's function with its own keyword arguments bound."""
    own = {k: v for k, v in (case.options or {}).items() if k not in TOLD}
    return partial(case.f, **own) if own else case.f


def in_float64(args: Any) -> Any:
    def promoted(x: Any) -> Any:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.complexfloating):
            return x.astype(jnp.complex128)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating):
            return x.astype(jnp.float64)
        return x

    return jax.tree.map(promoted, args)


def with_check_grads(case: Any, order: int) -> None:
    check_grads(bound(case), case.args, order=order, modes=["rev"])


def with_check_grads_float64(case: Any, order: int) -> None:
    with jax.enable_x64(True):
        check_grads(bound(case), in_float64(case.args), order=order, modes=["rev"])


def with_chex(case: Any, **settings: Any) -> None:
    chex.assert_numerical_grads(bound(case), case.args, order=1, **settings)


def with_overbar(case: Any, effort: str) -> None:
    report = overbar.check(case.f, *case.args, **{"effort": effort, **(case.options or {})})
    if report.verdict == "wrong":
        raise AssertionError(str(report))
    if report.verdict == "inconclusive":
        raise Inconclusive(report.reason)


CHECKERS = {
    "overbar": Checker('effort="normal"', partial(with_overbar, effort="normal")),
    "overbar-quick": Checker('effort="quick"', partial(with_overbar, effort="quick")),
    "check_grads": Checker('modes=["rev"], order=1', partial(with_check_grads, order=1)),
    "check_grads-2": Checker('modes=["rev"], order=2', partial(with_check_grads, order=2)),
    "check_grads-64": Checker('modes=["rev"], order=1, float64', partial(with_check_grads_float64, order=1)),
    "check_grads-64-2": Checker(
        'modes=["rev"], order=2, float64', partial(with_check_grads_float64, order=2)
    ),
    "chex": Checker('modes=["rev"], order=1', partial(with_chex, modes=["rev"])),
    "chex-default": Checker("order=1, else its defaults", with_chex),
}


def suite() -> tuple[list[Any], list[Any]] | None:
    """The wrong and the right cases of tests/planted.py; None where it is not there.

    The tests are no package and are not installed: their folder, beside this one's, goes on the path.
    """
    tests = Path(__file__).resolve().parents[2] / "tests"
    if not (tests / "planted.py").exists():
        return None
    sys.path.insert(0, str(tests))
    planted = importlib.import_module("planted")
    return list(planted.WRONG), list(planted.RIGHT)


def judge(checker: Checker, case: Any) -> dict[str, Any]:
    """One checker on one case."""
    outcome: Outcome = "passed"
    said = ""
    start = time.perf_counter()
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            checker.run(case)
        except AssertionError as error:
            outcome, said = "raised", str(error)
        except Exception as error:
            outcome, said = "cannot run", f"{type(error).__name__}: {error}"
    return {
        "case": case.name,
        "fault": case.fault,
        "outcome": outcome,
        "seconds": time.perf_counter() - start,
        "said": said[-400:],
    }


def summary(name: str, wrong: list[dict[str, Any]], right: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [r["seconds"] for r in wrong + right]

    def count(results: list[dict[str, Any]], outcome: Outcome) -> int:
        return sum(r["outcome"] == outcome for r in results)

    return {
        "checker": name,
        "settings": CHECKERS[name].settings,
        "wrong": len(wrong),
        "right": len(right),
        "caught": count(wrong, "raised"),
        "missed": count(wrong, "passed"),
        "false_alarms": count(right, "raised"),
        "cannot_run": count(wrong + right, "cannot run"),
        "median_seconds": statistics.median(seconds),
        "largest_seconds": max(seconds),
        "results": {"wrong": wrong, "right": right},
    }


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / whole:.0f} %)" if whole else "none"


def show(run: harness.Run, found: Sequence[dict[str, Any]]) -> None:
    columns = [
        "checker",
        "settings",
        "caught",
        "false alarms",
        "cannot run",
        "median seconds",
        "largest seconds",
    ]
    rows = [
        [
            f["checker"],
            f["settings"],
            share(f["caught"], f["wrong"]),
            share(f["false_alarms"], f["right"]),
            share(f["cannot_run"], f["wrong"] + f["right"]),
            f"{f['median_seconds']:.2f}",
            f"{f['largest_seconds']:.2f}",
        ]
        for f in found
    ]
    run.show("checkers on the planted suite", columns, rows)


def experiment(args: argparse.Namespace, run: harness.Run) -> int:
    cases = suite()
    if cases is None:
        run.say(
            "checkers: the suite, tests/planted.py, is not there; this runs in a checkout of the repository"
        )
        return 2
    wrong, right = (
        [c for c in some if args.only is None or args.only in f"{c.name} {c.fault}"][:: args.every]
        for some in cases
    )
    if not wrong + right:
        run.say(f"checkers: no case's name contains {args.only!r}")
        return 2
    found: list[dict[str, Any]] = []
    total = len(args.checkers) * len(wrong + right)
    done = 0
    with run.progress(total) as report:
        for name in args.checkers:
            jax.clear_caches()  # so that none finds what another one compiled
            results: list[dict[str, Any]] = []
            for case in wrong + right:
                results.append(judge(CHECKERS[name], case))
                done += 1
                report(done, f"{name}, {case.name}: {results[-1]['outcome']}")
            found.append(summary(name, results[: len(wrong)], results[len(wrong) :]))
    show(run, found)
    told = sum(bool(TOLD & set(c.options or {})) for c in right)
    run.say(
        f"\n{len(wrong)} wrong and {len(right)} right functions. {told} of the right ones differ from their "
        "derivative on purpose, which only overbar.check can be told.\n"
        "Cannot run: it raised something other than an AssertionError, or its verdict was inconclusive.\n"
        "Seconds are of one call, all in this process one after the other, compilation included."
    )
    written = {
        "device": run.settings["device"],
        "jax": jax.__version__,
        "chex": chex.__version__,
        "every": args.every,
        "only": args.only,
        "results": found,
    }
    run.results(written, also=args.json)
    return 0


def checkers(text: str) -> list[str]:
    """Names of checkers with commas between them, for argparse."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CHECKERS:
            raise argparse.ArgumentTypeError(
                f"no checker is called {name!r}; there are {', '.join(CHECKERS)}"
            )
    return names


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.parser("checkers", __doc__, steps=None, writes="results.json")
    parser.add_argument(
        "--every", type=harness.count, default=1, metavar="N", help="only every Nth case (default: all)"
    )
    parser.add_argument("--only", metavar="TEXT", help="only cases with TEXT in their name or fault")
    parser.add_argument(
        "--checkers",
        type=checkers,
        default=list(CHECKERS),
        metavar="NAMES",
        help=f"with commas between them, of {', '.join(CHECKERS)} (default: all)",
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here too")
    return harness.launch(experiment, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

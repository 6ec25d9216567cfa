"""`overbar check`: whether the hand-written backward rules in a function are right."""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from overbar.cli import worker
from overbar.cli.find import importable
from overbar.cli.options import seconds
from overbar.cli.output import Refused, complain, leave, raised, say
from overbar.cli.sample import Call
from overbar.cli.subject import LONGEST_IMPORT, TARGET_HELP, Subject, add_subject, subject_of

if TYPE_CHECKING:
    from overbar.check import Report

HELP = f"""\
Says whether the hand-written backward rules in a function are right.

{TARGET_HELP}"""

END = """\
examples:
  overbar check my_package.losses:huber f32[8,16] f32[8,16] delta=1.0
  overbar check ./my_rules.py:attention --args sample --effort quick
  overbar check my_package.layers:quantize f32[64] --like my_package.layers:identity

exit status: 0 correct, 1 wrong, 2 cannot be checked, 3 inconclusive, 130 after Ctrl-C"""


def add(commands: Any) -> None:
    brief = "say whether a hand-written gradient is right"
    check = commands.add_parser("check", help=brief, description=HELP, epilog=END)
    check.set_defaults(run=_run)
    add_subject(check)
    check.add_argument("--like", metavar="FUNCTION", help="a function whose derivative is the right one")
    check.add_argument(
        "--intentional",
        action="store_true",
        help="the backward differs on purpose: structure and transforms are checked, values are not",
    )
    check.add_argument("--effort", choices=("quick", "normal"), default="normal", help="default: normal")
    check.add_argument(
        "--time-limit", type=seconds, default=60.0, metavar="SECONDS", help="for the check; default: 60"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(options: argparse.Namespace) -> int:
    """`overbar check`: prints the report. What the function prints goes to the standard error."""
    out = sys.stdout
    with importable(Path.cwd()), contextlib.redirect_stdout(sys.stderr):
        try:
            report = _report(options, functools.partial(_tell, as_json=options.json, out=out))
        except Refused as error:
            report = _unchecked(options.target, str(error))
    return _tell(report, options.json, out)


def _tell(report: Report, as_json: bool, out: TextIO) -> int:
    if as_json:
        say(report.to_json(), out)
    elif report.checked:
        say(str(report), out)
    if not report.checked:
        complain(f"{report.subject} cannot be checked: {report.reason}")
    return report.exit_status


def _unchecked(subject: str, reason: str) -> Report:
    from overbar.check import Report

    return Report(subject, "inconclusive", reason, "", checked=False)


def _report(options: argparse.Namespace, tell: Callable[[Report], int]) -> Report:
    """The check's report. Where it takes too long the process ends here, with that told."""

    def too_long(reason: str) -> None:
        leave(tell(_unchecked(options.target, reason)))

    limit = options.time_limit  # a short one is meant for the function, not for its imports
    longest = max(limit, LONGEST_IMPORT)
    subject = subject_of(options, too_long, longest, options.like)
    grace = min(max(worker.GRACE[0], limit / 4), worker.GRACE[1])
    reason = f"takes too long: a call is not done {grace:g} s after the limit of {limit:g} s"
    with worker.watched(limit + grace, lambda: too_long(reason)):
        return worker.in_worker(lambda: _checked(options, subject))


def _checked(options: argparse.Namespace, subject: Subject) -> Report:
    """Makes the arguments and checks."""
    import overbar

    with subject.types():
        f, like, call = subject.f, subject.like, subject.arguments()
        taken = [name for name in call.kwargs if name in inspect.signature(overbar.check).parameters]
        if taken:
            f, like = _by_position(f, call), like and _by_position(like, call)
            call = Call(tuple(call.values), {})
        try:
            return overbar.check(
                f,
                *call.args,
                like=like,
                intentional=options.intentional,
                effort=options.effort,
                seed=options.seed,
                time_limit=options.time_limit,
                **call.kwargs,
            )
        except (Exception, SystemExit) as error:
            raise Refused(f"checking it raises {raised(error)}") from error


def _by_position(f: Callable[..., Any], call: Call) -> Callable[..., Any]:
    """f with its keywords as further positional arguments: some are named as options of the check."""
    count, names = len(call.args), list(call.kwargs)

    def positional(*values: Any) -> Any:
        return f(*values[:count], **dict(zip(names, values[count:], strict=True)))

    positional.__name__ = getattr(f, "__name__", type(f).__name__)
    kind = inspect.Parameter.POSITIONAL_ONLY
    with contextlib.suppress(TypeError, ValueError):
        first = list(inspect.signature(f).parameters)[:count]
        told = inspect.Signature([inspect.Parameter(name, kind) for name in [*first, *names]])
        positional.__signature__ = told  # type: ignore[attr-defined]
    return positional

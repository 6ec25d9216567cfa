"""The command line: `overbar check` and `overbar show package.module:function f32[8,16]`, `overbar rules`.

A module a command, over what the commands share: how a call is read (`options`), what is said and how
(`output`), the function and its sample arguments (`subject`, `find`, `sample`), the thread that works
(`worker`). JAX is imported where it is used, so that --help need not wait for it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from overbar.cli import check, rules, show
from overbar.cli.options import Parser, parsed
from overbar.cli.output import CANNOT, INTERRUPTED, Refused, complain, say

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    >>> main(["check", "no_such_module:f", "f32[3]"])  # and says so on the standard error
    2
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no ✓ or x̄
    try:
        options = parsed(_parser(), sys.argv[1:] if argv is None else argv)
        return int(options.run(options))
    except SystemExit as stop:  # argparse has said what there was to say
        return stop.code if isinstance(stop.code, int) else 0
    except Refused as error:
        complain(str(error))
        return CANNOT
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED


def _parser() -> Parser:
    parser = Parser(
        prog="overbar",
        description="Hand-derived backward rules for JAX, a check of anybody's, and backpropagation "
        "one can see.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=lambda options: _version() if options.version else _help(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (check, show, rules):
        command.add(commands)
    return parser


def _help(parser: Parser) -> int:
    say(parser.format_help().rstrip(), sys.stdout)
    return 0


def _version() -> int:
    import overbar

    say(f"overbar {overbar.__version__}", sys.stdout)
    return 0

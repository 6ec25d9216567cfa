"""What `overbar check` and `overbar show` work on: a function, with its sample arguments."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from overbar.cli.find import function, module_of
from overbar.cli.options import seed
from overbar.cli.output import Refused
from overbar.cli.sample import Call, asked, filled, own_sample, returned
from overbar.cli.worker import watched

LONGEST_IMPORT = 60.0  # seconds

TARGET_HELP = """\
FUNCTION is package.module:function, found from the current folder, or a file: ./my_rules.py:function.
Dots after the colon go into objects: package.module:Model.loss.

Each ARG is a sample argument of the function, or name=ARG for a keyword:
  f32[8,16]     an array of normal numbers; f16, bf16, f32, f64, c64, c128; f32[] has no axes
  i32[5]<10     random integers from 0 to 9; i8 to i64, u8 to u64. Without <n they are drawn below
                the smallest size among the axes of the float arguments, so that they can be indices
                (below 2 where there is no such axis)
  bool[4]       random truth values
  key           a PRNG key, jax.random.key(seed)
  3  0.5  True  None  "'text'"  "(1, 2)"     a Python literal, in quotes where the shell needs them
A rule of this library (overbar.nn:sigmoid) needs none: it brings its own samples. For pytrees and
particular values write a function that returns the arguments, and name it with --args. 64-bit types
are switched on for the run where an ARG has one."""


@dataclass(frozen=True)
class Subject:
    """A function and how its sample arguments are made.

    Attributes:
      f: the function.
      like: the function to compare it with, if one is named.
      arguments: makes the sample, in the worker: 64-bit types are switched on for one thread.
      wide: whether they are to be.
    """

    f: Callable[..., Any]
    like: Callable[..., Any] | None
    arguments: Callable[[], Call]
    wide: bool

    def types(self) -> Any:
        """The context in which the arguments are made and used."""
        import jax

        return jax.enable_x64(True) if self.wide else contextlib.nullcontext()


def add_subject(command: argparse.ArgumentParser) -> None:
    """The function, its sample arguments, and the seed of all random numbers."""
    command.add_argument("target", metavar="FUNCTION", help="package.module:function or ./file.py:function")
    command.add_argument("sample", metavar="ARG", nargs="*", help="a sample argument, such as f32[8,16]")
    command.add_argument(
        "--args",
        metavar="FUNCTION",
        help="a function without arguments, or its bare name in the same module, that returns the sample: "
        "a tuple of positional arguments, (args, kwargs), or a dict of keywords",
    )
    command.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all random numbers; default: 0"
    )


def subject_of(
    options: argparse.Namespace,
    too_long: Callable[[str], None],
    longest: float = LONGEST_IMPORT,
    like: str | None = None,
) -> Subject:
    """Finds the functions; too_long ends the process, with its reason, where importing does not end."""
    wanted = asked(options.sample)
    if options.args and options.sample:
        raise Refused("sample arguments are given twice, as ARG and by --args")
    reason = f"importing takes too long: not done after {longest:g} s"
    with watched(longest, lambda: too_long(reason)):
        module = module_of(options.target)
        f = function(options.target, module)
        other = function(like, module) if like else None
        sampler = function(options.args, module) if options.args else None

    def arguments() -> Call:
        if sampler is not None:
            return returned(sampler)
        return filled(wanted, options.seed) if options.sample else own_sample(f, options.seed)

    return Subject(f, other, arguments, wanted.wide)

"""The command line: `overbar check package.module:function f32[8,16]` and `overbar rules`.

The check runs in a worker thread, so that the main thread is free to hear Ctrl-C and a timer can end
what compiled code does not give back. JAX's config contexts belong to a thread: they are entered there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import io
import json
import math
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # jax is imported where it is used, so that --help need not wait for it
    from overbar.check import Report
    from overbar.rule import Rule

__all__ = ["main"]

CANNOT, INTERRUPTED = 2, 130
LONGEST_IMPORT = 60.0  # seconds; a short --time-limit is meant for the function, not for its imports
MOST_ENTRIES = 2**28  # of one array; beyond, the system may end the process without a word
GRACE = (5.0, 30.0)  # seconds beyond the time limit, at least and at most, for what has been begun

DTYPES = {
    "bool": "bool",
    "bf16": "bfloat16",
    **{f"f{n}": f"float{n}" for n in (16, 32, 64)},
    **{f"c{n}": f"complex{n}" for n in (64, 128)},
    **{f"i{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"u{n}": f"uint{n}" for n in (8, 16, 32, 64)},
}
WIDE = {"float64", "complex128", "int64", "uint64"}

CHECK_HELP = """\
Says whether the hand-written backward rules in a function are right.

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

CHECK_END = """\
examples:
  overbar check my_package.losses:huber f32[8,16] f32[8,16] delta=1.0
  overbar check ./my_rules.py:attention --args sample --effort quick
  overbar check my_package.layers:quantize f32[64] --like my_package.layers:identity

exit status: 0 correct, 1 wrong, 2 cannot be checked, 3 inconclusive, 130 after Ctrl-C"""


class Refused(Exception):
    """Why something cannot be done, in a plain sentence."""


@dataclass(frozen=True)
class Shape:
    """An array that is asked for: `i32[5]<10` is ("int32", (5,), 10)."""

    dtype: str
    shape: tuple[int, ...]
    below: int | None = None

    @property
    def kind(self) -> str:
        return self.dtype.rstrip("0123456789")


class Key:
    """A PRNG key that is asked for."""


@dataclass(frozen=True)
class Call:
    """The sample arguments of a function, as they are asked for or as they are."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def values(self) -> list[Any]:
        return [*self.args, *self.kwargs.values()]

    @property
    def wide(self) -> bool:
        """Whether an array of a 64-bit type is asked for."""
        return any(isinstance(value, Shape) and value.dtype in WIDE for value in self.values)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    >>> main(["check", "no_such_module:f", "f32[3]"])  # and says so on the standard error
    2
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no ✓ or x̄
    try:
        options = _parsed(sys.argv[1:] if argv is None else argv)
        return int(options.run(options))
    except SystemExit as stop:  # argparse has said what there was to say
        return stop.code if isinstance(stop.code, int) else 0
    except Refused as error:
        _complain(str(error))
        return CANNOT
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED


# ---------------------------------------------------------------------- options


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The options; arguments of the function may stand before, between and after them."""
    parser = _parser()
    # argparse takes -1e-3 for an option, but not what begins with a space.
    options, others = parser.parse_known_args([f" {text}" if _is_number(text) else text for text in argv])
    if others and (options.run is not _check or any(text.startswith("-") for text in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.sample = [*options.sample, *others]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="overbar", description="Hand-derived backward rules for JAX, and a check of anybody's."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=lambda options: _version() if options.version else _help(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_check(commands)
    _add_rules(commands)
    return parser


class _Parser(argparse.ArgumentParser):
    """Keeps the lines of a description as written, and says what is wrong with a call in one line."""

    def __init__(self, **settings: Any) -> None:
        keeps = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": keeps, "allow_abbrev": False, **settings})

    def error(self, message: str) -> Any:
        self.exit(CANNOT, f"{self.prog}: {message}; see {self.prog} --help\n")


def _add_check(commands: Any) -> None:
    brief = "say whether a hand-written gradient is right"
    check = commands.add_parser("check", help=brief, description=CHECK_HELP, epilog=CHECK_END)
    check.set_defaults(run=_check)
    check.add_argument("target", metavar="FUNCTION", help="package.module:function or ./file.py:function")
    check.add_argument("sample", metavar="ARG", nargs="*", help="a sample argument, such as f32[8,16]")
    check.add_argument(
        "--args",
        metavar="FUNCTION",
        help="a function without arguments, or its bare name in the same module, that returns the sample: "
        "a tuple of positional arguments, (args, kwargs), or a dict of keywords",
    )
    check.add_argument("--like", metavar="FUNCTION", help="a function whose derivative is the right one")
    check.add_argument(
        "--intentional",
        action="store_true",
        help="the backward differs on purpose: structure and transforms are checked, values are not",
    )
    check.add_argument("--effort", choices=("quick", "normal"), default="normal", help="default: normal")
    check.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random numbers; default: 0")
    check.add_argument(
        "--time-limit", type=_seconds, default=60.0, metavar="SECONDS", help="for the check; default: 60"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_rules(commands: Any) -> None:
    brief = "list the rules of this library: equations and residuals"
    rules = commands.add_parser("rules", help=brief, description=f"{brief[0].upper()}{brief[1:]}.")
    rules.set_defaults(run=_rules)
    rules.add_argument("name", metavar="NAME", nargs="?", help="print this rule's docstring, as nn.sigmoid")
    rules.add_argument("--json", action="store_true", help="print JSON")


def _help(parser: argparse.ArgumentParser) -> int:
    _print(parser.format_help().rstrip(), sys.stdout)
    return 0


def _version() -> int:
    import overbar

    _print(f"overbar {overbar.__version__}", sys.stdout)
    return 0


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, but is {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, but is {text.strip()}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------- what is printed


def _print(text: str, out: TextIO) -> None:
    """Prints at once; a reader that has gone away (`overbar rules | head -1`) is no error."""
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _complain(sentence: str) -> None:
    """Prints one line on the standard error, over the progress line where there is one."""
    start = "\r" + " " * 100 + "\r" if sys.stderr.isatty() else ""
    _print(f"{start}overbar: {' '.join(sentence.split())}", sys.stderr)


def _leave(status: int) -> None:
    """Ends the process without waiting for a worker that compiled code holds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _raised(error: BaseException) -> str:
    """The exception in one line, with the place that raised it."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    if not own or isinstance(error, SyntaxError):  # which says itself where it is
        return text
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})"


# ---------------------------------------------------------------------- overbar check


def _check(options: argparse.Namespace) -> int:
    """`overbar check`: prints the report. What the function prints goes to the standard error."""
    out = sys.stdout
    with _importable(Path.cwd()), contextlib.redirect_stdout(sys.stderr):
        try:
            report = _report(options, functools.partial(_tell, as_json=options.json, out=out))
        except Refused as error:
            report = _unchecked(options.target, str(error))
    return _tell(report, options.json, out)


def _tell(report: Report, as_json: bool, out: TextIO) -> int:
    if as_json:
        _print(report.to_json(), out)
    elif report.checked:
        _print(str(report), out)
    if not report.checked:
        _complain(f"{report.subject} cannot be checked: {report.reason}")
    return report.exit_status


def _unchecked(subject: str, reason: str) -> Report:
    from overbar.check import Report

    return Report(subject, "inconclusive", reason, "", checked=False)


def _report(options: argparse.Namespace, tell: Callable[[Report], int]) -> Report:
    """The check's report. Where it takes too long the process ends here, with that told."""
    asked = _asked(options.sample)
    if options.args and options.sample:
        raise Refused("sample arguments are given twice, as ARG and by --args")

    def too_long(reason: str) -> None:
        _leave(tell(_unchecked(options.target, reason)))

    longest = max(options.time_limit, LONGEST_IMPORT)
    with _watched(longest, lambda: too_long(f"importing takes too long: not done after {longest:g} s")):
        module = _module_of(options.target)
        f = _function(options.target, module)
        like = _function(options.like, module) if options.like else None
        sampler = _function(options.args, module) if options.args else None

    def arguments() -> Call:
        if sampler is not None:
            return _returned(sampler)
        return _filled(asked, options.seed) if options.sample else _own_sample(f, options.seed)

    limit = options.time_limit
    grace = min(max(GRACE[0], limit / 4), GRACE[1])
    reason = f"takes too long: a call is not done {grace:g} s after the limit of {limit:g} s"
    with _watched(limit + grace, lambda: too_long(reason)):
        return _in_worker(lambda: _checked(options, f, like, arguments, asked.wide))


def _checked(
    options: argparse.Namespace,
    f: Callable[..., Any],
    like: Callable[..., Any] | None,
    arguments: Callable[[], Call],
    wide: bool,
) -> Report:
    """Makes the arguments and checks; in the worker, as 64-bit types are switched on for one thread."""
    import jax

    import overbar

    with jax.enable_x64(True) if wide else contextlib.nullcontext():
        call = arguments()
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
            raise Refused(f"checking it raises {_raised(error)}") from error


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


def _in_worker(task: Callable[[], Report]) -> Report:
    """Runs the task in a thread and waits for it, open to Ctrl-C, which ends the process."""
    results: list[Report] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(task())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, name="overbar check", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.5)  # an endless wait cannot be interrupted everywhere
    except KeyboardInterrupt:
        _complain("interrupted")
        _leave(INTERRUPTED)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def _watched(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Calls give_up, from another thread, if the block is not done after so many seconds."""
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# ---------------------------------------------------------------------- finding the function


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in the folder can be imported, first of all; sys.path is left as it was."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _module_of(target: str) -> ModuleType:
    """The module that a FUNCTION names before its colon."""
    name, colon, path = target.rpartition(":")
    if not (name and colon and path):
        raise Refused(f"{target!r} names no function; write package.module:function or ./file.py:function")
    try:
        if name.endswith(".py"):
            return _of_file(name)
        return importlib.import_module(name)
    except Refused:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            where = "in the current folder or among the installed packages"
            raise Refused(f"there is no module {error.name} {where}") from error
        raise Refused(f"importing {name} raises {_raised(error)}") from error
    except (Exception, SystemExit) as error:
        raise Refused(f"importing {name} raises {_raised(error)}") from error


def _of_file(name: str) -> ModuleType:
    """The module in a file, imported once; one in a package is imported as such."""
    file = Path(name).resolve()
    if not file.is_file():
        raise Refused(f"there is no file {name}")
    for known in list(sys.modules.values()):
        if isinstance(known, ModuleType) and vars(known).get("__file__") == str(file):
            return known
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").exists():
        folder, parts = folder.parent, [folder.name, *parts]
    sys.path.insert(0, str(folder))
    if len(parts) > 1:
        return importlib.import_module(".".join(parts))
    free = file.stem if file.stem not in sys.modules else f"{file.stem} of {folder}"
    spec = importlib.util.spec_from_file_location(free, file)
    assert spec is not None  # it ends in .py
    assert spec.loader is not None
    module = sys.modules[free] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[free]
        raise
    return module


def _function(target: str, beside: ModuleType) -> Callable[..., Any]:
    """The function that is named; without a colon, one in the module beside it."""
    value: Any = beside if ":" not in target else _module_of(target)
    for name in target.rpartition(":")[2].split("."):
        try:
            value = getattr(value, name)
        except Exception as error:
            owner = value.__name__ if isinstance(value, ModuleType) else type(value).__name__
            near = _near(name, dir(value))
            raise Refused(f"{owner} has no {name}{near}") from error
    if not callable(value):
        raise Refused(f"{target} is no function, but of type {type(value).__name__}")
    return value


def _near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; is it {' or '.join(close)}?" if close else ""


# ---------------------------------------------------------------------- sample arguments


def _asked(texts: Sequence[str]) -> Call:
    """What the ARGs say."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        if equals and name.isidentifier():
            if name in kwargs:
                raise Refused(f"the keyword {name} is given twice")
            kwargs[name] = _value(value)
        else:
            args.append(_value(text.strip()))
    return Call(tuple(args), kwargs)


def _value(text: str) -> Any:
    """What one ARG says: a shape, a key, or a Python literal.

    >>> _value("i32[2, 5]<10")
    Shape(dtype='int32', shape=(2, 5), below=10)
    >>> _value("0.5")
    0.5
    """
    if text == "key":
        return Key()
    if (found := re.fullmatch(r"([a-zA-Z]+\d*)\s*\[(.*)\]\s*(?:<\s*(.*))?", text)) is not None:
        return _shape(text, *found.groups())
    try:
        return float(text) if text.lstrip("+-") in ("inf", "nan") else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        hint = f""" (a text is written "'{text}'")""" if text.isidentifier() else ""
        raise Refused(
            f"the argument {text!r} is no shape such as f32[8,16], no key and no Python literal{hint}"
        ) from error


def _shape(text: str, name: str, sizes: str, below: str | None) -> Shape:
    dtype = name if name in DTYPES.values() else DTYPES.get(name)
    if dtype is None:
        raise Refused(f"the argument {text!r} has an unknown dtype {name!r}; known are {', '.join(DTYPES)}")
    listed = [size.strip() for size in sizes.split(",")] if sizes.strip() else []
    if not all(re.fullmatch("[0-9]{1,12}", size) for size in listed):
        raise Refused(f"the argument {text!r} is no shape; write the sizes as in f32[8,16], or f32[]")
    shape = Shape(dtype, tuple(map(int, listed)), _below(text, below))
    if shape.below is None:
        return shape
    if shape.kind not in ("int", "uint"):
        raise Refused(f"the argument {text!r}: < is for integers")
    if shape.below > _most(dtype) + 1:
        raise Refused(f"the argument {text!r}: the largest {dtype} is {_most(dtype)}")
    return shape


def _below(text: str, below: str | None) -> int | None:
    if below is None:
        return None
    if not re.fullmatch("[0-9]{1,20}", below.strip()) or int(below) == 0:
        raise Refused(f"the argument {text!r}: after < stands a positive whole number, as in i32[5]<10")
    return int(below)


def _most(dtype: str) -> int:
    """The largest integer of a dtype, as far as NumPy draws them."""
    bits = int(dtype.lstrip("uint"))
    return int(2 ** (bits - (not dtype.startswith("u"))) - 1)


def _filled(asked: Call, seed: int) -> Call:
    """The arguments with random numbers for the shapes."""
    import numpy as np

    rng = np.random.default_rng(seed)
    shapes = [value for value in asked.values if isinstance(value, Shape)]
    sizes = [size for s in shapes if s.kind in ("float", "bfloat", "complex") for size in s.shape if size]
    draw = functools.partial(_drawn, rng=rng, below=min(sizes, default=2), seed=seed)
    try:
        args = tuple(draw(value) for value in asked.args)
        return Call(args, {name: draw(value) for name, value in asked.kwargs.items()})
    except (MemoryError, ValueError) as error:  # more than there is, or than an array can have
        raise Refused(f"the arguments are too large: {_raised(error)}") from error


def _drawn(value: Any, rng: Any, below: int, seed: int) -> Any:
    """An array for a shape; anything else stays."""
    import jax
    import jax.numpy as jnp

    if isinstance(value, Key):
        return jax.random.key(seed)
    if not isinstance(value, Shape):
        return value
    if math.prod(value.shape) > MOST_ENTRIES:
        raise Refused(f"the arguments are too large: an array of {math.prod(value.shape)} entries")
    if value.kind == "bool":
        return jnp.asarray(rng.integers(0, 2, value.shape), "bool")
    if value.kind in ("int", "uint"):
        most = value.below or min(below, _most(value.dtype))
        return jnp.asarray(rng.integers(0, most, value.shape, "uint64"), value.dtype)
    x = rng.normal(size=value.shape)
    return jnp.asarray(x + 1j * rng.normal(size=value.shape) if value.kind == "complex" else x, value.dtype)


def _returned(sampler: Callable[..., Any]) -> Call:
    """The arguments that the function named by --args returns."""
    name = getattr(sampler, "__name__", "the function")
    try:
        sample = sampler()
    except (Exception, SystemExit) as error:
        raise Refused(f"--args: {name} raises {_raised(error)}") from error
    if isinstance(sample, tuple) and len(sample) == 2 and _is_call(*sample):
        return Call(tuple(sample[0]), sample[1])
    if isinstance(sample, tuple):
        return Call(sample, {})
    if _is_call((), sample):
        return Call((), sample)
    wanted = "a tuple of positional arguments, (args, kwargs), or a dict of keywords"
    raise Refused(f"--args: {name} returned a {type(sample).__name__}, but must return {wanted}")


def _is_call(args: Any, kwargs: Any) -> bool:
    named = isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)
    return named and isinstance(args, tuple)


def _own_sample(f: Callable[..., Any], seed: int) -> Call:
    """A rule's first sample that is not of a size for benchmarks."""
    import jax

    from overbar.rule import Rule

    if not isinstance(f, Rule) or "samples" not in f.parts:
        takes = ""
        with contextlib.suppress(TypeError, ValueError):
            takes = f" for {inspect.signature(f)}"
        raise Refused(f"no sample arguments are given{takes}; pass shapes such as f32[8,16], or --args")
    try:
        for sample in f.parts["samples"](jax.random.key(seed)):
            if "bench" not in sample.tags:
                return Call(tuple(sample.args), dict(sample.options))
    except Exception as error:
        raise Refused(f"its samples raise {_raised(error)}") from error
    raise Refused("it has no sample but for benchmarks; pass shapes such as f32[8,16], or --args")


# ---------------------------------------------------------------------- overbar rules


def _rules(options: argparse.Namespace) -> int:
    """`overbar rules`: lists the registered rules, or shows one."""
    from overbar.rule import registry

    if options.name is None:
        told: Any = [_row(rule) for rule in registry.values()]
        text = "\n".join(map(_block, registry.values()))
    elif options.name in registry:
        rule = registry[options.name]
        doc = inspect.getdoc(rule.primal) or "It has no docstring."
        told = {**_row(rule), "doc": doc}
        text = f"{_block(rule)}\n\n{doc}"
    else:
        near = _near(options.name, list(registry))
        raise Refused(f"there is no rule {options.name}{near or '; see overbar rules'}")
    _print(json.dumps(told, ensure_ascii=False) if options.json else text, sys.stdout)
    return 0


def _row(rule: Rule[..., Any]) -> dict[str, Any]:
    return {"name": rule.name, "bars": rule.bars, "residuals": rule.residuals, "options": list(rule.static)}


def _block(rule: Rule[..., Any]) -> str:
    lines = [rule.name, *(f"    {equation}" for equation in rule.bars.values())]
    lines += [f"    keeps {name}: {text}" for name, text in rule.residuals.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

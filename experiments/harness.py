"""What the experiments share: their flags, the run folder, progress, descent and the picture's paper.

A script makes a `parser`, adds its own flags, and hands an experiment to `launch`, which gives it
a `Run` to write into. `train` descends, `select` picks between the rules and their twin.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import jax
import optax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import overbar

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")
Params = Any  # a pytree of arrays

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
BLUE, ORANGE, GREEN, VERMILION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"

FLOAT32_MAX = 3.4028234663852886e38

PLAIN_LINES = 10  # of progress, where there is no terminal for a bar


class Diverged(Exception):
    """The loss is no longer finite, so that no further step would mean anything."""

    def __init__(self, step: int, loss: float, last: float | None) -> None:
        before = "there was no finite loss before" if last is None else f"the last finite loss was {last:.6g}"
        super().__init__(f"diverged at step {step}: the loss is {loss}; {before}")
        self.step, self.loss, self.last = step, loss, last


# ---------------------------------------------------------------------- flags


def count(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    return _number(text, int, "a whole number of 1 or more", lambda n: n >= 1)


def seed(text: str) -> int:
    """A whole number that fits 32 bits, for argparse."""
    return _number(text, int, "a whole number from 0 to 2³² − 1", lambda n: 0 <= n < 2**32)


def positive(text: str) -> float:
    """A number above 0 that float32 holds, for argparse."""
    return _number(text, float, "a finite number above 0", lambda x: 0 < x <= FLOAT32_MAX)


def not_negative(text: str) -> float:
    """A number of 0 or more that float32 holds, for argparse."""
    return _number(text, float, "a finite number of 0 or more", lambda x: 0 <= x <= FLOAT32_MAX)


def folder(text: str) -> Path:
    """A path that is a folder or nothing yet, for argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, but came ''")
    path = Path(text)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:  # a name that is too long, a folder above that may not be read
        raise argparse.ArgumentTypeError(f"cannot use {text[:40]!r}: {error.strerror}") from None
    if is_file:
        raise argparse.ArgumentTypeError(f"{text} is a file; expected a folder, or a name for a new one")
    return path


Number = TypeVar("Number", int, float)


def _number(text: str, kind: type[Number], wanted: str, fits: Callable[[Number], bool]) -> Number:
    try:
        number = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {wanted}, but came {text!r}") from None
    if not fits(number):
        raise argparse.ArgumentTypeError(f"expected {wanted}, but came {text!r}")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help tells more)\n")


def parser(
    name: str,
    doc: str | None,
    *,
    steps: int,
    steps_help: str = "steps of descent",
    writes: str | None = None,
) -> argparse.ArgumentParser:
    """The flags that every experiment has; a script adds its own to them.

    A benchmark says what it writes instead of metrics and a picture; it has no --autodiff, since it
    compares the rules with their twin.
    """
    written = writes or f"metrics.jsonl and {name}.png"
    made = Parser(
        f"{name}.py",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--steps", type=count, default=steps, metavar="N", help=f"{steps_help} (default: {steps})"
    )
    made.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of all random numbers (default: 0)"
    )
    made.add_argument(
        "--out",
        type=folder,
        default=Path("runs", name),
        metavar="DIR",
        help=f"folder for settings.json, {written} (default: runs/{name})",
    )
    if writes is None:
        made.add_argument(
            "--autodiff",
            action="store_true",
            help="train on the twin: JAX's own derivatives instead of the rules",
        )
    made.set_defaults(name=name)
    return made


def add_learning_rate(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--learning-rate",
        type=positive,
        default=default,
        metavar="X",
        help=f"size of a step of descent (default: {default:g})",
    )


def add_lambda(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--lambda",
        dest="lam",
        type=not_negative,
        default=default,
        metavar="X",
        help=f"λ, the weight of the L2 regularizer (default: {default:g})",
    )


# ---------------------------------------------------------------------- the run


class Run:
    """The folder of one run, and what the run tells on the way.

    Opening it over an earlier run's folder starts that run's files anew; other files stay.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.name: str = args.name
        self.folder: Path = args.out
        self.picture = self.folder / f"{self.name}.png"
        terminal = sys.stdout is not None and sys.stdout.isatty()
        # Where no terminal is, none is pretended, whatever the environment says of colours and width.
        elsewhere: dict[str, Any] = {} if terminal else {"force_terminal": False, "width": 200}
        self.console = Console(markup=False, highlight=False, **elsewhere)
        self.has_bar = terminal and self.console.is_terminal and not self.console.is_dumb_terminal
        self.folder.mkdir(parents=True, exist_ok=True)
        self._metrics = _claimed(self.folder / "metrics.jsonl")
        try:
            self.write("settings.json", json.dumps(_settings(args), indent=2) + "\n")
            self.picture.unlink(missing_ok=True)
        except BaseException:
            self._metrics.close()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._metrics.close()

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the run, whole or not at all."""
        with _whole(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
        return self.folder / name

    def record(self, step: int, loss: float, **more: Any) -> None:
        """Writes a line of metrics.jsonl. A number JSON has no word for (NaN, ∞) becomes null."""
        values = {"step": step, "loss": loss, **more}
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")

    def say(self, text: str = "") -> None:
        print(text, flush=True)

    def show(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table; columns with a title hold numbers and go to the right."""
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.say()
        self.console.print(table)

    def progress(self, total: int) -> Reporter:
        """Progress up to total: a bar on a terminal, a few plain lines elsewhere."""
        return Reporter(self, total)

    def save(self, figure: Figure) -> None:
        with _whole(self.picture) as partial:
            figure.savefig(partial, dpi=150, format="png")
        self.say(f"picture: {self.picture}")


class Busy(Exception):
    """Another run is writing into the folder."""


def _claimed(path: Path) -> IO[str]:
    """Opens a file anew, for this run alone: the lock goes with the process, however that ends.

    Buffered by the line: whatever ends the run, the lines before stay, and stay whole.
    """
    file = path.open("a", buffering=1, encoding="utf-8")  # "a", so that another run's lines survive a refusal
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Busy(f"another run is writing into {path.parent}; give this one another folder") from None
    file.truncate(0)
    return file


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name to write under, which becomes the path's own when the writing is done."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


class Reporter:
    """Shows how far a run is. Use as a context manager and call with (done, note)."""

    def __init__(self, run: Run, total: int) -> None:
        self._run, self._total = run, total
        self._every = math.ceil(total / PLAIN_LINES)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=run.console,
            disable=not run.has_bar,
        )
        self._task = self._bar.add_task(run.name, total=total, note="")

    def __enter__(self) -> Reporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, note: str) -> None:
        if self._run.has_bar:
            self._bar.update(self._task, completed=done, note=note)
        elif done % self._every == 0 or done == self._total:
            self._run.say(f"{self._run.name}: {done:>{len(str(self._total))}}/{self._total}  {note}")


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    flags = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    packages = ("overbar", "jax", "jaxlib", "numpy", "optax")
    device = jax.devices()[0]
    return {
        **flags,
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }


def launch(
    experiment: Callable[[argparse.Namespace, Run], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
) -> int:
    """Parses argv, opens the run and carries the experiment out; returns the exit status.

    Bad arguments end it with status 2, a diverging run with 1, each with one line that says why.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without x̄ gets x?, not a crash
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        run = Run(args)
    except OSError as error:
        parser.error(f"argument --out: cannot write to {args.out}: {error.strerror}")
    except Busy as error:
        parser.error(f"argument --out: {error}")
    except RuntimeError as error:  # JAX has no such device
        parser.error(str(error).splitlines()[0])
    # The experiments are written in float32, whatever JAX's default is.
    with run, jax.enable_x64(False):
        try:
            return experiment(args, run)
        except Diverged as error:
            print(f"{run.name}: {error}; what was written stays in {run.folder}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{run.name}: interrupted; what was written stays in {run.folder}", file=sys.stderr)
            return 130
        except OSError as error:
            if isinstance(error, BrokenPipeError):  # the reader of stdout has gone, as under `| head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            else:
                print(f"{run.name}: cannot write: {error.strerror}", file=sys.stderr)
            return 1


# ---------------------------------------------------------------------- descent


def select(loss: Callable[P, R], autodiff: bool) -> Callable[P, R]:
    """The loss with its hand-derived rules, or its twin, which JAX differentiates itself."""
    return overbar.twin(loss) if autodiff else loss


class State(NamedTuple):
    """Where a descent stands: after `step` updates, at `params`, where the loss is `loss`."""

    step: int
    loss: float
    params: Params


def descend(
    loss: Callable[..., jax.Array],
    params: Params,
    optimizer: optax.GradientTransformation,
    batches: Iterable[tuple[Any, ...]],
) -> Iterator[State]:
    """Yields the state before each update; the loss is called as loss(params, *batch).

    Raises:
      Diverged: the loss is NaN or infinite.
    """

    @jax.jit
    def update(params: Params, memory: Any, batch: tuple[Any, ...]) -> tuple[jax.Array, Params, Any]:
        value, bars = jax.value_and_grad(loss)(params, *batch)
        change, memory = optimizer.update(bars, memory, params)
        return value, optax.apply_updates(params, change), memory

    memory = jax.jit(optimizer.init)(params)
    last: float | None = None
    for step, batch in enumerate(batches):
        value, after, memory = update(params, memory, batch)
        if not math.isfinite(value):
            raise Diverged(step, float(value), last)
        last = float(value)
        yield State(step, last, params)
        params = after


def train(
    run: Run,
    states: Iterable[State],
    steps: int,
    evaluate: Callable[[State], Mapping[str, float]] = lambda state: {},
) -> tuple[Params, list[float]]:
    """Descends to state number `steps`, writing a line of metrics a state; returns its params and all losses.

    Args:
      run: where to write and to tell.
      states: a descent of `steps` + 1 states or more: the first is the start, before any update.
      steps: how many updates to make.
      evaluate: what else to write into a state's line.
    """
    losses: list[float] = []
    with run.progress(steps) as report:
        for state in states:
            losses.append(state.loss)
            run.record(state.step, state.loss, **evaluate(state))
            report(state.step, f"loss {state.loss:.6g}")
            if state.step == steps:
                return state.params, losses
    raise ValueError(f"the descent ended after {len(losses)} states; {steps + 1} are needed")


# ---------------------------------------------------------------------- pictures


def paper(width: float, height: float) -> Figure:
    """An empty figure, in inches. Made without pyplot it is drawn by Agg, and needs no display."""
    from matplotlib.figure import Figure  # slow to import, and not needed for --help

    return Figure(figsize=(width, height), layout="constrained")


def draw_losses(axes: Any, losses: Sequence[float], title: str) -> None:
    """Draws the loss curve, on a logarithmic scale."""
    axes.plot(losses, color=BLUE, linewidth=1.6)
    axes.set(title=title, xlabel="step", ylabel="loss", yscale="log")
    tidy(axes)


def tidy(axes: Any) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

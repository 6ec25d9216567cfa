"""A run: its folder, what it writes there and tells on the way, and how an experiment is launched."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.metadata
import io
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.table import Table

from harness import devices, stops
from harness.descent import Diverged
from harness.flags import BadSetting
from harness.idx import DataError
from harness.progress import Reporter

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTINGS = "settings.json"
RESULT = "result.json"  # stands in the folder of a training that came to its end


class Run:
    """The folder of one run, and what the run tells on the way.

    Opening it over an earlier run's folder starts that run's files anew; other files stay. With --resume
    they are gone on with. An earlier run that was not finished and has checkpoints is not written over.
    Of several processes only the first writes and tells.

    Raises:
      Busy: another run is writing there, or one that is not finished has left checkpoints there.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.name: str = args.name
        self.folder: Path = args.out
        self.checkpoints = self.folder / "checkpoints"
        self.leads = jax.process_index() == 0
        self.picture = self.folder / f"{self.name}.png"
        terminal = sys.stdout is not None and sys.stdout.isatty()
        # Where no terminal is, none is pretended, whatever the environment says of colours and width.
        elsewhere: dict[str, Any] = {} if terminal else {"force_terminal": False, "width": 200}
        self.console = Console(markup=False, highlight=False, **elsewhere)
        self.has_bar = terminal and self.console.is_terminal and not self.console.is_dumb_terminal
        self.settings = settings_of(args)
        if not self.leads:
            self._metrics: IO[str] = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._metrics = _claimed(self.folder / "metrics.jsonl")
        try:
            self._begin(resumed=getattr(args, "resume", False))
        except BaseException:
            self._metrics.close()
            raise

    def _begin(self, resumed: bool) -> None:
        result = self.folder / RESULT
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.checkpoints))
        if not resumed:
            if not result.exists() and any(self.checkpoints.glob("[0-9]*")):
                raise Busy(
                    f"{self.folder} holds the checkpoints of an unfinished run: --resume goes on with it; "
                    "to begin anew, delete the folder or give another"
                )
            self._metrics.truncate(0)
            if self.checkpoints.is_dir():
                shutil.rmtree(self.checkpoints)
        self.write(SETTINGS, json.dumps(self.settings, indent=2) + "\n")
        for left in (result, self.picture):
            left.unlink(missing_ok=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():  # a full disk is told once
            self._metrics.close()

    def write(self, name: str, text: str) -> Path:
        """Writes a file of the run, whole or not at all."""
        if not self.leads:
            return self.folder / name
        with _whole(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
        return self.folder / name

    def results(self, found: Mapping[str, Any], also: Path | None = None) -> None:
        """Writes results.json, and the same into another file if one is given, and tells where it stands."""
        text = json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n"
        path = self.write("results.json", text)
        if also is not None:
            also.write_text(text, encoding="utf-8")
        self.say(f"results: {also or path}")

    def record(self, step: int, loss: float, **more: Any) -> None:
        """Writes a line of metrics.jsonl. A number JSON has no word for (NaN, ∞) becomes null."""
        values = {"step": step, "loss": loss, **more}
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")

    def back_to(self, step: int) -> list[dict[str, Any]]:
        """Takes the lines of that step and later out of metrics.jsonl; returns those before."""
        if not self.leads:
            return []
        kept, size = [], 0
        for line in (self.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True):
            try:
                values = json.loads(line)
                if not line.endswith(b"\n") or values["step"] >= step:
                    break
            except (ValueError, KeyError, TypeError):  # what a kill has left, or another hand
                break
            kept.append(values)
            size += len(line)
        self._metrics.truncate(size)
        return kept

    def say(self, text: str = "") -> None:
        if self.leads:
            print(text, flush=True)

    def show(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Prints a table; columns with a title hold numbers and go to the right."""
        table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self.say()
        if self.leads:
            self.console.print(table)

    def progress(self, total: int, start: int = 0) -> Reporter:
        """Progress up to total: a bar on a terminal, a few plain lines elsewhere."""
        return Reporter(
            self.name, total, self.console if self.has_bar and self.leads else None, self.say, start
        )

    def save(self, figure: Figure) -> None:
        if not self.leads:
            return
        with _whole(self.picture) as partial:
            figure.savefig(partial, dpi=150, format="png")
        self.say(f"picture: {self.picture}")


class Busy(Exception):
    """The folder is another run's; the message says which and what to do."""


def _claimed(path: Path) -> IO[str]:
    """Opens a file for this run alone: the lock goes with the process, however that ends.

    Buffered by the line: whatever ends the run, the lines before stay, and stay whole.
    """
    file = path.open("a", buffering=1, encoding="utf-8")  # "a", so that another run's lines survive a refusal
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Busy(f"another run is writing into {path.parent}; give this one another folder") from None
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


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """What settings.json tells of a run."""
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
    experiment: Callable[..., int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    prepare: Callable[[argparse.Namespace], Any] | None = None,
) -> int:
    """Parses argv, opens the run and carries the experiment out; returns the exit status.

    Bad arguments end it with status 2, a diverging run with 1, each with one line that says why.

    Args:
      experiment: called with the arguments, the run, and what `prepare` made if there is one.
      prepare: checks the settings and loads the data, before anything is written or compiled; raises
        BadSetting or DataError.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without x̄ gets x?, not a crash
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    # The experiments are written in float32, whatever JAX's default is.
    with jax.enable_x64(False), contextlib.ExitStack() as stack:
        try:
            devices.join(args)
            stack.enter_context(stops.told())
            prepared = () if prepare is None else (prepare(args),)
            run = stack.enter_context(Run(args))
            stops.again()
        except OSError as error:
            parser.error(f"argument --out: cannot write to {error.filename or args.out}: {error.strerror}")
        except Busy as error:
            parser.error(f"argument --out: {error}")
        except (BadSetting, DataError) as error:
            parser.error(str(error).splitlines()[0])
        except RuntimeError as error:  # JAX has no such device
            parser.error(str(error).splitlines()[0])
        except KeyboardInterrupt as stop:
            word, status = stops.told_as(stop)
            print(f"{args.name}: {word} before it began", file=sys.stderr, flush=True)
            return _left(status, at_once=argv is None)
        return _carried_out(lambda: experiment(args, run, *prepared), run, at_once=argv is None)


def _carried_out(experiment: Callable[[], int], run: Run, at_once: bool) -> int:
    """The experiment's status; of what may end it from outside, one line and a status."""

    def told(what: str, status: int) -> int:
        resumes = any(run.checkpoints.glob("[0-9]*"))
        more = ", and --resume goes on from its last checkpoint" if resumes else ""
        print(
            f"{run.name}: {what}; what was written stays in {run.folder}{more}", file=sys.stderr, flush=True
        )
        return status

    try:
        with devices.lost_told():
            return experiment()
    except Diverged as error:
        return told(str(error), 1)
    except KeyboardInterrupt as stop:
        status = told(*stops.told_as(stop))
    except BrokenPipeError:  # the reader of stdout has gone, as under `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        status = told(f"cannot write: {error.strerror}{where}", 1)
    except devices.Lost as error:
        status = told(f"another process has died: {error}", 1)
    except jax.errors.JaxRuntimeError as error:  # there is not memory enough
        status = told(f"JAX: {str(error).splitlines()[0]}", 1)
    return _left(status, at_once)


def _left(status: int, at_once: bool) -> int:
    """The status of a run that was stopped; a process of its own ends here, without JAX's farewell.

    That crashes where a compilation was interrupted (JAX 0.10), and waits for other processes, which wait
    for this one.
    """
    if at_once or jax.distributed.is_initialized():
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(status)
    return status

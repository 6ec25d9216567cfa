"""What ends a run from outside, Ctrl-C and a cluster's SIGTERM; but not in the midst of a checkpoint."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def told_as(stop: KeyboardInterrupt) -> tuple[str, int]:
    """The word for it, and the exit status that a shell would give."""
    if isinstance(stop, Terminated):
        return "terminated", 128 + signal.SIGTERM
    return "interrupted", 128 + signal.SIGINT


_came: list[int] = []


def _raise(number: int, frame: FrameType | None) -> None:
    _came.append(number)
    if frame is not None and frame.f_code.co_name == "_xla_gc_callback":
        return  # Python would print a traceback and go on; `again` raises it
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def again() -> None:
    """Raises once more what has come; Python drops what is raised in a callback of its collector's."""
    for number in _came:
        _raise(number, None)


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Signals are Python's main thread's; elsewhere they are left as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: it was set outside Python


@contextlib.contextmanager
def told() -> Iterator[None]:
    """In the block SIGTERM raises Terminated, as Ctrl-C raises KeyboardInterrupt."""
    _came.clear()
    with _handled({signal.SIGINT: _raise, signal.SIGTERM: _raise}):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """What comes in the block takes effect at its end."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    with _handled({signal.SIGINT: note, signal.SIGTERM: note}):
        yield
    for number in came[:1]:
        signal.raise_signal(number)


def without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What Python does of an exception that nobody catches; Ctrl-C while modules are imported is one line."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{Path(sys.argv[0]).stem}: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = without_traceback

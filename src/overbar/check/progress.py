"""A line on the terminal that says what is being checked, and a limit to the time it may take."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class Progress:
    """Writes and clears one line on the standard error, where that is a terminal or it is asked for."""

    def __init__(self, subject: str, wanted: bool | None):
        self._subject = subject
        self._on = sys.stderr.isatty() if wanted is None else wanted
        self._width = 0

    def say(self, what: str) -> None:
        if self._on:
            text = f"checking {self._subject}: {what} …"[:100]
            print("\r" + text.ljust(self._width), end="", file=sys.stderr, flush=True)
            self._width = len(text)

    def clear(self) -> None:
        if self._on and self._width:
            print("\r" + " " * self._width + "\r", end="", file=sys.stderr, flush=True)


class TooSlow(Exception):
    """A single call takes longer than the limit."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the block after so many seconds, where Python can be interrupted.

    That is in the main thread, while no other alarm is set, and not within compiled code.
    """
    alone = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not alone or seconds == float("inf") or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

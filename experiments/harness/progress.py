"""How far a run is: a bar on a terminal, a few plain lines elsewhere, with rate and time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINES = 10  # of progress, where there is no terminal for a bar


class Reporter:
    """Shows how far a run is. Use as a context manager and call with (done, note).

    Args:
      name: of what is going on.
      total: where it ends.
      console: the terminal to draw a bar on, or None where there is none.
      say: prints a plain line.
      start: where it begins; the rate is counted from there.
    """

    def __init__(
        self, name: str, total: int, console: Console | None, say: Callable[[str], None], start: int = 0
    ) -> None:
        self._name, self._total, self._say, self._start = name, total, say, start
        self._every = math.ceil(total / PLAIN_LINES)
        self._has_bar, self._told = console is not None, start - 1
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=console is None,
        )
        self._task = self._bar.add_task(name, total=total, completed=start, note="", rate="")

    def __enter__(self) -> Reporter:
        self._began = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, note: str) -> None:
        if self._has_bar:
            self._bar.update(self._task, completed=done, note=note, rate=self._rate(done)[0])
        elif done // self._every > self._told // self._every or done == self._total:
            self._told = done
            tail = ", ".join(part for part in self._rate(done) if part)
            line = f"{self._name}: {done:>{len(str(self._total))}}/{self._total}  {note}"
            self._say(f"{line}  ({tail})" if tail else line)

    def _rate(self, done: int) -> tuple[str, str]:
        """Steps a second, and the time left where any is."""
        rate = (done - self._start) / max(time.monotonic() - self._began, 1e-9)
        if rate <= 0:
            return "", ""
        return f"{rate:.3g}/s", f"{lasting((self._total - done) / rate)} left" if done < self._total else ""


def lasting(seconds: float) -> str:
    """A time as a person says it: 9 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

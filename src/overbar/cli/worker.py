"""A command's work runs in a thread of its own.

So the main thread is free to hear Ctrl-C, and a timer can end what compiled code does not give back.
JAX's config contexts belong to a thread: they are entered there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from overbar.cli.output import INTERRUPTED, complain, leave

LONGEST_IMPORT = 60.0  # seconds; a short --time-limit is meant for the function, not for its imports
Result = TypeVar("Result")

GRACE = (5.0, 30.0)  # seconds beyond the time limit, at least and at most, for what has been begun


def in_worker(task: Callable[[], Result]) -> Result:
    """Runs the task in a thread and waits for it, open to Ctrl-C, which ends the process."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(task())
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=work, name="overbar", daemon=True)
    worker.start()
    try:
        while worker.is_alive():
            worker.join(0.5)  # an endless wait cannot be interrupted everywhere
    except KeyboardInterrupt:
        complain("interrupted")
        leave(INTERRUPTED)
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def watched(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Calls give_up, from another thread, if the block is not done after so many seconds."""
    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()

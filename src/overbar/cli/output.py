"""What every command says, and how: one line for what cannot be done, never a traceback."""

from __future__ import annotations

import difflib
import os
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

CANNOT, INTERRUPTED = 2, 130

_PACKAGE = str(Path(__file__).parents[1])


class Refused(Exception):
    """Why something cannot be done, in a plain sentence."""


def say(text: str, out: TextIO) -> None:
    """Prints at once; a reader that has gone away (`overbar rules | head -1`) is no error."""
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def complain(sentence: str) -> None:
    """Prints one line on the standard error, over the progress line where there is one."""
    start = "\r" + " " * 100 + "\r" if sys.stderr.isatty() else ""
    say(f"{start}overbar: {' '.join(sentence.split())}", sys.stderr)


def leave(status: int) -> None:
    """Ends the process without waiting for a worker that compiled code holds."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def raised(error: BaseException) -> str:
    """The exception in one line, with the place that raised it."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    found = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in found if "importlib" not in frame.filename]
    if not frames or frames[-1].filename.startswith(_PACKAGE) or isinstance(error, SyntaxError):
        return text  # of no interest to the user; a SyntaxError says itself where it is
    outside = (_PACKAGE, str(sysconfig.get_path("stdlib")))
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith(outside)]
    last = (own or frames)[-1]  # the user's line, rather than the one in JAX
    return f"{text} ({Path(last.filename).name}, line {last.lineno})"


def near(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=3)
    return f"; is it {' or '.join(close)}?" if close else ""

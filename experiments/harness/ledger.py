"""What a training writes down: a line a step, for metrics.jsonl and for TensorBoard."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.descent import Diverged
from harness.events import Events
from harness.runs import Run


class Ledger:
    """The lines of a run, from a step on; those of before stay.

    A device computes while Python goes on: `expect` is told what will come, `settle` waits for it.
    """

    def __init__(self, run: Run, start: int) -> None:
        self.run = run
        self.lines: list[dict[str, Any]] = run.back_to(start)
        self._events = Events(run.folder, self.lines) if run.leads else None
        self._expected: list[tuple[int, Callable[[], np.ndarray], Mapping[str, float]]] = []

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():  # a full disk is told once
            if self._events:
                self._events.close()

    def expect(self, step: int, losses: Callable[[], np.ndarray], scores: Mapping[str, float]) -> None:
        """The losses of that step and those after it will come; the scores are the first step's."""
        self._expected.append((step, losses, scores))

    def settle(self) -> None:
        """Waits for the losses that are expected, and writes their lines.

        Raises:
          Diverged: one is NaN or infinite.
        """
        while self._expected:
            first, losses, scores = self._expected.pop(0)
            for step, loss in enumerate(losses().tolist(), start=first):
                if not math.isfinite(loss):
                    raise Diverged(step, loss, self.last)
                self._write({"step": step, "loss": loss, **(scores if step == first else {})})

    def _write(self, line: dict[str, Any]) -> None:
        self.run.record(**line)
        if self._events:
            self._events.record(**line)
        self.lines.append(line)

    @property
    def last(self) -> float | None:
        return self.lines[-1]["loss"] if self.lines else None

    @property
    def note(self) -> str:
        return f"loss {self.last:.6g}" if self.lines else ""

    def converged(self, window: int, least: float | None) -> bool:
        """Whether the mean loss of the last `window` steps is less than that share below the mean before."""
        if least is None or len(self.lines) < 2 * window:
            return False
        losses = [line["loss"] for line in self.lines[-2 * window :]]
        before, now = np.mean(losses[:window]), np.mean(losses[window:])
        return bool(before - now < least * abs(before))

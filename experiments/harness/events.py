"""The metrics for TensorBoard: an event file beside metrics.jsonl, written anew where a run is resumed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class Events:
    """The event file of a run.

    Args:
      folder: the run's; event files of before in it are replaced.
      lines: the metrics that stand already.
    """

    def __init__(self, folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        writer = importlib.import_module("tensorboardX").SummaryWriter  # slow to import
        self._writer = writer(str(folder), flush_secs=10)
        for line in lines:
            self.record(**line)

    def close(self) -> None:
        self._writer.close()

    def record(self, step: int, **values: Any) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

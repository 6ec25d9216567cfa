"""The metrics for TensorBoard: an event file beside metrics.jsonl, written anew where a run is resumed."""

from __future__ import annotations

import importlib
import platform
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FLUSHED = 10  # seconds until what was recorded can be seen


class Events:
    """The event file of a run, written by tensorboardX's own record writer.

    Its SummaryWriter does the same in a thread, which would tell of a full disk too late, and not to us.

    Args:
      folder: the run's; event files of before in it are replaced.
      lines: the metrics that stand already.

    Raises:
      OSError: it cannot be written; so do the others.
    """

    def __init__(self, folder: Path, lines: Iterable[Mapping[str, Any]]) -> None:
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        record_writer = importlib.import_module("tensorboardX.record_writer")  # slow to import
        self._event = importlib.import_module("tensorboardX.proto.event_pb2").Event
        now = time.time()
        self._writer = record_writer.RecordWriter(
            str(folder / f"events.out.tfevents.{int(now):010}.{platform.node()}")
        )
        self._flushed = now
        self._write(file_version="brain.Event:2")
        for line in lines:
            self.record(**line)

    def close(self) -> None:
        self._writer.close()

    def record(self, step: int, **values: Any) -> None:
        scalars = [
            {"tag": name, "simple_value": value} for name, value in values.items() if value is not None
        ]
        self._write(step=step, summary={"value": scalars})

    def _write(self, **event: Any) -> None:
        now = time.time()
        self._writer.write(self._event(wall_time=now, **event).SerializeToString())
        if now - self._flushed > FLUSHED:
            self._writer.flush()
            self._flushed = now

"""Checkpoints of a run, by Orbax: written whole or not at all, the last few and the best kept.

A checkpoint is the state (a pytree of arrays), the place (what else the run must know to go on, as JSON:
the batches' place, the scores so far) and a checksum of every array. One that cannot be read, whose
checksums do not fit, or that another experiment wrote, is named and set aside, and the one before is taken.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_managers import preservation_policy

from harness import stops
from harness.devices import Lost, lost_told

Place = dict[str, Any]

BESIDES = 1 << 18  # bytes that a checkpoint takes beside its arrays


class Restored(NamedTuple):
    """A checkpoint that was read: after `step` updates the run stood at `state` and `place`."""

    step: int
    state: Any
    place: Place


class Unusable(Exception):
    """A checkpoint cannot be gone on from; says why."""


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      folder: where they lie, each in a folder named by its step.
      owner: what the state belongs to (the experiment and the settings that decide its shapes and its
        course), as JSON; a checkpoint with another owner is foreign.
      every: how many steps lie between two; 0 for one at the end alone.
      keep: how many of the last are kept, and the best besides.
      tell: is told, in a sentence, of each checkpoint that cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        owner: dict[str, Any],
        *,
        every: int = 1,
        keep: int = 3,
        tell: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.owner, self.tell = folder.absolute(), owner, tell
        self._every, self._last = every, 0
        kept = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(keep),
                preservation_policy.BestN(get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=1),
            ]
        )
        # Written before the run goes on: what a kill finds is a step that is whole, or the one before.
        options = ocp.CheckpointManagerOptions(preservation_policy=kept, enable_async_checkpointing=False)
        self._manager = self._managed(options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def due(self, step: int, ends: bool = False) -> bool:
        """Whether it is time for one, the run being at that step, or at its end."""
        if ends or not self._every:
            return ends and step > self._last
        return step // self._every > self._last // self._every

    def save(self, step: int, state: Any, place: Place, loss: float) -> None:
        """Writes a checkpoint; the one of the smallest loss is kept whatever comes later.

        Raises:
          OSError: it cannot be written (the disk is full); those before it are as they were.
          Lost: another process has died.
        """
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + BESIDES
        if (free := shutil.disk_usage(self.folder).free) < needed:  # Orbax finds out in the midst of it
            told = f"checkpoint {step} takes {needed:,} bytes at most, but {free:,} are free"
            raise OSError(errno.ENOSPC, f"No space left on device: {told}", str(self.folder))
        about = _sealed({"owner": self.owner, "place": place, "checksums": checksums(state)})
        content = ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about))
        try:
            with lost_told(), _silent(), stops.held_back():
                self._manager.save(step, args=content, metrics={"loss": loss}, force=True)
        except (OSError, Lost):
            raise
        except Exception as error:  # TensorStore's own, which names the cause at its end
            raise OSError(None, f"checkpoint {step}: {_cause(error)}", str(self.folder)) from error
        self._last = step

    def restore(self, like: Any) -> Restored | None:
        """The last checkpoint that can be used, or None where there is none.

        Args:
          like: a state of the same shapes, dtypes and placement on devices.
        """
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        for step in reversed(self.steps):
            try:
                with _silent(), stops.held_back():
                    found = self._read(step, shapes)
                self._last = step
                return found
            except Unusable as reason:
                self._set_aside(step, str(reason))
                self._manager.reload()
        return None

    def _managed(self, options: Any) -> Any:
        """Orbax's manager: it reads what each checkpoint says of itself, and gives all up for one of them."""
        try:
            with _silent():
                return ocp.CheckpointManager(self.folder, options=options)
        except OSError:
            raise
        except Exception:
            numbers = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())
            unusable = {n: reason for n in numbers if (reason := self._refused(n, options)) is not None}
            if not unusable:
                raise
            for step, reason in unusable.items():
                self._set_aside(step, reason)
            with _silent():
                return ocp.CheckpointManager(self.folder, options=options)

    def _refused(self, step: int, options: Any) -> str | None:
        """Why Orbax cannot open this checkpoint by itself; None where it can."""
        with tempfile.TemporaryDirectory() as alone, _silent():
            (Path(alone) / str(step)).symlink_to(self.folder / str(step))
            try:
                ocp.CheckpointManager(Path(alone), options=options).close()
            except Exception as error:
                return f"it cannot be read: {_cause(error)}"
        return None

    def _set_aside(self, step: int, reason: str) -> None:
        """Makes room for a checkpoint of the same step, and says why."""
        aside = self.folder.with_name(f"{self.folder.name}-not-used") / f"{step}-{time.time_ns()}"
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"checkpoint {step} is set aside")
        self.tell(f"checkpoint {self.folder / str(step)} is not used: {reason}; it is in {aside} now")

    def _read(self, step: int, shapes: Any) -> Restored:
        about = self._parts(step, about=ocp.args.JsonRestore()).about
        if not isinstance(about, dict) or {"owner", "place", "checksums", "seal"} - about.keys():
            raise Unusable("no run of an experiment wrote it")
        if about != _sealed({name: value for name, value in about.items() if name != "seal"}):
            raise Unusable("its checksums do not fit: it is corrupt")
        if other := sorted(k for k in self.owner if about["owner"].get(k) != self.owner[k]):
            told = ", ".join(f"{k} {about['owner'].get(k)!r}, here {self.owner[k]!r}" for k in other)
            raise Unusable(f"it is another run's: {told}")
        state = self._parts(step, state=ocp.args.StandardRestore(shapes)).state
        if checksums(state) != about["checksums"]:
            raise Unusable("its checksums do not fit: it is corrupt")
        return Restored(step, state, about["place"])

    def _parts(self, step: int, **parts: Any) -> Any:
        try:
            with lost_told():
                return self._manager.restore(step, args=ocp.args.Composite(**parts))
        except Lost:  # which says nothing against the checkpoint
            raise
        except Exception as error:
            _overhear_the_rest()
            raise Unusable(f"it cannot be read: {_cause(error)}") from error


def _sealed(about: dict[str, Any]) -> dict[str, Any]:
    """With a checksum of its own, of its text as JSON."""
    return {**about, "seal": zlib.crc32(json.dumps(about, sort_keys=True).encode())}


def checksums(state: Any) -> dict[str, int]:
    """CRC-32 of every leaf's bytes, by its path; of the whole of it, wherever its parts lie."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): _checksum(leaf) for path, leaf in leaves}


def _checksum(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf.sharding, NamedSharding) and not leaf.is_fully_addressable:
        leaf = jax.jit(lambda x: x, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)
    return zlib.crc32(np.ascontiguousarray(jax.device_get(leaf)).tobytes())


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Orbax logs an error with its traceback before it raises it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@functools.cache
def _overhear_the_rest() -> None:
    """Of reads side by side one raises; the others would print tracebacks, later and from threads."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        late = str(unraisable.exc_value) == "Event loop is closed"
        if not late and "_read_array_index" not in repr(unraisable.object):
            before(unraisable)

    sys.unraisablehook = hook


def _cause(error: BaseException) -> str:
    """The first line of an error's text, or its kind where it has none; not a library's traceback."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

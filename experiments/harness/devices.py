"""Many devices by one flag: where parameters and batches lie on a mesh, and who of several processes writes.

The same jitted step runs wherever its arguments lie: XLA divides it and adds the messages between devices.
A batch is divided over the axis `data`; a parameter, and what an optimizer keeps of it, over the axis
`model`, along its last axis that this divides evenly. A mesh without one of the two repeats it.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "model")
PATIENCE = 180
HEARTBEAT = 30  # seconds without a sign of life until a process counts as dead


class BadSetting(ValueError):
    """Settings that cannot be worked with; the message says in one line which and why."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mesh",
        type=mesh_spec,
        metavar="AXES",
        help="devices to train on, as data=8 or data=4,model=2 (default: one device; all, if distributed)",
    )
    parser.add_argument(
        "--distributed",
        action="store_true",
        help="be one of several processes; the cluster's environment tells the rest, or these flags do:",
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    parser.add_argument(
        "--patience",
        type=int,
        default=PATIENCE,
        metavar="S",
        help=f"seconds until all of them must have come (default: {PATIENCE})",
    )


def mesh_spec(text: str) -> str:
    """Axes and their sizes, for argparse."""
    names = []
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in AXES or not (size.isascii() and size.isdecimal()) or int(size) < 1:
            raise argparse.ArgumentTypeError(
                f"expected data=N, model=N or both with a comma between, but came {text!r}"
            )
        names.append(name)
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"an axis stands twice in {text!r}")
    return text


def join(args: argparse.Namespace) -> None:
    """Makes this process one of several, before JAX looks for its devices.

    Raises:
      BadSetting: neither the flags nor the environment tell how; the message is one line.
    """
    given = {name: getattr(args, name, None) for name in ("coordinator", "processes", "process")}
    if not getattr(args, "distributed", False):
        if unused := [f"--{name}" for name, value in given.items() if value is not None]:
            raise BadSetting(f"{unused[0]} is for --distributed runs")
        return
    if jax.distributed.is_initialized():
        return
    host, _, port = (given["coordinator"] or "host:1").rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 2**16):
        raise BadSetting(f"--coordinator: expected HOST:PORT, but came {given['coordinator']!r}")
    patience = max(1, args.patience)

    def give_up() -> None:  # JAX itself would abort, with a stack of C++
        told = (
            f"not all processes have met at {given['coordinator'] or 'the coordinator'} within {patience} s"
        )
        print(f"{args.name}.py: error: --distributed: {told}", file=sys.stderr, flush=True)
        os._exit(2)

    watch = threading.Timer(patience, give_up)
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            *(given["coordinator"], given["processes"], given["process"]),
            initialization_timeout=2 * patience,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadSetting(f"--distributed: {first}") from None
    finally:
        watch.cancel()


class Lost(Exception):
    """Another process has died; the message says in one line how that was seen."""


# What stands in the errors of those who wait for it.
LOST = ("Gloo ", "NCCL", "coordination service", "Barrier", "heartbeat")


@contextlib.contextmanager
def lost_told() -> Iterator[None]:
    """In the block, what JAX raises when another process has died is Lost, whatever it is wrapped in."""
    try:
        yield
    except Exception as error:
        lines = str(error).splitlines()
        for line in lines if jax.distributed.is_initialized() else ():
            if any(word in line for word in LOST):
                raise Lost(line) from error
        raise


class Placement:
    """Where things lie; of one device, which JAX chooses, where there is no mesh.

    Raises:
      BadSetting: the mesh needs more devices than there are; the message is one line.
    """

    def __init__(self, spec: str | None) -> None:
        if spec is None and jax.process_count() > 1:
            spec = f"data={jax.device_count()}"
        self.spec = spec
        self.mesh = None if spec is None else _mesh(spec)

    def axis(self, name: str) -> int:
        """The number of devices along an axis."""
        return 1 if self.mesh is None else self.mesh.shape.get(name, 1)

    def state(self, shapes: Any) -> Any:
        """The shardings of a state, by the shapes of its leaves; None where there is no mesh."""
        if self.mesh is None:
            return None
        return jax.tree.map(lambda leaf: self._sharding(*self._divided(leaf.shape)), shapes)

    @property
    def everywhere(self) -> NamedSharding | None:
        """The sharding of what lies whole on every device."""
        return None if self.mesh is None else self._sharding()

    def batch(self, batch: Any, axis: int = 0) -> Any:
        """A batch, which every process has whole, with each device's part on it; divided along that axis."""
        if self.mesh is None:
            return batch
        data = "data" if "data" in self.mesh.shape else None
        sharding = self._sharding(*[None] * axis, data)
        return jax.tree.map(lambda x: _placed(np.asarray(x), sharding), batch)

    def whole(self, tree: Any) -> Any:
        """Everything as numpy arrays, in every process."""
        if self.mesh is not None:
            tree = jax.jit(lambda x: x, out_shardings=self.everywhere)(tree)
        return jax.device_get(tree)

    def _sharding(self, *axes: str | None) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def _divided(self, shape: tuple[int, ...]) -> tuple[str | None, ...]:
        parts = self.axis("model")
        for axis in reversed(range(len(shape))):
            if parts > 1 and len(shape) > 1 and shape[axis] % parts == 0:
                return (*[None] * axis, "model")
        return ()


def _placed(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def _mesh(spec: str) -> Mesh:
    sizes = {name: int(size) for name, size in (part.split("=") for part in spec.split(","))}
    wanted, there = math.prod(sizes.values()), jax.device_count()
    if wanted > there:
        raise BadSetting(
            f"--mesh {spec} needs {wanted} devices, but there {'is' if there == 1 else 'are'} {there}"
        )
    if jax.process_count() > 1 and wanted < there:
        raise BadSetting(f"--mesh {spec} must use all {there} devices of the {jax.process_count()} processes")
    devices = jax.devices()[:wanted]
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * len(sizes), devices=devices)

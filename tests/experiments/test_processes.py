"""Eight virtual devices, and several real processes on this machine, take the steps that one device takes."""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import parity

pytestmark = pytest.mark.once

# Plain descent, which would show a gradient that is summed or averaged twice: Adam does not look at its size.
STEPS = ["--bits", "6", "--steps", "12", "--batch", "64", "--evaluate-every", "4", "--checkpoint-every", "5"]
STEPS += ["--optimizer", "sgd:momentum=0.9", "--learning-rate", "0.3"]


def start(*runs, devices=1):
    """A process with as many devices that makes these runs, of the flags of each, one after the other."""
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    # Twelve steps do not teach parity, so the status is 1.
    script = f"import parity; exit({{parity.main({STEPS!r} + run) for run in {list(runs)!r}}} == {{1}})"
    return subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(parity.__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


def finish(*processes):
    texts = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [1] * len(processes), "\n".join(texts)
    return texts


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The lines of a run on one device, in this process."""
    out = tmp_path_factory.mktemp("one")
    with jax.numpy_dtype_promotion("standard"):
        assert parity.main([*STEPS, "--out", str(out)]) == 1
    return lines(out)


def same(found, expected):
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for name in ("loss", "test_loss", "test_accuracy"):
        a, b = ([line[name] for line in some if name in line] for some in (found, expected))
        assert len(a) == len(b)
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_no_bar_over_all_inputs_is_rounding_alone():
    # Adam takes a full step along one that is, and on every mesh another: 2 % of the loss in 150 steps.
    task = parity.task(argparse.Namespace(bits=6, hidden=None))
    bars = jax.grad(task.loss)(task.init(jax.random.key(0)), task.test, jax.random.key(0))
    assert min(float(abs(bar).max()) for bar in bars.values()) > 1e-4


def test_eight_devices(one, tmp_path):
    meshes = ["data=8", "data=4,model=2"]
    finish(start(*(["--mesh", m, "--out", str(tmp_path / m)] for m in meshes), devices=8))
    for mesh in meshes:
        same(lines(tmp_path / mesh), one)


@pytest.mark.parametrize(
    ("processes", "devices", "mesh"), [(2, 2, "data=2,model=2"), (4, 1, None)], ids=["2", "4"]
)
def test_processes(processes, devices, mesh, one, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    argv = ["--distributed", "--coordinator", address, "--processes", str(processes)]
    argv += [] if mesh is None else ["--mesh", mesh]
    argv += ["--out", str(tmp_path)]
    texts = finish(*(start([*argv, "--process", str(i)], devices=devices) for i in range(processes)))
    same(lines(tmp_path), one)
    assert "parity: " in texts[0]
    assert not any("parity: " in text for text in texts[1:])  # the first alone tells

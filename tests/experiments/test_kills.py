"""A run that is killed at any moment goes on, and ends bit for bit where it would have; so after a full disk.

`python tests/experiments/test_kills.py 20` kills twenty times.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import parity

pytestmark = pytest.mark.once

STEPS = ["--bits", "6", "--steps", "600", "--batch", "16", "--evaluate-every", "30"]
STEPS += ["--checkpoint-every", "10"]


def start(out: Path, *argv: str) -> subprocess.Popen[str]:
    command = [sys.executable, parity.__file__, *STEPS, *argv, "--out", str(out)]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, **both, encoding="utf-8")


def whole(out: Path, *argv: str) -> str:
    """What a run that comes to its end tells; in this process, which is warm already."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        parity.main([*STEPS, *argv, "--out", str(out)])
    assert f"of 64 right after {STEPS[3]} steps" in told.getvalue(), told.getvalue()
    return told.getvalue()


def steps(out: Path) -> list[int]:
    """The checkpoints that are whole."""
    return sorted(int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdecimal())


def kill(process: subprocess.Popen[str], out: Path, moment: random.Random, writing: bool) -> None:
    """Kills a run at some moment of its training; while it writes a checkpoint, if so wished."""
    began = steps(out)
    while process.poll() is None and steps(out)[-1:] == began[-1:]:
        time.sleep(0.005)
    time.sleep(moment.uniform(0, 0.4))
    while writing and process.poll() is None and not list((out / "checkpoints").glob("*tmp*")):
        time.sleep(0.0002)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def parameters(out: Path) -> list[np.ndarray]:
    """The parameters and what the optimizer keeps in the last checkpoint."""
    last = out / "checkpoints" / str(steps(out)[-1]) / "state"
    tree = ocp.StandardCheckpointer().restore(last.absolute())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def endure(folder: Path, kills: int, seed: int = 0) -> list[tuple[int, bool]]:
    """Kills a run as often, while or between writing, and compares; the last step saved at each kill, and
    whether another was half written."""
    moment, killed = random.Random(seed), []
    whole(folder / "whole")
    for number in range(kills):
        process = start(folder / "killed", *(["--resume"] if number else []))
        kill(process, folder / "killed", moment, writing=number % 2 == 1)
        assert process.returncode == -signal.SIGKILL, f"it ended before kill {number}"
        killed.append(
            (steps(folder / "killed")[-1], bool(list((folder / "killed/checkpoints").glob("*tmp*"))))
        )
    text = whole(folder / "killed", "--resume")
    assert f"resumed at step {killed[-1][0]}" in text, text
    assert "is not used" not in text
    for a, b in zip(parameters(folder / "whole"), parameters(folder / "killed"), strict=True):
        np.testing.assert_array_equal(a, b)
    one, other = ((folder / name / "metrics.jsonl").read_bytes() for name in ("whole", "killed"))
    assert one == other
    assert not list((folder / "killed").rglob("*partial"))
    return killed


def test_kills(tmp_path):
    endure(tmp_path, 2)


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(small)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        text = start(small / "run", "--keep", "50").communicate(timeout=300)[0]
        last = text.splitlines()[-1]
        assert last.startswith("parity: cannot write: "), text
        assert "Traceback" not in text
        saved = steps(small / "run")[-1]
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        text = whole(small / "run", "--resume")
        assert f"resumed at step {saved}" in text
    finally:
        subprocess.run(["umount", str(small)], check=True)


if __name__ == "__main__":
    import tempfile

    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    STEPS[3] = str(100 * int(sys.argv[1]))  # so many that none of the kills comes too late
    with tempfile.TemporaryDirectory() as folder:
        for number, (step, tmp) in enumerate(endure(Path(folder), int(sys.argv[1]))):
            print(f"kill {number}: last checkpoint {step}{', another half written' if tmp else ''}")
    print("the same parameters, bit for bit")

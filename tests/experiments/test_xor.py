"""XOR converges, by the rules and by autodiff along the same curve, and says so in a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import xor


@pytest.fixture
def run(tmp_path, read_metrics, capsys):
    """Runs the script; returns its status, its losses and what it printed."""

    def run(*argv):
        status = xor.main([*argv, "--out", str(tmp_path)])
        return status, [line["loss"] for line in read_metrics(tmp_path)], capsys.readouterr().out

    return run


def test_the_table_is_the_course_s():
    table = {tuple(x): t for x, t in zip(xor.INPUTS.tolist(), xor.TARGETS.ravel().tolist(), strict=True)}
    assert table == {(0, 1): 1, (1, 1): 0, (0, 0): 0, (1, 0): 1}


def test_the_loss_is_the_average_over_the_samples_and_the_regularizer():
    params = xor.init(jax.random.key(0), hidden=4)
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}

    def sigma(z):
        return 1 / (1 + np.exp(-z))

    y = sigma(sigma(xor.INPUTS @ p["W₁"] + p["b₁"]) @ p["W₂"] + p["b₂"])
    expected = (
        0.5 * np.mean((y - xor.TARGETS) ** 2) + 0.25 * (np.sum(p["W₁"] ** 2) + np.sum(p["W₂"] ** 2)) / 2
    )
    np.testing.assert_allclose(xor.make_loss(0.25)(params, xor.INPUTS, xor.TARGETS), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", [1, 2])
def test_it_converges(seed, run):
    status, losses, out = run("--seed", str(seed))
    assert status == 0
    assert losses[-1] < 0.006 < 0.08 < losses[0]
    errors = re.findall(r"^  [01], [01] .* ([+-]\d\.\d{4})$", out, re.MULTILINE)
    assert len(errors) == 4
    assert all(abs(float(error)) < 0.1 for error in errors)


def test_rules_and_autodiff_train_along_the_same_curve(run):
    # Some 1e-7 a step, which Adam carries along: 3e-6 is the largest seen over 2000 steps.
    _, by_rules, _ = run()
    _, by_autodiff, _ = run("--autodiff")
    assert len(by_rules) == 2001
    np.testing.assert_allclose(by_rules, by_autodiff, rtol=1e-5)


def test_a_seed_gives_one_curve_and_another_another(run):
    (_, first, _), (_, again, _), (_, other, _) = (run("--seed", s, "--steps", "20") for s in "001")
    assert first == again
    assert first != other


def test_from_a_shell(tmp_path, read_metrics):
    script = Path(xor.__file__)
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "xor: 4/4 right"
    assert "\x1b" not in done.stdout
    names = {p.name.partition(".tfevents")[0] for p in (tmp_path / "runs/xor").iterdir()}
    assert names == {"settings.json", "metrics.jsonl", "result.json", "events.out", "xor.png"}
    lines = read_metrics(tmp_path / "runs/xor")
    assert [line["step"] for line in lines] == list(range(2001))
    # A row for each of the 17 parameters, with its two derivatives and their difference.
    rows = re.findall(r"^[Wb][₁₂]\[[\d,]+\](?: +-?\d\.\d+){3} +(-?\d\.\de[+-]\d+)", done.stdout, re.MULTILINE)
    assert len(rows) == 17
    assert max(abs(float(difference)) for difference in rows) < 1e-8


def test_a_huge_learning_rate_stops_with_one_line(tmp_path, read_metrics, capsys):
    status = xor.main(["--learning-rate", "1e30", "--lambda", "1", "--out", str(tmp_path)])
    assert status == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert "diverged at step 1" in err
    (line,) = read_metrics(tmp_path)
    assert f"the last finite loss was {line['loss']:.6g}" in err

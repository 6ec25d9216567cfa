"""Digits are learnt, by the rules and by autodiff along the same curve."""

from __future__ import annotations

import numpy as np

import digits


def losses(out, read_metrics, *argv):
    digits.main(["--steps", "200", "--hidden", "32", *argv, "--out", str(out)])
    return [line["loss"] for line in read_metrics(out)]


def test_rules_and_autodiff_train_along_the_same_curve(tmp_path, read_metrics):
    # Some 1e-7 a step: 6e-7 is the largest seen, over 1500 steps.
    by_rules = losses(tmp_path, read_metrics)
    np.testing.assert_allclose(by_rules, losses(tmp_path, read_metrics, "--autodiff"), rtol=1e-5)


def test_it_reaches_97_percent(tmp_path, read_metrics, capsys):
    assert digits.main(["--out", str(tmp_path)]) == 0
    last = read_metrics(tmp_path)[-1]
    assert last["test_accuracy"] >= 0.97
    assert f"digits: {100 * last['test_accuracy']:.1f} % of 450 test images right" in capsys.readouterr().out


def test_only_a_whole_run_can_fall_short(tmp_path, monkeypatch):
    argv = ["--steps", "3", "--out", str(tmp_path)]
    assert digits.main(argv) == 0
    monkeypatch.setattr(digits, "STEPS", 3)
    assert digits.main(argv) == 1

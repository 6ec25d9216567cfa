"""Every experiment at a reduced size: the rules and their twin train along the same curve for 200 steps."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from harness import data

pytestmark = pytest.mark.once

FASHION = "/usr/share/datasets/fashion-mnist"
SMALL_LM = "--width 16 --heads 2 --layers 1 --context 16 --batch 4"

CASES = {
    "parity": "--bits 6",
    "mnist1d --model logistic": "--batch 20",
    "mnist1d --model mlp": "--batch 96",  # with relu the two part here, by 1e-3
    "mnist1d --model cnn": "--batch 20",
    "mnist1d --model gru": "--batch 20",
    "fashion_mnist --model mlp": "--batch 8",
    "fashion_mnist --model cnn": "--batch 8",
    "char_lm --model transformer": SMALL_LM,
    "char_lm --model lstm": SMALL_LM,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small sets that are made or read once: the flags that name them, by experiment."""
    folder = tmp_path_factory.mktemp("files")

    def mnist1d():
        made = data.mnist1d()
        names = {"x": made.x, "y": made.labels, "x_test": made.x_test[:100], "y_test": made.labels_test[:100]}
        np.savez(folder / "mnist1d.npz", **names)
        return ["--data", str(folder / "mnist1d.npz")]

    def fashion_mnist():
        if not Path(FASHION).is_dir():
            pytest.skip(f"Debian's package dataset-fashion-mnist is not installed: there is no {FASHION}")
        made = data.load(FASHION)
        names = {"x": made.x[:2000], "y": made.labels[:2000], "x_test": made.x_test[:64]}
        np.savez(folder / "fashion.npz", **names, y_test=made.labels_test[:64])
        return ["--data", str(folder / "fashion.npz")]

    def char_lm():
        (folder / "text").write_bytes(data.text(None)[:20_000])
        return ["--text", str(folder / "text")]

    makers = {"mnist1d": mnist1d, "fashion_mnist": fashion_mnist, "char_lm": char_lm, "parity": list}
    made = {}

    def flags(name):
        if name not in made:
            made[name] = makers[name]()
        return made[name]

    return flags


@pytest.mark.parametrize("case", CASES)
def test_rules_and_twin_train_along_the_same_curve(case, files, tmp_path, read_metrics):
    name, *argv = case.split()
    argv += [*CASES[case].split(), *files(name), "--steps", "200", "--evaluate-every", "200"]
    argv += ["--checkpoint-every", "0", "--out", str(tmp_path)]
    script = importlib.import_module(name)
    curves = []
    for flags in ([], ["--autodiff"]):
        script.main([*argv, *flags])
        curves.append([line["loss"] for line in read_metrics(tmp_path)])
    assert len(curves[0]) == 201
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    assert np.mean(curves[0][-50:]) < np.mean(curves[0][:50])
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000

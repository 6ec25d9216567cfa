"""The lecture's two columns, against the formulas worked out by hand in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import logistic_least_squares as script


@pytest.mark.parametrize(
    ("w", "b", "x", "t", "lam"),
    [(-1.0, 1.0, 2.0, 1.0, 0.01), (0.5, 0.0, -1.5, 0.0, 0.0), (2.0, -1.0, 0.25, 1.0, 3.0)],
)
def test_values_and_bars_are_the_lecture_s(w, b, x, t, lam):
    z = w * x + b
    y = 1 / (1 + np.exp(-z))
    L, R = 0.5 * (y - t) ** 2, 0.5 * w**2
    y_bar = y - t
    z_bar = y_bar * y * (1 - y)
    expected_values = {"z": z, "y": y, "L": L, "R": R, "L_reg": L + lam * R}
    expected_bars = {
        "L_reg": 1,
        "R": lam,
        "L": 1,
        "y": y_bar,
        "z": z_bar,
        "w": z_bar * x + lam * w,
        "b": z_bar,
    }

    params = {"w": jnp.full((1, 1), w), "b": jnp.full(1, b)}
    values, bars = script.forward_and_bars(params, jnp.full(1, x), jnp.full(1, t), lam)
    other = script.autodiff_bars(params, jnp.full(1, x), jnp.full(1, t), lam)
    assert values.keys() == script.FORWARD.keys() == expected_values.keys()
    assert bars.keys() == other.keys() == script.BACKWARD.keys() == expected_bars.keys()
    for name, value in expected_values.items():
        np.testing.assert_allclose(values[name].item(), value, rtol=2e-6, err_msg=name)
    for name, bar in expected_bars.items():
        np.testing.assert_allclose(bars[name].item(), bar, rtol=2e-6, atol=1e-8, err_msg=name)
        np.testing.assert_allclose(other[name].item(), bar, rtol=2e-6, atol=1e-8, err_msg=name)


def test_it_prints_all_seven_bars_beside_jax_grad(tmp_path, capsys):
    assert script.main(["--steps", "1", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for symbol, formula in script.BACKWARD.values():
        (row,) = [
            line.split() for line in lines if line.startswith(f"{symbol} ") and f"= {formula}  " in line
        ]
        bar, grad, difference = map(float, row[-3:])
        assert abs(bar - grad) <= 1.1e-7 * max(1, abs(grad))
        assert abs(difference) <= 1.2e-7


def test_the_fit_lowers_the_cost(tmp_path, read_metrics):
    assert script.main(["--steps", "100", "--out", str(tmp_path)]) == 0
    losses = [line["loss"] for line in read_metrics(tmp_path)]
    assert losses[-1] < losses[0] / 5
    assert np.all(np.diff(losses) < 1e-6)

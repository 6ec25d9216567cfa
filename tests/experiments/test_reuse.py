"""The three ways give the same derivatives, and nothing is shared where nothing should be."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import reuse


@pytest.fixture(scope="module")
def measured():
    return {
        chain: reuse.measure(chain, jax.random.key(0), False)
        for chain in (reuse.Chain(3, 2), reuse.Chain(6, 2))
    }


@pytest.mark.parametrize("autodiff", [False, True], ids=["rules", "autodiff"])
def test_the_three_ways_give_the_same_derivatives(autodiff):
    made = reuse.programs(reuse.Chain(3, 4), jax.random.key(1), autodiff)
    found = {name: np.stack(jax.jit(f)(*args)) for name, (f, args) in made.items()}
    largest = np.abs(found["bars"]).max()
    assert found["bars"].shape == (3, 4, 4)
    for name in ("expanded", "forward"):
        np.testing.assert_allclose(found[name], found["bars"], atol=1e-6 * largest, err_msg=name)


def test_no_evaluation_of_the_expanded_formulas_is_shared(measured):
    # Each x_k costs k products of a row and a matrix, each 2 n² operations; so does each W_mᵀ.
    for (d, n), m in measured.items():
        products = sum(d + sum(range(k, d + 1)) + (k - 1) + (d - k) for k in range(1, d + 1))
        assert m.costs["expanded"].operations >= products * n * n * 2 * n * n


def test_the_growths_are_apart(measured):
    exponents = {
        way: reuse.growth([c.depth for c in measured], [m.costs[way].operations for m in measured.values()])
        for way in reuse.WAYS
    }
    assert exponents["expanded"] > exponents["forward"] + 0.2
    assert exponents["forward"] > exponents["bars"] + 0.5
    assert all(m.difference < 1e-5 for m in measured.values())


def test_growth_is_the_exponent():
    assert reuse.growth([1, 2, 4], [3, 24, 192]) == pytest.approx(3)
    assert np.isnan(reuse.growth([2], [5]))


def test_cost_analysis_may_come_as_a_list():
    class Compiled:
        def cost_analysis(self):
            return [{"flops": 3.0, "transcendentals": 2.0}, {"flops": 1.0}]

    assert reuse.operations(Compiled()) == 6.0


def test_more_steps_than_chains_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reuse, "CHAINS", reuse.CHAINS[:1])
    assert reuse.main(["--steps", "9", "--out", str(tmp_path)]) == 0
    assert "there are 1 chains" in capsys.readouterr().out

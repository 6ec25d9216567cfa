"""Both descents go down all the way, to where the slope is 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradient_descent_1d as script


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_descents_end_in_a_minimum(seed, tmp_path, read_metrics):
    assert script.main(["--seed", str(seed), "--out", str(tmp_path)]) == 0
    lines = read_metrics(tmp_path)
    for loss in ("loss", "loss_2d"):
        assert np.all(np.diff([line[loss] for line in lines]) < 1e-6)
    last = lines[-1]
    ends = [
        (script.cost_1d, {"w": jnp.full((1, 1), last["w"])}),
        (script.cost_2d, {"w": jnp.full((1, 1), last["w_2d"]), "b": jnp.full(1, last["b_2d"])}),
    ]
    for cost, end in ends:
        for slope in jax.tree.leaves(jax.grad(cost)(end)):
            assert abs(slope.item()) < 1e-4


def test_heights_are_the_cost_at_each_place():
    w, b = np.meshgrid(np.float32([-1, 0, 2]), np.float32([0, 3]))
    heights = script.heights(w, b)
    assert heights.shape == (2, 3)
    one = script.cost_2d({"w": jnp.full((1, 1), 2.0), "b": jnp.full(1, 3.0)})
    np.testing.assert_allclose(heights[1, 2], one, rtol=1e-6)

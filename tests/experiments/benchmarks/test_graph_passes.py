"""The benchmark of the graph's passes runs, tells memory that equals JAX's, and refuses what is not equal."""

from __future__ import annotations

import json

import jax
import pytest


@pytest.fixture
def benchmark(script):
    return script("graph_passes")


def small(module):
    key = jax.random.key(0)
    return {
        "network": (module.sigmoid_network, module.network_arguments(key, 8, (4, 8, 2))),
        "block": (module.transformer_block, module.block_arguments(key, 8, 8)),
    }


def test_it_tells_times_and_memory(benchmark, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "cases", lambda key: small(benchmark))
    assert benchmark.main(["--steps", "2", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["name"] for r in results] == ["network", "block"]
    for result in results:
        assert result["gradient_difference"] < 1e-5
        assert result["graph_temporary_bytes"] <= 1.05 * result["jax_temporary_bytes"]
        low, middle, high = result["time_ratio"]
        assert 0 < low <= middle <= high
    assert "ratio (quartiles)" in capsys.readouterr().out


def test_it_does_not_time_what_is_wrong(benchmark, monkeypatch):
    def wrong(f):
        made = benchmark.jax.value_and_grad(lambda *args: 2 * f(*args), (0, 1, 2))

        class Graph:
            def __init__(self, *args):
                self.value, self.bars = made(*args)

            def forward(self):
                pass

            def backprop(self):
                return self.bars

        return Graph

    monkeypatch.setattr(benchmark, "make_graph", wrong)
    with pytest.raises(SystemExit, match="not timed"):
        benchmark.measure("network", *small(benchmark)["network"], rounds=2)

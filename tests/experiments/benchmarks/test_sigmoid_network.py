"""The benchmark runs, writes its results, refuses to time what is not equal, and memory is the twin's."""

from __future__ import annotations

import json

import jax.numpy as jnp
import pytest


@pytest.fixture
def benchmark(script, monkeypatch):
    module = script("sigmoid_network")
    monkeypatch.setattr(module, "SIZES", module.SIZES[1:2])
    return module


def test_it_tells_times_and_memory(benchmark, tmp_path, capsys):
    assert benchmark.main(["--steps", "2", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert len(found["results"]) == 2
    for result in found["results"]:
        if result["accuracy"] == "default":
            assert result["rules_temporary_bytes"] <= result["twin_temporary_bytes"]
        assert result["gradient_difference"] < 1e-5
        low, high = result["time_ratio_quartiles"]
        assert 0 < low <= result["time_ratio"] <= high
    assert "ratio (quartiles)" in capsys.readouterr().out


def test_it_does_not_time_what_is_wrong(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "same_bars", lambda compiled, args: jnp.nan)
    with pytest.raises(SystemExit, match="not timed"):
        benchmark.main(["--steps", "2", "--out", str(tmp_path)])

"""The benchmark runs, writes its results, refuses to time what is not equal, and memory is the twin's."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

PATH = Path(__file__).parents[3] / "experiments" / "benchmarks" / "sigmoid_network.py"


@pytest.fixture
def benchmark(monkeypatch):
    spec = importlib.util.spec_from_file_location("sigmoid_network", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr("sys.path", list(sys.path))
    spec.loader.exec_module(module)
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

"""The peers train the same network as the rules, and what they take is told; how long is not looked at."""

from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def benchmark(script):
    return script("training")


@pytest.mark.parametrize("network", ["mlp", "lstm"])
def test_all_train_alike(benchmark, network, tmp_path, capsys):
    peers = [
        "rules",
        *(["twin"] if network == "mlp" else []),
        "NNX",
        "Equinox",
    ]  # the LSTM's compiles for long
    argv = ["--steps", "1", "--sizes", "1", "--networks", network, "--peers", *peers]
    assert benchmark.main([*argv, "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "results.json").read_text())["results"]
    assert list(found["steps"]) == peers
    least = min(found["steps"][name]["peak_bytes"] for name in peers[1:])
    assert found["steps"]["rules"]["peak_bytes"] <= least
    assert "does not run here" not in capsys.readouterr().out
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_what_trains_otherwise_is_not_timed(benchmark, tmp_path, monkeypatch):
    mlp = benchmark.NETWORKS["mlp"]

    def other(scale):
        network = mlp(scale)
        return network._replace(loss=lambda p, x, t: 2 * network.loss(p, x, t))

    monkeypatch.setitem(benchmark.NETWORKS, "mlp", other)
    argv = ["--steps", "1", "--sizes", "1", "--networks", "mlp", "--peers", "rules", "NNX"]
    with pytest.raises(SystemExit, match=r"the losses of NNX, .*, are not"):
        benchmark.main([*argv, "--out", str(tmp_path)])
    assert np.isfinite(benchmark.floor(1, 64))

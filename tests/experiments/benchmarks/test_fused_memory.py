"""The benchmark tells XLA's figures; attention's grow as the sequence does, and not as its square."""

from __future__ import annotations

import json

import pytest


@pytest.mark.once
def test_it_tells_what_grows(script, tmp_path, monkeypatch, capsys):
    module = script("fused_memory")
    monkeypatch.setattr(module, "LENGTHS", (1024, 2048))
    monkeypatch.setattr(module, "CLASSES", (8192,))
    assert module.main(["--out", str(tmp_path)]) == 0
    short, long, classes = json.loads((tmp_path / "results.json").read_text())["results"]
    assert long["rule_bytes"] < 2.2 * short["rule_bytes"]
    assert long["autodiff_bytes"] > 3.5 * short["autodiff_bytes"]
    assert 8 * classes["rule_bytes"] <= classes["autodiff_bytes"]
    assert "causal attention, 2048 long" in capsys.readouterr().out

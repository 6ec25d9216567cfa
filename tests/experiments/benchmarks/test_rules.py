"""The benchmark of the rules tells what it measured, and times nothing that is wrong."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import rule_table, rules, ulps
from overbar import Sample, nn, registry, rule


@pytest.fixture
def wrong():
    """A registered rule whose backward has a wrong factor."""

    @rule(bars={"x": "x̄ = 2 ȳ x"}, residuals={"x": "the input"}, name="planted.square")
    def square(x):
        return x * x

    square.forward(lambda x: (x * x, {"x": x}))
    square.backward(lambda residuals, y_bar: {"x": 3 * y_bar * residuals["x"]})
    square.reference(lambda x: x**2)

    @square.samples
    def samples(key):
        yield Sample("small", (jax.random.normal(key, (5,)),))
        yield Sample("bench", (jax.random.normal(key, (64,)),), tags=("bench",))

    yield square
    registry.remove("planted.square")


def test_it_tells_what_it_measured(tmp_path, capsys):
    assert rules.main(["nn.softplus", "--steps", "2", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    (result,) = found["results"]
    assert result["verdict"] == "correct"
    assert result["ulp"]["rule"] <= 4 < result["ulp"]["namesake"]  # measured on the tails
    (measured,) = result["bench"]
    assert measured["kept_bytes"]["rule"] == 4 * measured["elements"]
    assert set(measured["ratio"]) == {"namesake", "twin", "reference"}
    assert (tmp_path / "rules.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "nn.softplus" in out
    assert "geometric mean" in out


def test_what_is_wrong_is_not_timed(wrong, tmp_path, capsys):
    assert rules.main(["planted", "--steps", "1", "--out", str(tmp_path)]) == 1
    assert "wrong: not timed" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["results"] == [
        {"rule": "planted.square", "verdict": "wrong"}
    ]


def test_an_unknown_rule_is_said_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        rules.main(["nn.nothing", "--out", str(tmp_path)])
    assert "no rule is called nn.nothing" in capsys.readouterr().err


class TestUlps:
    def test_of_numbers_next_to_each_other_is_one(self):
        one = np.float32(1)
        assert ulps.distance([np.nextafter(one, np.float32(2))], [np.float64(1)], None) == 1.0

    def test_a_sum_is_measured_against_its_largest_entry(self):
        got, truth = np.array([1.0, 1e-9], np.float32), np.array([1.0, 0.0])
        assert ulps.distance([got], [truth], 0.0) < 0.01
        assert ulps.distance([got], [truth], None) > 1e20
        assert ulps.distance([got], [np.zeros(2)], 1e4) < 1e4

    def test_inf_for_a_finite_truth_is_infinitely_far(self):
        assert ulps.distance([np.array([np.inf], np.float32)], [np.array([1.0])], None) == np.inf

    def test_elementwise_is_seen_from_the_derivative(self):
        def twin_of(rule, *args):
            return rules.peers(rule, Sample("", args))["twin"]

        assert ulps.is_elementwise(twin_of(nn.sigmoid, jnp.arange(3.0)))
        assert not ulps.is_elementwise(twin_of(nn.linear, jnp.ones((2, 2)), jnp.ones((2, 2))))


def test_the_readme_has_the_table_of_the_registry():
    """After a change of the rules: python experiments/benchmarks/rule_table.py."""
    readme = rule_table.README.read_text(encoding="utf-8")
    measured = json.loads(rule_table.KEPT.read_text(encoding="utf-8"))
    assert rule_table.written(readme, measured) == readme
    assert all(f"| `{rule.name}` |" in readme for rule in rule_table.shipped())


def test_no_rule_keeps_more_than_autodiff():
    measured = json.loads(rule_table.KEPT.read_text(encoding="utf-8"))["rules"]
    kept = {name: found["kept"] for name, found in measured.items()}
    number = 4  # bytes of an option that is an input, such as a slope: what autodiff knows while compiling
    assert [name for name, (ours, autodiffs) in kept.items() if ours > autodiffs + number] == []

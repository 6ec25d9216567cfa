"""The checker on right and on wrong functions: nothing wrong passes, nothing right is called wrong."""

from __future__ import annotations

import json
import re
from collections import defaultdict

import jax
import jax.numpy as jnp
import pytest

import overbar
import planted
from overbar import nn, registry
from overbar.check import assert_correct, check


@pytest.fixture(autouse=True)
def standard_promotion():
    """The planted functions are written as people write, who mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def some_of_each_fault(number=2):
    """A few wrong functions for each kind of fault, on different functions for different faults."""
    by_fault = defaultdict(list)
    for case in planted.WRONG:
        by_fault[case.fault].append(case)
    for shift, cases in enumerate(by_fault.values()):
        for k in range(min(number, len(cases))):
            yield cases[(shift + 5 * k) % len(cases)]


# What the report should say of a fault.
CAUSES = {
    "sign": "^the sign$",
    "sign of the last input": "^the sign$",
    "factor 2": "^a constant factor of 2",
    "factor 1/2": "^a constant factor of 1/2",
    "off by 0.1 %": "^a constant factor of 1.001",
    "one entry zeroed": "entries are zero|all zero|linear",
    "zero": "all zero",
    "None": "all zero",
    "divided by the size": "a mean for a sum",
    "times the batch": "counted once too often",
    "transposed": "^transposed",
    "swapped": "^swapped|^the sign$",  # of y − t, the bars are each other's negative
    "wrong dtype": "bfloat16",
    "bar ignored": "incoming bar is ignored",
    "bar squared": "incoming bar is squared",
    "bar clipped": "clipped",
    "clipped": "clipped",
    "absolute value": "sign of the incoming bar is lost",
    "a term added": "does not depend on the incoming bar",
    "nan for a large bar": "overflow",
    "bf16 inside": "precision is lost",
}


def test_the_suite_is_as_large_as_it_should_be():
    assert len(planted.WRONG) >= 80
    assert len({case.fault for case in planted.WRONG}) >= 25
    assert len(planted.RIGHT) >= 40


@pytest.mark.parametrize("case", planted.RIGHT, ids=lambda case: case.name)
def test_right_is_called_correct(case):
    report = check(case.f, *case.args, **(case.options or {}))
    assert report.verdict == "correct", report


@pytest.mark.parametrize("case", list(some_of_each_fault()), ids=lambda case: case.name)
def test_wrong_is_called_wrong_and_its_cause_named(case):
    report = check(case.f, *case.args)
    assert report.verdict == "wrong", report
    if case.fault in CAUSES:
        assert re.search(CAUSES[case.fault], report.findings[0].cause or ""), report


@pytest.mark.parametrize("rule", list(registry.values()), ids=lambda rule: rule.name)
def test_our_own_rules_pass(rule):
    sample = next(s for s in rule.parts["samples"](jax.random.key(0)) if "bench" not in s.tags)
    report = check(rule, *sample.args, **sample.options)
    assert report.verdict == "correct", report
    assert report.rules[0].startswith(f"{rule.name} at ")


class TestBlame:
    def bad(self):
        return planted.plant("matmul", "sign").f

    def test_the_guilty_rule_in_a_model(self):
        bad = self.bad()

        def model(w, x):
            return nn.sigmoid(nn.linear(jnp.tanh(bad(x, w)), w)).sum()

        report = check(model, planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.verdict == "wrong"
        assert report.findings[0].rule.startswith("matmul at ")
        assert report.findings[0].cause == "the sign"
        assert len(report.rules) == 3

    def test_the_guilty_rule_inside_jit_and_remat(self):
        bad = self.bad()
        model = jax.jit(lambda w, x: jax.checkpoint(lambda x: nn.tanh(bad(x, w)))(x).sum())
        report = check(model, planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.findings[0].rule.startswith("matmul at ")

    def test_the_only_rule_is_the_guilty_one(self):
        report = check(self.bad(), planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.rules == (report.findings[0].rule,)
        assert report.findings[0].input == "a"


class TestVerdict:
    @pytest.mark.parametrize(
        ("f", "args", "reason"),
        [
            (jnp.sin, (jnp.ones(3),), "no custom_vjp rule"),
            (nn.sigmoid, (jnp.arange(3),), "no argument is a float array"),
            (lambda x: x.reshape(7), (jnp.ones(3),), "the function raises TypeError"),
            (lambda x: 1 / 0, (jnp.ones(3),), "the function raises ZeroDivisionError"),
            (nn.relu, (-jnp.ones(3),), "every bar is zero"),
        ],
    )
    def test_inconclusive_says_why(self, f, args, reason):
        report = check(f, *args)
        assert report.verdict == "inconclusive"
        assert reason in report.reason
        with pytest.raises(AssertionError, match="inconclusive"):
            report.raise_if_wrong()

    def test_assert_correct(self):
        assert_correct(nn.tanh, jnp.ones(3), effort="quick")
        with pytest.raises(AssertionError, match="wrong: the sign"):
            assert_correct(planted.plant("sin", "sign").f, jnp.ones(3), effort="quick")

    def test_report_as_text_and_json(self):
        report = check(planted.plant("sin", "factor 2").f, jnp.array([0.1, 0.2, 0.4]))
        text = str(report)
        assert text.splitlines()[-1] == "wrong: a constant factor of 2"
        assert "✗ bars" in text
        assert json.loads(report.to_json())["findings"][0]["input"] == "x"

    def test_nothing_global_is_changed(self):
        before = dict(jax.config.values)
        check(nn.sigmoid, jnp.ones(3))
        assert dict(jax.config.values) == before

    def test_module_and_function_share_a_name(self):
        assert overbar.check is check

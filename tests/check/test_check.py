"""The checker on right and on wrong functions: nothing wrong passes, nothing right is called wrong."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import overbar
import planted
from overbar import nn
from overbar.check import assert_correct, check


@pytest.fixture(autouse=True)
def standard_promotion():
    """The planted functions are written as people write, who mix dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def some_of_each_fault(number=1):
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
    "a term added": "a constant is added",
    "nan for a large bar": "overflow",
    "bf16 inside": "precision is lost",
}


def test_the_suite_is_as_large_as_it_should_be():
    assert len(planted.WRONG) >= 80
    assert len({case.fault for case in planted.WRONG}) >= 25
    assert len(planted.RIGHT) >= 40


def some_again(cases, every):
    """All of them; one in so many is run again on a second version of JAX."""
    for number, case in enumerate(cases):
        yield pytest.param(case, id=case.name, marks=[pytest.mark.once] if number % every else [])


@pytest.mark.parametrize("case", list(some_again(planted.RIGHT, every=4)))
def test_right_is_called_correct(case):
    report = check(case.f, *case.args, **(case.options or {}))
    assert report.verdict == "correct", report


@pytest.mark.parametrize("case", list(some_again(some_of_each_fault(), every=3)))
def test_wrong_is_called_wrong_and_its_cause_named(case):
    report = check(case.f, *case.args)
    assert report.verdict == "wrong", report
    if case.fault in CAUSES:
        assert re.search(CAUSES[case.fault], report.findings[0].cause or ""), report


class TestBlame:
    def bad(self):
        return planted.plant("matmul", "sign").f

    def test_the_guilty_rule_in_a_model(self):
        bad = self.bad()

        def model(w, x):
            return nn.sigmoid(nn.linear(jnp.tanh(bad(x, w)), w)).sum()

        report = check(model, planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.verdict == "wrong"
        assert report.findings[0].rule.startswith("matmul with backward wrong_backward at ")
        assert report.findings[0].cause == "the sign"
        assert len(report.rules) == 3

    def test_the_guilty_rule_inside_jit_and_remat(self):
        bad = self.bad()
        model = jax.jit(lambda w, x: jax.checkpoint(lambda x: nn.tanh(bad(x, w)))(x).sum())
        report = check(model, planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.findings[0].rule.startswith("matmul with backward wrong_backward at ")

    def test_the_only_rule_is_the_guilty_one(self):
        report = check(self.bad(), planted.normal(1, 4, 4), planted.normal(2, 4, 4))
        assert report.rules == (report.findings[0].rule,)
        assert report.findings[0].input == "a"


def growing():
    calls = []

    def f(x):
        calls.append(1)
        return jnp.ones(len(calls)) * x[0]

    return f


def with_backward(primal, backward):
    return planted.custom(primal, planted.keep(primal), backward)


# What the sample itself does not show: (function, arguments, what the likely cause says).
HIDDEN = {
    "unit parameter": (
        with_backward(lambda x, s: x / s, lambda r, g: (g / r[1] ** 2, -(g * r[0]).sum() / r[1] ** 2)),
        (planted.normal(1, 4), jnp.float32(1.0)),
        "s",
    ),
    "repeated indices": (
        with_backward(lambda t, i: t[i], lambda r, g: (jnp.zeros_like(r[0]).at[r[1]].set(g), None)),
        (planted.normal(2, 5, 2), jnp.array([0, 3, 1])),
        "repeated indices",
    ),
    "axis": (
        with_backward(
            lambda x: jax.nn.softmax(x, -1),
            lambda r, g: ((y := jax.nn.softmax(r[0], -1)) * (g - (g * y).sum(1, keepdims=True)),),
        ),
        (planted.normal(3, 3, 5),),
        "an axis is hard-coded",
    ),
    "size": (
        with_backward(lambda x: x.mean(), lambda r, g: (g * jnp.ones_like(r[0]) / 4,)),
        (planted.normal(4, 4),),
        "a size of the sample is hard-coded",
    ),
    "saturated": (
        with_backward(jax.nn.sigmoid, lambda r, g: (g * jnp.exp(-r[0]) / (1 + jnp.exp(-r[0])) ** 2,)),
        (planted.normal(5, 4),),
        "a region of the input",
    ),
    "half precision": (
        with_backward(jnp.sin, lambda r, g: ((g * jnp.cos(r[0])).astype(jnp.float32),)),
        (planted.normal(6, 4),),
        "bfloat16",
    ),
    "the incoming bar's own derivative": (
        with_backward(jnp.sin, lambda r, g: (jax.lax.stop_gradient(g) * jnp.cos(r[0]),)),
        (planted.normal(7, 4),),
        "stop_gradient",
    ),
    "a residual": (
        planted.custom(
            jnp.tanh, lambda x: (jnp.tanh(x), (x, jnp.tanh(x))), lambda r, g: (g * (1 - r[0] ** 2),)
        ),
        (planted.normal(8, 4),),
        "residual mixed up",
    ),
    "a term": (
        with_backward(lambda x: jax.nn.softmax(x, -1), lambda r, g: (g * jax.nn.softmax(r[0], -1),)),
        (planted.normal(9, 2, 5),),
        "a term is missing",
    ),
    "a transpose": (
        with_backward(jnp.linalg.solve, lambda r, g: (None, jnp.linalg.solve(r[0], g))),
        (planted.normal(10, 3, 3) + 3 * jnp.eye(3), planted.normal(11, 3)),
        "zero|transposed",
    ),
}


@pytest.mark.parametrize("name", list(HIDDEN))
def test_what_the_sample_hides_is_found(name):
    f, args, cause = HIDDEN[name]
    report = check(f, *args)
    assert report.verdict == "wrong", report
    assert re.search(cause, " ".join(f.cause or "" for f in report.findings)), report


def test_a_bisection_is_right_though_its_twin_is_not():
    def bisect(c):
        def body(_, ends):
            middle = (ends[0] + ends[1]) / 2
            below = middle**3 < c
            return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

        return jax.lax.fori_loop(0, 60, body, (jnp.zeros_like(c), c + 1))[0]

    f = planted.custom(bisect, lambda c: (bisect(c), bisect(c)), lambda y, g: (g / (3 * y**2),))
    assert check(f, jnp.array([2.0, 5.0])).verdict == "correct"


def test_a_key_drawn_anew_is_seen():
    rng = np.random.default_rng(0)
    f = with_backward(jnp.sin, lambda r, g: (g * jnp.cos(r[0]) * (rng.random(r[0].shape) > 0.5),))
    assert check(f, planted.normal(1, 8)).verdict == "wrong"


class TestVerdict:
    @pytest.mark.parametrize(
        ("f", "args", "reason"),
        [
            (jnp.sin, (jnp.ones(3),), "no custom_vjp rule"),
            (nn.sigmoid, (jnp.arange(3),), "no argument is a float array"),
            (lambda x: x.reshape(7), (jnp.ones(3),), "the function raises TypeError"),
            (lambda x: 1 / 0, (jnp.ones(3),), "the function raises ZeroDivisionError"),
            (lambda x: None, (jnp.ones(3),), "returns no float array"),
            (growing(), (jnp.ones(3),), "changes shape from call to call"),
            (lambda x: x if x.sum() > 0 else -x, (jnp.ones(3),), "cannot be traced"),
        ],
    )
    def test_inconclusive_says_why(self, f, args, reason):
        report = check(f, *args)
        assert report.verdict == "inconclusive"
        assert reason in report.reason
        assert report.exit_status == 2
        with pytest.raises(AssertionError, match="inconclusive"):
            report.raise_if_wrong()

    def test_assert_correct(self):
        assert_correct(nn.tanh, jnp.ones(3), effort="quick")
        with pytest.raises(AssertionError, match=r"wrong \[.*x\]: the sign"):
            assert_correct(planted.plant("sin", "sign").f, jnp.ones(3), effort="quick")

    def test_report_as_text_and_json(self):
        report = check(planted.plant("sin", "factor 2").f, jnp.array([0.1, 0.2, 0.4]))
        text = str(report)
        assert text.splitlines()[-1].startswith("wrong [sin ")
        assert text.endswith("x]: a constant factor of 2")
        assert "✗ bars" in text
        assert json.loads(report.to_json())["findings"][0]["input"] == "x"
        assert "<table>" in report._repr_html_()

    def test_an_infinite_number_is_valid_json(self):
        report = check(planted.plant("sin", "nan for a large bar").f, jnp.ones(2))
        json.loads(report.to_json(), parse_constant=pytest.fail)

    def test_residuals_kept_for_nothing_are_a_remark(self):
        f = planted.custom(jnp.sin, lambda x: (jnp.sin(x), (x, x + 1)), lambda r, g: (g * jnp.cos(r[0]),))
        report = check(f, jnp.ones(3))
        assert report.verdict == "correct"
        assert any("never used" in remark for remark in report.remarks)

    def test_a_call_that_takes_too_long(self):
        report = check(lambda x: time.sleep(30), jnp.ones(3), time_limit=0.2)
        assert "takes too long" in report.reason
        assert report.exit_status == 2

    def test_nothing_global_is_changed(self):
        before = dict(jax.config.values)
        check(nn.sigmoid, jnp.ones(3))
        assert dict(jax.config.values) == before

    def test_module_and_function_share_a_name(self):
        assert overbar.check is check


class TestTies:
    """Where entries are tied each may take any share of the bar, but all together have one slope."""

    def maximum(self, share):
        f = jax.custom_vjp(lambda x: jnp.max(x))

        def backward(x, y_bar):
            tied = (x == x.max()).astype(x.dtype)
            return (y_bar * share(tied),)

        f.defvjp(lambda x: (jnp.max(x), x), backward)
        return f

    x = jnp.array([1.0, 2.0, 2.0, 0.0])

    def test_in_full_to_each_is_wrong(self):
        assert check(self.maximum(lambda tied: tied), self.x).verdict == "wrong"

    @pytest.mark.parametrize("share", [lambda t: t / t.sum(), lambda t: t * (jnp.cumsum(t) == 1)])
    def test_shared_or_to_one_of_them_is_right(self, share):
        report = check(self.maximum(share), self.x)
        at_the_ties = [f for f in report.findings if "axis" not in f.what]  # with one more axis it is wrong
        assert not at_the_ties, report

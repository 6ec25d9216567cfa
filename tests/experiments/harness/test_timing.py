"""Turns are taken fairly; what they last is not looked at."""

from __future__ import annotations

import pytest

from harness import timing


def test_calls_take_turns_and_change_the_order():
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.interleaved(calls, 3)
    assert "".join(order) == "abbaab"
    assert all(len(s) == 3 and (s >= 0).all() for s in seconds.values())


def test_short_calls_are_repeated_within_a_turn():
    counts = {"a": 0}

    def call():
        counts["a"] += 1

    timing.interleaved({"a": call}, 2, at_least=1e-3)
    assert counts["a"] > 20


def test_quartiles():
    assert timing.quartiles(timing.np.array([4.0, 1.0, 3.0, 2.0, 5.0])) == pytest.approx((2, 3, 4))

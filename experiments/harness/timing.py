"""Times calls against each other: they take turns, so that a busy moment hits all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, *, at_least: float = 0.0
) -> dict[str, Seconds]:
    """Seconds of one call in each round, its results waited for.

    Every second round goes backwards, so that no call is always the one that finds the caches
    warm. Compile before: nothing is left out of the times.

    Args:
      calls: what to time, by name.
      rounds: how many times each has its turn.
      at_least: seconds a turn should last: a call that is shorter is made several times in it, so
        that the clock and a thread's waking up do not drown it.
    """
    repeats = dict.fromkeys(calls, 1)
    if at_least:
        shortest = interleaved(calls, 3)
        repeats = {name: max(1, math.ceil(at_least / shortest[name].min())) for name in calls}
    seconds = {name: np.empty(rounds) for name in calls}
    for number in range(rounds):
        for name in reversed(list(calls)) if number % 2 else calls:
            start = time.perf_counter()
            for _ in range(repeats[name]):
                jax.block_until_ready(calls[name]())
            seconds[name][number] = (time.perf_counter() - start) / repeats[name]
    return seconds


def quartiles(values: Seconds) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)

"""The same bars however the function is run: batched, in a loop, rematerialised, on several devices."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from overbar.check import bounds
from overbar.check.oracle import Side, bars_of, compiled, precision
from overbar.check.problem import Arrays
from overbar.check.report import Finding, Line
from overbar.check.setting import Setting
from overbar.check.units.signature import first_line

MOST_MIXES = 7
FEW = 3  # entries of a batch: more than two, so that a batch is not taken for another axis of size two


def batches(setting: Setting) -> Line:
    """vmap over every mix of batched and unbatched inputs is a loop over the batch."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    y_bars = next(setting.cotangents(inputs))
    factors = [1.0, 1.25, 0.75]
    mixes = _mixes(len(inputs))
    bars = bars_of(side.function)

    def stacked(arrays: Arrays, mix: tuple[bool, ...]) -> Arrays:
        return [
            np.stack([f * x for f in factors]).astype(x.dtype) if b else x
            for x, b in zip(arrays, mix, strict=True)
        ]

    def all_mixes(*batched: Arrays) -> list[Arrays]:
        return [
            jax.vmap(bars, in_axes=([0 if m else None for m in mix], None))(xs, bs)
            for mix, xs, bs in zip(mixes, batched[::2], batched[1::2], strict=True)
        ]

    lists = [part for mix in mixes for part in (stacked(inputs, mix), y_bars)]
    try:
        found = side.call(compiled(all_mixes), *lists)
    except Exception as error:  # also a primitive without a batched form: a callback, a kernel
        if not _works_alone(setting, mixes[0]):
            return Line("vmap", "left out", note="the twin cannot be batched either")
        what = f"differentiating fails under vmap, where the twin does not: {first_line(error)}"
        setting.findings.append(Finding("vmap", what, cause=what))
        return Line("vmap", "wrong", note=what)
    worst = 0.0
    for mix, got in zip(mixes, found, strict=True):
        label = (
            f"under vmap over {' and '.join(n for n, m in zip(setting.problem.names, mix, strict=True) if m)}"
        )
        for entry, factor in enumerate(factors):
            xs = [(factor * x).astype(x.dtype) if m else x for x, m in zip(inputs, mix, strict=True)]
            line, ratio = _same(setting, "vmap", label, [g[entry] for g in got], xs, y_bars)
            if line is not None:
                return line
            worst = max(worst, ratio)
    return Line("vmap", "ok", worst, f"{len(mixes)} mixes of batched and unbatched inputs")


def _works_alone(setting: Setting, mix: tuple[bool, ...]) -> bool:
    """Whether the function without its rules can be batched and differentiated."""
    truth, inputs = setting.oracle.truth, setting.problem.inputs
    y_bars = next(setting.cotangents(inputs))
    batched = [np.stack([x, x]) if m else x for x, m in zip(inputs, mix, strict=True)]
    try:
        with precision(truth.wide):
            jax.eval_shape(
                jax.vmap(bars_of(truth.function), in_axes=([0 if m else None for m in mix], None)),
                truth.cast(batched),
                truth.cast(y_bars),
            )
    except Exception:
        return False
    return True


def transforms(setting: Setting) -> Line:
    """In the body of a scan, rematerialised, under jit within jit, and eagerly, the bars are the same."""
    if setting.late:
        return Line("transforms", "left out", note="out of time")
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    y_bars = next(setting.cotangents(inputs))
    bars = bars_of(side.function)
    ways: dict[str, Callable[[Arrays, Arrays], Arrays]] = {
        "in the body of a scan": _in_a_scan(side.function),
        "under jax.checkpoint": bars_of(jax.checkpoint(lambda *xs: side.function(*xs))),
        "under jit within jit": bars_of(jax.jit(lambda *xs: side.function(*xs))),
    }
    worst, done = 0.0, 0
    for label, way in ways.items():
        line, ratio = _way(setting, label, lambda: side.call(compiled(way), inputs, y_bars), inputs, y_bars)  # noqa: B023
        if line is not None:
            return line
        worst, done = max(worst, ratio), done + 1
    line, ratio = _way(setting, "run eagerly", lambda: side.call(bars, inputs, y_bars), inputs, y_bars)
    if line is not None:
        return line
    return Line("transforms", "ok", max(worst, ratio), "scan, checkpoint, nested jit, eager")


def _in_a_scan(function: Callable[..., Arrays]) -> Callable[[Arrays, Arrays], Arrays]:
    """The bars where the function is the body of a scan of one step, whose loop is what is differentiated."""

    def run(inputs: Arrays, y_bars: Arrays) -> Arrays:
        def outputs(*xs: Any) -> Arrays:
            _, y = jax.lax.scan(lambda carry, _: (carry, function(*carry)), xs, None, 2)
            return [v[1] for v in y]

        return bars_of(outputs)(inputs, y_bars)

    return run


def _way(
    setting: Setting, label: str, bars: Callable[[], Arrays], inputs: Arrays, y_bars: Arrays
) -> tuple[Line | None, float]:
    try:
        got = bars()
    except Exception as error:
        what = f"differentiating fails {label}: {first_line(error)}"
        setting.findings.append(Finding("transforms", what, cause=f"works in one way only: {what}"))
        return Line("transforms", "wrong", note=label), 0.0
    return _same(setting, "transforms", label, got, inputs, y_bars)


def _same(
    setting: Setting, check: str, label: str, got: Arrays, inputs: Arrays, y_bars: Arrays
) -> tuple[Line | None, float]:
    """Whether bars are those that the compiled function gives; else the line that says it."""
    side = setting.oracle.candidate
    eps = max(bounds.EPS64 if side.wide else setting.oracle.eps, setting.loose)
    want = side.bars(inputs, y_bars)
    near = side.bars([bounds.wide(x) * (1 + bounds.NUDGE) for x in inputs], y_bars) if side.wide else want
    worst = 0.0
    for name, g, w, n in zip(setting.problem.names, got, want, near, strict=True):
        allowed = bounds.bound(bounds.wide(w), bounds.wide(n) - bounds.wide(w), 64 * eps)
        difference = bounds.compare(g, w, allowed)
        worst = max(worst, difference.ratio)
        if difference.ratio > 1 and not _undefined_by_rounding(setting, inputs, y_bars, g, name):
            what = f"the bar of {name} is another one {label}"
            setting.note(check, what, name, difference, what)
            return Line(check, "wrong", worst, label), worst
    return None, min(worst, 1.0)


def _undefined_by_rounding(setting: Setting, inputs: Arrays, y_bars: Arrays, got: Any, name: str) -> bool:
    """Whether the bars differ by what rounding may do where the function itself cancels.

    Each way of running may round otherwise; the rule in the working precision shows by how much.
    """
    side = setting.oracle.candidate
    if not side.wide:
        return False
    i = setting.problem.names.index(name)
    rough = Side(side.function, wide=False)
    try:
        y = rough.like_outputs(inputs)
        low = bounds.wide(rough.bars(inputs, [b.astype(v.dtype) for b, v in zip(y_bars, y, strict=True)])[i])
    except Exception:
        return False
    want = bounds.wide(side.bars(inputs, y_bars)[i])
    eps = max(float(jnp.finfo(x.dtype).eps) for x in setting.problem.inputs)
    noise = np.abs(low - want) * bounds.EPS64 / eps
    noise = noise + bounds.typical(np.where(np.isfinite(noise), noise, 0.0))
    return bool((np.abs(bounds.wide(got) - want) <= 64 * noise).all())


def _mixes(number: int) -> list[tuple[bool, ...]]:
    """Every mix of up to three inputs; of more, all of them batched, each alone, and all but each."""
    if number <= 3:
        mixes: Iterator[tuple[bool, ...]] = itertools.product([True, False], repeat=number)
        return [mix for mix in mixes if any(mix)]
    alone = [tuple(i == j for j in range(number)) for i in range(number)]
    return [*dict.fromkeys([(True,) * number, *alone])][:MOST_MIXES]


def purity(setting: Setting) -> Line:
    """The same bars for the same arguments, whatever was computed in between, traced anew or not."""
    if setting.late:
        return Line("purity", "left out", note="out of time")
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    y_bars = next(setting.cotangents(inputs))
    other = [(1.5 * x).astype(x.dtype) for x in inputs]
    fresh = compiled(lambda xs, bars: bars_of(setting.problem.function())(xs, bars))
    eager = bars_of(setting.problem.function())
    trials: dict[str, Callable[[], Arrays]] = {
        "when run again": lambda: side.bars(inputs, y_bars),
        "when traced again": lambda: side.call(fresh, inputs, y_bars),
        "when run eagerly at other values": lambda: side.call(eager, other, y_bars),
    }
    for label, run in trials.items():
        at = other if "other" in label else inputs
        try:
            got = run()
        except Exception as error:
            what = f"differentiating fails {label}: {first_line(error)}"
            cause = f"not a pure function: it keeps something from one call to the next ({first_line(error)})"
            setting.findings.append(Finding("purity", what, cause=cause))
            return Line("purity", "wrong", note=label)
        line, _ = _same(setting, "purity", label, got, at, y_bars)
        if line is not None:
            last = setting.findings.pop()
            what = f"{last.what}: it draws anew, or keeps a value from an earlier call"
            cause = (
                f"not a pure function: the bar of {last.input} changes {label}, as if drawn anew or frozen"
            )
            setting.findings.append(Finding(**{**vars(last), "what": what, "cause": cause}))
            return Line("purity", "wrong", line.worst, label)
    return Line("purity", "ok", note="run again, traced again, eagerly at other values")


def sharded(setting: Setting) -> Line:
    """Spread over several devices, the bars are those of one."""
    devices = jax.devices()
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    parts = [x.ndim > 0 and x.shape[0] > 0 and x.shape[0] % len(devices) == 0 for x in inputs]
    if len(devices) < 2 or not any(parts) or setting.late:
        return Line("sharding", "left out", note="one device" if len(devices) < 2 else "no axis to spread")
    y_bars = next(setting.cotangents(inputs))
    mesh = Mesh(np.array(devices), ("d",))

    def placed(x: Any, spread: bool) -> Any:
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec("d") if spread else PartitionSpec()))

    with precision(side.wide):
        xs = [placed(x, spread) for x, spread in zip(side.cast(inputs), parts, strict=True)]
        bars = [placed(b, False) for b in side.cast(y_bars)]
        try:
            got = [np.asarray(b) for b in jax.jit(bars_of(side.function))(xs, bars)]
        except Exception as error:
            return Line("sharding", "left out", note=first_line(error))
    line, ratio = _same(setting, "sharding", f"over {len(devices)} devices", got, inputs, y_bars)
    return line or Line("sharding", "ok", ratio, f"{len(devices)} devices")

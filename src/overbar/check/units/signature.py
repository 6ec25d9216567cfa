"""What differentiation delivers at all: shapes, dtypes, and the function's own value on the way."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from overbar.check import bounds
from overbar.check.oracle import Side
from overbar.check.problem import Problem, is_complex, random_like
from overbar.check.report import Finding, Line
from overbar.check.setting import Setting

HALVES = (jnp.bfloat16, jnp.float16)


def structure(setting: Setting) -> Line:
    """Shape and dtype of every bar, as differentiation itself delivers them, also in half precision."""
    problem = setting.problem
    own = [x.dtype for x in problem.inputs]
    halves = () if any(map(is_complex, problem.inputs)) else HALVES
    for dtypes in (own, *([d] * len(own) for d in halves)):
        inputs = [np.asarray(x).astype(d) for x, d in zip(problem.inputs, dtypes, strict=True)]
        if dtypes is not own and not follows_dtype(setting, inputs):
            continue
        side = Side(problem.function(), wide=False)
        try:
            y_bars = random_like(side.like_outputs(inputs), setting.rng())
            found = jax.eval_shape(
                lambda xs, bars, side=side: jax.vjp(side.function, *xs)[1](bars),
                side.cast(inputs),
                side.cast(y_bars),
            )
        except Exception as error:
            if dtypes is own:
                raise
            setting.remark(f"in {jnp.dtype(dtypes[0])} differentiation raises: {first_line(error)}")
            continue
        for name, x, bar in zip(problem.names, inputs, found, strict=True):
            if bar.shape != x.shape or bar.dtype != x.dtype:
                came = f"{bar.dtype}{list(bar.shape)}"
                what = f"the bar of {name} is {came}, but the input is {x.dtype}{list(x.shape)}"
                setting.findings.append(Finding("structure", what, input=name, cause=what))
                return Line("structure", "wrong", note=what)
    return Line("structure", "ok", note=f"{len(own)} bars")


def follows_dtype(setting: Setting, inputs: list[np.ndarray]) -> bool:
    """Whether the function takes inputs of another dtype, and gives outputs of that dtype."""
    before = setting.problem.inputs
    floats = {x.dtype for x in before}
    if len(floats) != 1 or jnp.finfo(before[0].dtype).bits < 32:
        return False
    side = Side(setting.problem.function(), wide=False)
    try:
        old, new = side.like_outputs(before), side.like_outputs(inputs)
    except Exception:
        return False
    return all(
        b.dtype == inputs[0].dtype for a, b in zip(old, new, strict=True) if a.dtype == before[0].dtype
    )


def forward(setting: Setting) -> Line:
    """The value that differentiation computes on the way is the function's own."""
    side, inputs = setting.oracle.candidate, setting.problem.inputs
    zeros = [np.zeros(y.shape, y.dtype) for y in side.like_outputs(inputs)]
    own, on_the_way, _ = side.run(inputs, zeros)
    nudged, _, _ = side.run([bounds.wide(x) * (1 + bounds.NUDGE) for x in inputs], zeros)
    worst = 0.0
    for number, (got, value, near) in enumerate(zip(on_the_way, own, nudged, strict=True)):
        if got.dtype != value.dtype or got.shape != value.shape:
            came, own_type = (f"{x.dtype}{list(x.shape)}" for x in (got, value))
            what = f"forward gives {came} for output {number}, the function {own_type}"
            setting.findings.append(Finding("forward", what, input=f"output {number}", cause=what))
            return Line("forward", "wrong", note=what)
        eps = max(setting.oracle.eps if not side.wide else bounds.EPS64, float(jnp.finfo(value.dtype).eps))
        spread = bounds.wide(near) - bounds.wide(value) if side.wide else np.zeros(value.shape)
        allowed = bounds.bound(bounds.wide(value), spread, eps)
        difference = bounds.compare(got, value, allowed)
        worst = max(worst, difference.ratio)
        if difference.ratio > 1 and not _only_rounding(setting, number, got, value):
            what = f"forward computes another output {number} than the function itself"
            setting.note("forward", what, f"output {number}", difference, what)
            return Line("forward", "wrong", worst, what)
    return Line("forward", "ok", min(worst, 1.0))


def _only_rounding(setting: Setting, number: int, got: np.ndarray, value: np.ndarray) -> bool:
    """Whether the two ways to compute the output differ by no more than the function's own error.

    That is seen from the function in the working precision beside itself in float64.
    """
    if not setting.oracle.candidate.wide:
        return False
    inputs = setting.problem.inputs
    low = bounds.wide(Side(setting.problem.function(), wide=False).outputs(inputs)[number])
    eps = max(float(jnp.finfo(x.dtype).eps) for x in inputs)
    noise = np.abs(low - bounds.wide(value)) * bounds.EPS64 / eps
    return bool(
        (np.abs(bounds.wide(got) - bounds.wide(value)) <= 64 * (noise + np.max(noise, initial=0.0))).all()
    )


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def cause_of_types(problem: Problem, message: str) -> tuple[str | None, str | None]:
    """(the input, the cause) that JAX's sentence on a bar of another shape tells."""
    at = re.search(r"at output\s*\[(\d+)\]", message)
    shapes = [tuple(int(n) for n in t.split(",") if n) for t in re.findall(r"\w+\d+\[([\d,]*)\]", message)]
    if at is None or len(shapes) < 2:
        return None, None
    place = int(at[1])
    name = problem.names[place] if place < len(problem.names) else "an input"
    came, wanted = shapes[:2]
    told = f"the bar of {name} has shape {list(came)}, the input {list(wanted)}"
    if len(came) > 1 and came == wanted[::-1]:
        return name, f"transposed: {told}"
    if len(came) > len(wanted) or np.prod(came) > np.prod(wanted):
        return name, f"a reduction over the broadcast axes is missing: {told}"
    return name, f"the shape: {told}"

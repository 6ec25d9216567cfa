"""What forward keeps for backward: bytes beside the twin's, and what is kept for nothing."""

from __future__ import annotations

from typing import Any

import jax

from overbar._adapter import opened, used_inputs
from overbar.check.oracle import Side
from overbar.check.problem import Arrays
from overbar.check.report import Line
from overbar.check.setting import Setting


def residuals(setting: Setting) -> Line:
    """The bytes of the residuals, those never used, those kept twice. Never a fault, but worth knowing."""
    problem = setting.problem
    try:
        kept = kept_by(Side(problem.function(), False), problem.inputs)
        twins = kept_by(Side(setting.oracle.truth.function, False), problem.inputs)
    except Exception:
        return Line("residuals", "left out", note="what is kept cannot be seen here")
    bytes_, unused, twice = kept
    note = f"{bytes_:,} bytes kept (twin {twins[0]:,})"
    if unused:
        note += f", {unused:,} of them never used"
        setting.remark(f"residuals of {unused:,} bytes are kept and never used")
    if twice:
        note += f", {twice:,} kept twice"
        setting.remark(f"residuals of {twice:,} bytes are kept twice")
    return Line("residuals", "ok", note=note)


def kept_by(side: Side, inputs: Arrays) -> tuple[int, int, int]:
    """Bytes that a function's pullback holds: in all, without use, and more than once."""
    held: list[Any] = []

    def forward(xs: Arrays) -> Arrays:
        y, pullback = jax.vjp(side.function, *xs)
        leaves, tree = jax.tree.flatten(pullback)
        held[:] = [y, tree]
        return leaves

    jaxpr = jax.make_jaxpr(forward)(side.cast(inputs))
    inner, _ = opened(jaxpr)
    y, tree = held
    shapes = jax.eval_shape(forward, side.cast(inputs))
    distinct = {id(v): s for v, s in zip(inner.outvars, shapes, strict=True)}
    backward = jax.make_jaxpr(lambda leaves, bars: jax.tree.unflatten(tree, leaves)(bars))(
        shapes, [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in y]
    )
    used = used_inputs(backward, [True] * len(inputs))
    unused = {id(v): s for v, s, u in zip(inner.outvars, shapes, used, strict=False) if not u}
    total = sum(map(_bytes, distinct.values()))
    return total, sum(map(_bytes, unused.values())), sum(map(_bytes, shapes)) - total


def _bytes(shape: Any) -> int:
    size = 1
    for n in shape.shape:
        size *= n
    return size * getattr(shape.dtype, "itemsize", 4)

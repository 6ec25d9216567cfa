"""The checks, each a small function of a `Setting`; it returns a line for the report, with its findings.

A check compares by a bound, never by a fixed tolerance, and says "wrong" only for what lies outside
it. What could not be compared is said so.
"""

from __future__ import annotations

from collections.abc import Callable

from overbar.check.report import Line
from overbar.check.setting import Setting
from overbar.check.units.bars import agreement, linear
from overbar.check.units.digits import digits
from overbar.check.units.elsewhere import arguments, shapes, values
from overbar.check.units.memory import residuals
from overbar.check.units.second import second_order
from overbar.check.units.signature import forward, structure
from overbar.check.units.transforms import batches, purity, sharded, transforms

Check = Callable[[Setting], Line]

QUICK: tuple[Check, ...] = (structure, forward, linear, agreement, batches)
ALL: tuple[Check, ...] = (
    structure,
    forward,
    linear,
    agreement,
    batches,
    values,
    arguments,
    shapes,
    transforms,
    purity,
    second_order,
    digits,
    sharded,
    residuals,
)
# What a rule of a model is checked for by itself: the rest is seen in the model.
IN_PLACE: tuple[Check, ...] = (structure, forward, linear, agreement, values)

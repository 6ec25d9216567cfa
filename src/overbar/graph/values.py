"""How the values inside a node are written that are no variables of the graph: sqrt(var + 10⁻⁵)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.extend.core import Literal

from overbar.graph import terms
from overbar.graph.terms import Text, Unknown

if TYPE_CHECKING:
    from overbar.graph.derivatives import Backward

Form = Callable[["Backward", Any], Text]


def _binary(sign: str, tight: int) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        a, b = (way.value(v) for v in eqn.invars)
        shape = terms.broadcast(a.shape, b.shape)
        right = tight + 1 if sign in (" − ", " / ") else tight
        shown = " ⊙ " if sign == " " and a.shape and b.shape else sign
        return Text(f"{a.at(tight)}{shown}{b.at(right)}", shape, tight)

    return go


def _call(name: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        given = [way.value(v) for v in eqn.invars]
        return Text(f"{name}({', '.join(v.text for v in given)})", terms.broadcast(*(v.shape for v in given)))

    return go


def _largest(way: Backward, eqn: Any) -> Text:
    """max, without the −inf that JAX starts it from."""
    a, b = eqn.invars
    for one, other in ((a, b), (b, a)):
        if (number := way.number(one)) is not None and np.isneginf(number):
            return way.value(other)
    return _call("max")(way, eqn)


def _same(way: Backward, eqn: Any) -> Text:
    return way.value(eqn.invars[0])


def _truth(way: Backward, eqn: Any) -> Text:
    value = way.value(eqn.invars[0])
    return Text(f"[{value.text}]", value.shape) if eqn.invars[0].aval.dtype == bool else value


def _raised(way: Backward, eqn: Any) -> Text:
    return way.value(eqn.invars[0]).powered(eqn.params["y"])


def _pow(way: Backward, eqn: Any) -> Text:
    if (n := way.number(eqn.invars[1])) is not None:
        return way.value(eqn.invars[0]).powered(n)
    base, exponent = (way.value(v) for v in eqn.invars)
    return Text(f"{base.at(3)}^{exponent.at(3)}", terms.broadcast(base.shape, exponent.shape))


def _spread(way: Backward, eqn: Any) -> Text:
    text, kept = way.value(eqn.invars[0]), eqn.params["broadcast_dimensions"]
    out = eqn.outvars[0].aval.shape
    if not terms.solid(text.shape):
        return text
    at = tuple(eqn.invars[0].aval.shape[kept.index(a)] if a in kept else 1 for a in range(len(out)))
    wide = (1,) * (len(at) - len(text.shape)) + text.shape
    if wide == at:
        return text
    return Text(f"{text.at(3)}{terms.inserted(text.shape, at)}", at)


def _viewed(way: Backward, eqn: Any) -> Text:
    """Another shape that differs in axes of size 1 only."""
    text, out = way.value(eqn.invars[0]), tuple(eqn.outvars[0].aval.shape)
    if terms.fits(text.shape, out) or not terms.solid(text.shape):
        return text
    if terms.solid(text.shape) != terms.solid(out) or len(text.shape) > len(out):
        raise Unknown
    return Text(f"{text.at(3)}{terms.inserted(text.shape, out)}", out)


def _reduced(sign: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        text, axes, out = way.value(eqn.invars[0]), eqn.params["axes"], eqn.outvars[0].aval.shape
        if text.shape != eqn.invars[0].aval.shape:
            raise Unknown
        below = "" if not out else terms.subscript(axes)
        if sign == "Σ":
            return Text(f"Σ{below} {text.at(3)}", tuple(out), 2)
        return Text(f"{sign}{below}({text.text})", tuple(out))

    return go


def _transposed(way: Backward, eqn: Any) -> Text:
    text, order = way.value(eqn.invars[0]), tuple(eqn.params["permutation"])
    rank = len(order)
    if text.shape != eqn.invars[0].aval.shape or order != (*range(rank - 2), rank - 1, rank - 2):
        raise Unknown
    return text.transposed


def _product(way: Backward, eqn: Any) -> Text:
    (left, right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    a, b = (way.value(v) for v in eqn.invars)
    shapes = [tuple(v.aval.shape) for v in eqn.invars]
    if [a.shape, b.shape] != shapes or len(left) != 1 or min(map(len, shapes)) < 2:
        raise Unknown
    batch = tuple(range(len(batch_left)))
    flat = not batch and len(b.shape) == 2
    same = tuple(batch_left) == tuple(batch_right) == batch and len(a.shape) == len(b.shape) == len(batch) + 2
    if not (flat or same) or left[0] != len(a.shape) - 1 or right[0] != len(b.shape) - 2:
        raise Unknown
    made = terms.multiplied(a, b)
    return Text(made.text, tuple(eqn.outvars[0].aval.shape), 2, made.product)


def _selected(way: Backward, eqn: Any) -> Text:
    """An index that counts from the end if it is negative is written as the user did: i."""
    if len(eqn.invars) != 3:
        raise Unknown
    if (known := way.number(eqn.invars[0])) is not None:
        return way.value(eqn.invars[1 + bool(known)])
    test, kept = way._made(eqn.invars[0]), way.now(eqn.invars[1])
    if test is None:
        raise Unknown
    if test.primitive.name == "is_finite" and way.now(test.invars[0]) is way.now(eqn.invars[2]):
        return way.value(eqn.invars[2])
    if isinstance(kept, Literal):
        raise Unknown
    wraps = test.primitive.name == "lt" and way.now(test.invars[0]) is kept
    if wraps and np.issubdtype(kept.aval.dtype, np.integer) and way.number(test.invars[1]) == 0:
        return way.value(kept)
    raise Unknown


def _comparison(sign: str) -> Form:
    return _binary(f" {sign} ", 1)


FORWARD: dict[str, Form] = {
    "add": _binary(" + ", 1),
    "add_any": _binary(" + ", 1),
    "sub": _binary(" − ", 1),
    "mul": _binary(" ", 2),
    "div": _binary(" / ", 2),
    "neg": lambda way, eqn: Text(
        f"−{way.value(eqn.invars[0]).at(2)}", way.value(eqn.invars[0]).shape, 1
    ),
    "integer_pow": _raised,
    "pow": _pow,
    "square": lambda way, eqn: way.value(eqn.invars[0]).powered(2),
    "broadcast_in_dim": _spread,
    "reshape": _viewed,
    "squeeze": _viewed,
    "convert_element_type": _truth,
    "copy": _same,
    "stop_gradient": _same,
    "reduce_sum": _reduced("Σ"),
    "reduce_max": _reduced("max"),
    "reduce_min": _reduced("min"),
    "transpose": _transposed,
    "dot_general": _product,
    "select_n": _selected,
    "max": _largest,
    "logistic": _call("σ"),
    "gt": _comparison(">"),
    "lt": _comparison("<"),
    "ge": _comparison("≥"),
    "le": _comparison("≤"),
    "eq": _comparison("="),
    "ne": _comparison("≠"),
    "and": _comparison("∧"),
    "or": _comparison("∨"),
} | {
    name: _call(name)
    for name in (
        "exp", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh", "sqrt", "abs", "sign",
        "min", "erf", "relu", "rsqrt",
    )
}  # fmt: skip

"""How the values inside a node are written that are no variables of the graph: sqrt(var + 10⁻⁵)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.extend.core import Literal

from overbar.graph.derivatives import named, terms
from overbar.graph.derivatives.index import index_of, slice_index
from overbar.graph.derivatives.terms import Text, Unknown

if TYPE_CHECKING:
    from overbar.graph.derivatives.backward import Backward

Form = Callable[["Backward", Any], Text]


def _binary(sign: str, tight: float) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        a, b = (way.value(v) for v in eqn.invars)
        if sign == " " and way.number(eqn.invars[1]) is not None:
            a, b = b, a  # the number first
        a, b = terms.settled([a, b])
        shape = terms.broadcast(a.shape, b.shape)
        right = terms.QUOTIENT if sign == " − " or b.text.startswith("−") else 3 if sign == " / " else tight
        shown = " ⊙ " if sign == " " and a.shape and b.shape else sign
        kept = a.kept if not b.shape else b.kept if not a.shape else None
        left = 2 if sign == " / " else tight
        return Text(f"{a.at(left)}{shown}{b.at(right)}", shape, tight, kept=kept)

    return go


def _call(name: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        given = terms.settled([way.value(v) for v in eqn.invars])
        shape = terms.broadcast(*(v.shape for v in given))
        kept = given[0].kept if len(given) == 1 else None
        return Text(f"{name}({', '.join(v.text for v in given)})", shape, kept=kept)

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
    return Text(f"{base.base}^{exponent.at(3)}", terms.broadcast(base.shape, exponent.shape))


def _spread(way: Backward, eqn: Any) -> Text:
    text, kept = way.value(eqn.invars[0]), eqn.params["broadcast_dimensions"]
    out = eqn.outvars[0].aval.shape
    if not terms.solid(text.shape):
        return text
    at = tuple(eqn.invars[0].aval.shape[kept.index(a)] if a in kept else 1 for a in range(len(out)))
    wide = (1,) * (len(at) - len(text.shape)) + text.shape
    if wide == at:
        return text
    return text.expanded(at)


def _viewed(way: Backward, eqn: Any) -> Text:
    """Another shape that differs in axes of size 1 only."""
    text, out = way.value(eqn.invars[0]), tuple(eqn.outvars[0].aval.shape)
    made = way.made_by(eqn.invars[0])
    if made is not None and made.primitive.name == "slice" and (part := _part(way, made, out)) is not None:
        return part
    if terms.fits(text.shape, out) or not terms.solid(text.shape):
        return text
    if terms.solid(text.shape) != terms.solid(out):
        if text.shape != tuple(eqn.invars[0].aval.shape):
            raise Unknown
        return Text(f"reshape({text.text}, {terms.shape_text(out)})", out)
    if len(text.shape) > len(out):
        return (
            Text(f"squeeze({text.text})", out)
            if text.shape == text.kept
            else Text(f"reshape({text.text}, {terms.shape_text(out)})", out)
        )
    return text.expanded(out)


def _part(way: Backward, made: Any, out: tuple[int, ...]) -> Text | None:
    """x[1] or x[:, 0], which slices and then drops the axis of size 1."""
    whole = way.value(made.invars[0])
    before, sliced = tuple(made.invars[0].aval.shape), tuple(made.outvars[0].aval.shape)
    left = tuple(n for n, m in zip(sliced, before, strict=True) if n != 1 or m == 1)
    if left != out or whole.shape != before:
        return None
    return Text(f"{whole.at(3)}{slice_index(made, single=True)}", out)


def _reduced(sign: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        text, axes, out = way.value(eqn.invars[0]), eqn.params["axes"], eqn.outvars[0].aval.shape
        shape = eqn.invars[0].aval.shape
        if text.shape != shape:
            raise Unknown
        below = "" if not out else terms.subscript(axes)
        kept = tuple(1 if a in axes else n for a, n in enumerate(shape)) if out else None
        if sign in "Σ∏":
            return Text(f"{sign}{below} {text.at(3)}", tuple(out), 2, kept=kept)
        return Text(f"{sign}{below}({text.text})", tuple(out), kept=kept)

    return go


def _transposed(way: Backward, eqn: Any) -> Text:
    text, order = way.value(eqn.invars[0]), tuple(eqn.params["permutation"])
    rank = len(order)
    if text.shape != eqn.invars[0].aval.shape:
        raise Unknown
    if order == (*range(rank - 2), rank - 1, rank - 2):
        return text.transposed
    return Text(f"transpose({text.text}, {order})", tuple(eqn.outvars[0].aval.shape))


def _product(way: Backward, eqn: Any) -> Text:
    (left, right), (batch_left, batch_right) = eqn.params["dimension_numbers"]
    a, b = (way.value(v) for v in eqn.invars)
    shapes = [tuple(v.aval.shape) for v in eqn.invars]
    if [a.shape, b.shape] != shapes or len(left) != 1:
        raise Unknown
    out = tuple(eqn.outvars[0].aval.shape)
    batch = tuple(range(len(batch_left)))
    if tuple(batch_left) != batch or tuple(batch_right) != batch:
        raise Unknown
    rank = len(batch)
    if len(a.shape) == len(b.shape) == rank + 1 and not rank:
        return Text(f"⟨{a.text}, {b.text}⟩", out)
    if len(a.shape) == len(b.shape) == rank + 2:
        a = a if left[0] == rank + 1 else a.transposed
        b = b if right[0] == rank else b.transposed
    elif rank or left[0] != len(a.shape) - 1 or right[0] or len(b.shape) > 2:
        raise Unknown
    made = terms.multiplied(a, b)
    return Text(made.text, out, 2, made.product)


def _sliced(way: Backward, eqn: Any) -> Text:
    text, out = way.value(eqn.invars[0]), tuple(eqn.outvars[0].aval.shape)
    if text.shape != tuple(eqn.invars[0].aval.shape):
        raise Unknown
    return Text(f"{text.at(3)}{slice_index(eqn, single=False)}", out)


def _taken(way: Backward, eqn: Any) -> Text:
    text = way.value(eqn.invars[0])
    if text.shape != tuple(eqn.invars[0].aval.shape):
        raise Unknown
    return Text(f"{text.at(3)}[{index_of(way, eqn)[0]}]", tuple(eqn.outvars[0].aval.shape))


def part_of_split(way: Backward, eqn: Any, part: int) -> Text:
    text, axis, sizes = way.value(eqn.invars[0]), eqn.params["axis"], eqn.params["sizes"]
    start = int(sum(sizes[:part]))
    index = terms.index([":"] * axis + [f"{start}:{start + int(sizes[part])}"])
    if text.shape != tuple(eqn.invars[0].aval.shape):
        raise Unknown
    return Text(f"{text.at(3)}{index}", tuple(eqn.outvars[part].aval.shape))


def _counted(way: Backward, eqn: Any) -> Text:
    """arange(3), along one axis."""
    axis, shape = eqn.params["dimension"], eqn.params["shape"]
    flat = Text(f"arange({shape[axis]})", (shape[axis],))
    return flat.expanded((shape[axis],) + (1,) * (len(shape) - 1 - axis))


def _joined(way: Backward, eqn: Any) -> Text:
    parts = [way.value(v) for v in eqn.invars]
    if any(p.shape != tuple(v.aval.shape) for p, v in zip(parts, eqn.invars, strict=True)):
        raise Unknown
    name, axis = ("stack", "axis") if eqn.primitive.name == "stack" else ("concatenate", "dimension")
    at = f", {eqn.params[axis]}" if eqn.params[axis] else ""
    return Text(f"{name}([{', '.join(p.text for p in parts)}]{at})", tuple(eqn.outvars[0].aval.shape))


def _place_of_largest(way: Backward, eqn: Any) -> Text:
    text, (axis,) = way.value(eqn.invars[0]), eqn.params["axes"]
    at = f", {axis}" if len(eqn.invars[0].aval.shape) > 1 else ""
    return Text(f"{eqn.primitive.name}({text.text}{at})", tuple(eqn.outvars[0].aval.shape))


def _selected(way: Backward, eqn: Any) -> Text:
    """An index that counts from the end if it is negative is written as the user did: i."""
    if len(eqn.invars) != 3:
        raise Unknown
    if (known := way.number(eqn.invars[0])) is not None:
        return way.value(eqn.invars[1 + bool(known)])
    test, kept = way.made_by(eqn.invars[0]), way.now(eqn.invars[1])
    if (
        test is not None
        and test.primitive.name == "is_finite"
        and way.now(test.invars[0]) is way.now(eqn.invars[2])
    ):
        return way.value(eqn.invars[2])
    integers = np.issubdtype(kept.aval.dtype, np.integer)
    if test is not None and test.primitive.name == "lt" and integers and way.number(test.invars[1]) == 0:
        same = test.invars[0] is kept if isinstance(kept, Literal) else way.now(test.invars[0]) is kept
        if same:
            return way.value(kept)
    choice, no, yes = terms.settled([way.value(v) for v in eqn.invars])
    shape = terms.broadcast(choice.shape, yes.shape, no.shape)
    return Text(f"where({choice.text}, {yes.text}, {no.text})", shape)


def _comparison(sign: str) -> Form:
    return _binary(f" {sign} ", 1)


FORWARD: dict[str, Form] = {
    "add": _binary(" + ", 1),
    "add_any": _binary(" + ", 1),
    "sub": _binary(" − ", 1),
    "mul": _binary(" ", 2),
    "div": _binary(" / ", terms.QUOTIENT),
    "neg": lambda way, eqn: Text(
        f"−{way.value(eqn.invars[0]).at(terms.QUOTIENT)}", way.value(eqn.invars[0]).shape, 1
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
    "reduce_prod": _reduced("∏"),
    "slice": _sliced,
    "gather": _taken,
    "iota": _counted,
    "concatenate": _joined,
    "stack": _joined,
    "argmax": _place_of_largest,
    "argmin": _place_of_largest,
    "reduce_precision": _same,
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
        "min", "erf", "rsqrt", "floor", "ceil", "round", "sinh", "cosh", "exp2", "cbrt", "erfc", "erf_inv",
        "lgamma", "digamma", "conj", "real",
    )
}  # fmt: skip


# ---------------------------------------------------------------------- JAX's own functions


def _of_one(name: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        text = way.value(eqn.invars[0])
        if text.shape != tuple(eqn.invars[0].aval.shape) or len(eqn.outvars) != 1:
            raise Unknown
        return Text(f"{name}({text.text})", tuple(eqn.outvars[0].aval.shape))

    return go


def _of_all(name: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        given = ", ".join(way.value(v).text for v in eqn.invars)
        return Text(f"{name}({given})", tuple(eqn.outvars[0].aval.shape))

    return go


def _one_hot(way: Backward, eqn: Any) -> Text:
    out = tuple(eqn.outvars[0].aval.shape)
    if eqn.invars[0].aval.shape != out[:-1]:
        raise Unknown
    return Text(f"one_hot({way.value(eqn.invars[0]).text}, {out[-1]})", out)


def _ranks(way: Backward, eqn: Any) -> Text:
    body = named.held(eqn)
    axis = next((e.params["dimension"] for e in body if e.primitive.name == "sort"), None)
    text, shape = way.value(eqn.invars[0]), tuple(eqn.invars[0].aval.shape)
    if axis is None or text.shape != shape:
        raise Unknown
    return Text(f"argsort({text.text}{f', {axis}' if len(shape) > 1 else ''})", shape)


def _triangle(way: Backward, eqn: Any) -> Text:
    k, text = named.first_diagonal(eqn), way.value(eqn.invars[0])
    if text.shape != tuple(eqn.invars[0].aval.shape):
        raise Unknown
    given = f", {terms.written(k)}" if k else ""
    return Text(f"{named.name_of(eqn)}({text.text}{given})", text.shape)


def _statistic(name: str) -> Form:
    def go(way: Backward, eqn: Any) -> Text:
        text, shape = way.value(eqn.invars[0]), tuple(eqn.invars[0].aval.shape)
        if text.shape != shape or way.number(eqn.invars[1]):
            raise Unknown
        found = named.averaged(name, text, named.averaged_axes(eqn), shape)
        return replace(found, shape=tuple(eqn.outvars[0].aval.shape))

    return go


def _rolled(way: Backward, eqn: Any) -> Text:
    text, shape = way.value(eqn.invars[0]), tuple(eqn.invars[0].aval.shape)
    if text.shape != shape:
        raise Unknown
    return Text(f"roll({text.text}, {named.rolled_by(eqn, -1)})", shape)


CALLS: dict[str, Form] = {
    "_roll_static": _rolled,
    "relu": _of_one("relu"),
    "_var": _statistic("var"),
    "_std": _statistic("std"),
    "inv": _of_one("inv"),
    "det": _of_one("det"),
    "_diag": _of_one("diag"),
    "diagonal": _of_one("diag"),
    "tril": _triangle,
    "triu": _triangle,
    "argsort": _ranks,
    "_one_hot": _one_hot,
    "hypot": _of_all("hypot"),
    "logaddexp": _of_all("logaddexp"),
    "solve": _of_all("solve"),
    "remainder": _of_all("remainder"),
    "clip": _of_all("clip"),
}

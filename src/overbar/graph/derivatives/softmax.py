"""exp(x − m) / Σ exp(x − m) and log Σ exp(x − m), known by their shape and written as a person has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jax.extend.core import Literal

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.step import full
from overbar.graph.derivatives.terms import Shape, Term, Text, Unknown

if TYPE_CHECKING:
    from overbar.graph.derivatives.backward import Backward

_COPYING = ("broadcast_in_dim", "reshape")
_SPREADING = ("broadcast_in_dim", "reshape", "abs")
_KEEPING = ("broadcast_in_dim", "reshape", "stop_gradient", "max", "convert_element_type", "copy")


@dataclass(frozen=True)
class Sum:
    """Σ exp(x − m) over axes, where m is the same along them.

    Attributes:
      x: the variable.
      axes: summed over.
      powers: exp(x − m).
      shifted: x − m.
      shift: m.
      fixed: whether nothing flows back along m.
    """

    x: Any
    axes: tuple[int, ...]
    powers: Any
    shifted: Any
    shift: Any
    fixed: bool

    @property
    def shape(self) -> Shape:
        return tuple(self.x.aval.shape)

    def share(self, way: Backward, name: str = "softmax") -> Text:
        """softmax(x), log_softmax(x)."""
        last, whole = (len(self.shape) - 1,), tuple(range(len(self.shape)))
        if len(self.axes) != 1 and self.axes != whole:
            raise Unknown
        axis = "" if self.axes == last else f", {self.axes[0] if len(self.axes) == 1 else self.axes}"
        return Text(f"{name}({way.value(self.x).text}{axis})", self.shape)

    def logarithm(self, way: Backward) -> Text:
        """logsumexp₁(x), whose axes stay or go."""
        kept = tuple(1 if a in self.axes else n for a, n in enumerate(self.shape))
        left = tuple(n for a, n in enumerate(self.shape) if a not in self.axes)
        below = terms.subscript(self.axes) if left else ""
        return Text(f"logsumexp{below}({way.value(self.x).text})", left, kept=kept if left else None)


def written(way: Backward, eqn: Any) -> Text | None:
    """softmax(x), log_softmax(x) or logsumexp(x), where an equation is the last one of it."""
    if (found := _softmax(way, eqn)) is not None:
        return found.share(way)
    name = eqn.primitive.name
    if name not in ("add", "sub") or any(isinstance(v, Literal) for v in eqn.invars):
        return None
    for one, other in (eqn.invars, eqn.invars[::-1])[name == "sub" :]:
        log = way.made_by(way.source(one, _COPYING))
        total = _sum(way, log.invars[0]) if log is not None and log.primitive.name == "log" else None
        if total is None:
            continue
        if name == "sub" and way.now(other) is total.shifted:
            return total.share(way, "log_softmax")
        if name == "add" and way.source(other, _COPYING) is way.source(total.shift, _COPYING):
            made, out = total.logarithm(way), tuple(eqn.outvars[0].aval.shape)
            return made if made.shape == out else made.expanded(out)
    return None


def back(way: Backward, eqn: Any, terms_: Sequence[Term]) -> tuple[Any, list[Term]] | None:
    """(x, the terms of its bar), where an equation is the last one of a softmax or a logsumexp of x."""
    if (found := _softmax(way, eqn)) is not None:
        y = way.value(eqn.outvars[0])
        return found.x, [_through_softmax(term, found, y) for term in terms_]
    if eqn.primitive.name != "log":
        return None
    total = _sum(way, eqn.invars[0])
    if total is None or not total.fixed:
        return None
    kept = tuple(1 if a in total.axes else n for a, n in enumerate(total.shape))
    out = tuple(eqn.outvars[0].aval.shape)
    share = total.share(way)
    return total.x, [terms.aligned(terms.aligned(term, out), kept).times(share) for term in terms_]


def _through_softmax(term: Term, found: Sum, y: Text) -> Term:
    """x̄ = y ⊙ (ȳ − ⟨ȳ, y⟩)."""
    (axis,), shape = found.axes, found.shape

    def difference(bar: Text) -> Text:
        over = f"Σ{terms.subscript((axis,))} ({bar.at(2)} ⊙ {y.text})"
        total = f"⟨{bar.text}, {y.text}⟩" if axis == len(shape) - 1 else over
        return Text(f"({bar.at(2)} − {total})", shape)

    spread = full(term, shape).mapped(difference)
    *outside, inner = spread.factors
    return replace(spread, factors=(*outside, y, inner))


def _softmax(way: Backward, eqn: Any) -> Sum | None:
    if eqn.primitive.name != "div" or isinstance(eqn.invars[1], Literal):
        return None
    above, below = (way.source(v, ()) for v in eqn.invars)
    found = _sum(way, below)
    return found if found is not None and found.powers is above and len(found.axes) == 1 else None


def _sum(way: Backward, v: Any) -> Sum | None:
    total = way.made_by(way.source(v, _SPREADING))
    if total is None or total.primitive.name != "reduce_sum":
        return None
    made = way.made_by(total.invars[0])
    if made is None or made.primitive.name != "exp":
        return None
    shifted = way.made_by(made.invars[0])
    if shifted is None or shifted.primitive.name != "sub" or isinstance(shifted.invars[0], Literal):
        return None
    x, shift = shifted.invars
    largest, fixed = way.made_by(way.source(shift, _KEEPING)), _is_fixed(way, shift)
    if not fixed and (largest is None or largest.primitive.name != "reduce_max"):
        return None
    axes = tuple(total.params["axes"])
    if shift.aval.shape and any(shift.aval.shape[a] != 1 for a in axes):
        return None
    powers, less = way.now(total.invars[0]), way.now(made.invars[0])
    return Sum(way.now(x), axes, powers, less, shift, fixed)


def _is_fixed(way: Backward, v: Any) -> bool:
    """Whether nothing flows back along a value, so that it is a mere number."""
    while (made := way.made_by(v)) is not None:
        if made.primitive.name == "stop_gradient":
            return True
        v = next((a for a in made.invars if not isinstance(a, Literal)), None)
    return False

"""One equation on the way back, and what many of them do with a term: fill it up, sum it, place it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.terms import Shape, Term, Text, Unknown

if TYPE_CHECKING:
    from overbar.graph.derivatives.backward import Backward


@dataclass(frozen=True)
class Step:
    """One equation on the way back, and the argument that the way goes on through.

    Attributes:
      way: the node's.
      eqn: the equation.
      i: which argument.
      part: which of its results the way comes from.
    """

    way: Backward
    eqn: Any
    i: int
    part: int = 0

    @property
    def x(self) -> Any:
        return self.eqn.invars[self.i]

    @property
    def shape(self) -> Shape:
        """Of the argument."""
        return tuple(self.x.aval.shape)

    @property
    def out(self) -> Shape:
        """The shape of the result."""
        return tuple(self.eqn.outvars[self.part].aval.shape)

    @property
    def value(self) -> Text:
        return self.way.value(self.x)

    @property
    def output(self) -> Text:
        return self.way.value(self.eqn.outvars[self.part])

    @property
    def is_named(self) -> bool:
        """Whether the output is a variable of the graph."""
        return self.eqn.outvars[self.part] in self.way.names

    @property
    def other(self) -> Any:
        return self.eqn.invars[1 - self.i]

    @property
    def others_value(self) -> Text:
        return self.way.value(self.other)

    def zeros(self) -> str:
        """𝟎 of the argument's shape, which is written where it is not that of the equation's left side."""
        if self.way.target_shape == self.shape:
            return "𝟎"
        return "𝟎" + terms.sized(self.shape)


Handler = Callable[[Step, Term], Term | None]


def full(term: Term, shape: Shape) -> Term:
    """The term as a factor of a product of matrices, for which it must not be smaller than it stands for."""
    term = terms.aligned(term, shape)
    if not term.shape:
        return term.times(Text("𝟏" + terms.sized(shape), shape))
    if term.shape != shape:
        raise Unknown
    return term


def spread(term: Term, s: Step, axes: Sequence[int]) -> Term:
    """A term for a result that lacks axes of the argument, as one that goes together with the argument."""
    kept = tuple(1 if a in axes else n for a, n in enumerate(s.shape))
    wide = (1,) * (len(s.shape) - len(term.shape)) + term.shape
    if not terms.solid(term.shape) or all(n in (1, k) for n, k in zip(wide, kept, strict=False)):
        return term if len(term.shape) <= len(s.shape) else terms.aligned(term, kept)
    term = terms.aligned(term, s.out)
    if terms.solid(term.shape) != terms.solid(s.out):
        raise Unknown
    return term.mapped(lambda t: t.expanded(kept))


def gathered(term: Term, axes: Sequence[int], before: Shape, after: Shape) -> Term:
    """The sum over the axes along which a value was spread, from its shape before to the one after."""
    have = (1,) * (len(after) - len(term.shape)) + term.shape
    times = int(np.prod([after[a] for a in axes if have[a] == 1], dtype=int))
    axes = [a for a in axes if have[a] != 1]
    term = term.scaled(times)
    if not axes:
        return term
    whole = len(axes) == len(terms.solid(have))
    constant = _constant_along(term, axes, len(after))
    kept = tuple(1 if a in axes else n for a, n in enumerate(have))
    left = kept
    if not terms.fits(left, before):
        left = tuple(n for a, n in enumerate(have) if a not in axes)
    sign = "Σ" if whole else f"Σ{terms.subscript(axes)}"
    if len(left) != len(after):
        constant = Term(1, ())
    summed = Term(
        term.number,
        tuple(f for f in term.factors if f not in constant.factors),
        tuple(d for d in term.divisors if d not in constant.divisors),
    )
    result = summed.mapped(lambda t: Text(f"{sign} {t.at(3)}", left, 2, kept=kept))
    return replace(
        result,
        factors=(*constant.factors, *result.factors),
        divisors=(*result.divisors, *constant.divisors),
    )


def _constant_along(term: Term, axes: Sequence[int], rank: int) -> Term:
    """The factors that are no scalars and yet the same along the axes of a sum."""

    def stays(text: Text) -> bool:
        have = (1,) * (rank - len(text.shape)) + text.shape
        return bool(text.shape) and all(have[a] == 1 for a in axes)

    return Term(1, tuple(filter(stays, term.factors)), tuple(filter(stays, term.divisors)))


def placed(s: Step, term: Term, index: str, how: str = "set") -> Term:
    """Zeros, with the term at an index."""
    return term.mapped(lambda t: Text(f"{s.zeros()}.at{index}.{how}({t.text})", s.shape), scalars=True)


def factor(form: str, *, tight: int = 3, of: str = "x") -> Handler:
    """Multiplies a derivative on that is written with x, the input, or y, the output."""

    def go(s: Step, term: Term) -> Term:
        at = s.value if of == "x" else s.output
        text = form.replace("{}", at.at(3)).replace("<>", at.text)
        return term.times(Text(text, at.shape, tight))

    return go


def same(s: Step, term: Term) -> Term:
    return term


def nothing(s: Step, term: Term) -> None:
    return None

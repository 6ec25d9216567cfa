"""Products as a person writes them: 2 ȳ ⊙ (x − t) / 3, with the shapes that they stand for.

Shapes go together as NumPy's do: what is smaller is broadcast. ᵀ swaps the last two axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
QUOTIENT = 1.5
_RAISED = tuple("⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SUBSCRIPTS = str.maketrans("0123456789,", "₀₁₂₃₄₅₆₇₈₉,")
Shape = tuple[int, ...]


class Unknown(Exception):
    """No equation is known for what lies on the way."""


@dataclass(frozen=True)
class Text:
    """A piece of an expression.

    Attributes:
      text: as written.
      shape: of the array it stands for.
      tight: how it holds together: 3 a name or a call, 2 a product, QUOTIENT, 1 a sum.
      product: its factors, where it is a product of matrices.
      kept: its shape if the axes summed over stay, with size 1: Σ₁ x is read either way.
    """

    text: str
    shape: Shape = ()
    tight: float = 3
    product: tuple[Text, ...] = ()
    kept: Shape | None = None

    def at(self, tight: float) -> str:
        return self.text if self.tight >= tight else f"({self.text})"

    def powered(self, n: Any) -> Text:
        return self if n == 1 else replace(self, text=f"{self.base}{superscript(n)}", tight=3, product=())

    @property
    def base(self) -> str:
        """As it is raised to a power: a power itself in parentheses."""
        raised = self.text[-1:] in _RAISED or "^" in self.text
        return f"({self.text})" if raised else self.at(3)

    def expanded(self, wide: Shape) -> Text:
        """With axes of size 1 added: [:, None]."""
        if wide in (self.shape, self.kept):
            return replace(self, shape=wide)
        return Text(f"{self.at(3)}{inserted(self.shape, wide)}", wide)

    @property
    def transposed(self) -> Text:
        swapped = (*self.shape[:-2], *self.shape[-2:][::-1])
        if self.product:
            return multiplied(*(factor.transposed for factor in self.product[::-1]))
        if self.tight == 3 and self.text.endswith("ᵀ"):
            return replace(self, text=self.text[:-1], shape=swapped)
        return Text(f"{self.at(3)}ᵀ", swapped)


def multiplied(*matrices: Text) -> Text:
    """A product of matrices, or of a matrix and a vector."""
    factors = tuple(f for m in matrices for f in (m.product or (m,)))
    shape = factors[0].shape
    for factor in factors[1:]:
        shape = (*shape[:-1], factor.shape[-1]) if len(factor.shape) > 1 else shape[:-1]
    return Text(" ".join(f.at(3) for f in factors), shape, 2, factors)


@dataclass(frozen=True)
class Term:
    """A product on its way back: number · factors / divisors."""

    number: Fraction | float
    factors: tuple[Text, ...]
    divisors: tuple[Text, ...] = ()

    def times(self, factor: Text) -> Term:
        return replace(self, factors=(*self.factors, factor))

    def over(self, divisor: Text) -> Term:
        return replace(self, divisors=(*self.divisors, divisor))

    def scaled(self, number: Any) -> Term:
        return replace(self, number=self.number * number)

    @property
    def shape(self) -> Shape:
        return broadcast(*(f.shape for f in (*self.factors, *self.divisors)))

    def dropped(self) -> Term:
        """Without the axes that were summed over."""

        def drop(text: Text) -> Text:
            return replace(text, shape=solid(text.shape)) if text.shape == text.kept else text

        return replace(self, factors=tuple(map(drop, self.factors)), divisors=tuple(map(drop, self.divisors)))

    def text(self) -> Text:
        number: Fraction | float = self.number
        divisors = _powers(self.divisors)
        if (
            isinstance(number, Fraction)
            and number.denominator != 1
            and (number != Fraction(1, 2) or divisors)
        ):
            divisors = [Text(str(number.denominator)), *divisors]
            number = Fraction(number.numerator)
        sign = "−" if number < 0 else ""
        number = number if number >= 0 else -number
        words = [] if number == 1 else ["½" if number == Fraction(1, 2) else written(number)]
        joined = " ".join(words)
        rank = 0
        factors = _powers(self.factors)
        settled_ones = settled([*factors, *divisors])
        factors, divisors = settled_ones[: len(factors)], settled_ones[len(factors) :]
        factors.sort(key=lambda f: f.text.startswith("Σ") and bool(f.shape))  # what a sum holds is plain so
        for i, factor in enumerate(factors):
            both = rank and len(factor.shape)
            # A product of matrices among other arrays is kept apart; a sum holds what follows it.
            first = factor.product and i == 0 and not any(f.shape for f in factors[1:])
            loose = len(factors) == 1 or first or factor.text.startswith("Σ")
            joined += (" ⊙ " if both else " " if joined else "") + factor.at(2 if loose else 3)
            rank = max(rank, len(factor.shape))
        if divisors:
            under, rank = "", 0
            for divisor in divisors:
                both = rank and len(divisor.shape)
                under += (" ⊙ " if both else " " if under else "") + divisor.at(3)
                rank = max(rank, len(divisor.shape))
            joined = f"{joined or '1'} / {under if len(divisors) == 1 else f'({under})'}"
        simple = len(factors) == 1 and not words and not divisors and not sign
        return (
            factors[0]
            if simple
            else Text(
                sign + (joined or "1"), self.shape, QUOTIENT if divisors else 2, kept=_kept(factors, divisors)
            )
        )

    def mapped(self, form: Callable[[Text], Text], *, scalars: bool = False) -> Term:
        """The arrays in it put through a linear map; numbers and scalars stay outside.

        Args:
          form: the map.
          scalars: whether a term without an array can be put through it as well.
        """
        inside = [f for f in self.factors if f.shape]
        below = [d for d in self.divisors if d.shape]
        if scalars and not inside and not below:
            return Term(self.number, (form(replace(self, number=Fraction(1)).text()),))
        outside = tuple(f for f in self.factors if not f.shape)
        under = tuple(d for d in self.divisors if not d.shape)
        if not inside and not below:
            raise Unknown
        within = form(Term(Fraction(1), tuple(inside), tuple(below)).text())
        return Term(self.number, (*outside, within), under)


def _kept(factors: Sequence[Text], divisors: Sequence[Text]) -> Shape | None:
    """Of a product with one array in it, that array's."""
    arrays = [f for f in (*factors, *divisors) if f.shape]
    return arrays[0].kept if len(arrays) == 1 else None


def _powers(texts: Sequence[Text]) -> list[Text]:
    """Equal factors among divisors, and scalars among factors, written as powers; in their order."""
    counted: dict[str, list[Text]] = {}
    for text in texts:
        counted.setdefault(text.text, []).append(text)
    return [same[0].powered(len(same)) for same in counted.values()]


# ---------------------------------------------------------------------- shapes


def broadcast(*shapes: Shape) -> Shape:
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise Unknown from error


def fits(shape: Shape, whole: Shape) -> bool:
    """Whether an array of the one shape is broadcast to the other."""
    try:
        return tuple(np.broadcast_shapes(shape, whole)) == tuple(whole)
    except ValueError:
        return False


def settled(texts: Sequence[Text]) -> list[Text]:
    """Texts beside each other, with [:, None] where an axis that stays would be read as one that goes."""
    return [_settled(text, [t.shape for j, t in enumerate(texts) if j != i]) for i, text in enumerate(texts)]


def _settled(text: Text, others: Sequence[Shape]) -> Text:
    if text.kept is None or text.shape != text.kept or not any(others):
        return text
    gone = solid(text.shape)
    if text.shape[len(text.shape) - len(gone) :] == gone:  # it is the same either way
        return text
    try:
        differs = np.broadcast_shapes(gone, *others) != np.broadcast_shapes(text.shape, *others)
    except ValueError:
        return text
    wider = differs and max(map(len, others)) >= len(text.shape)  # then it is seen that the axis stays
    return text if wider else Text(f"{text.at(3)}{inserted(gone, text.shape)}", text.shape)


def solid(shape: Shape) -> Shape:
    """Without its axes of size 1."""
    return tuple(n for n in shape if n != 1)


def aligned(term: Term, shape: Shape) -> Term:
    """The term in a shape that is broadcast to the one given; axes of size 1 are added or taken away."""
    if fits(term.shape, shape):
        return term
    if solid(term.shape) != solid(shape):
        raise Unknown
    if len(term.shape) > len(shape):
        dropped = term.dropped()
        if len(dropped.factors) and fits(dropped.shape, shape):
            return dropped
        return term.mapped(lambda t: Text(f"squeeze({t.text})", shape))
    return term.mapped(lambda t: t.expanded(shape))


def inserted(shape: Shape, wide: Shape) -> str:
    """The index that adds axes of size 1: [:, None]."""
    given, parts = list(solid(shape)), []
    for n in wide:
        parts.append("None" if n == 1 else ":")
        if n != 1 and (not given or given.pop(0) != n):
            raise Unknown
    return f"[{', '.join(parts)}]"


# ---------------------------------------------------------------------- words


def exact(number: Any) -> Fraction | float:
    if np.iscomplexobj(number):
        raise Unknown
    value = float(number)
    if not np.isfinite(value):
        raise Unknown
    fraction = Fraction(value).limit_denominator(100_000)
    return fraction if float(fraction) == value else float(f"{value:.6g}")


def written(value: Any) -> str:
    """A number: 0.5, −3, 10⁻⁵."""
    if isinstance(value, Fraction):
        value = float(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    mantissa, letter, exponent = f"{number:.6g}".partition("e")
    if not letter:
        return mantissa.replace("-", "−")
    power = f"10{superscript(int(exponent))}"
    return power if mantissa == "1" else f"{mantissa.replace('-', '−')}·{power}"


def superscript(n: Any) -> str:
    number = float(n)
    if number == int(number):
        return str(int(number)).translate(_SUPERSCRIPTS)
    return f"^{written(number)}" if number > 0 else f"^({written(number)})"


def subscript(axes: Sequence[int]) -> str:
    return ",".join(map(str, axes)).translate(_SUBSCRIPTS)


def sized(shape: Sequence[int]) -> str:
    """₃ₓ₄, after 𝟎 and 𝟏."""
    return subscript(shape).replace(",", "ₓ")


def shape_text(shape: Sequence[int]) -> str:
    """(3, 4), an argument of reshape."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def index(parts: Sequence[str]) -> str:
    """[1:3], [:, 0]: without the full axes at the end."""
    parts = list(parts)
    while len(parts) > 1 and parts[-1] == ":":
        parts.pop()
    return f"[{', '.join(parts)}]"

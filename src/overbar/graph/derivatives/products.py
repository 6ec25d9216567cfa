"""What the products of matrices and the convolutions multiply on."""

from __future__ import annotations

from dataclasses import replace

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.step import Handler, Step, full
from overbar.graph.derivatives.terms import Shape, Term, Text, Unknown


def _dot(s: Step, term: Term) -> Term:
    (left, right), (batch_left, batch_right) = s.eqn.params["dimension_numbers"]
    a, b = (tuple(v.aval.shape) for v in s.eqn.invars)
    other = s.others_value
    if other.shape != tuple(s.other.aval.shape):
        raise Unknown
    if not s.out:
        return term.times(other)
    term = full(term, s.out)
    batch = tuple(range(len(batch_left)))
    plain = len(left) == 1 and tuple(batch_left) == tuple(batch_right) == batch
    if plain and len(a) == len(b) == len(batch) + 2:
        return _matrices(s, term, other, left[0] == len(a) - 1, right[0] == len(b) - 2)
    if plain and not batch and max(len(a), len(b)) <= 2:
        return _matrix_and_vector(s, term, other, left[0] == len(a) - 1, right[0] == 0)
    if plain and not batch and left[0] == len(a) - 1 and right[0] == 0 and len(b) == 2 and s.i == 0:
        return term.mapped(lambda t: _product(t, other.transposed, s.shape))
    return _einsum(s, term, other)


def _matrices(s: Step, term: Term, other: Text, rows: bool, columns: bool) -> Term:
    """Y = A B: Ā = Ȳ Bᵀ and B̄ = Aᵀ Ȳ; without `rows` it is Aᵀ, without `columns` Bᵀ in the product."""

    def back(bar: Text) -> Text:
        if s.i == 0:
            found = terms.multiplied(bar, other.transposed if columns else other)
            return replace(found if rows else found.transposed, shape=s.shape)
        found = terms.multiplied(other.transposed if rows else other, bar)
        return replace(found if columns else found.transposed, shape=s.shape)

    return term.mapped(back)


def _matrix_and_vector(s: Step, term: Term, other: Text, rows: bool, columns: bool) -> Term:
    if s.eqn.invars[1].aval.ndim == 1:  # y = A x: Ā = ȳ xᵀ, x̄ = Aᵀ ȳ
        if s.i == 1:
            return term.mapped(lambda t: _product(other.transposed if rows else other, t, s.shape))
        return term.mapped(lambda t: _outer(t, other, s.shape) if rows else _outer(other, t, s.shape))
    if s.i == 0:  # y = x A: x̄ = A ȳ, Ā = x ȳᵀ
        return term.mapped(lambda t: _product(other if columns else other.transposed, t, s.shape))
    return term.mapped(lambda t: _outer(other, t, s.shape) if columns else _outer(t, other, s.shape))


def _outer(left: Text, right: Text, shape: Shape) -> Text:
    return _product(left, Text(f"{right.at(3)}ᵀ", (1, *right.shape)), shape)


def _product(left: Text, right: Text, shape: Shape) -> Text:
    return replace(terms.multiplied(left, right), shape=shape)


def _einsum(s: Step, term: Term, other: Text) -> Term:
    """Any product of two arrays, its axes lettered."""
    (left, right), (batch_left, batch_right) = s.eqn.params["dimension_numbers"]
    a, b = s.eqn.invars
    letters = iter("ijklmnpqrstuvw")
    of_a: list[str] = [""] * a.aval.ndim
    of_b: list[str] = [""] * b.aval.ndim
    for i, j in [*zip(batch_left, batch_right, strict=True), *zip(left, right, strict=True)]:
        of_a[i] = of_b[j] = next(letters)
    of_a, of_b = ([c or next(letters) for c in of] for of in (of_a, of_b))
    kept = [of_a[i] for i in batch_left]
    kept += [c for i, c in enumerate(of_a) if i not in (*batch_left, *left)]
    kept += [c for i, c in enumerate(of_b) if i not in (*batch_right, *right)]
    mine, its = (of_a, of_b) if s.i == 0 else (of_b, of_a)
    rule = f"{''.join(kept)},{''.join(its)}→{''.join(mine)}"
    return term.mapped(lambda t: Text(f"einsum('{rule}', {t.text}, {other.text})", s.shape))


def _convolution(s: Step, term: Term) -> Term:
    """With the convolution's own strides and padding; the kernel's bar is summed over the batch."""
    held = s.eqn.params
    if held["feature_group_count"] != 1 or held["batch_group_count"] != 1 or set(held["lhs_dilation"]) != {1}:
        raise Unknown
    term, other = full(term, s.out), s.others_value
    if s.i == 0:
        return term.mapped(lambda t: Text(f"conv_transpose({t.text}, {other.text})", s.shape))
    return term.mapped(lambda t: Text(f"correlate({other.text}, {t.text})", s.shape))


RULES: dict[str, Handler] = {"dot_general": _dot, "conv_general_dilated": _convolution}

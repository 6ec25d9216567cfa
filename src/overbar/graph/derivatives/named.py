"""JAX's own functions that have a formula of their own, in the place of what they are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from overbar._adapter import calls_of, custom_jvp_body, is_jaxs_own, opened, source_of
from overbar.graph.derivatives import terms
from overbar.graph.derivatives.step import Handler, Step, factor, full, nothing, spread
from overbar.graph.derivatives.terms import Shape, Term, Text, Unknown


def name_of(eqn: Any) -> str:
    """What JAX calls the function that an equation calls; "" if it calls none."""
    if (named := custom_jvp_body(eqn)) is not None:
        return named[0]
    body = calls_of(eqn)
    return "" if body is None else source_of(body).split(" at ")[0]


def has_formula(eqn: Any) -> bool:
    """Whether it is one of JAX's functions that stand here, and called as it is known here."""
    name = name_of(eqn)
    if name not in RULES and name not in ENTRYWISE:
        return False
    jvp = custom_jvp_body(eqn)
    if not is_jaxs_own(jvp[1] if jvp is not None else calls_of(eqn)):
        return False
    given, out = tuple(eqn.invars[0].aval.shape), tuple(eqn.outvars[0].aval.shape)
    if name == "_diag":
        return len(given) == 1 and out == given * 2
    if name == "diagonal":
        return len(given) == 2 and out * 2 == given
    if name in ("_var", "_std"):
        return len(eqn.invars) == 2 and _number(eqn.invars[1]) is not None
    return True


def held(eqn: Any) -> list[Any]:
    """The equations that a function consists of, those of the functions in it among them."""
    body = calls_of(eqn)
    if body is None:
        return [eqn]
    return [inner for e in opened(body)[0].eqns for inner in held(e)]


def _number(v: Any) -> float | None:
    return float(v.val) if isinstance(v, Literal) and np.ndim(v.val) == 0 else None


# ---------------------------------------------------------------------- entry by entry


def _hypot(s: Step, term: Term) -> Term:
    return term.times(s.value).over(s.output)


def _logaddexp(base: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        if base == "exp" and s.way.number(s.other) == 0:  # softplus
            return term.times(Text(f"σ({s.value.text})", s.value.shape))
        y, x = s.output, s.value
        return term.times(Text(f"{base}({x.text} − {y.at(2)})", terms.broadcast(x.shape, y.shape)))

    return go


def _xlogy(s: Step, term: Term) -> Term:
    if s.i == 0:
        return term.times(Text(f"log({s.others_value.text})", s.others_value.shape))
    return term.times(s.others_value).over(s.value)


def _remainder(s: Step, term: Term) -> Term:
    if s.i == 0:
        return term
    a, b = s.others_value, s.value
    whole = Text(f"floor({a.at(2)} / {b.at(3)})", terms.broadcast(a.shape, b.shape))
    return term.scaled(-1).times(whole)


def bounds(eqn: Any) -> tuple[Any | None, Any | None]:
    """The lower and the upper bound of a clip."""
    given = list(eqn.invars[1:])
    made = {e.primitive.name for e in held(eqn)}
    if len(given) == 2:
        return given[0], given[1]
    return (given[0], None) if "max" in made else (None, given[0])


def _clip(s: Step, term: Term) -> Term:
    low, high = bounds(s.eqn)
    x = s.way.value(s.eqn.invars[0])
    shape = s.out
    if s.i == 0:
        left = "" if low is None else f"{s.way.value(low).text} < "
        right = "" if high is None else f" < {s.way.value(high).text}"
        if not left:
            return term.times(Text(f"[{x.text}{right}]", shape))
        if not right:
            return term.times(Text(f"[{x.text} > {s.way.value(low).text}]", shape))
        return term.times(Text(f"[{left}{x.text}{right}]", shape))
    sign = "<" if s.x is low else ">"
    return term.times(Text(f"[{x.text} {sign} {s.value.text}]", shape))


# ---------------------------------------------------------------------- statistics


def averaged(name: str, text: Text, axes: tuple[int, ...], shape: Shape) -> Text:
    """mean₁(x), var₁(x), whose axes stay or go."""
    if len(axes) == len(shape):
        return Text(f"{name}({text.text})")
    left = tuple(n for a, n in enumerate(shape) if a not in axes)
    return Text(f"{name}{terms.subscript(axes)}({text.text})", left, kept=_kept(axes, shape))


def averaged_axes(eqn: Any) -> tuple[int, ...]:
    """The axes that a mean or a variance is taken over."""
    return next(tuple(e.params["axes"]) for e in held(eqn) if e.primitive.name == "reduce_sum")


def _kept(axes: tuple[int, ...], shape: Shape) -> Shape:
    return tuple(1 if a in axes else n for a, n in enumerate(shape))


def _deviation(s: Step, term: Term, scale: int) -> tuple[Term, tuple[int, ...]]:
    """ȳ ⊙ (x − mean(x)) / (n − ddof)."""
    axes, x = averaged_axes(s.eqn), s.value
    if x.shape != s.shape or jnp.issubdtype(s.x.aval.dtype, jnp.complexfloating):
        raise Unknown
    number = int(np.prod([s.shape[a] for a in axes])) - (_number(s.eqn.invars[1]) or 0)
    mean = averaged("mean", x, axes, s.shape)
    mean = replace(mean, shape=mean.kept) if mean.kept else mean
    centred = Text(f"({x.at(1)} − {terms.settled([mean, x])[0].text})", s.shape)
    return spread(term, s, axes).times(centred).scaled(scale / terms.exact(number)), axes


def _var(s: Step, term: Term) -> Term | None:
    return _deviation(s, term, 2)[0] if s.i == 0 else None


def _std(s: Step, term: Term) -> Term | None:
    if s.i:
        return None
    found, axes = _deviation(s, term, 1)
    y = s.output
    return found.over(y.expanded(_kept(axes, s.shape)) if s.out and s.out != _kept(axes, s.shape) else y)


# ---------------------------------------------------------------------- matrices


def _matrix(s: Step, term: Term) -> Term:
    term = full(term, s.out)
    if len(s.out) < 2:
        raise Unknown
    return term


def _inv(s: Step, term: Term) -> Term:
    """X̄ = −Yᵀ Ȳ Yᵀ."""
    back = s.output.transposed
    return _matrix(s, term).mapped(lambda t: terms.multiplied(back, t, back)).scaled(-1)


def _det(s: Step, term: Term) -> Term:
    if s.out:
        raise Unknown
    return term.times(s.output).times(Text(f"inv({s.value.text})", s.shape).transposed)


def _slogdet(s: Step, term: Term) -> Term | None:
    if s.out:
        raise Unknown
    return term.times(Text(f"inv({s.value.text})", s.shape).transposed) if s.part == 1 else None


def _solve(name: str) -> Handler:
    """A Y = B: B̄ solves Aᵀ B̄ = Ȳ, and Ā = −B̄ Yᵀ."""

    def go(s: Step, term: Term) -> Term:
        a, y = s.way.value(s.eqn.invars[0]), s.output
        if len(y.shape) not in (1, len(a.shape)) or a.shape != tuple(s.eqn.invars[0].aval.shape):
            raise Unknown
        term = full(term, s.out)

        def back(bar: Text) -> Text:
            found = Text(f"{name}({a.transposed.text}, {bar.text})", s.out)
            if s.i:
                return found
            row = Text(f"{y.at(3)}ᵀ", (1, *y.shape)) if len(y.shape) == 1 else y.transposed
            made = terms.multiplied(found, row)
            return Text(made.text, s.shape, 2, made.product)

        return term.mapped(back).scaled(1 if s.i else -1)

    return go


def _solve_triangular(s: Step, term: Term) -> Term:
    """As `solve`, where of Ā only the triangle counts that A is read from."""
    solves = [e.params for e in held(s.eqn) if e.primitive.name == "triangular_solve"]
    given = solves[0] if len(solves) == 1 else {"transpose_a": True}
    if given["transpose_a"] or not given["left_side"] or given["unit_diagonal"] or len(s.out) > 2:
        raise Unknown
    a, y, lower = s.way.value(s.eqn.invars[0]), s.output, given["lower"]
    if len(a.shape) != 2:
        raise Unknown
    term, triangle = full(term, s.out), "tril" if lower else "triu"

    def back(bar: Text) -> Text:
        which = "" if lower else ", lower=True"
        found = Text(f"solve_triangular({a.transposed.text}, {bar.text}{which})", s.out)
        if s.i:
            return found
        row = Text(f"{y.at(3)}ᵀ", (1, *y.shape)) if len(y.shape) == 1 else y.transposed
        return Text(f"{triangle}({terms.multiplied(found, row).text})", s.shape)

    return term.mapped(back).scaled(1 if s.i else -1)


def diagonal_of(eqn: Any) -> int:
    """Which diagonal a function of a matrix looks at: what it adds to the rows' numbers."""
    for e in held(eqn):
        if e.primitive.name == "add" and (number := _number(e.invars[1])) is not None:
            return int(number)
    return 0


def first_diagonal(eqn: Any) -> int:
    """Where tril ends and triu begins."""
    return diagonal_of(eqn) if name_of(eqn) == "tril" else diagonal_of(eqn) + 1


def _triangle(s: Step, term: Term) -> Term:
    name, k = name_of(s.eqn), first_diagonal(s.eqn)
    given = f", {terms.written(k)}" if k else ""
    return _matrix(s, term).mapped(lambda t: Text(f"{name}({t.text}{given})", s.shape))


def _diag(s: Step, term: Term) -> Term:
    return full(term, s.out).mapped(lambda t: Text(f"diag({t.text})", s.shape))


def _trace(s: Step, term: Term) -> Term:
    if len(s.shape) != 2 or diagonal_of(s.eqn):
        raise Unknown
    n, m = s.shape
    return term.times(Text(f"eye({n})" if n == m else f"eye({n}, {m})", s.shape))


def rolled_by(eqn: Any, sign: int) -> str:
    """The shift, or with 1 for the sign that back, and the axis."""
    slices = [e for e in held(eqn) if e.primitive.name == "slice"]
    shifts: list[tuple[int, int]] = []
    for end in slices[::2]:
        starts, shape = end.params["start_indices"], end.invars[0].aval.shape
        axis = next((a for a, start in enumerate(starts) if start), None)
        if axis is None:
            raise Unknown
        shifts.append((sign * (starts[axis] - shape[axis]), axis))
    if not shifts:
        raise Unknown
    by, axes = zip(*shifts, strict=True)
    texts = [terms.written(v) for v in by]
    given = texts[0] if len(by) == 1 else f"({', '.join(texts)})"
    if len(eqn.invars[0].aval.shape) > 1:
        given += f", {axes[0] if len(axes) == 1 else axes}"
    return given


def _roll(s: Step, term: Term) -> Term:
    """Rolled back."""
    back = rolled_by(s.eqn, 1)
    return full(term, s.out).mapped(lambda t: Text(f"roll({t.text}, {back})", s.shape))


def _unknown(s: Step, term: Term) -> Term:
    raise Unknown


ENTRYWISE: dict[str, Handler] = {
    "relu": factor("[<> > 0]"),
    "hypot": _hypot,
    "logaddexp": _logaddexp("exp"),
    "logaddexp2": _logaddexp("exp2"),
    "xlogy": _xlogy,
    "remainder": _remainder,
    "clip": _clip,
    "_one_hot": nothing,
}
RULES: dict[str, Handler] = {
    "_var": _var,
    "_std": _std,
    "inv": _inv,
    "det": _det,
    "slogdet": _slogdet,
    "solve": _solve("solve"),
    "tril": _triangle,
    "triu": _triangle,
    "_diag": _diag,
    "diagonal": _diag,
    "_solve_triangular": _solve_triangular,
    "trace": _trace,
    "_roll_static": _roll,
    "argsort": nothing,
    "convolve": _unknown,
    "correlate": _unknown,
    "_convolve": _unknown,
}

"""What sums over axes and changes of shape do to a bar."""

from __future__ import annotations

import numpy as np

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.step import Handler, Step, full, gathered, spread
from overbar.graph.derivatives.terms import Term, Text, Unknown


def _reduce_sum(s: Step, term: Term) -> Term:
    return spread(term, s, s.eqn.params["axes"])


def _reduce_prod(s: Step, term: Term) -> Term:
    """Where no entry is 0."""
    axes = s.eqn.params["axes"]
    kept = tuple(1 if a in axes else n for a, n in enumerate(s.shape))
    y = s.output if not s.out else s.output.expanded(kept)
    return spread(term, s, axes).times(y).over(s.value)


def _reduce_largest(word: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        axes, x = s.eqn.params["axes"], s.value
        if s.is_named and not s.out:
            y = s.output
        else:
            kept = tuple(1 if a in axes else n for a, n in enumerate(s.shape)) if s.out else ()
            below = terms.subscript(axes) if s.out else ""
            y = terms.settled([Text(f"{word}{below}({x.text})", kept, kept=kept), Text("", s.shape)])[0]
        test = Text(f"[{x.text} = {y.text}]", s.shape)
        return spread(term, s, axes).times(test)

    return go


def _broadcast(s: Step, term: Term) -> Term:
    kept = s.eqn.params["broadcast_dimensions"]
    if terms.solid(s.shape) == terms.solid(s.out):
        return term
    axes = [a for a in range(len(s.out)) if a not in kept or s.shape[kept.index(a)] != s.out[a]]
    return gathered(terms.aligned(term, s.out), axes, s.shape, s.out)


def _reshape(s: Step, term: Term) -> Term:
    if not terms.solid(term.shape) or terms.solid(s.shape) == terms.solid(s.out):
        return term
    term = terms.aligned(term, s.out)
    if terms.solid(term.shape) != terms.solid(s.out):
        raise Unknown
    return term.mapped(lambda t: Text(f"reshape({t.text}, {terms.shape_text(s.shape)})", s.shape))


def _transpose(s: Step, term: Term) -> Term:
    if not terms.solid(term.shape):
        return term
    term = terms.aligned(term, s.out)
    if len(term.shape) != len(s.out):
        raise Unknown
    back = tuple(int(a) for a in np.argsort(s.eqn.params["permutation"]))
    rank = len(back)
    if back == (*range(rank - 2), rank - 1, rank - 2):
        return term.mapped(lambda t: t.transposed)
    shape = tuple(term.shape[a] for a in back)
    return term.mapped(lambda t: Text(f"transpose({t.text}, {back})", shape))


def _tile(s: Step, term: Term) -> Term:
    """The copies, side by side, are summed up."""
    if not terms.solid(term.shape):
        return term.scaled(int(np.prod(s.out)) // max(int(np.prod(s.shape)), 1))
    term, reps = full(term, s.out), s.eqn.params["reps"]
    split: list[int] = []
    axes: list[int] = []
    for n, times in zip(s.shape, reps, strict=True):
        if times != 1:
            axes.append(len(split))
            split.append(times)
        split.append(n)
    below = terms.subscript(axes)
    return term.mapped(lambda t: Text(f"Σ{below} reshape({t.text}, {terms.shape_text(split)})", s.shape, 2))


# ---------------------------------------------------------------------- running along an axis


def _axis(s: Step) -> str:
    return f", axis={s.eqn.params['axis']}" if len(s.out) > 1 else ""


def _cumsum(s: Step, term: Term) -> Term:
    """The sum from the other end."""
    reverse = "" if s.eqn.params["reverse"] else ", reverse=True"
    return full(term, s.out).mapped(lambda t: Text(f"cumsum({t.text}{_axis(s)}{reverse})", s.shape))


def _cumprod(s: Step, term: Term) -> Term:
    """Where no entry is 0."""
    return _cumsum(s, full(term, s.out).times(s.output)).over(s.value)


def _cumlogsumexp(s: Step, term: Term) -> Term:
    back = Text(f"exp(−{s.output.at(2)})", s.out)
    x = s.value
    return _cumsum(s, full(term, s.out).times(back)).times(Text(f"exp({x.text})", x.shape))


def _cumlargest(s: Step, term: Term) -> Term:
    """y holds x's entry as long as it is the largest so far."""
    if len(s.out) != 1:
        raise Unknown
    x, y = s.value, s.output
    where = Text(f"[{x.expanded((*s.shape, 1)).text} = {y.text}]", (*s.shape, *s.shape))
    return full(term, s.out).mapped(lambda t: Text(f"{where.text} {t.at(3)}", s.shape, 2, (where, t)))


def _flip(s: Step, term: Term) -> Term:
    axes = s.eqn.params["dimensions"]
    given = f", {axes[0] if len(axes) == 1 else tuple(axes)}" if len(s.out) > 1 else ""
    return full(term, s.out).mapped(lambda t: Text(f"flip({t.text}{given})", s.shape))


RULES: dict[str, Handler] = {
    "reduce_sum": _reduce_sum,
    "reduce_prod": _reduce_prod,
    "reduce_max": _reduce_largest("max"),
    "reduce_min": _reduce_largest("min"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "tile": _tile,
    "cumsum": _cumsum,
    "cumprod": _cumprod,
    "cumlogsumexp": _cumlogsumexp,
    "cummax": _cumlargest,
    "cummin": _cumlargest,
    "rev": _flip,
}

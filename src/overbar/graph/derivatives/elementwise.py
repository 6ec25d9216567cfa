"""What each primitive multiplies on that goes entry by entry."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from overbar.graph.derivatives import terms
from overbar.graph.derivatives.step import Handler, Step, factor, nothing, same
from overbar.graph.derivatives.terms import Term, Text, Unknown

# ---------------------------------------------------------------------- arithmetic


def _mul(s: Step, term: Term) -> Term:
    if (number := s.way.number(s.other)) is not None:
        if (name := s.way.named_number(number)) is not None:
            return term.times(Text(name))
        found = terms.exact(number)
        dyadic = isinstance(found, Fraction) and found.denominator in (1, 2)
        return term.scaled(found if dyadic else float(f"{float(number):.6g}"))
    return term.times(s.others_value)


def _div(s: Step, term: Term) -> Term:
    if s.i == 0:
        number = s.way.number(s.other)
        return term.scaled(1 / terms.exact(number)) if number else term.over(s.others_value)
    if s.is_named:
        return term.scaled(-1).times(s.output).over(s.value)
    above = s.way.number(s.other)
    term = term.scaled(-1) if above is None else term.scaled(-terms.exact(above))
    term = term if above is not None else term.times(s.others_value)
    return term.over(s.value).over(s.value)


def _rem(word: str) -> Handler:
    """a mod b = a − b ⌊a / b⌋."""

    def go(s: Step, term: Term) -> Term:
        if s.i == 0:
            return term
        a, b = s.others_value, s.value
        whole = Text(f"{word}({a.at(2)} / {b.at(3)})", terms.broadcast(a.shape, b.shape))
        return term.scaled(-1).times(whole)

    return go


def power(s: Step, term: Term, n: Any) -> Term:
    term = term.scaled(terms.exact(n))
    return term.times(s.value) if n == 2 else term if n == 1 else term.times(s.value.powered(n - 1))


def _pow(s: Step, term: Term) -> Term:
    if s.i == 0 and (n := s.way.number(s.eqn.invars[1])) is not None:
        return power(s, term, n)
    base, exponent = (s.way.value(v) for v in s.eqn.invars)
    if s.i == 0:
        raised = Text(f"{base.base}^({exponent.text} − 1)", terms.broadcast(base.shape, exponent.shape))
        return term.times(exponent).times(raised)
    return term.times(s.output).times(Text(f"log({base.text})", base.shape))


def _several(*forms: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        for form in forms:
            text = form.replace("{}²", s.output.powered(2).text).replace("{}", s.output.at(3))
            term = term.times(
                Text(text, s.output.shape, 1 if " " in text and form != "{}" else s.output.tight)
            )
        return term

    return go


def _abs(s: Step, term: Term) -> Term:
    x = s.value
    if jnp.issubdtype(s.x.aval.dtype, jnp.complexfloating):
        return term.times(Text(f"conj({x.text})", x.shape)).over(s.output)
    over = Text(f"abs({x.text})", x.shape)
    if over in term.divisors:  # log |x|
        divisors = list(term.divisors)
        divisors[divisors.index(over)] = x
        return replace(term, divisors=tuple(divisors))
    return term.times(Text(f"sign({x.text})", x.shape))


def _over_root(form: str, *, negative: bool = False) -> Handler:
    """Divides by the root of what is written with x."""

    def go(s: Step, term: Term) -> Term:
        text = form.replace("{}²", s.value.powered(2).text)
        return term.scaled(-1 if negative else 1).over(Text(text, s.value.shape))

    return go


def _over_sum(form: str, *, square: bool = True) -> Handler:
    """Divides by a sum that is written with x² or x."""

    def go(s: Step, term: Term) -> Term:
        x = s.value.powered(2) if square else s.value
        return term.over(Text(form.replace("{}", x.at(2)), s.value.shape, 1))

    return go


def _atan2(s: Step, term: Term) -> Term:
    y, x = (s.way.value(v) for v in s.eqn.invars)
    together = terms.broadcast(y.shape, x.shape)
    below = Text(f"{y.powered(2).text} + {x.powered(2).text}", together, 1)
    return term.scaled(1 if s.i == 0 else -1).times(s.others_value).over(below)


def _erf(sign: int) -> Handler:
    def go(s: Step, term: Term) -> Term:
        bell = Text(f"exp(−{s.value.powered(2).at(2)})", s.value.shape)
        return term.scaled(2 * sign).times(bell).over(Text("√π"))

    return go


def _erf_inv(s: Step, term: Term) -> Term:
    bell = Text(f"exp({s.output.powered(2).text})", s.output.shape)
    return term.scaled(Fraction(1, 2)).times(Text("√π")).times(bell)


# ---------------------------------------------------------------------- choices


def _greater(sign: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        x, other = terms.settled([s.value, s.others_value])
        return term.times(Text(f"[{x.text} {sign} {other.text}]", terms.broadcast(x.shape, other.shape)))

    return go


def _clamp(s: Step, term: Term) -> Term:
    low, x, high = (s.way.value(v) for v in s.eqn.invars)
    if s.i != 1:
        raise Unknown
    return term.times(Text(f"[{low.text} < {x.text} < {high.text}]", s.out))


def _select(s: Step, term: Term) -> Term | None:
    if len(s.eqn.invars) != 3:
        raise Unknown
    if (known := s.way.number(s.eqn.invars[0])) is not None:
        return term if s.i == 1 + bool(known) else None
    test = s.way.value(s.eqn.invars[0])
    text = f"[{test.text}]" if s.i == 2 else f"[not {test.at(2)}]"
    return terms.aligned(term, s.out).times(Text(text, test.shape))


def _cast(s: Step, term: Term) -> Term | None:
    return term if jnp.issubdtype(s.x.aval.dtype, jnp.inexact) else None


def _log_base(base: int) -> Handler:
    return lambda s, term: term.over(s.value).over(Text(f"log({base})"))


def _expm1(s: Step, term: Term) -> Term | None:
    return (_several("{} + 1") if s.is_named else factor("exp(<>)"))(s, term)


def _logistic(s: Step, term: Term) -> Term | None:
    return _several("{}", "1 − {}")(s, term)


RULES: dict[str, Handler] = {
    "add": same,
    "add_any": same,
    "sub": lambda s, t: t.scaled(-1) if s.i == 1 else t,
    "neg": lambda s, t: t.scaled(-1),
    "mul": _mul,
    "div": _div,
    "rem": _rem("trunc"),
    "square": lambda s, t: power(s, t, 2),
    "integer_pow": lambda s, t: power(s, t, s.eqn.params["y"]),
    "pow": _pow,
    "exp": _several("{}"),
    "exp2": lambda s, t: t.times(s.output).times(Text("log(2)")),
    "expm1": _expm1,
    "log": lambda s, t: t.over(s.value),
    "log1p": _over_sum("1 + {}", square=False),
    "sqrt": lambda s, t: t.scaled(Fraction(1, 2)).over(s.output),
    "cbrt": lambda s, t: t.scaled(Fraction(1, 3)).over(s.output).over(s.output),
    "rsqrt": lambda s, t: t.scaled(Fraction(-1, 2)).times(s.output.powered(3)),
    "logistic": _logistic,
    "tanh": _several("1 − {}²"),
    "sin": factor("cos(<>)"),
    "cos": lambda s, t: factor("sin(<>)")(s, t.scaled(-1)),
    "tan": _several("1 + {}²"),
    "sinh": factor("cosh(<>)"),
    "cosh": factor("sinh(<>)"),
    "asin": _over_root("sqrt(1 − {}²)"),
    "acos": _over_root("sqrt(1 − {}²)", negative=True),
    "atan": _over_sum("1 + {}"),
    "asinh": _over_root("sqrt({}² + 1)"),
    "acosh": _over_root("sqrt({}² − 1)"),
    "atanh": _over_sum("1 − {}"),
    "atan2": _atan2,
    "abs": _abs,
    "erf": _erf(1),
    "erfc": _erf(-1),
    "erf_inv": _erf_inv,
    "lgamma": factor("digamma(<>)"),
    "digamma": factor("polygamma(1, <>)"),
    "max": _greater(">"),
    "min": _greater("<"),
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _cast,
    "reduce_precision": same,
    "copy": same,
    "real": same,
    "conj": lambda s, t: t.mapped(lambda text: Text(f"conj({text.text})", text.shape), scalars=True),
    "stop_gradient": nothing,
    "sign": nothing,
    "floor": nothing,
    "ceil": nothing,
    "round": nothing,
    # jax.nn's and jnp's functions with a derivative of their own
    "relu": factor("[<> > 0]"),
}

"""The message of a node to one of its parents, worked out as on paper.

It starts as the node's bar, and goes back through the node's equations one by one, each multiplying its
derivative on. Here stands what each primitive multiplies on; `terms` writes it down.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, opened, source_of
from overbar.graph import terms
from overbar.graph.model import Node
from overbar.graph.names import barred, symbol
from overbar.graph.terms import Term, Text, Unknown
from overbar.graph.values import FORWARD

LONGEST = 100  # a message longer than this is written in general form
MOST = 4  # terms of a sum


def _numbers_named(node: Node, eqns: Sequence[Any]) -> dict[float, str]:
    """The number that a name in the expression stands for, if there is one name and one number: λ is 0.1."""
    try:
        tree = ast.parse(node.operation, mode="eval")
    except SyntaxError:
        return {}
    called = {id(n) for call in ast.walk(tree) if isinstance(call, ast.Call) for n in ast.walk(call.func)}
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called}
    names -= {parent.name for parent in node.parents} | {"jnp", "np", "jax"}
    constants = {
        float(n.value)
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, int | float)
    }
    numbers = {
        float(v.val)
        for eqn in eqns
        for v in eqn.invars
        if isinstance(v, Literal) and np.ndim(v.val) == 0 and np.asarray(v.val).dtype.kind == "f"
    }
    numbers = {n for n in numbers if not any(np.float32(n) == np.float32(w) for w in constants)}
    if len(names) == 1 and len(numbers) == 1:
        return {numbers.pop(): symbol(names.pop())}
    return {}


class Backward:
    """The messages of one node."""

    def __init__(self, node: Node, *, as_call: bool = False):
        self.node = node
        operands, results = node.operands
        own = _of_the_call(node) if as_call else []
        if as_call and not own:
            raise Unknown
        self.eqns: list[Any] = []
        self.alias: dict[Any, Any] = {}
        self._flatten(node.eqns[: len(node.eqns) - len(own)])
        self.inside = _given_to(own) if own else None
        self.made = {v: eqn for eqn in self.eqns for v in eqn.outvars}
        self.operands, self.result = operands, self.now(results[0])
        self.names: dict[Any, Text] = {
            v: Text(p.symbol, p.shape) for v, p in zip(operands, node.parents, strict=True)
        }
        self.names[self.result] = Text(node.symbol, node.shape)
        self._leading: dict[Any, set[Any]] = {}
        self.constants = _numbers_named(node, self.eqns)

    def now(self, v: Any) -> Any:
        while not isinstance(v, Literal) and v in self.alias:
            v = self.alias[v]
        return v

    def _flatten(self, eqns: Sequence[Any]) -> None:
        """Opens JAX's own jitted functions, of which a user does not know."""
        if len(self.eqns) > 60:
            raise Unknown
        for eqn in eqns:
            eqn = eqn.replace(invars=[self.now(v) for v in eqn.invars])
            body = calls_of(eqn)
            if body is not None and _is_a_function(body):
                body = None
            elif body is None and (named := custom_jvp_body(eqn)) is not None and named[0] not in FUNCTIONS:
                body = named[1]
            if body is None or custom_vjp_body(eqn) is not None:
                self.eqns.append(eqn)
                continue
            inner, consts = opened(body)
            fresh: dict[Any, Any] = dict(zip(inner.invars, eqn.invars, strict=True))
            fresh |= {v: Literal(c, v.aval) for v, c in zip(inner.constvars, consts, strict=True)}
            copies = []
            for held in inner.eqns:
                outs = [Var(v.aval) for v in held.outvars]
                ins = [v if isinstance(v, Literal) else fresh[v] for v in held.invars]
                fresh |= dict(zip(held.outvars, outs, strict=True))
                copies.append(held.replace(invars=ins, outvars=outs))
            self._flatten(copies)
            for v, out in zip(eqn.outvars, inner.outvars, strict=True):
                self.alias[v] = out if isinstance(out, Literal) else fresh[out]

    def message(self, argument: int) -> str:
        """What is sent to the parent that is this argument."""
        target = self.operands[argument]
        result, bar = self.result, Text(barred(self.node.symbol), self.node.shape)
        if self.node.several:
            result, bar = self._joined()
        start = Term(Fraction(1), (bar,))
        if self.inside is not None:
            result = self.now(self.inside)
            called = ast.unparse(ast.parse(self.node.operation, mode="eval").body.func).split(".")[-1]  # type: ignore[attr-defined]
            x = self.value(result)
            start = start.times(Text(f"{called}′({x.text})", x.shape))
        bars: dict[Any, list[Term]] = {result: [start]}
        for eqn in reversed(self.eqns):
            if len(eqn.outvars) != 1:
                if any(v in bars for v in eqn.outvars):
                    raise Unknown
                continue
            found = bars.pop(eqn.outvars[0], [])
            if len(found) > MOST:
                raise Unknown
            if (source := self._softmax_of(eqn)) is not None and found:
                bars.setdefault(source, []).extend(self._through_softmax(eqn, term) for term in found)
                continue
            for i, v in enumerate(eqn.invars):
                if isinstance(v, Literal) or not self._leads(v, target):
                    continue
                for term in found:
                    new = self._through(eqn, i, term)
                    if new is not None:
                        bars.setdefault(v, []).append(new)
        return _summed_up(bars.get(target, []), tuple(target.aval.shape))

    def _joined(self) -> tuple[Any, Text]:
        """What was split, and its bar: those of the parts, joined."""
        eqn = self.eqns[-1]
        parts = {child.part: barred(child.symbol) for child in self.node.graph._children(self.node)}
        if eqn.primitive.name != "split" or len(parts) != len(eqn.outvars):
            raise Unknown
        joined = ", ".join(parts[i] for i in range(len(parts)))
        whole = self.now(eqn.invars[0])
        return whole, Text(f"concatenate([{joined}], {eqn.params['axis']})", tuple(whole.aval.shape))

    def _leads(self, v: Any, target: Any) -> bool:
        if target not in self._leading:
            leading = {target}
            for eqn in self.eqns:
                if any(not isinstance(a, Literal) and a in leading for a in eqn.invars):
                    leading |= set(eqn.outvars)
            self._leading[target] = leading
        return v in self._leading[target]

    def _softmax_of(self, eqn: Any) -> Any | None:
        """x, where an equation is the last one of exp(x − m) / Σ exp(x − m) along the last axis."""
        if eqn.primitive.name != "div" or isinstance(eqn.invars[1], Literal):
            return None
        above, below = (self._source(v, ()) for v in eqn.invars)
        below = self._source(below, ("broadcast_in_dim", "reshape"))
        made, total = self._made(above), self._made(below)
        if (
            made is None
            or made.primitive.name != "exp"
            or total is None
            or total.primitive.name != "reduce_sum"
        ):
            return None
        rank = len(eqn.outvars[0].aval.shape)
        if self.now(total.invars[0]) is not above or tuple(total.params["axes"]) != (rank - 1,):
            return None
        shifted = self._made(made.invars[0])
        if shifted is None or shifted.primitive.name != "sub" or isinstance(shifted.invars[0], Literal):
            return None
        largest = self._made(self._source(shifted.invars[1], _KEEPING))
        source = self.now(shifted.invars[0])
        return source if largest is not None and largest.primitive.name == "reduce_max" else None

    def _made(self, v: Any) -> Any | None:
        return None if isinstance(v, Literal) else self.made.get(self.now(v))

    def _source(self, v: Any, through: Sequence[str]) -> Any:
        """What a value is copied from by these primitives."""
        v = v if isinstance(v, Literal) else self.now(v)
        while (made := self._made(v)) is not None and made.primitive.name in through:
            v = next((a for a in made.invars if not isinstance(a, Literal)), made.invars[0])
        return v if isinstance(v, Literal) else self.now(v)

    def _through_softmax(self, eqn: Any, term: Term) -> Term:
        """x̄ = y ⊙ (ȳ − ⟨ȳ, y⟩)."""
        y, shape = self.value(eqn.outvars[0]), tuple(eqn.outvars[0].aval.shape)
        term = _full(terms.aligned(term, shape), shape)

        def difference(bar: Text) -> Text:
            return Text(f"({bar.at(2)} − ⟨{bar.text}, {y.text}⟩)", shape)

        spread = term.mapped(difference)
        *outside, inner = spread.factors
        return replace(spread, factors=(*outside, y, inner))

    def _through(self, eqn: Any, i: int, term: Term) -> Term | None:
        name = eqn.primitive.name
        if (named := custom_jvp_body(eqn)) is not None:
            name = named[0]
        handler = BACKWARD.get(name)
        if (body := calls_of(eqn)) is not None:
            handler = _factor(f"{_name_of(body)}′(<>)")
        if handler is None:
            raise Unknown
        step = Step(self, eqn, i)
        if name not in RESHAPING:
            term = terms.aligned(term, step.out)
        new = handler(step, term)
        if new is None or name in RESHAPING or step.shape == step.out or not step.out:
            return new
        # An axis of size 1, or a scalar, was spread by the operation itself: what it sends is summed over it.
        shape = step.shape or (1,) * len(step.out)
        axes = [a for a, (n, m) in enumerate(zip(shape, step.out, strict=True)) if n != m]
        return _gathered(new, axes, step.shape, step.out)

    def value(self, v: Any) -> Text:
        """A factor that is no variable of the graph, written out."""
        if isinstance(v, Literal):
            if np.ndim(v.val):
                raise Unknown
            return Text(terms.written(v.val))
        v = self.now(v)
        if isinstance(v, Literal):
            return self.value(v)
        if v in self.names:
            return self.names[v]
        if v not in self.made:
            raise Unknown
        if (number := self.number(v)) is not None:
            return Text(terms.written(number))
        eqn = self.made[v]
        name = (custom_jvp_body(eqn) or (eqn.primitive.name,))[0]
        form = FORWARD.get(name)
        if (x := self._softmax_of(eqn)) is not None:
            return Text(f"softmax({self.value(x).text})", tuple(v.aval.shape))
        if (body := calls_of(eqn)) is not None:
            given = self.value(eqn.invars[0])
            return Text(f"{_name_of(body)}({given.text})", given.shape)
        if form is None:
            raise Unknown
        text = form(self, eqn)
        if len(text.text) > LONGEST:
            raise Unknown
        self.names[v] = text
        return text

    def number(self, v: Any) -> float | None:
        """The number that a value is, cast and broadcast perhaps."""
        v = v if isinstance(v, Literal) else self.now(v)
        if isinstance(v, Literal):
            return v.val if np.ndim(v.val) == 0 else None
        made = self.made.get(v)
        if made is None or made.primitive.name not in _OF_NUMBERS:
            return None
        numbers = [self.number(a) for a in made.invars]
        if any(n is None for n in numbers):
            return None
        return _OF_NUMBERS[made.primitive.name](*numbers)


def _of_the_call(node: Node) -> list[Any]:
    """The last equations of y = f(...): those of f itself."""
    try:
        call = ast.parse(node.operation, mode="eval").body
    except SyntaxError:
        return []
    if not isinstance(call, ast.Call) or len(call.args) != 1 or node.several or node.positions[-1] is None:
        return []
    first = len(node.eqns)
    while first and node.positions[first - 1] == node.positions[-1]:
        first -= 1
    return list(node.eqns[first:])


def _given_to(eqns: Sequence[Any]) -> Any:
    """The one array that equations are evaluated of, each entry by itself."""
    made = {v for eqn in eqns for v in eqn.outvars}
    given = {v for eqn in eqns for v in eqn.invars if not isinstance(v, Literal) and v not in made}
    shape = eqns[-1].outvars[0].aval.shape
    if len(given) != 1 or any(e.outvars[0].aval.shape not in ((), shape) for e in eqns):
        raise Unknown
    (x,) = given
    flat = [e for eqn in eqns for e in _flat(eqn)]
    if x.aval.shape != shape or any(e.primitive.name not in ELEMENTWISE for e in flat):
        raise Unknown
    return x


def _flat(eqn: Any) -> list[Any]:
    """An equation, or those of the function it calls."""
    body = calls_of(eqn)
    if body is None and (named := custom_jvp_body(eqn)) is not None:
        body = named[1]
    return [eqn] if body is None else [e for held in opened(body)[0].eqns for e in _flat(held)]


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "convert_element_type": lambda a: a,
    "broadcast_in_dim": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "gt": lambda a, b: a > b,
}
_KEEPING = ("broadcast_in_dim", "reshape", "stop_gradient", "max", "convert_element_type", "copy")


def _name_of(body: Any) -> str:
    return source_of(body).split(" at ")[0]


def _is_a_function(body: Any) -> bool:
    """Whether a jitted function of JAX's own maps one array entry by entry, and is too long to write out."""
    inner, consts = opened(body)
    floats = [v for v in inner.invars if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
    if len(inner.invars) != 1 or len(floats) != 1 or len(inner.outvars) != 1 or consts or len(inner.eqns) < 4:
        return False
    names = {e.primitive.name for e in inner.eqns}
    return names <= ELEMENTWISE and inner.outvars[0].aval.shape == floats[0].aval.shape


def _summed_up(found: Sequence[Term], shape: tuple[int, ...]) -> str:
    if not found:
        return "0"
    text = ""
    merged: dict[Any, Term] = {}  # what differs in its number alone is one term
    for term in found:
        key = (term.factors, term.divisors)
        merged[key] = replace(term, number=term.number + merged[key].number) if key in merged else term
    for term in merged.values():
        shown = term.text()
        if terms.solid(term.shape) != terms.solid(shape):
            if not terms.fits(term.shape, shape):
                raise Unknown
            shown = Text(f"{shown.at(3 if '/' in shown.text else 2)} 𝟏", shape, 2)
        minus = text and shown.text.startswith("−")
        text += f" − {shown.text[1:]}" if minus else f" + {shown.text}" if text else shown.text
    return text


@dataclass(frozen=True)
class Step:
    """One equation on the way back, and the argument that the way goes on through."""

    way: Backward
    eqn: Any
    i: int

    @property
    def x(self) -> Any:
        return self.eqn.invars[self.i]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the argument."""
        return tuple(self.x.aval.shape)

    @property
    def out(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(self.eqn.outvars[0].aval.shape)

    @property
    def value(self) -> Text:
        return self.way.value(self.x)

    @property
    def output(self) -> Text:
        return self.way.value(self.eqn.outvars[0])

    @property
    def is_named(self) -> bool:
        """Whether the output is a variable of the graph."""
        return self.eqn.outvars[0] in self.way.names

    @property
    def other(self) -> Any:
        return self.eqn.invars[1 - self.i]


Handler = Callable[[Step, Term], Term | None]


# ---------------------------------------------------------------------- arithmetic


def _mul(s: Step, term: Term) -> Term:
    if (number := s.way.number(s.other)) is not None:
        if (name := s.way.constants.get(float(number))) is not None:
            return term.times(Text(name))
        found = terms.exact(number)
        dyadic = isinstance(found, Fraction) and found.denominator in (1, 2)
        return term.scaled(found if dyadic else float(f"{float(number):.6g}"))
    return term.times(s.way.value(s.other))


def _div(s: Step, term: Term) -> Term:
    if s.i == 0:
        number = s.way.number(s.other)
        return term.scaled(1 / terms.exact(number)) if number else term.over(s.way.value(s.other))
    if s.is_named:
        return term.scaled(-1).times(s.output).over(s.value)
    above = s.way.number(s.other)
    term = term.scaled(-1) if above is None else term.scaled(-terms.exact(above))
    term = term if above is not None else term.times(s.way.value(s.other))
    return term.over(s.value).over(s.value)


def _power(s: Step, term: Term, n: Any) -> Term:
    term = term.scaled(terms.exact(n))
    return term.times(s.value) if n == 2 else term if n == 1 else term.times(s.value.powered(n - 1))


def _pow(s: Step, term: Term) -> Term:
    if s.i == 0 and (n := s.way.number(s.eqn.invars[1])) is not None:
        return _power(s, term, n)
    base, exponent = (s.way.value(v) for v in s.eqn.invars)
    if s.i == 0:
        raised = Text(f"{base.at(3)}^({exponent.text} − 1)", terms.broadcast(base.shape, exponent.shape))
        return term.times(exponent).times(raised)
    return term.times(s.output).times(Text(f"log({base.text})", base.shape))


def _factor(form: str, *, tight: int = 3, of: str = "x") -> Handler:
    """Multiplies a derivative on that is written with x, the input, or y, the output."""

    def go(s: Step, term: Term) -> Term:
        at = s.value if of == "x" else s.output
        text = form.replace("{}", at.at(3)).replace("<>", at.text)
        return term.times(Text(text, at.shape, tight))

    return go


def _several(*forms: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        for form in forms:
            text = form.replace("{}", s.output.at(3))
            term = term.times(
                Text(text, s.output.shape, 1 if " " in text and form != "{}" else s.output.tight)
            )
        return term

    return go


def _abs(s: Step, term: Term) -> Term:
    x = s.value
    over = Text(f"abs({x.text})", x.shape)
    if over in term.divisors:  # log |x|
        divisors = list(term.divisors)
        divisors[divisors.index(over)] = x
        return replace(term, divisors=tuple(divisors))
    return term.times(Text(f"sign({x.text})", x.shape))


def _over_root(form: str, *, negative: bool = False) -> Handler:
    """Divides by the root of what is written with x."""

    def go(s: Step, term: Term) -> Term:
        text = form.replace("{}", s.value.at(3))
        return term.scaled(-1 if negative else 1).over(Text(text, s.value.shape))

    return go


def _greater(sign: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        other = s.way.value(s.other)
        shape = terms.broadcast(s.value.shape, other.shape)
        return term.times(Text(f"[{s.value.text} {sign} {other.text}]", shape))

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


def _logsumexp(s: Step, term: Term) -> Term:
    if s.out:
        raise Unknown
    return term.times(Text(f"softmax({s.value.text})", s.shape))


# ---------------------------------------------------------------------- sums and shapes


def _reduce_sum(s: Step, term: Term) -> Term:
    axes = s.eqn.params["axes"]
    kept = tuple(1 if a in axes else n for a, n in enumerate(s.shape))
    wide = (1,) * (len(s.shape) - len(term.shape)) + term.shape
    if not terms.solid(term.shape) or all(n in (1, k) for n, k in zip(wide, kept, strict=False)):
        return term if len(term.shape) <= len(s.shape) else terms.aligned(term, kept)
    term = terms.aligned(term, s.out)
    if terms.solid(term.shape) != terms.solid(s.out):
        raise Unknown
    return term.mapped(lambda t: Text(f"{t.at(3)}{terms.inserted(t.shape, kept)}", kept))


def _reduce_largest(word: str) -> Handler:
    def go(s: Step, term: Term) -> Term:
        spread = _reduce_sum(s, term)
        return spread.times(Text(f"[{s.value.text} is the {word}]", s.shape))

    return go


def _broadcast(s: Step, term: Term) -> Term:
    kept = s.eqn.params["broadcast_dimensions"]
    if terms.solid(s.shape) == terms.solid(s.out):
        return term
    axes = [a for a in range(len(s.out)) if a not in kept or s.shape[kept.index(a)] != s.out[a]]
    return _gathered(terms.aligned(term, s.out), axes, s.shape, s.out)


def _gathered(term: Term, axes: Sequence[int], before: tuple[int, ...], after: tuple[int, ...]) -> Term:
    """The sum over the axes along which a value was spread, from its shape before to the one after."""
    have = (1,) * (len(after) - len(term.shape)) + term.shape
    times = int(np.prod([after[a] for a in axes if have[a] == 1], dtype=int))
    axes = [a for a in axes if have[a] != 1]
    term = term.scaled(times)
    if not axes:
        return term
    whole = len(axes) == len(terms.solid(have))
    constant = _constant_along(term, axes, len(after))
    left = tuple(1 if a in axes else n for a, n in enumerate(have))
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
    result = summed.mapped(lambda t: Text(f"{sign} {t.at(3)}", left, 2))
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


def _reshape(s: Step, term: Term) -> Term:
    if not terms.solid(term.shape) or terms.solid(s.shape) == terms.solid(s.out):
        return term
    term = terms.aligned(term, s.out)
    if terms.solid(term.shape) != terms.solid(s.out):
        raise Unknown
    shape = f"({', '.join(map(str, s.shape))}{',' if len(s.shape) == 1 else ''})"
    return term.mapped(lambda t: Text(f"reshape({t.text}, {shape})", s.shape))


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


def _full(term: Term, shape: tuple[int, ...]) -> Term:
    """The term as a factor of a product of matrices, for which it must not be smaller than it stands for."""
    term = terms.aligned(term, shape)
    if not term.shape:
        return term.times(Text("𝟏" + terms.subscript(shape).replace(",", "ₓ"), shape))
    if term.shape != shape:
        raise Unknown
    return term


def _dot(s: Step, term: Term) -> Term:
    (left, right), (batch_left, batch_right) = s.eqn.params["dimension_numbers"]
    a, b = (tuple(v.aval.shape) for v in s.eqn.invars)
    other = s.way.value(s.other)
    if other.shape != tuple(s.other.aval.shape):
        raise Unknown
    if not s.out:
        return term.times(other)
    term = _full(term, s.out)
    batch = tuple(range(len(batch_left)))
    plain = len(left) == 1 and tuple(batch_left) == tuple(batch_right) == batch
    if plain and len(a) == len(b) == len(batch) + 2 and left[0] == len(a) - 1 and right[0] == len(b) - 2:
        return _matrices(s, term, other)
    if plain and not batch and left[0] == len(a) - 1 and right[0] == 0 and len(b) <= 2:
        if len(a) <= 2 and len(b) <= 2:
            return _matrices(s, term, other)
        if s.i == 0 and len(b) == 2:
            return term.mapped(lambda t: multiplied_by(t, other.transposed, s.shape))
    return _einsum(s, term, other)


def _matrices(s: Step, term: Term, other: Text) -> Term:
    a, b = (tuple(v.aval.shape) for v in s.eqn.invars)
    if s.i == 0 and len(b) == 1:  # A x: Ā = ȳ xᵀ
        return term.mapped(lambda t: multiplied_by(t, _row(other), s.shape))
    if s.i == 1 and len(a) == 1:  # x W: W̄ = x ȳᵀ
        return term.mapped(lambda t: multiplied_by(other, _row(t), s.shape))
    if s.i == 0 and len(a) == 1:  # x W: x̄ = W ȳ
        return term.mapped(lambda t: multiplied_by(other, t, s.shape))
    if s.i == 0:
        return term.mapped(lambda t: multiplied_by(t, other.transposed, s.shape))
    return term.mapped(lambda t: multiplied_by(other.transposed, t, s.shape))


def _row(text: Text) -> Text:
    return Text(f"{text.at(3)}ᵀ", (1, *text.shape))


def multiplied_by(left: Text, right: Text, shape: tuple[int, ...]) -> Text:
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


# ---------------------------------------------------------------------- pieces of arrays


def _placed(s: Step, term: Term, index: str, how: str = "set") -> Term:
    """Zeros, with the term at an index."""
    return term.mapped(lambda t: Text(f"𝟎.at{index}.{how}({t.text})", s.shape))


def _as_array(s: Step, term: Term) -> Term:
    """A term for a piece of an array, which must be an array for what is done with it, or a scalar."""
    if terms.solid(s.out) and not terms.solid(term.shape):
        return term.times(Text("𝟏" + terms.subscript(s.out).replace(",", "ₓ"), s.out))
    return term if term.shape else replace(term, factors=(*term.factors, Text("1", (1,) * len(s.out))))


def _slice(s: Step, term: Term) -> Term:
    starts, limits = s.eqn.params["start_indices"], s.eqn.params["limit_indices"]
    strides = s.eqn.params["strides"] or (1,) * len(starts)
    single = len(term.shape) < len(s.out)
    parts = []
    for start, limit, stride, n in zip(starts, limits, strides, s.shape, strict=True):
        if (start, limit, stride) == (0, n, 1):
            parts.append(":")
        elif limit - start == 1 and single:
            parts.append(str(start))
        else:
            parts.append(f"{start}:{limit}" + (f":{stride}" if stride != 1 else ""))
    return _put(s, term, terms.index(parts))


def _put(s: Step, term: Term, index: str) -> Term:
    """Zeros with the term put in; a scalar term is an outer factor where all of it is equal."""
    if term.shape:
        return _placed(s, terms.aligned(term, term.shape), index)
    inner = Text(f"𝟎.at{index}.set(1)", s.shape)
    return term.times(inner)


def _dynamic_slice(s: Step, term: Term) -> Term:
    if s.i:
        raise Unknown
    sizes = s.eqn.params["slice_sizes"]
    single = len(term.shape) < len(s.out)
    parts = []
    for start, size, n in zip(s.eqn.invars[1:], sizes, s.shape, strict=True):
        if size == n:
            parts.append(":")
            continue
        at = s.way.value(start).at(2)
        parts.append(at if size == 1 and single else f"{at}:{at}+{size}")
    return _put(s, term, terms.index(parts))


def _dynamic_update_slice(s: Step, term: Term) -> Term:
    operand, update = (v.aval.shape for v in s.eqn.invars[:2])
    parts = []
    for start, size, n in zip(s.eqn.invars[2:], update, operand, strict=True):
        at = ":" if size == n else s.way.value(start).at(2)
        end = str(int(at) + size) if at.isdecimal() else f"{at}+{size}"
        parts.append(at if size == n else f"{at}:{end}")
    return _cut_out(s, term, terms.index(parts), tuple(update))


def _cut_out(s: Step, term: Term, index: str, update: tuple[int, ...]) -> Term:
    """Of x with u set into it: x̄ is the bar with zeros there, ū what stands there."""
    if term.shape != s.out:
        if terms.solid(term.shape) or s.i == 0:
            raise Unknown
        return term
    if s.i == 0:
        return term.mapped(lambda t: Text(f"{t.at(3)}.at{index}.set(0)", s.shape))
    return term.mapped(lambda t: Text(f"{t.at(3)}{index}", update))


def _gather(s: Step, term: Term) -> Term:
    """x[i], of whole rows: the rows' bars are added up where they came from."""
    numbers, sizes = s.eqn.params["dimension_numbers"], s.eqn.params["slice_sizes"]
    if s.i or tuple(numbers.start_index_map) != (0,) or tuple(numbers.collapsed_slice_dims) != (0,):
        raise Unknown
    if numbers.operand_batching_dims or tuple(sizes[1:]) != s.shape[1:] or sizes[0] != 1:
        raise Unknown
    indices = _rows(s)
    ahead = len(s.out) - len(numbers.offset_dims)
    if tuple(numbers.offset_dims) != tuple(range(ahead, len(s.out))):
        raise Unknown
    if not term.shape:
        return term.times(Text(f"𝟎.at[{indices.text}].add(1)", s.shape))
    return _placed(s, terms.aligned(term, s.out), f"[{indices.text}]", "add")


def _rows(s: Step) -> Text:
    """The indices of a gather or a scatter as the user has them, without the axis of their coordinates."""
    text = s.way.value(s.eqn.invars[1])
    for end in ("[:, None]", "[:, :, None]"):
        if text.text.endswith(end):
            return Text(text.text[: -len(end)], text.shape[:-1])
    return text


def _scatter(s: Step, term: Term) -> Term:
    numbers = s.eqn.params["dimension_numbers"]
    if (
        s.i == 1
        or tuple(numbers.inserted_window_dims) != (0,)
        or tuple(numbers.scatter_dims_to_operand_dims) != (0,)
    ):
        raise Unknown
    adds = s.eqn.primitive.name in ("scatter-add", "scatter_add")
    if s.i == 0 and adds:
        return term
    index = f"[{_rows(s).text}]"
    if s.i == 2 and adds and not term.shape:
        return term
    if term.shape != s.out:
        raise Unknown
    if s.i == 0:
        return term.mapped(lambda t: Text(f"{t.at(3)}.at{index}.set(0)", s.shape))
    if not adds and s.shape[:1] != ():
        rows = s.eqn.invars[1].aval.shape
        if np.prod(rows, dtype=int) > 1:  # of rows set twice only one counts
            raise Unknown
    return term.mapped(lambda t: Text(f"{t.at(3)}{index}", s.shape))


def _concatenate(s: Step, term: Term) -> Term:
    axis = s.eqn.params["dimension"]
    start = sum(v.aval.shape[axis] for v in s.eqn.invars[: s.i])
    stop = start + s.shape[axis]
    if not terms.solid(term.shape):
        return term
    term = terms.aligned(term, s.out)
    if term.shape != s.out:
        raise Unknown
    single = stop == start + 1
    index = terms.index([":"] * axis + [str(start) if single else f"{start}:{stop}"])
    shape = tuple(n for a, n in enumerate(s.shape) if a != axis) if single else s.shape
    return term.mapped(lambda t: Text(f"{t.at(3)}{index}", shape))


def _pad(s: Step, term: Term) -> Term:
    if s.i:
        raise Unknown
    parts = []
    for low, high, inside in s.eqn.params["padding_config"]:
        if inside or low < 0 or high < 0:
            raise Unknown
        parts.append(":" if not low and not high else f"{low or ''}:{-high if high else ''}")
    if not terms.solid(term.shape):
        return term
    term = _full(term, s.out)
    return term.mapped(lambda t: Text(f"{t.at(3)}{terms.index(parts)}", s.shape))


def _along(name: str) -> Handler:
    """cumsum from the other end; flip."""

    def go(s: Step, term: Term) -> Term:
        term = _full(term, s.out)
        if name == "flip":
            axes = s.eqn.params["dimensions"]
            given = f", {axes[0] if len(axes) == 1 else tuple(axes)}" if len(s.out) > 1 else ""
            return term.mapped(lambda t: Text(f"flip({t.text}{given})", s.shape))
        axis = f", axis={s.eqn.params['axis']}" if len(s.out) > 1 else ""
        reverse = "" if s.eqn.params["reverse"] else ", reverse=True"
        return term.mapped(lambda t: Text(f"cumsum({t.text}{axis}{reverse})", s.shape))

    return go


def _sort(s: Step, term: Term) -> Term:
    """Each entry's bar is that of the place it went to."""
    axis, x = s.eqn.params["dimension"], s.value.text
    term = _full(term, s.out)
    if len(s.out) == 1:
        return term.mapped(lambda t: Text(f"{t.at(3)}[argsort(argsort({x}))]", s.shape))
    ranks = f"argsort(argsort({x}, {axis}), {axis})"
    return term.mapped(lambda t: Text(f"take_along_axis({t.text}, {ranks}, {axis})", s.shape))


def _same(s: Step, term: Term) -> Term:
    return term


def _cast(s: Step, term: Term) -> Term | None:
    return term if jnp.issubdtype(s.x.aval.dtype, jnp.inexact) else None


def _nothing(s: Step, term: Term) -> None:
    return None


BACKWARD: dict[str, Handler] = {
    "add": _same,
    "add_any": _same,
    "sub": lambda s, t: t.scaled(-1) if s.i == 1 else t,
    "neg": lambda s, t: t.scaled(-1),
    "mul": _mul,
    "div": _div,
    "square": lambda s, t: _power(s, t, 2),
    "integer_pow": lambda s, t: _power(s, t, s.eqn.params["y"]),
    "pow": _pow,
    "exp": _several("{}"),
    "exp2": lambda s, t: t.times(s.output).times(Text("log(2)")),
    "expm1": lambda s, t: _several("{} + 1")(s, t) if s.is_named else _factor("exp(<>)")(s, t),
    "log": lambda s, t: t.over(s.value),
    "log1p": lambda s, t: t.over(Text(f"1 + {s.value.at(2)}", s.value.shape, 1)),
    "sqrt": lambda s, t: t.scaled(Fraction(1, 2)).over(s.output),
    "cbrt": lambda s, t: t.scaled(Fraction(1, 3)).over(s.output).over(s.output),
    "rsqrt": lambda s, t: t.scaled(Fraction(-1, 2)).times(s.output.powered(3)),
    "logistic": _several("{}", "1 − {}"),
    "tanh": _several("1 − {}²"),
    "sin": _factor("cos(<>)"),
    "cos": lambda s, t: _factor("sin(<>)")(s, t.scaled(-1)),
    "tan": _several("1 + {}²"),
    "sinh": _factor("cosh(<>)"),
    "cosh": _factor("sinh(<>)"),
    "asin": _over_root("sqrt(1 − {}²)"),
    "acos": _over_root("sqrt(1 − {}²)", negative=True),
    "atan": lambda s, t: t.over(Text(f"1 + {s.value.powered(2).text}", s.value.shape, 1)),
    "asinh": _over_root("sqrt({}² + 1)"),
    "acosh": _over_root("sqrt({}² − 1)"),
    "atanh": lambda s, t: t.over(Text(f"1 − {s.value.powered(2).text}", s.value.shape, 1)),
    "abs": _abs,
    "erf": lambda s, t: t.scaled(2).times(Text(f"exp(−{s.value.at(3)}²)", s.value.shape)).over(Text("√π")),
    "max": _greater(">"),
    "min": _greater("<"),
    "clamp": _clamp,
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_largest("largest"),
    "reduce_min": _reduce_largest("smallest"),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "dot_general": _dot,
    "select_n": _select,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "scatter": _scatter,
    "scatter-add": _scatter,
    "concatenate": _concatenate,
    "pad": _pad,
    "sort": _sort,
    "cumsum": _along("cumsum"),
    "rev": _along("flip"),
    "convert_element_type": _cast,
    "copy": _same,
    "real": lambda s, t: t,
    "stop_gradient": _nothing,
    "sign": _nothing,
    "floor": _nothing,
    "ceil": _nothing,
    "round": _nothing,
    # jax.nn's functions with a derivative of their own
    "relu": _factor("[<> > 0]"),
    "logsumexp": _logsumexp,
}
FUNCTIONS = {"relu", "logsumexp"}
RESHAPING = {
    "reduce_sum", "reduce_max", "reduce_min", "broadcast_in_dim", "reshape", "squeeze", "expand_dims",
    "transpose", "dot_general", "slice", "dynamic_slice", "dynamic_update_slice", "gather", "scatter",
    "scatter-add", "concatenate", "pad", "sort", "logsumexp", "select_n", "cumsum", "rev",
}  # fmt: skip
# What each entry goes through by itself.
ELEMENTWISE = (set(BACKWARD) - RESHAPING - {"clamp", "logsumexp"}) | {
    "clamp", "select_n", "broadcast_in_dim", "lgamma", "digamma", "erfc", "erf_inv", "log2", "is_finite",
    "gt", "lt", "ge", "le", "eq", "ne", "and", "or", "not",
}  # fmt: skip

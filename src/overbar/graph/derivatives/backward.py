"""The way back through a node's equations, from its bar to one of its parents."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal, Var

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, is_jaxs_own, opened
from overbar.graph.derivatives import elementwise, named, pieces, products, softmax, sums, terms
from overbar.graph.derivatives.constants import constants_of
from overbar.graph.derivatives.index import listed
from overbar.graph.derivatives.named import has_formula, name_of
from overbar.graph.derivatives.step import Handler, Step, factor, full, gathered
from overbar.graph.derivatives.terms import Term, Text, Unknown
from overbar.graph.derivatives.values import CALLS, FORWARD, part_of_split
from overbar.graph.model import Node
from overbar.graph.symbols import barred

LONGEST = 120  # a message longer than this is written in general form
MOST = 4  # terms of a sum
OPENED = 60  # equations, the most that are gone through
RESHAPING: dict[str, Handler] = sums.RULES | products.RULES | pieces.RULES
PRIMITIVES: dict[str, Handler] = elementwise.RULES | RESHAPING
# What each entry goes through by itself.
ENTRYWISE = set(elementwise.RULES) | {
    "broadcast_in_dim", "log2", "is_finite", "gt", "lt", "ge", "le", "eq", "ne", "and", "or", "not",
    "nextafter", "bessel_i0e", "bessel_i1e", "igamma", "igammac", "polygamma",
}  # fmt: skip


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
        self.constants = constants_of(node, self.eqns)

    def now(self, v: Any) -> Any:
        while not isinstance(v, Literal) and v in self.alias:
            v = self.alias[v]
        return v

    def _flatten(self, eqns: Sequence[Any]) -> None:
        """Opens JAX's own jitted functions, of which a user does not know."""
        if len(self.eqns) > OPENED:
            raise Unknown
        for eqn in eqns:
            eqn = eqn.replace(invars=[self.now(v) for v in eqn.invars])
            body = None if has_formula(eqn) else calls_of(eqn)
            if body is not None and _is_a_function(body):
                body = None
            elif body is None and not has_formula(eqn) and (jvp := custom_jvp_body(eqn)) is not None:
                body = jvp[1] if is_jaxs_own(jvp[1]) else None  # the user's has a derivative of its own
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
        self.target_shape = tuple(target.aval.shape)
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
            arrived = [part for part, v in enumerate(eqn.outvars) if v in bars]
            if len(arrived) > 1:
                self._send_joined(eqn, bars)
                continue
            for part in arrived:
                self._send(eqn, part, bars, target)
        return _summed_up(bars.get(target, []), tuple(target.aval.shape))

    def _send(self, eqn: Any, part: int, bars: dict[Any, list[Term]], target: Any) -> None:
        """The bar of one result of an equation, sent on to its arguments."""
        found = bars.pop(eqn.outvars[part])
        if len(found) > MOST:
            raise Unknown
        if (past := softmax.back(self, eqn, found)) is not None:
            bars.setdefault(past[0], []).extend(past[1])
            return
        for i, v in enumerate(eqn.invars):
            if isinstance(v, Literal) or not self._leads(v, target):
                continue
            for term in found:
                new = self._through(eqn, i, term, part)
                if new is not None:
                    bars.setdefault(v, []).append(new)

    @staticmethod
    def _send_joined(eqn: Any, bars: dict[Any, list[Term]]) -> None:
        """The bars of all parts of a split, joined."""
        parts = [bars.pop(v, []) for v in eqn.outvars]
        if eqn.primitive.name != "split" or any(len(found) != 1 for found in parts):
            raise Unknown
        whole = eqn.invars[0]
        texts = [
            full(found[0], tuple(v.aval.shape)).text().text
            for found, v in zip(parts, eqn.outvars, strict=True)
        ]
        joined = Text(f"concatenate([{', '.join(texts)}], {eqn.params['axis']})", tuple(whole.aval.shape))
        bars.setdefault(whole, []).append(Term(Fraction(1), (joined,)))

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

    def made_by(self, v: Any) -> Any | None:
        """The equation whose result a value is."""
        return None if v is None or isinstance(v, Literal) else self.made.get(self.now(v))

    def source(self, v: Any, through: Sequence[str]) -> Any:
        """What a value is copied from by these primitives."""
        v = v if isinstance(v, Literal) else self.now(v)
        while (made := self.made_by(v)) is not None and made.primitive.name in through:
            v = next((a for a in made.invars if not isinstance(a, Literal)), made.invars[0])
        return v if isinstance(v, Literal) else self.now(v)

    def _through(self, eqn: Any, i: int, term: Term, part: int = 0) -> Term | None:
        step = Step(self, eqn, i, part)
        name, reshapes = eqn.primitive.name, False
        if (called := name_of(eqn)) and has_formula(eqn):
            handler, reshapes = (named.ENTRYWISE | named.RULES)[called], called in named.RULES
        elif called:
            if not all(e.primitive.name in ENTRYWISE for e in flat(eqn)) or len(eqn.invars) != 1:
                raise Unknown
            handler = factor(f"{called}′(<>)")
        elif name in PRIMITIVES:
            handler, reshapes = PRIMITIVES[name], name in RESHAPING
        else:
            raise Unknown
        if not reshapes:
            term = terms.aligned(term, step.out)
        new = handler(step, term)
        if new is None or reshapes or step.shape == step.out or not step.out:
            return new
        # An axis of size 1, or a scalar, was spread by the operation itself: what it sends is summed over it.
        shape = step.shape or (1,) * len(step.out)
        axes = [a for a, (n, m) in enumerate(zip(shape, step.out, strict=True)) if n != m]
        return gathered(new, axes, step.shape, step.out)

    def value(self, v: Any) -> Text:
        """A factor that is no variable of the graph, written out."""
        if isinstance(v, Literal):
            if not np.ndim(v.val):
                return Text(terms.written(v.val))
            return Text(self.constants.arrays.get(id(v.val)) or listed(v.val), np.shape(v.val))
        v = self.now(v)
        if isinstance(v, Literal):
            return self.value(v)
        if v in self.names:
            return self.names[v]
        if v not in self.made:
            raise Unknown
        if (number := self.number(v)) is not None:
            return Text(self.named_number(number) or terms.written(number))
        text = self._written(self.made[v], v)
        if len(text.text) > LONGEST:
            raise Unknown
        self.names[v] = text
        return text

    def _written(self, eqn: Any, v: Any) -> Text:
        shape = tuple(v.aval.shape)
        if (share := softmax.written(self, eqn)) is not None:
            return share
        if name := name_of(eqn):
            if has_formula(eqn):
                if name not in CALLS:
                    raise Unknown
                return CALLS[name](self, eqn)
            given = self.value(eqn.invars[0])
            return Text(f"{name}({given.text})", shape)
        if eqn.primitive.name == "split":
            return part_of_split(self, eqn, eqn.outvars.index(v))
        form = FORWARD.get(eqn.primitive.name)
        if form is None or len(eqn.outvars) != 1:
            raise Unknown
        return form(self, eqn)

    def named_number(self, number: Any) -> str | None:
        """What the program calls a number: λ for 0.1."""
        return None if np.iscomplexobj(number) else self.constants.numbers.get(float(number))

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
    if (
        not isinstance(call, ast.Call)
        or isinstance(call.func, ast.Call)
        or len(call.args) != 1
        or node.several
        or node.positions[-1] is None
    ):
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
    opened_up = [e for eqn in eqns for e in flat(eqn)]
    if x.aval.shape != shape or any(e.primitive.name not in ENTRYWISE for e in opened_up):
        raise Unknown
    return x


def flat(eqn: Any) -> list[Any]:
    """An equation, or those of the function it calls."""
    body = calls_of(eqn)
    if body is None and (named := custom_jvp_body(eqn)) is not None:
        body = named[1]
    return [eqn] if body is None else [e for held in opened(body)[0].eqns for e in flat(held)]


_OF_NUMBERS: dict[str, Callable[..., Any]] = {
    "convert_element_type": lambda a: a,
    "broadcast_in_dim": lambda a: a,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "max": max,
    "gt": lambda a, b: a > b,
}


def _is_a_function(body: Any) -> bool:
    """Whether a jitted function of JAX's own maps one array entry by entry, and is too long to write out."""
    inner, consts = opened(body)
    floats = [v for v in inner.invars if jnp.issubdtype(v.aval.dtype, jnp.inexact)]
    if len(inner.invars) != 1 or len(floats) != 1 or len(inner.outvars) != 1 or consts or len(inner.eqns) < 4:
        return False
    names = {e.primitive.name for e in inner.eqns}
    return names <= ENTRYWISE and inner.outvars[0].aval.shape == floats[0].aval.shape


def _summed_up(found: Sequence[Term], shape: tuple[int, ...]) -> str:
    if not found:
        return "0"
    text = ""
    merged: dict[Any, Term] = {}  # what differs in its number alone is one term
    for term in found:
        key = (term.factors, term.divisors)
        merged[key] = replace(term, number=term.number + merged[key].number) if key in merged else term
    for term in sorted(merged.values(), key=lambda term: term.number < 0):
        shown = term.text()
        if terms.solid(term.shape) != terms.solid(shape):
            if not terms.fits(term.shape, shape):
                raise Unknown
            shown = terms.settled([shown, Text("", shape)])[0]
            shown = Text(f"{shown.at(3 if '/' in shown.text else 2)} 𝟏", shape, 2)
        minus = text and shown.text.startswith("−")
        text += f" − {shown.text[1:]}" if minus else f" + {shown.text}" if text else shown.text
    return text

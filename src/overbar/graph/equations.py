"""How each bar comes about, in bar notation, written with the graph's own names: w̄ = z̄ x + R̄ w.

A message is worked out as on paper: it starts as the child's bar, and goes back through the child's
equations one by one, each multiplying its derivative on. Rules bring their equation from the registry.
What is not known here is written in general form, z̄ ∂z/∂w.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from jax.extend.core import Literal, Var

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, opened
from overbar.graph.model import Node
from overbar.graph.names import barred, symbol

LONGEST = 60  # a message longer than this is written in general form
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def bar_equation(node: Node) -> str:
    """The sum of the messages a node gathers: "z̄ x + R̄ w"."""
    graph = node.graph
    if not node.is_float:
        return ""
    terms = ["1" if node.shape == () and not node.several else "given"] if node in graph.outputs else []
    for child in graph._children(node):
        terms += [
            message_equation(child, i) for i, p in enumerate(child.parents) if p is node and child.carries[i]
        ]
    if len(terms) > 1:
        terms = [f"({term})" if " over the " in term else term for term in terms]
    total = ""
    for term in terms or ["0"]:
        total += term if not total else f" − {term[1:]}" if term.startswith("−") else f" + {term}"
    return total


def message_equation(node: Node, argument: int) -> str:
    """What a node sends the parent that is its argument: "z̄ x"."""
    parent = node.parents[argument]
    general = f"{barred(node.symbol)} ∂{node.symbol}/∂{parent.symbol}"
    if node.kind == "part":
        return f"{barred(node.symbol)} in place {node.part}"
    if node.kind == "rule":
        return _rule_equation(node, argument) or general
    if node.kind != "operation" or node.several:
        return general
    if re.fullmatch(r"([\w.]*\.)?softmax\([\w.]+(, axis=-1|, -1)?\)", node.operation):
        y, y_bar = node.symbol, barred(node.symbol)
        return f"{y} ⊙ ({y_bar} − ⟨{y_bar}, {y}⟩)"
    try:
        text = _Backward(node).message(argument)
    except _Unknown:
        return general
    return text if len(text) <= LONGEST else general


# ---------------------------------------------------------------------- rules


def _rule_equation(node: Node, argument: int) -> str | None:
    """The registry's equation of a rule's input, its letters replaced by the graph's names."""
    from overbar.graph.graph import rule_of

    rule = rule_of(node.eqns[-1])
    if rule is None or len(node.eqns) != 1:
        return None
    inputs = list(rule.inputs)
    eqn = node.eqns[0]
    if len(inputs) == 1:
        given = inputs * len(eqn.invars)
    elif len(eqn.invars) <= len(inputs) and set(inputs) == set(rule.arrays) | set(inputs[: len(eqn.invars)]):
        given = inputs[: len(eqn.invars)]
    else:
        return None
    slots = [v for v in eqn.invars if isinstance(v, Var)]
    which = given[[i for i, v in enumerate(eqn.invars) if isinstance(v, Var)][argument]]
    if which not in rule.bars:
        return None
    letters: dict[str, str] = {}
    for name, v in zip(given, eqn.invars, strict=True):
        if name in rule.bars:
            letter = _plain_letter(rule.bars[name].split("=")[0].strip())
            if isinstance(v, Var):
                position = slots.index(v) if len(inputs) > 1 else argument
                letters[letter] = node.parents[position].symbol
            else:
                letters[letter] = _number(v.val)
    _, _, right = rule.bars[which].partition("=")
    right = unicodedata.normalize("NFD", right.strip()).split(", for every")[0]
    tokens = re.findall(r"[^\W\d_]\u0304?", right)
    outputs = {t[0] for t in tokens if t.endswith("\u0304")} - set(letters)
    letters |= dict.fromkeys(outputs | ({"y"} - set(letters)), node.symbol)

    def put(match: re.Match[str]) -> str:
        letter, macron = match.group(1), match.group(2)
        if letter not in letters:
            return match.group(0)
        return barred(letters[letter]) if macron else letters[letter]

    text = re.sub(r"(?<![^\W\d_\u1d40ᵀ])([^\W\d_])(\u0304?)(?![a-z\u0304])", put, right)
    return unicodedata.normalize("NFC", text)


def _plain_letter(text: str) -> str:
    return unicodedata.normalize("NFD", text)[0]


# ---------------------------------------------------------------------- primitives


class _Unknown(Exception):
    """No equation is known for what lies on the way."""


@dataclass(frozen=True)
class _Text:
    """A piece of an expression: its text, its rank, and how tightly it holds together."""

    text: str
    rank: int
    tight: int = 3  # 3 a name or a call, 2 a product, 1 a sum

    def at(self, tight: int) -> str:
        return self.text if self.tight >= tight else f"({self.text})"


@dataclass(frozen=True)
class _Term:
    """A product on its way back: number · factors / divisors."""

    number: Fraction | float
    factors: tuple[_Text, ...]
    divisors: tuple[_Text, ...] = ()
    spread: bool = False  # a scalar that stands for an array of equal entries

    def times(self, factor: _Text) -> _Term:
        return replace(self, factors=(*self.factors, factor))

    def over(self, divisor: _Text) -> _Term:
        return replace(self, divisors=(*self.divisors, divisor))

    def scaled(self, number: Any) -> _Term:
        return replace(self, number=self.number * number)

    @property
    def rank(self) -> int:
        return max((f.rank for f in (*self.factors, *self.divisors)), default=0)

    def text(self) -> _Text:
        number: Fraction | float = self.number
        divisors = list(self.divisors)
        if isinstance(number, Fraction) and number.denominator != 1 and number != Fraction(1, 2):
            divisors = [_Text(str(number.denominator), 0), *divisors]
            number = Fraction(number.numerator)
        sign = "−" if number < 0 else ""
        number = number if number >= 0 else -number
        words = [] if number == 1 else ["½" if number == Fraction(1, 2) else _number(number)]
        joined = " ".join(words)
        rank = 0
        for factor in self.factors:
            both = rank and factor.rank
            joined += (" ⊙ " if both else " " if joined else "") + factor.at(
                2 if len(self.factors) == 1 else 3
            )
            rank = max(rank, factor.rank)
        if divisors:
            under = " ".join(d.at(3) for d in divisors)
            joined = f"{joined or '1'} / {under if len(divisors) == 1 else f'({under})'}"
        simple = len(self.factors) == 1 and not words and not divisors and not sign
        return _Text(sign + (joined or "1"), self.rank, self.factors[0].tight if simple else 2)

    def wrapped(self, form: str, rank: int, *, tight: int = 3) -> _Term:
        """The whole product inside a function or a matrix product; numbers stay outside."""
        inner = replace(self, number=Fraction(1)).text()
        text = form.replace("{}", inner.text).replace("[]", inner.at(3))
        return _Term(self.number, (_Text(text, rank, tight),))


def _constants(node: Node, eqns: Sequence[Any]) -> dict[float, str]:
    """The number that a name in the expression stands for, if there is one name and one number: λ is 0.1."""
    try:
        tree = ast.parse(node.operation, mode="eval")
    except SyntaxError:
        return {}
    called = {id(n) for call in ast.walk(tree) if isinstance(call, ast.Call) for n in ast.walk(call.func)}
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called}
    names -= {parent.name for parent in node.parents}
    written = {
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
    numbers = {n for n in numbers if not any(np.float32(n) == np.float32(w) for w in written)}
    if len(names) == 1 and len(numbers) == 1:
        return {numbers.pop(): symbol(names.pop())}
    return {}


class _Backward:
    """The messages of one node."""

    def __init__(self, node: Node):
        self.node = node
        operands, results = node.operands
        self.eqns: list[Any] = []
        self.alias: dict[Any, Any] = {}
        self._flatten(node.eqns)
        self.made = {v: eqn for eqn in self.eqns for v in eqn.outvars}
        self.operands, self.result = operands, self._now(results[0])
        self.names: dict[Any, _Text] = {
            v: _Text(p.symbol, len(p.shape)) for v, p in zip(operands, node.parents, strict=True)
        }
        self.names[self.result] = _Text(node.symbol, len(node.shape))
        self._leading: dict[Any, set[Any]] = {}
        self.constants = _constants(node, self.eqns)

    def _now(self, v: Any) -> Any:
        while not isinstance(v, Literal) and v in self.alias:
            v = self.alias[v]
        return v

    def _flatten(self, eqns: Sequence[Any]) -> None:
        """Opens JAX's own jitted functions, of which a user does not know."""
        if len(self.eqns) > 60:
            raise _Unknown
        for eqn in eqns:
            eqn = eqn.replace(invars=[self._now(v) for v in eqn.invars])
            body = calls_of(eqn)
            if body is None and (named := custom_jvp_body(eqn)) is not None and named[0] not in _FUNCTIONS:
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
        target = self.operands[argument]
        bar = _Text(barred(self.node.symbol), len(self.node.shape))
        bars: dict[Any, list[_Term]] = {self.result: [_Term(Fraction(1), (bar,))]}
        for eqn in reversed(self.eqns):
            if len(eqn.outvars) != 1:
                if any(v in bars for v in eqn.outvars):
                    raise _Unknown
                continue
            terms = bars.pop(eqn.outvars[0], [])
            if len(terms) > 2:
                raise _Unknown
            for i, v in enumerate(eqn.invars):
                if isinstance(v, Literal) or not self._leads(v, target):
                    continue
                for term in terms:
                    new = self._through(eqn, i, term)
                    if new is not None:
                        bars.setdefault(v, []).append(new)
        found = bars.get(target, [])
        if not found:
            return "0"
        text = ""
        for term in found:
            shown = term.text()
            if term.spread and term.rank == 0 and target.aval.ndim:
                shown = _Text(f"{shown.at(3 if '/' in shown.text else 2)} 𝟏", target.aval.ndim, 2)
            text += (
                shown.text
                if not text
                else (f" − {shown.text[1:]}" if shown.text.startswith("−") else f" + {shown.text}")
            )
        return text if len(found) == 1 else f"({text})"

    def _leads(self, v: Any, target: Any) -> bool:
        if target not in self._leading:
            leading = {target}
            for eqn in self.eqns:
                if any(not isinstance(a, Literal) and a in leading for a in eqn.invars):
                    leading |= set(eqn.outvars)
            self._leading[target] = leading
        return v in self._leading[target]

    def _through(self, eqn: Any, i: int, term: _Term) -> _Term | None:
        name = eqn.primitive.name
        if (named := custom_jvp_body(eqn)) is not None:
            name = named[0]
        handler = _BACKWARD.get(name)
        if handler is None:
            raise _Unknown
        step = _Step(self, eqn, i)
        new = handler(step, term)
        out = eqn.outvars[0].aval.shape
        if new is None or name in _RESHAPING or step.x.aval.shape == out or not out:
            return new
        # An axis of size 1, or a scalar, was spread by the operation itself: what it sends is summed over it.
        shape = step.x.aval.shape or (1,) * len(out)
        spread = [i for i, (n, m) in enumerate(zip(shape, out, strict=True)) if n != m]
        return _summed(new, spread, step.x.aval, eqn.outvars[0].aval)

    # -------------------------------------------------------------- forward, where a factor is no variable

    def value(self, v: Any) -> _Text:
        if isinstance(v, Literal):
            if np.ndim(v.val):
                raise _Unknown
            return _Text(_number(v.val), 0)
        v = self._now(v)
        if isinstance(v, Literal):
            return self.value(v)
        if v in self.names:
            return self.names[v]
        if v not in self.made:
            raise _Unknown
        eqn = self.made[v]
        name = (custom_jvp_body(eqn) or (eqn.primitive.name,))[0]
        form = _FORWARD.get(name)
        if form is None:
            raise _Unknown
        text = form(self, eqn)
        text = replace(text, rank=v.aval.ndim)
        if len(text.text) > LONGEST:
            raise _Unknown
        self.names[v] = text
        return text


@dataclass(frozen=True)
class _Step:
    """One equation on the way back, and the argument that the way goes on through."""

    way: _Backward
    eqn: Any
    i: int

    @property
    def x(self) -> Any:
        return self.eqn.invars[self.i]

    @property
    def value(self) -> _Text:
        return self.way.value(self.x)

    @property
    def output(self) -> _Text:
        return self.way.value(self.eqn.outvars[0])

    @property
    def other(self) -> Any:
        return self.eqn.invars[1 - self.i]

    def number(self, v: Any) -> float | None:
        v = v if isinstance(v, Literal) else self.way._now(v)
        if isinstance(v, Literal) and np.ndim(v.val) == 0:
            return v.val
        made = self.way.made.get(v)  # a number that was cast or broadcast
        if made is not None and made.primitive.name in ("convert_element_type", "broadcast_in_dim"):
            return self.number(made.invars[0])
        return None


def _exact(number: Any) -> Any:
    value = float(number)
    fraction = Fraction(value).limit_denominator(100_000)
    return fraction if float(fraction) == value else float(f"{value:.6g}")


def _number(value: Any) -> str:
    if isinstance(value, Fraction):
        value = float(value)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{number:.6g}".replace("-", "−")


def _mul(s: _Step, term: _Term) -> _Term:
    if (number := s.number(s.other)) is not None:
        if (name := s.way.constants.get(float(number))) is not None:
            return term.times(_Text(name, 0))
        exact = _exact(number)
        dyadic = isinstance(exact, Fraction) and exact.denominator in (1, 2)
        return term.scaled(exact if dyadic else float(f"{float(number):.6g}"))
    return term.times(s.way.value(s.other))


def _div(s: _Step, term: _Term) -> _Term:
    if s.i == 0:
        number = s.number(s.other)
        if number:
            return term.scaled(1 / _exact(number))
        return term.over(s.way.value(s.other))
    return term.scaled(-1).times(s.output).over(s.value)


def _integer_pow(s: _Step, term: _Term) -> _Term:
    n = s.eqn.params["y"]
    return _power(s, term, n)


def _power(s: _Step, term: _Term, n: Any) -> _Term:
    x = s.value
    term = term.scaled(_exact(n))
    if n == 2:
        return term.times(x)
    return term.times(_Text(f"{x.at(3)}{_superscript(n - 1)}", x.rank))


def _pow(s: _Step, term: _Term) -> _Term:
    if s.i == 0 and (n := s.number(s.eqn.invars[1])) is not None:
        return _power(s, term, n)
    raise _Unknown


def _superscript(n: Any) -> str:
    number = float(n)
    if number == int(number):
        return str(int(number)).translate(_SUPERSCRIPTS)
    return f"^{_number(number)}"


def _factor(form: str, *, tight: int = 3, of: str = "x") -> Callable[[_Step, _Term], _Term]:
    """Multiplies a derivative on that is written with x, the input, or y, the output."""

    def go(s: _Step, term: _Term) -> _Term:
        at = s.value if of == "x" else s.output
        text = form.replace("{}", at.at(3)).replace("<>", at.text)
        return term.times(_Text(text, at.rank, tight))

    return go


def _several(*forms: str, of: str = "y") -> Callable[[_Step, _Term], _Term]:
    def go(s: _Step, term: _Term) -> _Term:
        at = s.value if of == "x" else s.output
        for form in forms:
            text = form.replace("{}", at.at(3))
            term = term.times(_Text(text, at.rank, 1 if " " in text else 3))
        return term

    return go


def _same(s: _Step, term: _Term) -> _Term:
    return term


def _negated(s: _Step, term: _Term) -> _Term:
    return term.scaled(-1)


def _sub(s: _Step, term: _Term) -> _Term:
    return term.scaled(-1) if s.i == 1 else term


def _reduce_sum(s: _Step, term: _Term) -> _Term:
    if s.eqn.outvars[0].aval.ndim == 0 or len(s.eqn.params["axes"]) == s.x.aval.ndim:
        return replace(term, spread=True)
    return term.wrapped(f"spread{_axes(s.eqn.params['axes'])}({{}})", s.x.aval.ndim)


def _axes(axes: Sequence[int]) -> str:
    return ",".join(str(a).translate(_SUBSCRIPTS) for a in axes)


def _broadcast(s: _Step, term: _Term) -> _Term:
    before, after = s.x.aval, s.eqn.outvars[0].aval
    kept = s.eqn.params["broadcast_dimensions"]
    if before.size == after.size:
        return (
            replace(term, spread=term.spread) if term.rank == 0 else term.wrapped("reshape({})", before.ndim)
        )
    summed = [a for a in range(after.ndim) if a not in kept or before.shape[kept.index(a)] != after.shape[a]]
    return _summed(term, summed, before, after)


def _summed(term: _Term, axes: Sequence[int], before: Any, after: Any) -> _Term:
    """Over the axes along which a value was spread, from its shape before to the one after."""
    if term.rank == 0:  # a scalar spread over the array, gathered again
        return replace(term.scaled(after.size // max(before.size, 1)), spread=before.ndim > 0)
    return term.wrapped(f"Σ{'' if before.ndim == 0 else _axes(axes)} []", before.ndim, tight=2)


def _reshape(s: _Step, term: _Term) -> _Term:
    return term if term.rank == 0 else term.wrapped("reshape({})", s.x.aval.ndim)


def _transpose(s: _Step, term: _Term) -> _Term:
    if s.x.aval.ndim == 2 and term.rank == 2:
        return term.wrapped("[]ᵀ", 2)
    return term if term.rank == 0 else term.wrapped("transpose({})", s.x.aval.ndim)


def _dot(s: _Step, term: _Term) -> _Term:
    (left, right), (batch_left, batch_right) = s.eqn.params["dimension_numbers"]
    a, b = (v.aval for v in s.eqn.invars)
    other = s.way.value(s.other)
    if batch_left or batch_right or len(left) != 1:
        raise _Unknown
    if term.rank == 0 and s.eqn.outvars[0].aval.ndim:
        raise _Unknown
    if a.ndim == b.ndim == 1:
        return term.times(other)
    last, first = left[0] == a.ndim - 1, right[0] == 0
    if not (last and first) or b.ndim > 2:
        raise _Unknown
    if s.i == 0:
        if b.ndim == 1:  # A x: Ā = ȳ xᵀ
            return term.wrapped(f"[] {other.at(3)}ᵀ", a.ndim, tight=2)
        return term.wrapped(f"[] {other.at(3)}ᵀ", a.ndim, tight=2)
    if a.ndim == 1:  # x W: W̄ = x ȳᵀ
        return term.wrapped(f"{other.at(3)} []ᵀ", b.ndim, tight=2)
    if a.ndim == 2:
        return term.wrapped(f"{other.at(3)}ᵀ []", b.ndim, tight=2)
    return term.wrapped(f"Σ {other.at(3)}ᵀ []", b.ndim, tight=2)


def _reduce_max(s: _Step, term: _Term) -> _Term:
    return term.times(_Text(f"[{s.value.text} is the largest]", s.x.aval.ndim))


def _reduce_min(s: _Step, term: _Term) -> _Term:
    return term.times(_Text(f"[{s.value.text} is the smallest]", s.x.aval.ndim))


def _greater(sign: str) -> Callable[[_Step, _Term], _Term]:
    def go(s: _Step, term: _Term) -> _Term:
        return term.times(_Text(f"[{s.value.text} {sign} {s.way.value(s.other).text}]", s.x.aval.ndim))

    return go


def _select(s: _Step, term: _Term) -> _Term:
    if len(s.eqn.invars) != 3:
        raise _Unknown
    test = s.way.value(s.eqn.invars[0])
    text = f"[{test.text}]" if s.i == 2 else f"[not {test.at(2)}]"
    return term.times(_Text(text, s.eqn.outvars[0].aval.ndim))


def _slice(s: _Step, term: _Term) -> _Term:
    if s.eqn.params.get("strides") and any(n != 1 for n in s.eqn.params["strides"]):
        raise _Unknown
    return term.wrapped("pad({})", s.x.aval.ndim)


def _concatenate(s: _Step, term: _Term) -> _Term:
    axis = s.eqn.params["dimension"]
    start = sum(v.aval.shape[axis] for v in s.eqn.invars[: s.i])
    stop = start + s.x.aval.shape[axis]
    if term.rank == 0:
        return term
    return term.wrapped(f"[][{':, ' * axis}{start}:{stop}]", s.x.aval.ndim)


def _nothing(s: _Step, term: _Term) -> None:
    return None


_BACKWARD: dict[str, Callable[[_Step, _Term], _Term | None]] = {
    "add": _same,
    "add_any": _same,
    "sub": _sub,
    "neg": _negated,
    "mul": _mul,
    "div": _div,
    "square": lambda s, t: _power(s, t, 2),
    "integer_pow": _integer_pow,
    "pow": _pow,
    "exp": _several("{}"),
    "exp2": lambda s, t: t.scaled(float(np.log(2))).times(s.output),
    "expm1": _several("({} + 1)"),
    "log": lambda s, t: t.over(s.value),
    "log1p": lambda s, t: t.over(_Text(f"1 + {s.value.at(2)}", s.value.rank, 1)),
    "sqrt": lambda s, t: t.scaled(Fraction(1, 2)).over(s.output),
    "rsqrt": lambda s, t: t.scaled(Fraction(-1, 2)).times(_Text(f"{s.output.at(3)}³", s.output.rank)),
    "logistic": _several("{}", "1 − {}"),
    "tanh": _several("1 − {}²"),
    "sin": _factor("cos(<>)"),
    "cos": lambda s, t: _factor("sin(<>)")(s, t.scaled(-1)),
    "tan": _several("1 + {}²"),
    "abs": _factor("sign(<>)"),
    "erf": _factor("2/√π exp(−{}²)", tight=2),
    "max": _greater("≥"),
    "min": _greater("≤"),
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "transpose": _transpose,
    "dot_general": _dot,
    "select_n": _select,
    "slice": _slice,
    "concatenate": _concatenate,
    "convert_element_type": _same,
    "copy": _same,
    "stop_gradient": _nothing,
    "sign": _nothing,
    "floor": _nothing,
    "ceil": _nothing,
    "round": _nothing,
    "cumsum": lambda s, t: t.wrapped("cumsum({}), from the end", s.x.aval.ndim),
    "rev": lambda s, t: t.wrapped("rev({})", s.x.aval.ndim),
    # jax.nn's functions with a derivative of their own
    "relu": _factor("[<> > 0]"),
    "logsumexp": _factor("softmax(<>)"),
}
_FUNCTIONS = {"relu", "logsumexp"}
_RESHAPING = {
    "reduce_sum", "reduce_max", "reduce_min", "broadcast_in_dim", "reshape", "squeeze", "expand_dims",
    "transpose", "dot_general", "slice", "concatenate", "logsumexp", "select_n", "cumsum", "rev",
}  # fmt: skip


def _binary(sign: str, tight: int) -> Callable[[_Backward, Any], _Text]:
    def go(way: _Backward, eqn: Any) -> _Text:
        a, b = (way.value(v) for v in eqn.invars)
        right = tight + 1 if sign in (" − ", " / ") else tight
        return _Text(f"{a.at(tight)}{sign}{b.at(right)}", 0, tight)

    return go


def _call(name: str) -> Callable[[_Backward, Any], _Text]:
    return lambda way, eqn: _Text(f"{name}({', '.join(way.value(v).text for v in eqn.invars)})", 0)


def _through(way: _Backward, eqn: Any) -> _Text:
    return way.value(eqn.invars[0])


def _raised(way: _Backward, eqn: Any) -> _Text:
    return _Text(f"{way.value(eqn.invars[0]).at(3)}{_superscript(eqn.params['y'])}", 0)


_FORWARD: dict[str, Callable[[_Backward, Any], _Text]] = {
    "add": _binary(" + ", 1),
    "sub": _binary(" − ", 1),
    "mul": _binary(" ", 2),
    "div": _binary(" / ", 2),
    "neg": lambda way, eqn: _Text(f"−{way.value(eqn.invars[0]).at(2)}", 0, 1),
    "integer_pow": _raised,
    "square": lambda way, eqn: _Text(f"{way.value(eqn.invars[0]).at(3)}²", 0),
    "broadcast_in_dim": _through,
    "convert_element_type": _through,
    "copy": _through,
    "stop_gradient": _through,
    "reduce_sum": _call("Σ"),
    "reduce_max": _call("max"),
    "logistic": _call("σ"),
    "gt": _binary(" > ", 1),
    "lt": _binary(" < ", 1),
    "ge": _binary(" ≥ ", 1),
    "le": _binary(" ≤ ", 1),
    "eq": _binary(" = ", 1),
    "transpose": lambda way, eqn: (
        _Text(f"{way.value(eqn.invars[0]).at(3)}ᵀ", 0) if eqn.invars[0].aval.ndim == 2 else _raise()
    ),
} | {
    name: _call(name)
    for name in ("exp", "log", "log1p", "expm1", "sin", "cos", "tanh", "sqrt", "abs", "max", "min")
}


def _raise() -> _Text:
    raise _Unknown

"""How each bar comes about, in bar notation, written with the graph's own names: w̄ = z̄ x + R̄ w.

A message of an operation is worked out as on paper (`derivatives`); rules bring their equation from the
registry. What is not known is written in general form, z̄ ∂z/∂w, and y = f(x) of one argument, each of whose
entries goes through f alone, as ȳ ⊙ f′(x).

How to read it: shapes go together as NumPy's do, a scalar or a smaller array being broadcast, and 𝟏 says
that nothing else does it; two matrices beside each other are multiplied, ⊙ goes entry by entry, ᵀ swaps the
last two axes and makes a row of a vector; ⟨ȳ, y⟩ is summed over the last axis. Σ₀ is the sum of the factor
that follows over axis 0; that axis goes, or stays with size 1 where it would not fit else (so for ∏₀,
max₀, mean₀). [:, None], reshape, 𝟎.at[i].add(ȳ) and the like are JAX's own, where 𝟎 has the shape of what the
equation is for. conv_transpose(ȳ, w) and correlate(x, ȳ) have the strides and the padding of the convolution
they belong to. [x > 0] is 1 where it is true and 0 elsewhere; where the two sides of a max are equal, or
several entries are the largest, they share it, as JAX has it; the equations of prod and cumprod are for
entries that are not 0.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
from jax.extend.core import Var

from overbar.graph.derivatives import LONGEST, Backward
from overbar.graph.derivatives.terms import Unknown, written
from overbar.graph.model import Node
from overbar.graph.symbols import barred

MOST = 12  # messages that are written out


def bar_equation(node: Node) -> str:
    """The sum of the messages a node gathers: "z̄ x + R̄ w"."""
    graph = node.graph
    if not node.is_float:
        return ""
    alone = len(graph.outputs) == 1 and node.shape == () and not node.several
    given = graph._bars_given or ["1" if alone else "given"] * len(graph.outputs)
    terms = [
        word for word, output in zip(given, graph.outputs, strict=True) if output is node and word != "0"
    ]
    senders = [
        (child, i)
        for child in graph._children(node)
        for i, p in enumerate(child.parents)
        if p is node and child.carries[i]
    ]
    left_out = len(senders) - MOST if len(senders) > MOST else 0
    if left_out:
        senders = senders[: MOST - 2] + senders[-2:]
    terms += [message_equation(child, i) for child, i in senders]
    if len(terms) > 1:
        terms = [f"({term})" if " over the " in term else term for term in terms]
    if left_out:
        terms.insert(-2, f"… ({left_out} more)")
    else:
        terms.sort(key=lambda term: term.startswith("−"))
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
    splits = node.several and node.eqns and node.eqns[-1].primitive.name == "split"
    if node.kind != "operation" or (node.several and not splits):
        return general
    for as_call in (False, True):  # written out, or else as f′
        try:
            text = Backward(node, as_call=as_call).message(argument)
        except (Unknown, LookupError, TypeError, ValueError):
            continue  # of what nobody has foreseen too, a graph must be printed
        if len(unicodedata.normalize("NFC", text)) <= LONGEST:
            return text
    return general


# ---------------------------------------------------------------------- rules


def _rule_equation(node: Node, argument: int) -> str | None:
    """The registry's equation of a rule's input, its letters replaced by the graph's names."""
    from overbar.graph.kinds import rule_of

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
            elif np.ndim(v.val) == 0:  # an array without a name keeps the rule's letter
                letters[letter] = written(v.val)
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

"""Which equations of a jaxpr make one node.

The equations of one execution of a statement belong together: `z = w * x + b` is one node. But a node
is one variable, so that what is used in two places starts a node of its own. Each node is thus a cone:
equations of one statement of which only the last one's result is used outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend.core import DropVar, Literal, Var

from overbar._adapter import calls_of, is_jaxpr, map_jaxprs, opened
from overbar.graph.model import inexact


@dataclass(frozen=True)
class Cone:
    """The equations of a node.

    Attributes:
      members: their indices, in order; the last is the one whose result is the node's.
      results: the variables that are used outside, which are several only for one equation alone.
    """

    members: tuple[int, ...]
    results: tuple[Any, ...]


def find(
    eqns: Sequence[Any], outputs: Sequence[Any], labels: Sequence[Any], alone: Sequence[bool]
) -> list[Cone]:
    """Splits equations into cones, in the order of their last equations; what nothing uses is left out.

    Args:
      eqns: a jaxpr's.
      outputs: its outputs.
      labels: for each equation what it shares with those of its cone; None shares with none.
      alone: for each equation whether it makes a node of its own.
    """
    users: dict[Any, set[int]] = {v: {-1} for v in outputs if isinstance(v, Var)}
    members: dict[int, list[int]] = {}  # by the index of the cone's last equation
    results: dict[int, tuple[Any, ...]] = {}
    for i in reversed(range(len(eqns))):
        used = tuple(v for v in eqns[i].outvars if not isinstance(v, DropVar) and v in users)
        if not used:
            continue
        roots = set().union(*(users[v] for v in used))
        root = next(iter(roots))
        joins = (
            len(roots) == 1
            and len(used) == 1
            and root != -1
            and labels[i] is not None
            and labels[i] is labels[root]
            and not alone[i]
            and not alone[root]
        )
        if not joins:
            root = i
            results[i] = used
        members.setdefault(root, []).append(i)
        for v in eqns[i].invars:
            if isinstance(v, Var):
                users.setdefault(v, set()).add(root)
    return [Cone(tuple(members[root][::-1]), results[root]) for root in sorted(members)]


# Primitives with a float result along which nothing flows back.
_FLAT = {"stop_gradient", "sign", "floor", "ceil", "round", "nextafter", "zeros_like"}


def flows(eqns: Sequence[Any], operands: Sequence[Any], results: Sequence[Any]) -> tuple[bool, ...]:
    """For each operand, whether a bar flows back to it from the results."""
    live = {v for v in results if isinstance(v, Var) and inexact(v.aval)}
    for eqn in reversed(eqns):
        if not any(v in live for v in eqn.outvars) or eqn.primitive.name in _FLAT:
            continue
        body = calls_of(eqn)
        if body is not None:
            inner, _ = opened(body)
            out = [b for v, b in zip(eqn.outvars, inner.outvars, strict=True) if v in live]
            carries = flows(inner.eqns, inner.invars, out)
        else:
            carries = (True,) * len(eqn.invars)
        live |= {
            v
            for v, carries_bar in zip(eqn.invars, carries, strict=True)
            if carries_bar and isinstance(v, Var) and inexact(v.aval)
        }
    return tuple(v in live for v in operands)


def structure(eqns: Sequence[Any], operands: Sequence[Any], results: Sequence[Any]) -> Any:
    """What two cones share that compute the same from their operands; hashable."""
    numbers: dict[Any, int] = {v: i for i, v in enumerate(operands)}

    def atom(v: Any) -> Any:
        if isinstance(v, Literal):
            value = v.val if isinstance(v.val, bool | int | float | complex) else id(v.val)
            return ("literal", str(v.aval), type(v.val).__name__, repr(value))
        return numbers[v]

    parts: list[Any] = [tuple(str(v.aval) for v in operands)]
    for eqn in eqns:
        parameters = tuple((name, _hashable(value)) for name, value in sorted(eqn.params.items()))
        parts.append((eqn.primitive.name, parameters, tuple(atom(v) for v in eqn.invars)))
        for v in eqn.outvars:
            numbers[v] = len(numbers)
    return (*parts, tuple(numbers[v] for v in results))


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return ("object", id(value))
    return value


def bodies(eqn: Any) -> dict[str, Any]:
    """The jaxprs an equation holds, by the parameter that holds them; several in a tuple are numbered."""
    found: dict[str, Any] = {}
    for name, value in eqn.params.items():
        held: list[Any] = []

        def note(jaxpr: Any, held: list[Any] = held) -> Any:
            held.append(jaxpr)
            return jaxpr

        if is_jaxpr(value) or isinstance(value, tuple):
            map_jaxprs(note, {name: value})
        for i, jaxpr in enumerate(held):
            found[name if len(held) == 1 else f"{name}[{i}]"] = jaxpr
    return found

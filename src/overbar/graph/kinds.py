"""What kind of node an equation makes, and what it is called where there is no source to quote."""

from __future__ import annotations

from typing import Any

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, source_of
from overbar.graph.model import Node
from overbar.graph.source import Home
from overbar.graph.symbols import is_word
from overbar.rule import registry

LOOPS = {"scan", "while"}


def kind_of(eqn: Any, home: Home) -> str:
    """What kind of node an equation makes; JAX's own jitted functions are mere operations."""
    if custom_vjp_body(eqn) is not None:
        return "rule"
    if eqn.primitive.name in LOOPS:
        return "loop"
    if eqn.primitive.name == "cond":
        return "branch"
    if (body := calls_of(eqn)) is not None:
        _, entry = entry_of(body)
        return "call" if isinstance(entry, tuple) and entry[1] in home else "operation"
    return "operation"


def entry_of(body: Any) -> tuple[str, Any]:
    """The name of the function a jaxpr was traced from, and (name, file, line) of it."""
    name, _, where = source_of(body).partition(" at ")
    file, _, line = where.rpartition(":")
    title = name if is_word(name) else "body"
    return title, (name, file, int(line)) if line.isdecimal() else None


def rule_of(eqn: Any) -> Any | None:
    """The registered rule that an equation calls."""
    body = custom_vjp_body(eqn)
    return None if body is None else registry.get(source_of(body).split(" at ")[0])


def plain(node: Node) -> str:
    """The operation where there is no source to quote."""
    return f"{' '.join(map(_called, node.eqns))}({', '.join(p.name for p in node.parents)})"


def _called(eqn: Any) -> str:
    """What an equation calls: the rule, the jitted function or the one with a derivative of its own."""
    if (rule := rule_of(eqn)) is not None:
        return rule.name
    name = eqn.primitive.name
    if (named := custom_jvp_body(eqn)) is not None:
        name = named[0]
    elif (body := custom_vjp_body(eqn) or calls_of(eqn)) is not None:
        name = source_of(body).split(" at ")[0]
    return name.lstrip("_") if is_word(name) else eqn.primitive.name

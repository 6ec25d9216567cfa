"""Which node first turns NaN or infinite, and why: `overbar.find_nonfinite`.

The function is taken apart to its primitives; loops are gone through turn by turn, on the way back too.
Infinities that were written down on purpose, as the −inf of an attention mask, are let pass until they
turn to NaN or reach the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import scan_counts
from overbar.graph import causes, inside
from overbar.graph.graph import Graph
from overbar.graph.model import GraphError, Node
from overbar.graph.text import number
from overbar.graph.trace import make_graph


@dataclass(frozen=True)
class Nonfinite:
    """The first value, or the first message, of a function that is NaN or infinite.

    Attributes:
      name: the node it happened in; for a backward one the child that sent the message.
      phase: "input", "forward" or "backward".
      what: "NaN" or "infinite".
      operation: the node's expression in the source, and the primitive in it.
      where: file and line, or None where the source is not known.
      inputs: the values that went in, by name: the parents'; for a backward one the node's own bar as well.
      cause: the usual cause, or None where it is no known one.
      target: for a backward one the parent that the message went to.
      turn: in which turn of which loops, from 0: "step 3 of v1"; "" outside of loops.
    """

    name: str
    phase: str
    what: str
    operation: str
    where: str | None
    inputs: dict[str, Any]
    cause: str | None
    target: str | None = None
    turn: str = ""

    def __str__(self) -> str:
        at = f" at {self.where}" if self.where else ""
        turn = f", in {self.turn}," if self.turn else ""
        if self.phase == "input":
            head = f"the input {self.name} is {self.what} to begin with"
        elif self.phase == "forward":
            head = f"forward: {self.name} = {self.operation}{turn} is the first to be {self.what}{at}"
        else:
            head = (
                f"backward: the message of {self.name} = {self.operation}{turn} to {self.target} is "
                f"the first to be {self.what}{at}"
            )
        lines = [head, *(f"  {name} = {_summary(value)}" for name, value in self.inputs.items())]
        return "\n".join([*lines, f"  usual cause: {self.cause}"] if self.cause else lines)


def find_nonfinite(f: Callable[..., Any]) -> Callable[..., Nonfinite | None]:
    """Finds which operation of a function first gives NaN or infinity, in the forward or the backward pass.

    The function is evaluated one primitive after the other, in the taken branch of a cond, in scans
    and while loops turn by turn. Where everything is finite, backpropagation is gone through message by
    message, from a bar of ones, and turn by turn as well. An infinity that is written down as a number
    (the −inf of a mask) is not reported as long as no NaN comes of it and it does not reach the result.

    Args:
      f: any function that `make_graph` takes.

    Returns:
      A function of f's arguments that gives the first `Nonfinite`, or None if there is none.

    Raises:
      GraphError: as `make_graph`; the backward pass of f does not exist (a while loop).

    >>> import jax.numpy as jnp, overbar
    >>> def safe_log(x):
    ...     return jnp.where(x > 0, jnp.log(x), 0.0)
    >>> found = overbar.find_nonfinite(safe_log)(0.0)
    >>> found.phase, found.what, found.cause.split(";")[0]
    ('forward', 'infinite', 'log of 0')
    """
    if not callable(f):
        raise GraphError(f"find_nonfinite takes a function, but came {f!r}.")
    make = make_graph(f, level="operation")

    def find(*args: Any, **kwargs: Any) -> Nonfinite | None:
        graph = make(*args, **kwargs)
        for node in graph.inputs:
            if (what := _what(node.value)) is not None:
                return Nonfinite(node.name, "input", what, "", None, {node.name: node.value}, None)
        if (found := _forward(graph) or _result(graph)) is not None:
            finite = all(_what(n.value) is None for n in graph.outputs)
            if finite and found.name in graph and not found.turn:
                return replace(found, cause=causes.beside(found.cause, graph[found.name]))
            return found
        return _backward(graph)

    return find


def _what(value: Any) -> str | None:
    for leaf in jax.tree.leaves(value):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        if bool(jnp.any(jnp.isnan(leaf))):
            return "NaN"
        if bool(jnp.any(jnp.isinf(leaf))):
            return "infinite"
    return None


# ---------------------------------------------------------------------- forward


def _forward(graph: Graph) -> Nonfinite | None:
    """The first node that is NaN, or infinite although what goes into it is not."""
    graph.forward()
    for node in graph.order:
        if node.kind in ("input", "constant"):
            continue
        what = _what(node.value)
        opens = node.kind == "branch" or inside.is_loop(node)  # where it could have been and gone again
        body = inside.body_of(node)
        if what is None and not opens and (body is None or not inside.holds_opaque(body)):
            continue
        if (found := _inside(node)) is not None:
            return found
        if what is None or not node.parents:
            continue
        if what == "NaN" or not (body or _is_a_mask(node) or any(_what(p.value) for p in node.parents)):
            return _at(node, what)
    return None


def _result(graph: Graph) -> Nonfinite | None:
    """Where the result is infinite of an infinity that was written down: the first node it came through."""
    if not any(_what(n.value) for n in graph.outputs):
        return None
    for node in graph.order:
        if node.parents and (what := _what(node.value)) is not None and not _is_a_mask(node):
            return _at(node, what)
    return None


def _at(node: Node, what: str) -> Nonfinite:
    inputs = {parent.name: parent.value for parent in node.parents}
    cause = causes.in_words(causes.of_value(node, what), node.operation)
    return Nonfinite(node.name, "forward", what, _expression(node), _where(node), inputs, cause)


def _is_a_mask(node: Node) -> bool:
    """Whether the infinity was written down on purpose: a literal −inf, as for attention or a maximum."""
    return any(
        np.asarray(v.val).dtype.kind == "f" and bool(np.any(np.isinf(v.val)))
        for eqn in node.eqns
        for v in eqn.invars
        if hasattr(v, "val")
    )


def _inside(node: Node) -> Nonfinite | None:
    """The operation inside a call, the taken branch, or a turn of a loop."""
    if inside.is_loop(node):
        for name, step in inside.turns(node):
            if (found := _forward(step)) is not None:
                return replace(found, turn=f"{found.turn} in {name}" if found.turn else name)
        return None
    if node.kind in ("call", "branch"):
        for inner in node.inner.values():
            if inner.is_concrete and (found := _forward(inner)) is not None:
                return found
        return None
    body = inside.body_of(node)
    found = _forward(body) if body is not None else None
    return _told_of(node, found) if found is not None else None


def _told_of(node: Node, found: Nonfinite) -> Nonfinite:
    """What was found inside a function of JAX's own, told of the user's line that calls it."""
    if found.where is not None and found.where != _where(node) and not inside.is_jaxs(node):
        return found  # a custom rule of the user's own, with lines of its own
    primitive = found.operation.rpartition(" (")[2].rstrip(")") if " (" in found.operation else ""
    primitive = primitive or found.operation.partition("(")[0]
    text = f"{node.operation} ({primitive})" if primitive not in node.operation else node.operation
    return replace(
        found,
        name=node.name,
        operation=text,
        where=_where(node),
        cause=causes.in_words(found.cause, node.operation),
    )


# ---------------------------------------------------------------------- backward


def _backward(graph: Graph) -> Nonfinite | None:
    ones = [jnp.ones(n.shape, n.dtype) if n.is_float else None for n in graph.outputs]
    if all(one is None for one in ones):
        return None
    try:
        graph.backprop(ones[0] if len(ones) == 1 else graph._unflatten(ones))
    except GraphError as error:
        raise GraphError(f"forward everything is finite, but {error}") from error
    return _first_message(graph)


def _first_message(graph: Graph) -> Nonfinite | None:
    looked_into: set[Node] = set()
    for message in graph.messages:
        what = _what(message.value)
        node = message.source
        if node.kind == "part" or (what is None and not inside.is_loop(node)):
            continue
        if node not in looked_into:
            looked_into.add(node)
            if (found := _inside_backward(node)) is not None:
                return found
        if what is None:
            continue
        inputs = {parent.name: parent.value for parent in node.parents}
        inputs[f"{node.name}_bar"] = node.bar
        return Nonfinite(
            node.name,
            "backward",
            what,
            _expression(node),
            _where(node),
            inputs,
            causes.of_message(message),
            message.target.name,
        )
    return None


def _inside_backward(node: Node) -> Nonfinite | None:
    if inside.is_loop(node):
        return _loop_backward(node)
    if node.kind in ("call", "branch"):
        for inner in node.inner.values():
            if inner.is_concrete and inner._seed is not None and inner._seed() is not None:
                inner._ensure_backprop()
                if (found := _first_message(inner)) is not None:
                    return replace(found, cause=_where_or(found.cause, node))
        return None
    if node.eqns and inside.is_jaxs(node) and (body := inside.body_of(node)) is not None:
        body._ensure_backprop()
        if (found := _first_message(body)) is not None:
            told = _told_of(node, found)
            cause = _where_or(told.cause, node)
            target = next((p.name for p in node.parents), told.target)
            return replace(told, cause=cause, target=target)
    return None


def _where_or(cause: str | None, node: Node) -> str | None:
    """The cause of what happened inside a node; that it is not selected, if a where behind it says so."""
    if not causes.behind_where(node):
        return cause
    stopped = any(bool(jnp.any(b == 0)) for b in jax.tree.leaves(node.bar))
    if not stopped:
        return cause
    return f"the unselected branch of where: its bar is 0, and 0 · inf is NaN; {causes.WHERE}"


def _loop_backward(node: Node) -> Nonfinite | None:
    """A scan gone through from its last turn to its first."""
    eqn = node.eqns[-1]
    if eqn.primitive.name != "scan":
        return None
    constants, carried = scan_counts(eqn)
    turns = list(inside.all_turns(node, constants, carried))
    given = iter(node.bar if node.several else [node.bar])
    used = set(node.operands[1])
    bars = [next(given) if v in used else None for v in eqn.outvars]
    step = node.inner["step"]
    carry_bars, y_bars = bars[:carried], bars[carried:]
    for i, values in reversed(turns):
        inside.give(step, values)
        step.forward()
        now = [*carry_bars, *(None if y is None else y[i] for y in y_bars)]
        now = [None if b is None or not n.is_float else b for b, n in zip(now, step.outputs, strict=True)]
        step.backprop(now[0] if len(now) == 1 else tuple(now))
        if (found := _first_message(step)) is not None:
            name = f"step {i} of {node.name}"
            return replace(found, turn=f"{found.turn} in {name}" if found.turn else name)
        carry_bars = [n.bar for n in step.inputs[constants : constants + carried]]
    return None


# ---------------------------------------------------------------------- telling it


def _expression(node: Node) -> str:
    primitive = node.primitives[-1] if node.primitives else ""
    return node.operation if primitive in node.operation else f"{node.operation} ({primitive})"


def _where(node: Node) -> str | None:
    return f"{node.file}:{node.line}" if node.file else None


def _summary(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_summary(v) for v in value)
    if value is None or not hasattr(value, "shape"):
        return str(value)
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    array = np.asarray(value)
    if array.ndim == 0:
        return number(array)
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    if array.size == 0 or array.dtype.kind not in "fiuVc":
        return kind
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    finite = wide[np.isfinite(wide)]
    ordered = finite.size and array.dtype.kind != "c"
    spread = f", {number(finite.min())} to {number(finite.max())}" if ordered else ""
    return f"{kind}{spread}, {int((wide == 0).sum())} zeros, {array.size - finite.size} not finite"

"""Which node first turns NaN or infinite, and why: `overbar.find_nonfinite`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from overbar._adapter import opened, scan_counts
from overbar.graph.graph import Graph
from overbar.graph.model import GraphError, Message, Node
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
    """

    name: str
    phase: str
    what: str
    operation: str
    where: str | None
    inputs: dict[str, Any]
    cause: str | None
    target: str | None = None

    def __str__(self) -> str:
        at = f" at {self.where}" if self.where else ""
        if self.phase == "input":
            head = f"the input {self.name} is {self.what} to begin with"
        elif self.phase == "forward":
            head = f"forward: {self.name} = {self.operation} is the first to be {self.what}{at}"
        else:
            head = (
                f"backward: the message of {self.name} = {self.operation} to {self.target} is the first "
                f"to be {self.what}{at}"
            )
        lines = [head, *(f"  {name} = {_summary(value)}" for name, value in self.inputs.items())]
        return "\n".join([*lines, f"  usual cause: {self.cause}"] if self.cause else lines)


def find_nonfinite(f: Callable[..., Any]) -> Callable[..., Nonfinite | None]:
    """Finds which operation of a function first gives NaN or infinity, in the forward or the backward pass.

    The function is evaluated one primitive after the other, in scans step by step (of a while loop
    only the result is looked at). Where everything is finite, backpropagation is gone through message by
    message, from a bar of ones.

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
    >>> found.phase, found.what, found.cause
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
        graph.forward()
        return _forward(graph) or _backward(graph)

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
    for node in graph.order:
        what = _what(node.value) if node.kind != "input" else None
        if what is None or node.kind == "constant" or _is_a_mask(node):
            continue
        if (inside := _inside(node)) is not None:
            return inside
        inputs = {parent.name: parent.value for parent in node.parents}
        return Nonfinite(
            node.name, "forward", what, _expression(node), _where(node), inputs, _forward_cause(node)
        )
    return None


def _is_a_mask(node: Node) -> bool:
    """Whether the infinity was written down on purpose: a literal −inf, as for attention or a maximum."""
    return not any(_what(p.value) for p in node.parents) and any(
        np.ndim(v.val) == 0 and not np.all(np.isfinite(v.val))
        for eqn in node.eqns
        for v in eqn.invars
        if hasattr(v, "val") and np.asarray(v.val).dtype.kind == "f"
    )


def _inside(node: Node) -> Nonfinite | None:
    """The operation inside a call, the taken branch, or the step of a scan."""
    graphs: list[Graph] = []
    if node.kind in ("call", "branch"):
        graphs = [g for g in node.inner.values() if g.is_concrete]
    elif node.eqns and node.eqns[-1].primitive.name == "scan":
        return _inside_scan(node)
    for graph in graphs:
        graph.forward()
        if (found := _forward(graph)) is not None:
            return found
    return None


def _inside_scan(node: Node) -> Nonfinite | None:
    eqn = node.eqns[-1]
    parents = iter(node.parents)
    values = [v.val if hasattr(v, "val") else next(parents).value for v in eqn.invars]
    constants, carried = scan_counts(eqn)
    carry = values[constants : constants + carried]
    step = node.inner["step"]
    length = eqn.params["length"]
    for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
        slices = [x[i] for x in values[constants + carried :]]
        for place, value in zip(step.inputs, [*values[:constants], *carry, *slices], strict=True):
            place.given = jnp.asarray(value)
        step.forward()
        if (found := _forward(step)) is not None:
            return Nonfinite(
                **{**vars(found), "operation": f"{found.operation}, in step {i} of {node.name},"}
            )
        carry = [n.value for n in step.outputs[:carried]]
    return None


def _forward_cause(node: Node) -> str | None:
    name = node.primitives[-1] if node.primitives else ""
    values = [np.asarray(p.value) for p in node.parents if p.is_float and not p.several]
    if not values:
        return None
    with np.errstate(all="ignore"):
        x = values[0].astype(np.complex128 if np.iscomplexobj(values[0]) else np.float64)
        if name == "log":
            return "log of 0" if np.any(x == 0) else "log of a negative number"
        if name == "log1p":
            return "log of 0" if np.any(x == -1) else "log of a negative number"
        if name in ("sqrt", "rsqrt"):
            return "a root of a negative number" if np.any(x < 0) else "division by 0"
        if name in ("exp", "exp2", "expm1"):
            limit = np.log(float(jnp.finfo(node.dtype).max))
            return f"overflow of exp: it takes at most {limit:.1f} in {node.dtype}"
        if name == "div":
            zero = values[-1] == 0 if len(values) > 1 or node.eqns[-1].invars[1:] else False
            if len(values) > 1 and np.any(zero & (values[0] == 0)):
                return "0 / 0"
            return "division by 0" if np.any(zero) else "overflow"
        if name in ("mul", "dot_general"):
            huge = any(np.any(np.isinf(v)) for v in values)
            return "0 · inf" if huge else f"overflow of {node.dtype}"
        if name in ("add", "sub", "reduce_sum"):
            return "inf − inf" if any(np.any(np.isinf(v)) for v in values) else f"overflow of {node.dtype}"
        if name in ("pow", "integer_pow"):
            return "0 to a negative power" if np.any(x == 0) else "overflow or a root of a negative number"
    return None


# ---------------------------------------------------------------------- backward


def _backward(graph: Graph) -> Nonfinite | None:
    ones = [jnp.ones(n.shape, n.dtype) if n.is_float else None for n in graph.outputs]
    if all(one is None for one in ones):
        return None
    graph.backprop(ones[0] if len(ones) == 1 else graph._unflatten(ones))
    return _first_message(graph)


def _first_message(graph: Graph) -> Nonfinite | None:
    for message in graph.messages:
        what = _what(message.value)
        if what is None or message.source.kind == "part":
            continue
        node = message.source
        if node.kind in ("call", "branch"):
            for inner in node.inner.values():
                if inner.is_concrete and inner._seed is not None and inner._seed() is not None:
                    found = _first_message(inner)
                    if found is not None:
                        return found
        inputs = {parent.name: parent.value for parent in node.parents}
        inputs[f"{node.name}_bar"] = node.bar
        cause = _backward_cause(graph, message)
        return Nonfinite(
            node.name, "backward", what, _expression(node), _where(node), inputs, cause, message.target.name
        )
    return None


def _backward_cause(graph: Graph, message: Message) -> str | None:
    node = message.source
    name = node.primitives[-1] if node.primitives else ""
    bars = jax.tree.leaves(node.bar)
    stopped = any(bool(jnp.any(b == 0)) for b in bars)
    if stopped and _behind_where(graph, node):
        return (
            "the unselected branch of where: its bar is 0, and 0 · inf is NaN; put a harmless value "
            "in before the operation, jnp.where(ok, x, 1.0), not after it"
        )
    x = np.asarray(message.target.value) if not message.target.several else np.zeros(())
    zero = bool(np.any(x == 0))
    product = ", its bar is 0, and 0 · inf is NaN" if stopped else ""
    if name in ("sqrt", "rsqrt") and zero:
        squares = [n for n in graph.order if n in node.parents and "reduce_sum" in n.primitives]
        return "norm at 0: its slope is 0 / 0" if squares else f"sqrt at 0: its slope is infinite{product}"
    if name == "log" and zero:
        return f"log at 0: its slope is infinite{product}"
    if name in ("div", "pow", "integer_pow") and any(np.any(np.asarray(p.value) == 0) for p in node.parents):
        return "division by 0" if name == "div" else "a power at 0: its slope is infinite"
    if _overflows(node):
        return "overflow"
    return None


def _overflows(node: Node) -> bool:
    """Whether a bar is so large that the next product leaves the range of the dtype."""
    bars = [b for b in jax.tree.leaves(node.bar) if b.size]
    return any(float(jnp.max(jnp.abs(b))) > float(jnp.finfo(b.dtype).max) ** 0.5 for b in bars)


def _behind_where(graph: Graph, node: Node) -> bool:
    """Whether all that the node sends on goes through a selection."""
    waiting, seen = [node], {node}
    while waiting:
        for child in graph._children(waiting.pop()):
            inner = [e.primitive.name for eqn in child.eqns for e in _held(eqn)]
            if "select_n" in (*child.primitives, *inner):
                return True
            if child not in seen:
                seen.add(child)
                waiting.append(child)
    return False


def _held(eqn: Any) -> Sequence[Any]:
    body = eqn.params.get("jaxpr")
    return opened(body)[0].eqns if eqn.primitive.name in ("jit", "pjit") and body is not None else []


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
    array = np.asarray(value)
    if array.ndim == 0:
        return number(array)
    kind = f"{array.dtype}[{','.join(map(str, array.shape))}]"
    if array.size == 0 or array.dtype.kind not in "fiuV":
        return kind
    wide = array.astype(np.float64)
    finite = wide[np.isfinite(wide)]
    spread = f", {number(finite.min())} to {number(finite.max())}" if finite.size else ""
    return f"{kind}{spread}, {int((wide == 0).sum())} zeros, {array.size - finite.size} not finite"

"""What a node holds, gone through with its values: the body of a call, a loop turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from overbar._adapter import calls_of, custom_jvp_body, custom_vjp_body, scan_counts
from overbar.graph.graph import Graph
from overbar.graph.model import Node, inexact


def is_loop(node: Node) -> bool:
    return bool(node.eqns) and node.eqns[-1].primitive.name in ("scan", "while")


def is_jaxs(node: Node) -> bool:
    return calls_of(node.eqns[-1]) is not None


def body_of(node: Node) -> Graph | None:
    """What a jitted function of JAX's own, or a function with a custom derivative, consists of."""
    if not node.eqns or len(node.eqns) > 1 or node.kind in ("call", "branch", "loop"):
        return None
    eqn = node.eqns[-1]
    body = calls_of(eqn) or custom_vjp_body(eqn)
    if body is None and (named := custom_jvp_body(eqn)) is not None:
        body = named[1]
    if body is None:
        return None
    parents = iter(node.parents)
    outer = [v if hasattr(v, "val") else next(parents) for v in eqn.invars]
    return node.graph._body(body, outer, node, values=True)


def holds_opaque(graph: Graph) -> bool:
    """Whether something in it could be infinite although its result is finite: a where, a loop."""
    return any("select_n" in n.primitives or n.kind in ("loop", "branch") for n in graph.order)


def turns(node: Node) -> Iterator[tuple[str, Graph]]:
    """The turns of a loop, each a graph with its values, from the first to the last."""
    for i, step, values in _entered(node):
        give(step, values)
        yield f"step {i} of {node.name}", step


def give(step: Graph, values: Sequence[Any]) -> None:
    for place, value in zip(step.inputs, values, strict=True):
        place.given = jnp.asarray(value)
    step._evaluated, step._messages = False, None


def _entered(node: Node) -> Iterator[tuple[int, Graph, list[Any]]]:
    """For each turn its number, its graph, and what goes into it; turns that are finite are skipped.

    One turn is compiled and run until something in it is not finite; only that one is gone through slowly.
    """
    eqn = node.eqns[-1]
    parents = iter(node.parents)
    values = [jnp.asarray(v.val) if hasattr(v, "val") else next(parents).value for v in eqn.invars]
    step = node.inner["step"]
    suspicious = _watched(step)
    if eqn.primitive.name == "scan":
        constants, carried = scan_counts(eqn)
        fixed, carry, xs = (
            values[:constants],
            values[constants : constants + carried],
            values[constants + carried :],
        )
        length = eqn.params["length"]
        for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
            given = [*fixed, *carry, *(x[i] for x in xs)]
            results, suspect = suspicious(given)
            if suspect:
                yield i, step, given
            carry = results[:carried]
        return
    tested, stepped = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    test = jax.jit(_results(node.inner["test"]))
    carry, i = values[tested + stepped :], 0
    while bool(test([*values[:tested], *carry])[0]):
        given = [*values[tested : tested + stepped], *carry]
        carry, suspect = suspicious(given)
        if suspect:
            yield i, step, given
        i += 1


def _results(step: Graph) -> Callable[[Sequence[Any]], list[Any]]:
    return lambda values: [known[n] for known in [_known(step, values)] for n in step.outputs]


def _known(step: Graph, values: Sequence[Any]) -> dict[Node, Any]:
    """The values of all nodes, for those of the inputs."""
    known: dict[Node, Any] = dict(zip(step.inputs, values, strict=True))
    for node in step.order:
        if node.kind == "part":
            known[node] = known[node.parents[0]][node.part]
        elif node.program is not None:
            known[node] = node.program(*(known[p] for p in node.parents))
    return known


def _watched(step: Graph) -> Callable[[Sequence[Any]], tuple[list[Any], bool]]:
    """A turn, compiled: its results, and whether to look into it."""
    always = _holds_deep(step)

    @jax.jit
    def run(values: Sequence[Any]) -> tuple[list[Any], Any]:
        known = _known(step, values)
        floats = [x for x in jax.tree.leaves(list(known.values())) if inexact(x)]
        return [known[n] for n in step.outputs], jnp.array([jnp.all(jnp.isfinite(x)) for x in floats]).all()

    def turn(values: Sequence[Any]) -> tuple[list[Any], bool]:
        results, finite = run(list(values))
        return results, always or not bool(finite)

    return turn


def _holds_deep(step: Graph) -> bool:
    return any(n.kind in ("loop", "branch", "call") or body_of(n) is not None for n in step.order)


def all_turns(node: Node, constants: int, carried: int) -> Iterator[tuple[int, list[Any]]]:
    eqn = node.eqns[-1]
    parents = iter(node.parents)
    values = [jnp.asarray(v.val) if hasattr(v, "val") else next(parents).value for v in eqn.invars]
    run = jax.jit(_results(node.inner["step"]))
    carry, length = values[constants : constants + carried], eqn.params["length"]
    for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
        given = [*values[:constants], *carry, *(x[i] for x in values[constants + carried :])]
        yield i, given
        carry = run(given)[:carried]

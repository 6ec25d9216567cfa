"""One node's own operation: its value, and the derivative with respect to its own arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from overbar.graph.model import GraphError, Node, inexact

OFTEN = 8  # an operation that a graph has more often is compiled, and the graph stays fast with 10⁵ nodes


def evaluate(node: Node, arguments: list[Any]) -> None:
    """Sets the node's value, and its pullback: its bar -> the bars of those arguments that carry one."""
    node.pullback = node.obstacle = None
    if node.kind == "part":
        node.computed = arguments[0][node.part]
        return
    carried = [i for i, carries in enumerate(node.carries) if carries]
    assert node.program is not None
    if not carried:
        node.computed = node.program(*arguments)
        return
    uses = node.graph._uses.get(node.key, 0)
    if uses >= OFTEN and not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arguments)):
        compiled = node.graph._compiled.get(node.key)
        if compiled is None:
            compiled = jax.jit(functools.partial(_with_pullback, node.program, carried))
            node.graph._compiled[node.key] = compiled
        node.computed, pull = compiled(arguments)
        node.pullback = functools.partial(_compiled_pull, node, pull)
        return
    try:
        node.computed, pull = _with_pullback(node.program, carried, arguments)
        node.pullback = functools.partial(_pull, node, pull)
    except Exception as error:
        node.computed = node.program(*arguments)  # what cannot even be evaluated raises its own error here
        node.obstacle = GraphError(_refusal(node, error))
        node.obstacle.__cause__ = error


def _with_pullback(program: Callable[..., Any], carried: list[int], arguments: list[Any]) -> Any:
    def of_carried(*values: Any) -> Any:
        filled = list(arguments)
        for i, value in zip(carried, values, strict=True):
            filled[i] = value
        return program(*filled)

    return jax.vjp(of_carried, *(arguments[i] for i in carried))


def _pull(node: Node, pull: Callable[..., Any], bar: Any) -> Any:
    try:
        return pull(_cotangent(node, bar))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise GraphError(_refusal(node, error)) from error


def _compiled_pull(node: Node, pull: Callable[..., Any], bar: Any) -> Any:
    return _apply(pull, _cotangent(node, bar))


@jax.jit
def _apply(pull: Callable[..., Any], bar: Any) -> Any:
    return pull(bar)


def _cotangent(node: Node, bar: Any) -> Any:
    """The bar as jax.vjp wants it: integers and keys have one without content."""
    if not node.several:
        return bar
    return tuple(
        b if inexact(aval) else np.zeros(aval.shape, jax.dtypes.float0)
        for aval, b in zip(node.avals, bar, strict=True)
    )


def _refusal(node: Node, error: Exception) -> str:
    where = f" ({node.file}:{node.line})" if node.file else ""
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{node.name} = {node.operation}{where} has no derivative in reverse: {first}"

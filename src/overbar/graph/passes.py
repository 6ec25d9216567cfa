"""Backpropagation on a graph: Algorithms 6.1 and 6.2 of Goodfellow, Bengio and Courville.

    (1) order the nodes n_1 .. n_N topologically                   Graph.order
    (2) for i = 1 .. N:    n_i = f_i(parents of n_i)               forward
    (3) n̄_N = 1                                                    backprop
    (4) for i = N .. 1:    n̄_i = Σ of the messages that the children j of n_i sent,
                           and n_i sends each of its parents k the message n̄_i ∂n_i/∂n_k

A node knows its own operation and nothing of the others: ∂n_i/∂n_k is the derivative with respect to its
own arguments (`jax.vjp`; a rule brings its own hand-derived backward).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from overbar.graph.local import evaluate
from overbar.graph.model import Message, Node, inexact

if TYPE_CHECKING:
    from overbar.graph import Graph


def forward(graph: Graph) -> None:
    """Algorithm 6.1: every node is evaluated from its parents, in order."""
    for node in graph.order:
        if node.kind == "input":
            node.computed = node.value
        else:
            evaluate(node, [parent.computed for parent in node.parents])


def backprop(graph: Graph, seeds: Sequence[tuple[Node, Any]]) -> list[Message]:
    """Algorithm 6.2: in reverse order every node sums what its children sent, and sends its own messages.

    Args:
      graph: after `forward`.
      seeds: the outputs, each with its bar: that of a scalar cost is 1.

    Returns:
      The messages, in the order they were sent.
    """
    sent: list[Message] = []
    arrived: dict[Node, list[tuple[int | None, Any]]] = {node: [] for node in graph.order}
    for output, bar in seeds:
        arrived[output].append((None, bar))

    for node in reversed(graph.order):
        node.gathered = total(node, arrived[node])
        if arrived[node]:
            for message in send(node):
                arrived[message.target].append((node.part, message.value))
                sent.append(message)
    return sent


def total(node: Node, arrived: Sequence[tuple[int | None, Any]]) -> Any:
    """n̄ = Σ of the messages; 0 if there are none. A node of several results has a bar for each."""
    if node.several:
        parts = [[(None, bar) for part, bar in arrived if part == i] for i in range(len(node.avals))]
        return tuple(_sum(aval, bars) for aval, bars in zip(node.avals, parts, strict=True))
    return _sum(node.avals[0], arrived)


def _sum(aval: Any, arrived: Sequence[tuple[int | None, Any]]) -> Any:
    if not inexact(aval):
        return None
    if not arrived:
        return jnp.zeros(aval.shape, aval.dtype)
    result = arrived[0][1]
    for _, bar in arrived[1:]:
        result = result + bar
    return result


def send(node: Node) -> Iterator[Message]:
    """The node's messages: its bar times the derivative by each of its own arguments."""
    if node.kind == "part":
        yield Message(node, node.parents[0], node.gathered)
    elif node.pullback is not None:
        values = iter(node.pullback(node.gathered))
        for argument, parent in enumerate(node.parents):
            if node.carries[argument]:
                yield Message(node, parent, next(values), argument)
    elif node.obstacle is not None:
        raise node.obstacle

"""Backpropagation as a graph that one can see: `overbar.make_graph(f)(*args)`."""

from __future__ import annotations

from overbar.graph.graph import Graph
from overbar.graph.model import Bars, GraphError, Group, Message, Node
from overbar.graph.nonfinite import Nonfinite, find_nonfinite
from overbar.graph.trace import make_graph

__all__ = [
    "Bars",
    "Graph",
    "GraphError",
    "Group",
    "Message",
    "Node",
    "Nonfinite",
    "find_nonfinite",
    "make_graph",
]

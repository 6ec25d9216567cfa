"""The one intermediate form that all pictures are rendered from: boxes, edges and frames, as plain text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from overbar.graph.arrays import Array, array
from overbar.graph.equations import message_equation
from overbar.graph.model import GraphError, Message, Node, describe
from overbar.graph.symbols import barred
from overbar.graph.text import backward_text, forward_text, spoken

if TYPE_CHECKING:
    from overbar.graph import Graph

LONGEST = 1000  # letters of a line


@dataclass(frozen=True)
class Box:
    """One node. What stands after `made` is there only if the picture was asked for its arrays.

    Attributes:
      id: n0, n1, ... in topological order.
      name: as a person writes it.
      kind: as `Node.kind`; "fold" for nodes that did not fit.
      forward, backward: the node's line in each of the lecture's columns.
      gets_bar: whether a bar flows back to it.
      groups: the names of the calls it was made in, the outermost first.
      made: the operation in full, "w * x + b".
      type: such as float32[3,4].
      bar_name: its bar's name, z̄.
      equation: how its bar comes about, in full: "z̄ x + R̄ w".
      where: the place in the source, "model.py:12".
      values, bars: one array, or one for each result of an operation that has several.
      given: an output's own bar, before any message arrives.
      inner: what it holds, by part, if it opens: a loop's step, a branch, a called function.
    """

    id: str
    name: str
    kind: str
    forward: str
    backward: str
    gets_bar: bool
    groups: tuple[str, ...] = ()
    made: str = ""
    type: str = ""
    bar_name: str = ""
    equation: str = ""
    where: str = ""
    values: tuple[Array, ...] = ()
    bars: tuple[Array, ...] = ()
    given: tuple[Array, ...] = ()
    inner: tuple[tuple[str, Picture], ...] = ()


@dataclass(frozen=True)
class Edge:
    """From a parent to its child, one for each use; its message goes the other way.

    Attributes:
      source, target: ids of boxes.
      flows: whether a message flows back.
      message: its equation; "" where there is none to write.
      value: the message, if the picture was asked for its arrays; of several it is their sum.
      uses: how many edges it stands for: more than one only to or from a fold.
    """

    source: str
    target: str
    flows: bool
    message: str = ""
    value: Array | None = None
    uses: int = 1


@dataclass(frozen=True)
class Picture:
    """A graph as it is drawn; `notes` are sentences on what is not drawn, and why."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """What was made in one call of a function: boxes and further frames."""

    name: str
    members: tuple[Box | Frame, ...]


def framed(boxes: tuple[Box, ...], depth: int = 0) -> tuple[Box | Frame, ...]:
    """The boxes in order, those of each call together in a frame that stands where its first does."""
    calls: dict[str, list[Box]] = {}
    for box in boxes:
        if len(box.groups) > depth:
            calls.setdefault(box.groups[depth], []).append(box)
    found: list[Box | Frame] = []
    for box in boxes:
        if len(box.groups) <= depth:
            found.append(box)
        elif calls[box.groups[depth]][0] is box:
            name = box.groups[depth]
            found.append(Frame(name, framed(tuple(calls[name]), depth + 1)))
    return tuple(found)


def picture(graph: Graph, *, most: int = 200, arrays: bool = False) -> Picture:
    """What is to be drawn of a graph.

    Args:
      graph: any.
      most: how many nodes are drawn; of a larger graph the middle is folded into one box.
      arrays: whether values, bars, messages, and what loops, branches and calls hold, are drawn too.
    """
    if most < 3:
        raise GraphError(f"most must be at least 3, so that first, folded and last fit, but came {most}.")
    return _Drawing(graph, most, arrays, "", [2 * most]).picture()


class _Drawing:
    """Draws one graph; those in its nodes share what is left of the number of boxes that may be drawn."""

    def __init__(self, graph: Graph, most: int, arrays: bool, prefix: str, left: list[int]):
        self.graph, self.most, self.arrays, self.prefix, self.left = graph, most, arrays, prefix, left
        self.values, self.bars, self.notes = graph.is_concrete, False, list[str]()
        if self.values:
            self.bars, why = graph.bars_or_why()
            self.notes += [why] if why else []
        elif not prefix:
            self.notes.append("No values: the graph was made of shapes alone.")
        self.ids: dict[Node, str] = {}
        self.messages: dict[tuple[Node, int], Message] = {}
        if arrays and self.bars:
            self.messages = {(m.source, m.argument): m for m in graph.messages}

    def picture(self) -> Picture:
        head, folded, tail = list(self.graph.order), list[Node](), list[Node]()
        if len(head) > self.most:
            half = (self.most - 1) // 2
            cut = self.most - 1 - half
            head, folded, tail = head[:cut], head[cut:-half], head[-half:]
            self.notes.append(
                f"{len(folded):,} of {len(self.graph.order):,} nodes are folded into one box, "
                f"from {folded[0].symbol} to {folded[-1].symbol}; most= shows more."
            )
        self.left[0] -= len(head) + len(tail)
        boxes = [self._box(node) for node in head]
        fold = None
        if folded:
            fold = f"{self.prefix}n{len(boxes)}"
            self.ids |= dict.fromkeys(folded, fold)
            flows = any(node.needs_bar for node in folded)
            boxes.append(Box(fold, "…", "fold", f"… {len(folded)} more", "", flows))
        boxes += [self._box(node, len(boxes) + i) for i, node in enumerate(tail)]
        return Picture(self.graph.name, tuple(boxes), tuple(self._edges(fold)), tuple(self.notes))

    def _edges(self, fold: str | None) -> list[Edge]:
        folds: dict[tuple[str, str], list[tuple[bool, Any]]] = {}  # of these edges one is drawn
        edges: list[Edge] = []
        for child in self.graph.order:
            for argument, parent in enumerate(child.parents):
                source, target = self.ids[parent], self.ids[child]
                flows = child.carries[argument] and child.needs_bar and parent.needs_bar
                message = self.messages.get((child, argument)) if flows else None
                value = message.value if message is not None else None
                if fold in (source, target):
                    if source != target:
                        folds.setdefault((source, target), []).append((flows, value))
                    continue
                text = message_equation(child, argument) if flows and child.kind != "part" else ""
                edges.append(Edge(source, target, flows, text, None if value is None else array(value)))
        for (source, target), uses in folds.items():
            flows = any(flows for flows, _ in uses)
            sent = [value for _, value in uses if value is not None]
            # What arrives at the fold is for several nodes, and has no sum.
            total = array(sum(sent[1:], sent[0])) if sent and source != fold else None
            edges.append(Edge(source, target, flows, "", total, len(uses)))
        return edges

    def _box(self, node: Node, number: int | None = None) -> Box:
        self.ids[node] = name = f"{self.prefix}n{len(self.ids) if number is None else number}"
        groups = tuple(group.name for group in node.groups)
        plain = Box(
            name,
            node.symbol,
            node.kind,
            _folded(forward_text(node, self.values)),
            _folded(backward_text(node, self.bars)),
            node.needs_bar,
            groups,
            spoken(node.operation),
        )
        if not self.arrays:
            return plain
        given = [bar for output, bar in self.graph.seeds if output is node] if self.bars else []
        return replace(
            plain,
            type=describe(node),
            bar_name=barred(node.symbol),
            equation=_folded(node.equation) if node.needs_bar else "",
            where=f"{os.path.basename(node.file)}:{node.line}" if node.file else "",
            values=_arrays(node.value) if self.values else (),
            bars=_arrays(node.bar) if self.bars and node.needs_bar else (),
            given=_arrays(tuple(given)),
            inner=tuple(self._inner(node, name)),
        )

    def _inner(self, node: Node, name: str) -> Iterator[tuple[str, Picture]]:
        if node.kind not in ("loop", "branch", "call"):
            return
        for part, (title, graph) in enumerate(node.inner.items()):
            title = graph.name if title == "body" else title
            if self.left[0] < 3:
                self.notes.append(
                    f"What {node.symbol} holds is not drawn, for want of room; most= gives more."
                )
                return
            times = f", {node.trips} times" if node.trips is not None else ""
            most = max(3, min(self.most, self.left[0]))
            yield title + times, _Drawing(graph, most, True, f"{name}-{part}-", self.left).picture()


def _folded(line: str) -> str:
    """A line without its middle if it is very long: the bar of what thousands of nodes use."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} … {line[-LONGEST // 4 :]}"


def _arrays(value: Any) -> tuple[Array, ...]:
    several = value if isinstance(value, tuple) else (value,)
    return tuple(array(v) for v in several if v is not None)

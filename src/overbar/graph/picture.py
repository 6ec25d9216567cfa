"""The one intermediate form that all pictures are rendered from: boxes, edges and frames, as plain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from overbar.graph.model import GraphError, Node
from overbar.graph.text import backward_text, forward_text

if TYPE_CHECKING:
    from overbar.graph import Graph


@dataclass(frozen=True)
class Box:
    """One node.

    Attributes:
      id: n0, n1, ... in topological order.
      name: as a person writes it.
      kind: as `Node.kind`; "fold" for nodes that did not fit.
      forward, backward: the node's line in each of the lecture's columns.
      gets_bar: whether a bar flows back to it.
      groups: the names of the calls it was made in, the outermost first.
    """

    id: str
    name: str
    kind: str
    forward: str
    backward: str
    gets_bar: bool
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Edge:
    """From a parent to its child, one for each use; its message goes the other way.

    Attributes:
      source, target: ids of boxes.
      flows: whether a message flows back.
      message: its equation; "" where there is none to write.
    """

    source: str
    target: str
    flows: bool
    message: str = ""


@dataclass(frozen=True)
class Picture:
    """A graph as it is drawn."""

    title: str
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def picture(graph: Graph, *, most: int = 200) -> Picture:
    """What is to be drawn of a graph.

    Args:
      graph: any.
      most: how many nodes are drawn; of a larger graph the middle is folded into one box.
    """
    if most < 3:
        raise GraphError(f"most must be at least 3, so that first, folded and last fit, but came {most}.")
    values = graph.is_concrete
    bars = values and graph.bars_or_why()[0]
    head, tail = list(graph.order), list[Node]()
    folded: list[Node] = []
    if len(head) > most:
        half = (most - 1) // 2
        head, folded, tail = head[: most - 1 - half], head[most - 1 - half : -half], head[-half:]
    ids: dict[Node, str] = {}
    boxes: list[Box] = []
    for node in head:
        boxes.append(_box(ids, node, values, bars))
    if folded:
        fold = f"n{len(boxes)}"
        ids |= dict.fromkeys(folded, fold)
        boxes.append(Box(fold, "…", "fold", f"… {len(folded)} more", "", any(n.needs_bar for n in folded)))
    for node in tail:
        boxes.append(_box(ids, node, values, bars))
    folds: dict[tuple[str, str], bool] = {}  # of the edges to and from what is folded one is drawn
    uses: list[Edge] = []
    for child in graph.order:
        for argument, parent in enumerate(child.parents):
            source, target = ids[parent], ids[child]
            flows = child.carries[argument] and child.needs_bar and parent.needs_bar
            if "fold" in {boxes[int(end[1:])].kind for end in (source, target)}:
                if source != target:
                    folds[source, target] = folds.get((source, target), False) or flows
                continue
            uses.append(Edge(source, target, flows, _message(child, argument) if flows else ""))
    uses += [Edge(source, target, flows) for (source, target), flows in folds.items()]
    return Picture(graph.name, tuple(boxes), tuple(uses))


def _box(ids: dict[Node, str], node: Node, values: bool, bars: bool) -> Box:
    ids[node] = f"n{len(set(ids.values()))}"
    backward = backward_text(node, bars)
    return Box(
        ids[node],
        node.symbol,
        node.kind,
        forward_text(node, values),
        backward,
        node.needs_bar,
        tuple(group.name for group in node.groups),
    )


def _message(child: Node, argument: int) -> str:
    from overbar.graph.equations import message_equation

    return message_equation(child, argument) if child.kind != "part" else ""

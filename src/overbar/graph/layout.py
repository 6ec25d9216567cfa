"""Where the boxes, frames and edges of a picture stand: in layers, each box below its parents.

Grandalf lays out one level at a time, the innermost frames first: in the level around it a frame is one box.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from overbar.graph.model import GraphError
from overbar.graph.picture import Box, Edge, Frame, Picture, framed

BETWEEN_LAYERS, BESIDE = 48, 24  # pixels
INSET, TITLE = 14, 20  # within a frame: the air at its sides, the line of its name
WIDEST = 1200  # a layer wider than this is split into several
TURN, AIR = 2, 8  # what a long edge takes of a layer that it passes, and the air at its sides
MOST_USES = 12

Point = tuple[float, float]


@dataclass
class Plan:
    """Pixels from the upper left corner.

    Attributes:
      places: for each box the middle x, y, and its width and height.
      frames: x, y of the upper left corner, width, height, name; outer frames before inner ones.
      paths: for each edge the points it goes through, from the lower side of its source to the
        upper side of its target.
      width, height: of it all.
    """

    places: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    frames: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    paths: list[list[Point]] = field(default_factory=list)
    turns: dict[int, list[Point]] = field(
        default_factory=dict
    )  # by the edge's number, at the level of both ends
    width: float = 0.0
    height: float = 0.0

    def take(self, inner: Plan, x: float, y: float) -> None:
        """What a frame holds, moved to where it stands."""
        for name, (bx, by, w, h) in inner.places.items():
            self.places[name] = (bx + x, by + y, w, h)
        self.frames += [(fx + x, fy + y, w, h, name) for fx, fy, w, h, name in inner.frames]
        for number, points in inner.turns.items():
            self.turns[number] = [(px + x, py + y) for px, py in points]


@dataclass
class _View:
    """What grandalf asks of a vertex: its size, and a place to write its position."""

    w: float
    h: float
    xy: Point = (0.0, 0.0)


class _Path:
    """What grandalf asks of an edge: a place to write its points."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def setpath(self, points: list[Point]) -> None:
        self.points = [(float(x), float(y)) for x, y in points]


class _Unseen(_Path):
    """A line that is not drawn: it puts one box below another."""


def layout(picture: Picture, sizes: Mapping[str, tuple[float, float]]) -> Plan:
    """Lays a picture out.

    Args:
      picture: any.
      sizes: the width and height of each box, by its id.

    Raises:
      GraphError: grandalf is not installed.
    """
    try:
        import grandalf.graphs
        import grandalf.layouts  # noqa: F401
    except ImportError as error:
        raise GraphError(
            "an SVG needs the package grandalf, which lays it out: pip install 'overbar[graph]'. "
            "DOT and Mermaid need nothing: graph.save('graph.dot'), graph.save('graph.mmd')."
        ) from error
    plan = _level(framed(picture.boxes), picture.edges, sizes)
    seen: dict[tuple[str, str], int] = {}
    for number, edge in enumerate(picture.edges):
        ends = edge.source, edge.target
        nth = seen[ends] = seen.get(ends, -1) + 1
        aside = 14.0 * ((nth + 1) // 2) * (-1 if nth % 2 else 1)  # a second edge runs beside the first
        (x0, y0, _, h0), (x1, y1, _, h1) = plan.places[edge.source], plan.places[edge.target]
        turns = [(x + aside, y) for x, y in plan.turns.get(number, [])]
        plan.paths.append([(x0 + aside, y0 + h0 / 2), *turns, (x1 + aside, y1 - h1 / 2)])
    return plan


def _level(
    members: Sequence[Box | Frame], edges: Sequence[Edge], sizes: Mapping[str, tuple[float, float]]
) -> Plan:
    """Lays out boxes and frames side by side and below each other, and what the frames hold before."""
    inner: dict[int, Plan] = {}
    views: list[_View] = []
    unit: dict[str, int] = {}
    for number, member in enumerate(members):
        if isinstance(member, Box):
            w, h = sizes[member.id]
            views.append(_View(w + BESIDE, h))  # grandalf puts lines closer to each other than boxes
            unit[member.id] = number
        else:
            held = inner[number] = _level(member.members, edges, sizes)
            views.append(_View(held.width + 2 * INSET + BESIDE, held.height + INSET + TITLE))
            unit |= dict.fromkeys(held.places, number)
    lines: dict[tuple[int, int], _Path] = {}
    over: list[tuple[int, tuple[int, int]]] = []
    for number, edge in enumerate(edges):
        ends = unit.get(edge.source), unit.get(edge.target)
        if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
            # Calls that feed each other both ways would be a circle: what goes back does not count.
            if (ends[1], ends[0]) not in lines:
                lines.setdefault((ends[0], ends[1]), _Path())
            over.append((number, (ends[0], ends[1])))
    _thin(lines)
    plan = Plan()
    plan.width, plan.height = _place(views, lines)
    for path in lines.values():
        path.points = path.points[1:-1]
    for number, (member, view) in enumerate(zip(members, views, strict=True)):
        x, y = view.xy
        width = view.w - BESIDE
        if isinstance(member, Box):
            plan.places[member.id] = (x, y, width, view.h)
            continue
        left, top = x - width / 2, y - view.h / 2
        plan.frames.append((left, top, width, view.h, member.name))
        plan.take(inner[number], left + INSET, top + TITLE)
    plan.turns |= {number: lines[ends].points for number, ends in over if ends in lines}
    return plan


def _thin(lines: dict[tuple[int, int], _Path]) -> None:
    """Of what very many boxes use, the further edges go straight: each would widen all layers it passes."""
    fed = Counter(target for _, target in lines)
    uses: Counter[int] = Counter()
    for source, target in sorted(lines):
        uses[source] += 1
        if uses[source] > MOST_USES and fed[target] > 1:
            fed[target] -= 1
            del lines[source, target]


def _place(views: Sequence[_View], lines: Mapping[tuple[int, int], _Path]) -> Point:
    """Sets where the views stand and the lines turn, part by part of what hangs together; gives the size."""
    from grandalf.graphs import Edge as Line
    from grandalf.graphs import Graph as Drawing
    from grandalf.graphs import Vertex

    vertices = [Vertex(number) for number in range(len(views))]
    for vertex, view in zip(vertices, views, strict=True):
        vertex.view = view
    drawn = []
    for (source, target), path in lines.items():
        line = Line(vertices[source], vertices[target])
        line.view = path
        drawn.append(line)
    x = y = width = height = 0.0
    for component in Drawing(vertices, drawn).C:
        _wrap(component)
        members = [vertex.view for vertex in component.sV]
        paths = [line.view for line in component.sE if not isinstance(line.view, _Unseen)]
        left = min([v.xy[0] - v.w / 2 for v in members] + [px for path in paths for px, _ in path.points])
        right = max([v.xy[0] + v.w / 2 for v in members] + [px for path in paths for px, _ in path.points])
        top, bottom = min(v.xy[1] - v.h / 2 for v in members), max(v.xy[1] + v.h / 2 for v in members)
        if x and x + right - left > WIDEST:
            x, y = 0.0, height + BETWEEN_LAYERS
        for view in members:
            view.xy = (float(view.xy[0] - left + x), float(view.xy[1] - top + y))
        for path in paths:
            path.points = [(px - left + x, py - top + y) for px, py in path.points]
        width, height = max(width, x + right - left), max(height, y + bottom - top)
        x += right - left + BESIDE
    return width, height


def _wrap(component: Any) -> None:
    """Lays a connected drawing out; the boxes of a layer that is too wide go into several."""
    from grandalf.graphs import Edge as Line

    laid = _laid_out(component)
    added = False
    for layer in laid.layers:
        boxes = [v for v in layer if isinstance(getattr(v, "view", None), _View)]
        rows = math.ceil(sum(v.view.w + BESIDE for v in boxes) / WIDEST)
        if rows < 2 or len(boxes) < 2:
            continue
        per = math.ceil(len(boxes) / rows)
        for i in range(per, len(boxes)):
            line = Line(boxes[i - per], boxes[i])
            line.view = _Unseen()
            component.add_edge(line)
            added = True
    if added:
        _laid_out(component)


def _laid_out(component: Any) -> Any:
    from grandalf.layouts import SugiyamaLayout

    turning = SugiyamaLayout(component)
    turning.dw = TURN
    turning.xspace, turning.yspace = AIR, BETWEEN_LAYERS
    roots = [v for v in component.sV if not v.e_in()]
    turning.init_all(roots=roots, inverted_edges=[], optimize=True)
    turning.draw(3)
    _spaced(turning)
    return turning


def _spaced(laid: Any) -> None:
    """Within each layer nothing lies on another; what is wider than it need be is packed."""
    places = [v.view for layer in laid.layers for v in layer]
    left, right = min(v.xy[0] - v.w / 2 for v in places), max(v.xy[0] + v.w / 2 for v in places)
    for layer in laid.layers:
        views = sorted((v.view for v in layer), key=lambda view: view.xy[0])
        packed = sum(view.w + AIR for view in views)
        end = (left + right - packed) / 2 if right - left > WIDEST else left
        for view in views:
            x = end + view.w / 2 if right - left > WIDEST else max(view.xy[0], end + view.w / 2)
            view.xy = (x, view.xy[1])
            end = x + view.w / 2 + AIR
    laid.draw_edges()

"""A picture as SVG, laid out in layers by grandalf."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from overbar.graph.model import GraphError
from overbar.graph.picture import Box, Edge, Picture

LETTER, LINE, PAD = 8.2, 18, 10  # pixels: a monospaced letter of 13 px, a line, the air in a box
BETWEEN_LAYERS, BESIDE, MARGIN = 44, 24, 16
LONGEST = 64  # letters of a line in a box

STYLE = """
.overbar { color-scheme: light dark; }
.overbar { font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }
.overbar rect { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.2; }
.overbar .paper { fill: #ffffff; stroke: none; }
.overbar text { fill: #1f2328; }
.overbar .backward { fill: #9a3412; }
.overbar .input rect { fill: #e7f1fb; }
.overbar .rule rect { stroke-width: 2.4; }
.overbar .still rect { stroke-dasharray: 5 4; }
.overbar path { fill: none; stroke: #57606a; stroke-width: 1.3; }
.overbar path.still { stroke-dasharray: 5 4; }
.overbar .head { fill: #57606a; stroke: none; }
@media (prefers-color-scheme: dark) {
  .overbar rect { fill: #21262d; stroke: #9aa4af; }
  .overbar .paper { fill: #0d1117; }
  .overbar text { fill: #e6edf3; }
  .overbar .backward { fill: #ffb077; }
  .overbar .input rect { fill: #12283f; }
  .overbar path { stroke: #9aa4af; }
  .overbar .head { fill: #9aa4af; }
}
""".strip()


@dataclass
class _View:
    """What grandalf asks of a vertex: its size, and a place to write its position."""

    w: float
    h: float
    xy: tuple[float, float] = (0.0, 0.0)


class _Path:
    """What grandalf asks of an edge: a place to write its points."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []

    def setpath(self, points: list[tuple[float, float]]) -> None:
        self.points = [(float(x), float(y)) for x, y in points]


def svg(picture: Picture) -> str:
    """The picture as a self-contained SVG document, for light and dark backgrounds.

    Raises:
      GraphError: grandalf is not installed.
    """
    lines = {box.id: _lines(box) for box in picture.boxes}
    views, paths = _layout(picture, lines)
    left = min(x - v.w / 2 for v in views.values() for x in [v.xy[0]])
    left = min([left, *(x for path in paths for x, _ in path)]) - MARGIN
    right = max([v.xy[0] + v.w / 2 for v in views.values()] + [x for p in paths for x, _ in p]) + MARGIN
    top = min(v.xy[1] - v.h / 2 for v in views.values()) - MARGIN
    bottom = max(v.xy[1] + v.h / 2 for v in views.values()) + MARGIN
    box_of = f"{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}"
    title = _text(f"The computational graph of {picture.title}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="overbar" role="img" viewBox="{box_of}" '
        f'width="{right - left:.0f}" height="{bottom - top:.0f}">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" x="{left:.0f}" y="{top:.0f}" '
        f'width="{right - left:.0f}" height="{bottom - top:.0f}"/>',
    ]
    ends = {box.id: box for box in picture.boxes}
    for edge, points in zip(picture.edges, paths, strict=True):
        parts.append(_edge(edge, points, ends))
    for box in picture.boxes:
        parts.append(_box(box, views[box.id], lines[box.id]))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _layout(
    picture: Picture, lines: dict[str, list[str]]
) -> tuple[dict[str, _View], list[list[tuple[float, float]]]]:
    """Where the boxes stand, and through which points each edge goes; the parts of a graph side by side."""
    try:
        from grandalf.graphs import Edge as Line
        from grandalf.graphs import Graph as Drawing
        from grandalf.graphs import Vertex
        from grandalf.layouts import SugiyamaLayout
    except ImportError as error:
        raise GraphError(
            "an SVG needs the package grandalf, which lays it out: pip install 'overbar[graph]'. "
            "DOT and Mermaid need nothing: graph.save('graph.dot'), graph.save('graph.mmd')."
        ) from error
    vertices: dict[str, Any] = {}
    for box in picture.boxes:
        vertices[box.id] = Vertex(box.id)
        width = max(_width(line) for line in lines[box.id]) * LETTER + 2 * PAD
        vertices[box.id].view = _View(width, len(lines[box.id]) * LINE + 2 * PAD)
    drawn: dict[tuple[str, str], Any] = {}
    for edge in picture.edges:  # grandalf takes one line between two vertices; the rest run beside it
        if (edge.source, edge.target) not in drawn:
            line = Line(vertices[edge.source], vertices[edge.target])
            line.view = _Path()
            drawn[edge.source, edge.target] = line
    start = 0.0
    drawing = Drawing(list(vertices.values()), list(drawn.values()))
    for component in drawing.C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = BESIDE, BETWEEN_LAYERS
        layout.init_all(roots=[v for v in component.sV if not v.e_in()], inverted_edges=[], optimize=True)
        layout.draw(3)
        members = list(component.sV)
        left = min(v.view.xy[0] - v.view.w / 2 for v in members)
        for v in members:
            x, y = v.view.xy
            v.view.xy = (float(x - left + start), float(y))
        for line in component.sE:
            line.view.points = [(x - left + start, y) for x, y in line.view.points]
        start = max(v.view.xy[0] + v.view.w / 2 for v in members) + BESIDE
    views = {name: vertex.view for name, vertex in vertices.items()}
    seen: dict[tuple[str, str], int] = {}
    paths = []
    for edge in picture.edges:
        ends = edge.source, edge.target
        seen[ends] = seen.get(ends, 0) + 1
        paths.append(
            _shifted(drawn[ends].view.points, views[edge.source], views[edge.target], seen[ends] - 1)
        )
    return views, paths


def _shifted(
    points: list[tuple[float, float]], source: _View, target: _View, number: int
) -> list[tuple[float, float]]:
    """From the lower side of the one box to the upper side of the other; a second edge beside the first."""
    aside = 14.0 * ((number + 1) // 2) * (-1 if number % 2 else 1)
    (x0, y0), (x1, y1) = source.xy, target.xy
    inner = [(x + aside, y) for x, y in points[1:-1]]
    return [(x0 + aside, y0 + source.h / 2), *inner, (x1 + aside, y1 - target.h / 2)]


def _edge(edge: Edge, points: list[tuple[float, float]], boxes: dict[str, Box]) -> str:
    (x, y), *rest = points
    (x1, y1) = rest[-1]
    rest[-1] = (x1, y1 - 8)
    steps = [f"M{x:.1f},{y:.1f}"]
    for nx, ny in rest:
        middle = (y + ny) / 2
        steps.append(f"C{x:.1f},{middle:.1f} {nx:.1f},{middle:.1f} {nx:.1f},{ny:.1f}")
        x, y = nx, ny
    still = "" if edge.flows else ' class="still"'
    told = f"{boxes[edge.source].name} → {boxes[edge.target].name}"
    told += f", message back: {edge.message}" if edge.message else ""
    corners = f"M{x1 - 4.5:.1f},{y1 - 9:.1f} L{x1 + 4.5:.1f},{y1 - 9:.1f} L{x1:.1f},{y1:.1f} Z"
    head = f'<path class="head" d="{corners}"/>'
    return f'<g><title>{_text(told)}</title><path{still} d="{" ".join(steps)}"/>{head}</g>'


def _box(box: Box, view: _View, lines: list[str]) -> str:
    x, y = view.xy[0] - view.w / 2, view.xy[1] - view.h / 2
    kinds = [box.kind, *([] if box.gets_bar else ["still"])]
    round_ = 16 if box.kind in ("input", "constant") else 4
    where = f" (in {' › '.join(box.groups)})" if box.groups else ""
    told = "\n".join(part for part in (box.forward + where, box.backward) if part)
    parts = [
        f'<g class="{" ".join(kinds)}"><title>{_text(told)}</title>',
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{view.w:.1f}" height="{view.h:.1f}" rx="{round_}"/>',
    ]
    for i, line in enumerate(lines):
        kind = ' class="backward"' if i else ""
        at = y + PAD + LINE * i + 13
        # Fixed, so that no font of the reader's makes a line longer than its box.
        length = _width(line) * LETTER
        parts.append(
            f'<text{kind} x="{x + PAD:.1f}" y="{at:.1f}" textLength="{length:.1f}" '
            f'lengthAdjust="spacingAndGlyphs">{_text(line)}</text>'
        )
    return "".join([*parts, "</g>"])


def _lines(box: Box) -> list[str]:
    return [_cut(line) for line in (box.forward, box.backward) if line]


def _cut(line: str) -> str:
    return line if _width(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _width(text: str) -> int:
    return sum(not unicodedata.combining(c) for c in text)


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() or c in "\n\t" else "�" for c in text))

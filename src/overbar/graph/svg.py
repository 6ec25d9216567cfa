"""A picture as SVG, laid out in layers by grandalf."""

from __future__ import annotations

import unicodedata
from collections import Counter
from xml.sax.saxutils import escape

from overbar.graph.layout import Plan, layout
from overbar.graph.picture import Box, Edge, Picture

LETTER, LINE, PAD, MARGIN = 8.2, 18, 10, 16  # pixels: a monospaced letter of 13 px, a line, air in and around
LONGEST, LABEL = 64, 24  # letters of a line in a box, and of what stands beside an edge

STYLE = """
.overbar { color-scheme: light dark; }
.overbar { font: 13px ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; }
.overbar rect { fill: #f6f8fa; stroke: #57606a; stroke-width: 1.2; }
.overbar .paper { fill: #ffffff; stroke: none; }
.overbar .frame { fill: none; stroke-dasharray: 3 3; }
.overbar .name { fill: #57606a; }
.overbar .message { fill: #9a3412; font-size: 12px; stroke: #ffffff; stroke-width: 4; paint-order: stroke; }
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
  .overbar .frame { fill: none; }
  .overbar .name { fill: #9aa4af; }
  .overbar .message { fill: #ffb077; stroke: #0d1117; }
  .overbar text { fill: #e6edf3; }
  .overbar .backward { fill: #ffb077; }
  .overbar .input rect { fill: #12283f; }
  .overbar path { stroke: #9aa4af; }
  .overbar .head { fill: #9aa4af; }
}
""".strip()


def svg(picture: Picture) -> str:
    """The picture as a self-contained SVG document, for light and dark backgrounds.

    Raises:
      GraphError: grandalf is not installed.
    """
    lines = {box.id: _lines(box) for box in picture.boxes}
    sizes = {
        name: (max(map(_width, text)) * LETTER + 2 * PAD, len(text) * LINE + 2 * PAD)
        for name, text in lines.items()
    }
    plan = layout(picture, sizes)
    labels = _labels(picture, plan)
    ends = [(x - w / 2, x + w / 2) for x, _, w, _ in plan.places.values()]
    ends += [(x, x + w) for x, _, w, _, _ in plan.frames]
    ends += [(x, x) for path in plan.paths for x, _ in path]
    ends += [(left, right) for left, right, _ in labels]
    heights = [(y - h / 2, y + h / 2) for _, y, _, h in plan.places.values()]
    heights += [(y, y + h) for _, y, _, h, _ in plan.frames]
    left, top = min(x for x, _ in ends) - MARGIN, min(y for y, _ in heights) - MARGIN
    width, height = max(x for _, x in ends) + MARGIN - left, max(y for _, y in heights) + MARGIN - top
    title = _text(f"The computational graph of {picture.title}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="overbar" role="img" '
        f'viewBox="{left:.0f} {top:.0f} {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">',
        f"<title>{title}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}"/>',
    ]
    parts += [_frame(frame) for frame in plan.frames]
    boxes = {box.id: box for box in picture.boxes}
    for edge, points in zip(picture.edges, plan.paths, strict=True):
        parts.append(_edge(edge, points, boxes))
    parts += [_box(box, plan.places[box.id], lines[box.id]) for box in picture.boxes]
    parts += [text for _, _, text in labels]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _frame(frame: tuple[float, float, float, float, str]) -> str:
    x, y, w, h, name = frame
    shown = _cut(name, int((w - 2 * PAD) / LETTER))
    return (
        f'<rect class="frame" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="8">'
        f"<title>{_text(name)}</title></rect>"
        f'<text class="name" x="{x + PAD:.1f}" y="{y + 15:.1f}">{_text(shown)}</text>'
    )


def _labels(picture: Picture, plan: Plan) -> list[tuple[float, float, str]]:
    """Left and right end of the messages' equations, and the text, where several edges join two boxes."""
    together = Counter((edge.source, edge.target) for edge in picture.edges)
    seen: Counter[tuple[str, str]] = Counter()
    labels = []
    for edge, ((x0, y0), (x1, y1), *_) in zip(picture.edges, plan.paths, strict=True):
        ends = edge.source, edge.target
        nth, seen[ends] = seen[ends], seen[ends] + 1
        if together[ends] < 2 or not edge.message:
            continue
        shown = _cut(edge.message, LABEL)
        y = y0 + 16 + 15 * (nth // 2)
        x = x0 + (x1 - x0) * min((y - y0) / (y1 - y0), 1.0)
        long = _width(shown) * LETTER
        x, anchor = (x - 6, "end") if nth % 2 else (x + 6, "start")
        left = x - long if nth % 2 else x
        told = f"<title>{_text(edge.message)}</title>"
        labels.append(
            (
                left,
                left + long,
                f'<text class="message" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
                f"{told}{_text(shown)}</text>",
            )
        )
    return labels


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


def _box(box: Box, place: tuple[float, float, float, float], lines: list[str]) -> str:
    x, y = place[0] - place[2] / 2, place[1] - place[3] / 2
    kinds = [box.kind, *([] if box.gets_bar else ["still"])]
    round_ = 16 if box.kind in ("input", "constant") else 4
    where = f" (in {' › '.join(box.groups)})" if box.groups else ""
    cut = box.made if box.made not in box.forward else ""
    told = "\n".join(part for part in (box.forward + where, cut, box.backward) if part)
    parts = [
        f'<g class="{" ".join(kinds)}"><title>{_text(told)}</title>',
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{place[2]:.1f}" height="{place[3]:.1f}" rx="{round_}"/>',
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


def _cut(line: str, longest: int = LONGEST) -> str:
    return line if _width(line) <= longest else line[: max(longest - 1, 0)] + "…"


def _width(text: str) -> int:
    return sum(not unicodedata.combining(c) for c in text)


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() or c in "\n\t" else "�" for c in text))

"""Pictures as text that other tools draw: Graphviz DOT and Mermaid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from overbar.graph.picture import Box, Frame, Picture, framed

DOT_SHAPES = {"input": "ellipse", "constant": "ellipse", "fold": "plaintext"}


def dot(picture: Picture) -> str:
    """Graphviz DOT: boxes with both columns; dashed what no bar flows along."""
    lines = [f"digraph {_dot_text(picture.title)} {{", '  node [shape=box, fontname="sans-serif"];']
    lines += ['  edge [fontname="sans-serif"];']
    for depth, item in _framed(picture):
        margin = "  " * (depth + 1)
        if item is None:
            lines.append("  " * depth + "  }")
        elif isinstance(item, Box):
            options = [f"label={_dot_text(*_lines(item))}"]
            options += [f"shape={DOT_SHAPES[item.kind]}"] if item.kind in DOT_SHAPES else []
            options += [] if item.gets_bar else ["style=dashed"]
            lines.append(f"{margin}{item.id} [{', '.join(options)}];")
        else:
            number, name = item
            lines += [f"{margin}subgraph cluster_{number} {{", f"{margin}  label={_dot_text(name)};"]
    for edge in picture.edges:
        option = f" [label={_dot_text(edge.message)}]" if edge.message else ""
        lines.append(f"  {edge.source} -> {edge.target}{option if edge.flows else ' [style=dashed]'};")
    return "\n".join([*lines, "}"]) + "\n"


def mermaid(picture: Picture) -> str:
    """Mermaid, which GitHub draws in Markdown: the same boxes and edges."""
    lines = ["flowchart TD"]
    for depth, item in _framed(picture):
        margin = "  " * (depth + 1)
        if item is None:
            lines.append(f"{margin}end")
        elif isinstance(item, Box):
            text = _mermaid_text(*_lines(item))
            shape = f"([{text}])" if item.kind in ("input", "constant") else f"[{text}]"
            lines.append(f"{margin}{item.id}{shape}")
        else:
            number, name = item
            lines.append(f"{margin}subgraph g{number}[{_mermaid_text(name)}]")
    for edge in picture.edges:
        arrow = f"-->|{_mermaid_text(edge.message)}|" if edge.message else "-->"
        arrow = arrow if edge.flows else "-.->"
        lines.append(f"  {edge.source} {arrow} {edge.target}")
    return "\n".join(lines) + "\n"


def _lines(box: Box) -> list[str]:
    return [box.forward, box.backward] if box.backward else [box.forward]


def _framed(picture: Picture) -> Iterator[tuple[int, Box | tuple[int, str] | None]]:
    """The boxes, with a frame (number, name) before and None after those of one call, and their depth."""
    yield from _level(framed(picture.boxes), 0, itertools.count())


def _level(
    members: tuple[Box | Frame, ...], depth: int, numbers: Iterator[int]
) -> Iterator[tuple[int, Box | tuple[int, str] | None]]:
    for member in members:
        if isinstance(member, Box):
            yield depth, member
        else:
            yield depth, (next(numbers), member.name)
            yield from _level(member.members, depth + 1, numbers)
            yield depth, None


def _dot_text(*lines: str) -> str:
    return '"' + "\\n".join(line.replace("\\", "\\\\").replace('"', '\\"') for line in lines) + '"'


def _mermaid_text(*lines: str) -> str:
    codes = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;"}
    return '"' + "<br>".join("".join(codes.get(c, c) for c in line) for line in lines) + '"'

"""DOT and Mermaid as golden text; SVG well-formed, with every box in the frame and none on another."""

import sys
from xml.etree import ElementTree

import jax.numpy as jnp
import pytest

from overbar import GraphError, make_graph
from overbar.graph.picture import picture

from .models import graph_of

pytestmark = pytest.mark.usefixtures("permissive")

SVG = "{http://www.w3.org/2000/svg}"


LECTURE_DOT = r"""
digraph "lecture" {
  node [shape=box, fontname="sans-serif"];
  edge [fontname="sans-serif"];
  n0 [label="w = 1\nw̄ = z̄ x + R̄ w = 0.08936", shape=ellipse];
  n1 [label="b = 0.5\nb̄ = z̄ = -0.005318", shape=ellipse];
  n2 [label="x = 2\nx̄ = z̄ w = -0.005318", shape=ellipse];
  n3 [label="z = w * x + b = 2.5\nz̄ = ȳ y (1 − y) = -0.005318"];
  n4 [label="y = jax.nn.sigmoid(z) = 0.9241\nȳ = L̄ (y − t) = -0.07586"];
  n5 [label="t = 1\nt̄ = −L̄ (y − t) = 0.07586", shape=ellipse];
  n6 [label="L = 0.5 * (y - t) ** 2 = 0.002877\nL̄ = L̄_reg = 1"];
  n7 [label="R = 0.5 * w ** 2 = 0.5\nR̄ = L̄_reg λ = 0.1"];
  n8 [label="L_reg = L + λ * R = 0.05288\nL̄_reg = 1"];
  n0 -> n3 [label="z̄ x"];
  n2 -> n3 [label="z̄ w"];
  n1 -> n3 [label="z̄"];
  n3 -> n4 [label="ȳ y (1 − y)"];
  n4 -> n6 [label="L̄ (y − t)"];
  n5 -> n6 [label="−L̄ (y − t)"];
  n0 -> n7 [label="R̄ w"];
  n7 -> n8 [label="L̄_reg λ"];
  n6 -> n8 [label="L̄_reg"];
}
"""

LECTURE_MERMAID = """
flowchart TD
  n0(["w = 1<br>w̄ = z̄ x + R̄ w = 0.08936"])
  n1(["b = 0.5<br>b̄ = z̄ = -0.005318"])
  n2(["x = 2<br>x̄ = z̄ w = -0.005318"])
  n3["z = w * x + b = 2.5<br>z̄ = ȳ y (1 − y) = -0.005318"]
  n4["y = jax.nn.sigmoid(z) = 0.9241<br>ȳ = L̄ (y − t) = -0.07586"]
  n5(["t = 1<br>t̄ = −L̄ (y − t) = 0.07586"])
  n6["L = 0.5 * (y - t) ** 2 = 0.002877<br>L̄ = L̄_reg = 1"]
  n7["R = 0.5 * w ** 2 = 0.5<br>R̄ = L̄_reg λ = 0.1"]
  n8["L_reg = L + λ * R = 0.05288<br>L̄_reg = 1"]
  n0 -->|"z̄ x"| n3
  n2 -->|"z̄ w"| n3
  n1 -->|"z̄"| n3
  n3 -->|"ȳ y (1 − y)"| n4
  n4 -->|"L̄ (y − t)"| n6
  n5 -->|"−L̄ (y − t)"| n6
  n0 -->|"R̄ w"| n7
  n7 -->|"L̄_reg λ"| n8
  n6 -->|"L̄_reg"| n8
"""


def test_dot_of_the_lectures_model():
    assert graph_of("lecture").dot().splitlines() == LECTURE_DOT.strip().splitlines()


def test_mermaid_of_the_lectures_model():
    assert graph_of("lecture").mermaid().splitlines() == LECTURE_MERMAID.strip().splitlines()


def test_calls_are_frames():
    graph = graph_of("deep")
    dot, mermaid = graph.dot(), graph.mermaid()
    assert dot.count("subgraph cluster_") == mermaid.count("subgraph g") == 2
    assert mermaid.count("  end") == 2
    assert dot.count("{") == dot.count("}")
    assert 'label="layer_2";' in dot


def test_dashed_is_what_no_bar_flows_along():
    drawn = picture(graph_of("transformer"))
    still = {(e.source, e.target) for e in drawn.edges if not e.flows}
    named = {b.id: b.name for b in drawn.boxes}
    assert [(named[s], named[t]) for s, t in still] == [("mask", "weights")]
    assert graph_of("transformer").mermaid().count("-.->") == 1


def test_what_text_means_to_the_format_is_escaped():
    def f(p):
        y = p['a "b"\\'] * jnp.where(p['a "b"\\'] < 2, 1.0, 2.0)
        return y

    graph = make_graph(f)({'a "b"\\': 1.0})
    for line in graph.mermaid().splitlines():
        assert line.count('"') in (0, 2)
    for line in graph.dot().splitlines():
        assert (line.count('"') - line.count('\\"')) % 2 == 0
    ElementTree.fromstring(graph.svg())


def rectangles(root):
    return [
        tuple(float(r.get(k)) for k in ("x", "y", "width", "height"))
        for group in root.findall(f"{SVG}g")
        for r in group.findall(f"{SVG}rect")
    ]


@pytest.mark.parametrize("name", ["lecture", "square", "deep", "transformer"])
def test_svg_is_well_formed_and_nothing_overlaps(name):
    graph = graph_of(name)
    root = ElementTree.fromstring(graph.svg())
    left, top, width, height = map(float, root.get("viewBox").split())
    boxes = rectangles(root)
    assert len(boxes) == len(graph.order)
    for i, (x, y, w, h) in enumerate(boxes):
        assert left <= x
        assert x + w <= left + width
        assert top <= y
        assert y + h <= top + height
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
    for group in root.findall(f"{SVG}g"):
        for text in group.findall(f"{SVG}text"):
            box = group.find(f"{SVG}rect")
            assert float(text.get("textLength")) < float(box.get("width"))
    uses = sum(len(node.parents) for node in graph.order)
    heads = [p for p in root.iter(f"{SVG}path") if p.get("class") == "head"]
    assert len(heads) == uses


def test_svg_frames_the_calls():
    graph = graph_of("deep")
    root = ElementTree.fromstring(graph.svg())
    frames = {
        frame.find(f"{SVG}title").text: [float(frame.get(k)) for k in ("x", "y", "width", "height")]
        for frame in root.findall(f"{SVG}rect")
        if frame.get("class") == "frame"
    }
    assert list(frames) == ["layer", "layer_2"]
    inside = dict.fromkeys(frames, 0)
    for x, y, w, h in rectangles(root):
        for name, (left, top, width, height) in frames.items():
            apart = x >= left + width or x + w <= left or y >= top + height or y + h <= top
            held = left < x and x + w < left + width and top < y and y + h < top + height
            assert apart or held
            inside[name] += held
    assert inside == {name: len(nodes) for name, nodes in graph.groups.items()}


def test_svg_labels_edges_that_run_side_by_side():
    root = ElementTree.fromstring(graph_of("square").svg())
    labels = [t for t in root.findall(f"{SVG}text") if t.get("class") == "message"]
    assert ["".join(t.itertext()) for t in labels] == ["ȳ xȳ x"] * 2  # the title, and the text
    assert {t.get("text-anchor") for t in labels} == {"start", "end"}
    assert ElementTree.fromstring(graph_of("lecture").svg()).find(f"{SVG}text") is None


def test_svg_wraps_a_wide_layer_and_cuts_a_long_line():
    def f(ps):
        many = jnp.stack([ps[0], ps[1], ps[2], ps[3], ps[4], ps[5], ps[6], ps[7], ps[8], ps[9], *ps[10:]])
        L = jnp.sum(many)
        return L

    graph = make_graph(f)([float(i) for i in range(30)])
    root = ElementTree.fromstring(graph.svg())
    rows = {y for _, y, _, _ in rectangles(root)}
    assert len(rows) > 4
    assert float(root.get("width")) < 2500
    lines = ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]
    assert any(line.startswith("many = jnp.stack(") and "…" in line for line in lines)
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert any("ps[8], ps[9], *ps[10:]])" in title for title in titles)


def test_a_large_graph_is_folded():
    def f(x):
        for _ in range(300):
            x = jnp.sin(x)
        return x

    graph = make_graph(f)(1.0)
    drawn = picture(graph, most=20)
    assert len(drawn.boxes) == 20
    assert [b.forward for b in drawn.boxes if b.kind == "fold"] == ["… 282 more"]
    assert len(drawn.edges) == 19
    assert "… 282 more" in graph.svg(most=20)
    with pytest.raises(GraphError, match="at least 3"):
        graph.dot(most=2)


def test_save_goes_by_the_suffix(tmp_path):
    graph = graph_of("square")
    for suffix, start in [(".svg", "<svg"), (".dot", "digraph"), (".mmd", "flowchart")]:
        graph.save(tmp_path / f"square{suffix}")
        assert (tmp_path / f"square{suffix}").read_text("utf-8").startswith(start)
    with pytest.raises(GraphError, match=r"\.html, \.svg, \.dot, \.mmd; came \.png"):
        graph.save(tmp_path / "square.png")


def test_a_notebook_shows_the_svg():
    assert "<svg" in graph_of("square")._repr_html_()


def test_without_grandalf_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "grandalf.graphs", None)
    graph = graph_of("square")
    with pytest.raises(GraphError, match=r"pip install 'overbar\[graph\]'"):
        graph.svg()
    assert graph._repr_html_() is None
    assert graph.mermaid().startswith("flowchart")

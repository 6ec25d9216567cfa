"""Where the source is not at hand the nodes have short names and nothing fails; a notebook has it at hand."""

import importlib
import linecache
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from overbar import find_nonfinite, make_graph

SOURCE = """
def cost(w, x):
    z = w * x
    y = jnp.sin(z)
    return y * y + w
"""


def executed(source, file):
    names = {"jnp": jnp}
    exec(compile(source, file, "exec"), names)
    return names["cost"]


def cell(source, number):
    """The function as IPython defines it: the cell's source is in the line cache, under a name of its own."""
    file = f"<cell {number}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    return executed(source, file)


def names(graph):
    return [node.name for node in graph.order]


def assert_bars(graph, f, *args):
    bars = graph.backprop()
    expected = jax.grad(f, tuple(range(len(args))))(*args)
    assert [float(bar) for bar in bars] == pytest.approx([float(bar) for bar in expected], rel=1e-6)


WITHOUT = {
    "exec": executed(SOURCE, "<string>"),
    "a file that is not there": executed(SOURCE, "/nowhere/model.py"),
    "an empty name": executed(SOURCE, ""),
    "eval of a lambda": eval("lambda w, x: jnp.sin(w * x) * jnp.sin(w * x) + w"),
    "a lambda": lambda w, x: jnp.sin(w * x) * jnp.sin(w * x) + w,
}


@pytest.mark.parametrize("level", ["statement", "operation"])
@pytest.mark.parametrize("case", WITHOUT)
def test_without_source_the_names_are_short(case, level):
    f = WITHOUT[case]
    graph = make_graph(f, level=level)(0.5, 2.0)
    made = [node for node in graph.order if node.kind != "input"]
    assert {node.name for node in graph.inputs} == {"w", "x"}
    assert [node.name for node in made] == [f"v{i}" for i in range(1, len(made) + 1)]
    assert f"v₁ = {made[0].operation}" in str(graph)
    assert graph.mermaid()
    assert_bars(graph, f, 0.5, 2.0)


def test_without_source_what_is_not_finite_is_found():
    found = find_nonfinite(eval("lambda x: jnp.log(x)"))(0.0)
    assert (found.phase, found.name, found.cause) == ("forward", "v1", "log of 0")
    assert "log(x)" in str(found)


def test_the_cells_of_a_notebook_are_source():
    first = cell(SOURCE, 1)
    again = cell(SOURCE.replace("z", "u").replace("return", "L =") + "    return L\n", 2)
    assert names(make_graph(first)(0.5, 2.0)) == ["w", "x", "z", "y", "cost"]
    assert names(make_graph(again)(0.5, 2.0)) == ["w", "x", "u", "y", "L"]
    assert names(make_graph(first)(0.5, 2.0)) == ["w", "x", "z", "y", "cost"]
    assert_bars(make_graph(again)(0.5, 2.0), again, 0.5, 2.0)


def test_a_function_of_one_cell_called_in_another():
    inner = cell("def cost(z):\n    y = jnp.sin(z)\n    return y\n", 3)
    names_ = {"jnp": jnp, "inner": inner}
    source = "def outer(w, x):\n    z = w * x\n    L = inner(z) ** 2\n    return L\n"
    linecache.cache["<cell 4>"] = (len(source), None, source.splitlines(keepends=True), "<cell 4>")
    exec(compile(source, "<cell 4>", "exec"), names_)
    graph = make_graph(names_["outer"])(0.5, 2.0)
    assert names(graph) == ["w", "x", "z", "y", "L"]
    assert list(graph.groups) == ["cost"]


@pytest.mark.parametrize(
    "changed", ["# nothing any more\n", "def other(:\n", "\n" * 5 + SOURCE, "x = 1; y = 2\n" * 9]
)
def test_a_file_that_was_changed_after_its_import_is_no_failure(tmp_path, monkeypatch, changed):
    """Its names may be the changed file's, as in a traceback; the values and the bars are the function's."""
    file = tmp_path / "changed_model.py"
    file.write_text(f"import jax.numpy as jnp\n{SOURCE}", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "changed_model", raising=False)
    cost = importlib.import_module("changed_model").cost
    monkeypatch.delitem(sys.modules, "changed_model")
    file.write_text(changed, "utf-8")
    linecache.checkcache(str(file))
    for level in ("statement", "operation"):
        graph = make_graph(cost, level=level)(0.5, 2.0)
        assert str(graph).startswith("forward")
        assert_bars(graph, cost, 0.5, 2.0)


def test_a_program_from_the_standard_input():
    program = f"import jax.numpy as jnp, overbar\n{SOURCE}\nprint(overbar.make_graph(cost)(0.5, 2.0))"
    task = subprocess.run(
        [sys.executable, "-"], input=program, capture_output=True, text=True, encoding="utf-8", timeout=120
    )
    assert (task.returncode, task.stderr) == (0, "")
    assert "v₁ = mul(w, x) = 1" in task.stdout


def test_a_library_that_goes_back_in_its_own_code_begins_no_new_turn(tmp_path):
    """What normalizes does so twice by one loop of its own, as a library's function may."""
    library = tmp_path / "site-packages" / "library.py"
    library.parent.mkdir()
    library.write_text(
        "def twice(x, f):\n    for _ in range(2):\n        x = f(x) * 2.0\n    return x\n", "utf-8"
    )
    scope = {}
    exec(compile(library.read_text("utf-8"), str(library), "exec"), scope)
    twice = scope["twice"]

    def block(x):
        h = twice(x, jnp.sin)
        h = twice(h, jnp.cos)
        return x + h

    def f(x):
        for _ in range(2):
            x = block(x)
        for _ in range(2):
            y = twice(x, jnp.tanh)
            x = y + 1.0
        return x

    graph = make_graph(f)(0.5)
    assert {name: len(nodes) for name, nodes in graph.groups.items()} == {"block": 3, "block_2": 3}
    assert [n.name for n in graph] == ["x", "h", "h_2", "x_2", "h_3", "h_4", "x_3", "y", "x_4", "y_2", "x_5"]

"""Names, order and the two columns, as golden text."""

import jax
import jax.numpy as jnp
import pytest

from overbar import GraphError, find_nonfinite, make_graph

from . import models

pytestmark = pytest.mark.usefixtures("permissive")


def graph_of(name, **options):
    f, args = models.CASES[name]
    return make_graph(f, **options)(*args)


def names(graph):
    return [node.name for node in graph.order]


def test_the_lectures_order():
    assert names(graph_of("lecture")) == ["w", "b", "x", "z", "y", "t", "L", "R", "L_reg"]


def test_the_lectures_columns():
    graph = make_graph(models.lecture)(1.0, 0.5, 2.0, 1.0)
    lines = str(graph).splitlines()
    assert lines[0].split() == ["forward", "backward"]
    backward = {n.name: n.equation for n in graph.order}
    assert backward == {
        "w": "z̄ x + R̄ w",
        "b": "z̄",
        "x": "z̄ w",
        "z": "ȳ y (1 − y)",
        "y": "L̄ (y − t)",
        "t": "−L̄ (y − t)",
        "L": "L̄_reg",
        "R": "L̄_reg λ",
        "L_reg": "1",
    }
    assert graph["z"].operation == "w * x + b"
    assert "L_reg = L + λ * R" in str(graph)
    assert len(lines) == 11


def test_xors_network():
    graph = graph_of("xor")
    assert names(graph) == [
        *("params.W1", "params.b1", "x", "v1", "h", "params.W2", "params.b2", "v2", "y", "t"),
        *("v3", "L", "R", "L_reg"),
    ]
    assert graph["v1"].kind == graph["h"].kind == graph["R"].kind == "rule"
    assert graph["v1"].equation == "h̄ h (1 − h)"
    assert graph["params.b1"].equation == "Σ v̄₁ over the leading axes"
    assert graph["h"].equation == "v̄₂ params.W₂ᵀ"
    assert graph["params.W1"].equation.endswith("R̄ params.W₁")


def test_fan_out_gathers_a_message_a_use():
    assert graph_of("fan_out")["y"].equation == "2 ā + b̄ b + c̄ b"
    assert graph_of("square")["x"].equation == "ȳ x + ȳ x"


def test_a_scan_shows_its_step_once():
    graph = graph_of("recurrent")
    loop = next(n for n in graph.order if n.kind == "loop")
    assert loop.trips == 3
    assert names(loop.inner["step"]) == ["h", "x", "h_2", "v1"]
    assert "▾ step, 3 times" in str(graph)
    assert graph["h_2"].parents == (loop,)


def test_a_cond_opens_and_the_taken_branch_has_values():
    graph = graph_of("branch")
    y = graph["y"]
    assert y.kind == "branch"
    graph.backprop()
    taken = y.inner["branch 1"]
    assert float(taken.bars["m"]) == float(graph.bars["m"]) == 9.0


def test_jit_and_remat_open():
    graph = graph_of("calls")
    y = graph["y"]
    assert y.kind == "call"
    assert names(y.inner["body"]) == ["x", "s", "inner"]
    assert float(y.inner["body"].bars["x"][0]) == pytest.approx(float(graph.bars["x"][0]))


def test_calls_of_functions_are_groups():
    graph = graph_of("deep")
    assert list(graph.groups) == ["layer", "layer_2"]
    assert [n.name for n in graph.groups["layer"]] == ["z", "x_2"]
    assert [n.name for n in graph.groups["layer_2"]] == ["z_2", "x_3"]


def test_a_transformer_block():
    graph = graph_of("transformer")
    found = set(names(graph))
    assert {"q", "k", "v", "scores", "weights", "mean", "var", "h", "x_2", "x_3", "L"} <= found
    assert list(graph.groups) == ["layer_norm", "attention", "layer_norm_2", "mlp"]
    assert not graph["mask"].is_float
    assert "(no bar: not float)" in str(graph)


def test_long_graphs_are_folded():
    assert "more; graph.text(most=...)" in str(make_graph(lambda x: _many(x))(1.0))


def block(x):
    y = jnp.sin(x)
    z = y * 2.0 + jnp.exp(jnp.cos(y) * jnp.tanh(y) - jnp.abs(y) / 3.0)
    return jnp.tanh(z)


def tower(x):
    for _ in range(15):
        x = block(x)
    return x


def test_groups_are_closed_where_they_do_not_fit():
    graph = make_graph(tower)(0.5)
    text = str(graph).splitlines()
    assert len(text) < 60
    assert text[3] == "▸ block, 3 nodes to"
    assert text[4].startswith("  x₂ = jnp.tanh(z)")
    assert "more" not in str(graph)
    assert "▾ block" in graph.text(most=200)


def test_a_long_statement_is_folded_between_words():
    lines = str(make_graph(block)(0.5)).splitlines()
    assert lines[4].startswith("z = y * 2.0 + jnp.exp(jnp.cos(y) * jnp.tanh(y) - jnp.abs(y)   z̄ = ")
    assert lines[5] == "    / 3.0) = 2.225"
    assert "…" not in str(make_graph(block)(0.5))


def test_in_a_narrow_place_the_bar_stands_below_the_whole_statement():
    lines = make_graph(block)(0.5).text(width=40).splitlines()
    at = lines.index("z = y * 2.0 + jnp.exp(jnp.cos(y) *")
    assert lines[at + 1 : at + 3] == ["    jnp.tanh(y) - jnp.abs(y) / 3.0)", "    = 2.225"]
    assert lines[at + 3].startswith("    z̄ = ")


def _many(x):
    for _ in range(100):
        x = jnp.sin(x)
    return x


def test_without_source_names_are_short():
    scope = {"jnp": jnp}
    exec("def f(x):\n    z = jnp.sin(x) * x\n    return z", scope)
    graph = make_graph(scope["f"])(1.0)
    assert names(graph) == ["x", "v1", "v2"]
    assert names(make_graph(lambda x: x * x)(1.0)) == ["x", "v1"]


def test_shapes_alone_are_enough_for_the_structure():
    graph = make_graph(models.square)(jax.ShapeDtypeStruct((), jnp.float32))
    assert "float32[]" in str(graph)
    with pytest.raises(GraphError, match="shapes alone"):
        graph.forward()


# ---------------------------------------------------------------------- bad input


def shape_of_a_value(x):
    return jnp.sum(x[x > 0])


def printing(x):
    jax.debug.print("{}", x)
    return x


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: make_graph(3), "takes a function"),
        (lambda: make_graph(printing, level="line"), "level must be"),
        (lambda: make_graph(models.square)(3), "no float input"),
        (lambda: make_graph(printing)(1.0), "side effects"),
        (lambda: make_graph(shape_of_a_value)(jnp.ones(3)), "depends on a value"),
        (lambda: make_graph(lambda x, n: x * jnp.ones(n).sum())(1.0, jnp.int32(3)), "depends on a value"),
        (lambda: make_graph(models.square)(jnp.ones(3)).backprop(), "no scalar"),
        (lambda: make_graph(lambda x: x > 0)(1.0).backprop(), "not float"),
        (lambda: make_graph(lambda x: (x, x * x))(1.0).backprop(), "a bar is needed for each"),
        (
            lambda: make_graph(lambda x: jax.lax.while_loop(lambda c: c < 3, lambda c: c * 2, x))(
                1.0
            ).backprop(),
            "no derivative in reverse",
        ),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, sentence):
    with pytest.raises(GraphError, match=sentence):
        call()


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(KeyError, match="the nodes are w, b, x"):
        graph_of("lecture").bars["q"]


def test_greek_names_are_found_either_way():
    graph = make_graph(lambda lam: lam * 2.0)(1.0)
    assert float(graph.bars["λ"]) == float(graph.bars["lam"]) == 2.0


# ---------------------------------------------------------------------- find_nonfinite


def selected(x):
    safe = jnp.where(x > 0, jnp.sqrt(x), 0.0)
    return safe.sum()


def stepping(c, xs):
    def step(c, x):
        c = jnp.log(c - x)
        return c, c

    c, _ = jax.lax.scan(step, c, xs)
    return c


def ratio(x):
    y = jnp.exp(x)
    return y / (1 + y)


def masked(x, scale):
    kept = jnp.where(x > 0, x, -jnp.inf)
    y = kept * scale
    return y.sum()


def root_of_nothing(x):
    r = jnp.sqrt(x)
    y = r * 0.0
    return y


@pytest.mark.parametrize(
    ("f", "args", "phase", "name", "cause"),
    [
        (selected, (jnp.array([0.0, 1.0]),), "backward", "v2", "unselected branch of where"),
        (jnp.linalg.norm, (jnp.zeros(3),), "backward", None, "norm at 0"),
        (jnp.log, (0.0,), "forward", None, "log of 0"),
        (ratio, (100.0,), "forward", "y", "overflow of exp"),
        (masked, (jnp.array([1.0, -1.0]), 0.0), "forward", "y", "0 · inf"),
        (root_of_nothing, (0.0,), "backward", "r", "its bar is 0, and 0 · inf is NaN"),
        (stepping, (5.0, jnp.array([1.0, 1.0, 5.0])), "forward", "c_2", "log of a negative"),
    ],
)
def test_the_first_nonfinite_is_found(f, args, phase, name, cause):
    found = find_nonfinite(f)(*args)
    assert found.phase == phase
    assert cause in found.cause
    if name is not None:
        assert found.name == name
        assert "test_text.py" in found.where
    assert cause in str(found)


def test_all_finite_is_none_and_a_bad_input_is_told():
    assert find_nonfinite(ratio)(1.0) is None
    assert find_nonfinite(ratio)(jnp.nan).phase == "input"


def test_a_scalar_spread_over_an_array_is_summed_again():
    def f(w, x):
        z = w * x
        y = x - w
        L = (z * y).sum()
        return L

    graph = make_graph(f)(jnp.arange(2.0), jnp.float32(2.0))
    assert graph["x"].equation == "Σ (z̄ ⊙ w) + Σ ȳ"
    assert graph["w"].equation == "z̄ x − ȳ"


def test_a_given_bar_is_shown_and_where_there_is_none_the_text_says_types():
    def double(x):
        y = 2.0 * x
        return y

    graph = make_graph(double)(jnp.ones(2))
    assert str(graph).splitlines()[2].endswith("x̄ = 2 ȳ : float32[2]")
    assert graph.bars_or_why()[1].startswith("No bars: the output is no float number (y float32[2])")
    graph.backprop(jnp.ones(2))
    assert "‖2.828‖" in str(graph)

    def loop(x):
        return jax.lax.while_loop(lambda c: c < 10, jax.jit(lambda c: c * 2), x)

    graph = make_graph(loop)(1.0)
    assert str(graph).startswith("forward")
    assert "has no derivative in reverse" in graph.bars_or_why()[1]

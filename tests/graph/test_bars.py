"""The bars are jax.grad's, of every input and of every intermediate; the passes are pure JAX."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import Var

from overbar import make_graph
from overbar.graph import cones, local

from . import models
from .libraries import LIBRARIES

pytestmark = pytest.mark.usefixtures("permissive")


def arguments(f, args):
    """All the arguments, as jax.grad takes them."""
    return tuple(range(len(args)))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def nudged(graph, nudges):
    """The output of the graph's own forward pass with something added to every node."""
    known = {}
    for n in graph.order:
        if n.kind == "input":
            known[n] = n.value
        elif n.kind == "part":
            known[n] = known[n.parents[0]][n.part]
        else:
            known[n] = n.program(*(known[p] for p in n.parents))
        if n.name in nudges:
            known[n] = known[n] + nudges[n.name]
    return known[graph.outputs[0]]


def check(f, args, level="statement"):
    """Large graphs are walked inside jit, which is faster; small ones one operation after the other."""
    make = make_graph(f, level=level)
    graph = make(*args)
    nodes = [node for node in graph.order if not node.several and node.is_float]
    nudges = {node.name: jnp.zeros(node.shape, node.dtype) for node in nodes}

    def passes(graph):
        bars_of_arguments = graph.backprop()
        arrived = {node.name: [m.value for m in node.messages] for node in nodes_of(graph)}
        return graph.value, bars_of_arguments, dict(graph.bars), arrived

    def nodes_of(graph):
        return [graph[node.name] for node in nodes]

    @jax.jit
    def wanted(nudges, *args):
        return (
            *jax.value_and_grad(f, arguments(f, args))(*args),
            jax.grad(lambda nudges: nudged(make(*args), nudges))(nudges),
            passes(make(*args)) if len(graph) > 12 else None,
        )

    want_value, want, want_bars, found = wanted(nudges, *args)
    value, bars_of_arguments, bars, arrived = found or passes(graph)
    close_trees(bars_of_arguments, want)
    np.testing.assert_allclose(value, want_value, rtol=1e-6)
    for node in nodes:
        bar = bars[node.name]
        close(bar, want_bars[node.name])
        assert (bar.shape, bar.dtype) == (node.shape, node.dtype)
        if arrived[node.name] and node not in graph.outputs:
            close(sum(np.asarray(message) for message in arrived[node.name]), bar)


def close_trees(got, want):
    jax.tree.map(close, got, want)


@pytest.mark.parametrize("name", models.CASES)
def test_bars_are_jax_grads(name):
    check(*models.CASES[name])


@pytest.mark.parametrize("name", LIBRARIES)
def test_so_they_are_of_the_libraries_models(name):
    if (found := LIBRARIES[name]()) is None:
        pytest.skip(f"{name} is not installed")
    f, (model, x) = found
    leaves, tree = jax.tree.flatten(model)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]

    def of_arrays(arrays, x):
        given = iter(arrays)
        filled = [next(given) if isinstance(leaf, jax.Array) else leaf for leaf in leaves]
        return f(jax.tree.unflatten(tree, filled), x)

    check(of_arrays, (arrays, x))
    bar_of_model, x_bar = make_graph(f)(model, x).backprop()
    want, want_x = jax.grad(of_arrays, (0, 1))(arrays, x)
    close_trees([b for b in jax.tree.leaves(bar_of_model) if b is not None], want)
    close(x_bar, want_x)


@pytest.mark.parametrize("name", ["lecture", "fan_out", "recurrent", "branch", "calls"])
def test_so_they_are_of_single_operations(name):
    check(*models.CASES[name], level="operation")


def test_a_variable_that_reaches_no_result_has_the_bar_zero():
    def f(x):
        u = jnp.stack([x, x]) * 2
        n = jnp.argmax(u)
        y = jnp.sin(x) + 0 * len(n.shape)
        return y

    graph = make_graph(f)(1.0)
    np.testing.assert_array_equal(graph.bars["u"], np.zeros(2, np.float32))
    assert graph.bars["n"] is None
    assert "u" in graph.bars
    assert set(graph.bars) == {"x", "y"}
    with pytest.raises(KeyError, match="'u' is no node: the result does not depend on it, its bar is 0"):
        graph["u"]


def test_an_intermediate_of_the_users_own_function_nudged_in_its_source():
    """The same truth with the perturbation written into the model."""

    def loss(nudge):
        z = 1.0 * 2.0 + 0.5 + nudge
        y = jax.nn.sigmoid(z)
        return 0.5 * (y - 1.0) ** 2

    graph = make_graph(models.lecture)(1.0, 0.5, 2.0, 1.0)
    close(graph.bars["z"], jax.grad(loss)(0.0))


@pytest.mark.parametrize("name", ["lecture", "recurrent"])
def test_it_works_under_jit(name):
    f, args = models.CASES[name]

    @jax.jit
    def bars(*args):
        graph = make_graph(f)(*args)
        bars_of_arguments = graph.backprop()
        return graph.value, bars_of_arguments, graph.bars

    value, got, by_name = bars(*args)
    want_value, want = jax.value_and_grad(f, arguments(f, args))(*args)
    close(value, want_value)
    close_trees(got, want)
    assert set(by_name) == {n.name for n in make_graph(f)(*args)}


def test_vmap_and_grad_of_the_graph():
    def slope(w):
        return make_graph(models.lecture)(w, 0.5, 2.0, 1.0).backprop()[0]

    w = jnp.array([0.5, 1.0])
    one = jax.grad(models.lecture)
    close(jax.vmap(slope)(w), jnp.array([one(v, 0.5, 2.0, 1.0) for v in w]))
    close(jax.grad(slope)(1.0), jax.grad(one)(1.0, 0.5, 2.0, 1.0))


def test_square_has_two_edges():
    graph = make_graph(models.square)(3.0)
    assert graph["y"].parents == (graph["x"], graph["x"])
    assert [float(m.value) for m in graph["x"].messages] == [3.0, 3.0]
    assert [m.argument for m in graph.messages] == [0, 1]
    assert float(graph.bars["x"]) == 6.0


def test_messages_go_from_child_to_parent():
    graph = make_graph(models.lecture)(1.0, 0.5, 2.0, 1.0)
    w = graph["w"]
    assert [(m.source.name, m.target.name) for m in w.messages] == [("R", "w"), ("z", "w")]
    close(sum(m.value for m in w.messages), w.bar)
    for message in graph.messages:
        assert message.target in message.source.parents
        assert graph.order.index(message.target) < graph.order.index(message.source)


def test_backprop_starts_afresh():
    graph = make_graph(models.lecture)(1.0, 0.5, 2.0, 1.0)
    first = graph.backprop()
    close_trees(graph.backprop(), first)
    close_trees(graph.backprop(2.0), jax.tree.map(lambda x: 2 * x, first))


def test_the_bar_of_an_output_that_is_no_scalar():
    def f(x, w):
        y = x @ w
        return {"y": y, "aux": jnp.sum(x)}

    x, w, y_bar = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.arange(8.0).reshape(2, 4)
    got = make_graph(f)(x, w).backprop({"y": y_bar, "aux": None})
    _, pull = jax.vjp(lambda x, w: x @ w, x, w)
    close_trees(got, pull(y_bar))


def test_unused_inputs_integers_and_keys():
    def f(x, n, key, unused):
        y = x * n + jax.random.normal(key)
        return y

    graph = make_graph(f)(2.0, jnp.int32(3), jax.random.key(0), jnp.ones(2))
    x_bar, n_bar, key_bar, unused_bar = graph.backprop()
    assert (float(x_bar), n_bar, key_bar) == (3.0, None, None)
    close(unused_bar, jnp.zeros(2))
    assert graph.order[-1].name == "y"


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_keeps_its_dtype(dtype):
    args = jax.tree.map(lambda x: x.astype(dtype), models.CASES["deep"][1])

    @jax.jit
    def bars(*args):
        graph = make_graph(models.deep)(*args)
        return [node.bar for node in graph.order]

    assert {bar.dtype for bar in bars(*args)} == {jnp.dtype(dtype)}


def test_complex_inputs():
    def f(x):
        y = x * x
        return jnp.sum(jnp.abs(y) ** 2)

    x = jnp.array([1.0 + 2.0j, -0.5j])
    close(make_graph(f)(x).backprop()[0], jax.grad(f)(x))


# ---------------------------------------------------------------------- drawn by hypothesis

UNARY = [jnp.sin, jnp.tanh, jnp.exp, jax.nn.sigmoid, jax.nn.softplus, jnp.square, lambda a: a, jnp.negative]
BINARY = [
    jnp.add,
    jnp.subtract,
    jnp.multiply,
    lambda a, b: a / (1 + b * b),
    lambda a, b: jnp.where(a > b, a, b),
]


@st.composite
def programs(draw):
    """A list of (operation, earlier values); the first three values are the inputs."""
    steps = []
    for i in range(draw(st.integers(1, 6))):
        earlier = st.integers(0, i + 2)
        if draw(st.booleans()):
            steps.append((draw(st.sampled_from(UNARY)), (draw(earlier),)))
        else:
            steps.append((draw(st.sampled_from(BINARY)), (draw(earlier), draw(earlier))))
    return steps


@settings(max_examples=200, deadline=None, derandomize=True)
@given(programs(), st.sampled_from(["statement", "operation"]))
def test_bars_of_random_expressions(steps, level):
    def f(a, b, c):
        values = [a, b, c]
        for operation, operands in steps:
            v = operation(*(values[i] for i in operands)) * 0.5
            values.append(v)
        return jnp.sum(values[-1] + values[len(values) // 2])

    args = (jnp.array([0.3, -0.7]), jnp.array([1.1, 0.2]), jnp.float32(0.6))
    graph = make_graph(f, level=level)(*args)
    close_trees(graph.backprop(), jax.grad(f, (0, 1, 2))(*args))
    assert all(node.bar.shape == node.shape for node in graph if node.is_float)


# ---------------------------------------------------------------------- size


def long(x, n):
    for _ in range(n):
        x = jnp.sin(x)
    return x


def test_a_deep_graph_does_not_overflow_and_the_often_used_is_compiled():
    graph = make_graph(long)(0.5, 1500)
    assert len(graph.order) == 1501
    bar, _ = graph.backprop()
    close(bar, jax.grad(long)(0.5, 1500))
    assert len(graph._compiled) == 1
    assert len(str(graph).splitlines()) < 100
    assert local.OFTEN < 100


def test_a_hundred_thousand_operations_are_ordered_without_recursion():
    n = 100_000
    body = jax.make_jaxpr(jnp.sin)(0.5).eqns[0]
    variables = [Var(body.outvars[0].aval) for _ in range(n + 1)]
    eqns = [
        body.replace(invars=[variable], outvars=[result])
        for variable, result in itertools.pairwise(variables)
    ]
    apart = cones.find(eqns, [variables[-1]], [None] * n, [False] * n)
    assert [cone.members for cone in apart] == [(i,) for i in range(n)]
    label = object()
    together = cones.find(eqns, [variables[-1]], [label] * n, [False] * n)
    assert [cone.members for cone in together] == [tuple(range(n))]

"""What nodes are called, and their expressions, for what people write."""

import functools

import jax
import jax.numpy as jnp
import pytest

from overbar import make_graph


def pair(x):
    return x * 2, jnp.sin(x)


def unpacked(x):
    a, b = pair(x)
    return a * b


def array_unpacked(x):
    a, b = x
    return a * b


def augmented(x):
    x += 1
    x *= jnp.sin(x)
    return x


def walrus(x):
    if (y := jnp.sin(x)) is not None:
        z = y * y
    return z


def chained(x):
    a = b = x * 2
    return a * b


def over_lines(x):
    z = (
        jnp.sin(x)
        + jnp.cos(x)
        * 2
    )  # fmt: skip
    return z


def reassigned(x):
    z = x * 2
    z = jnp.sin(z)
    return z


def looped(ws, h):
    x = h
    for w in ws:
        x = jnp.tanh(x @ w)
    return x.sum()


def layer(w, b, x):
    return jnp.tanh(x @ w + b)


def layered(ws, bs, x):
    for w, b in zip(ws, bs, strict=True):
        x = layer(w, b, x)
    return x


def zipped(ws, bs, x):
    for i, (w, b) in enumerate(zip(ws, bs, strict=True)):
        x = x * w + b * (i + 1)
    return x


def recursive(x, n=3):
    if n == 0:
        return x
    y = jnp.sin(x)
    return recursive(y, n - 1)


def varied(*args, scale=2.0, **options):
    y = args[0] * args[1] * scale * options["q"]
    return y


class Model:
    def __init__(self):
        self.w = jnp.ones(2)

    def loss(self, x):
        self.h = self.w * x
        return (self.h**2).sum()


def closure(x):
    k = 2.0 * x

    def nested(y):
        q = k * y
        return q + 1

    z = nested(x)
    return z


def mapped(tree):
    y = tree["w"]["a"] * tree["b"][1]
    return y


def jax_inside(x):
    y = jax.nn.silu(x)
    return y


X, W = jnp.ones(2), jnp.eye(2)
CASES = [
    (unpacked, (1.0,), "x; a = x * 2; b = jnp.sin(x); unpacked = a * b"),
    (augmented, (1.0,), "x; x_2 = x + 1; x_3 = x_2 * jnp.sin(x_2)"),
    (walrus, (1.0,), "x; y = jnp.sin(x); z = y * y"),
    (chained, (1.0,), "x; a = x * 2; chained = a * a"),
    (over_lines, (1.0,), "x; z = jnp.sin(x) + jnp.cos(x) * 2"),
    (reassigned, (1.0,), "x; z = x * 2; z_2 = jnp.sin(z)"),
    (
        looped,
        ([W, W], W),
        "ws[0]; h; x = jnp.tanh(h @ ws[0]); ws[1]; x_2 = jnp.tanh(x @ ws[1]); looped = x_2.sum()",
    ),
    (recursive, (1.0,), "x; y = jnp.sin(x); y_2 = jnp.sin(y); y_3 = jnp.sin(y_2)"),
    (Model().loss, (X,), "x; h = self.w * x; loss = (self.h ** 2).sum()"),
    (closure, (1.0,), "x; k = 2.0 * x; q = k * x; z = q + 1"),
    (mapped, ({"w": {"a": 1.0}, "b": [1, 2.0]},), "tree.b[1]; tree.w.a; y = tree.w.a * tree.b[1]"),
    (functools.partial(varied, scale=3.0), (1.0, 2.0), None),
    (jax_inside, (X,), "x; y = jax.nn.silu(x)"),
    (jax.jit(reassigned), (1.0,), "x; z = x * 2; z_2 = jnp.sin(z)"),
]


@pytest.mark.parametrize(("f", "args", "want"), CASES)
def test_names_and_expressions(f, args, want):
    graph = make_graph(f)(*args, **({} if want else {"q": 3.0}))
    got = "; ".join(n.name + (f" = {n.operation}" if n.operation else "") for n in graph)
    assert got == (want or "args[0]; args[1]; q; y = args[0] * args[1] * scale * options['q']")


def test_an_array_is_unpacked():
    graph = make_graph(array_unpacked)(X)  # by slices, or from JAX 0.12 on by one operation for both
    assert [n.name for n in graph if not n.several] == ["x", "a", "b", "array_unpacked"]
    assert [graph[name].operation[-3:] for name in "ab"] == ["[0]", "[1]"]


def test_a_loop_over_pairs():
    graph = make_graph(zipped)([1.0, 2.0], [3.0, 4.0], 0.5)
    assert [n.name for n in graph] == ["ws[0]", "bs[0]", "x", "x_2", "ws[1]", "bs[1]", "x_3"]
    assert float(graph.backprop()[2]) == 2.0


def test_a_broadcast_in_a_loop_is_no_new_turn():
    """Its operations, of one call of +, were traced by the very same instructions, as a loop's turns are."""
    with jax.numpy_rank_promotion("allow"):
        graph = make_graph(layered)([W, W], [X, X], W)
    made = [(n.name, n.operation, tuple(g.name for g in n.groups)) for n in graph if n.operation]
    assert made == [
        ("x_2", "jnp.tanh(x @ ws[0] + bs[0])", ("layer",)),
        ("x_3", "jnp.tanh(x_2 @ ws[1] + bs[1])", ("layer_2",)),
    ]


def test_source_that_is_not_at_hand():
    scope = {"jnp": jnp}
    exec("def f(x):\n    z = jnp.sin(x)\n    return z * x", scope)
    for f in (scope["f"], lambda x: jnp.sin(x) * x, jnp.sin):
        graph = make_graph(f)(1.0)
        assert next(n.name for n in graph) == "x"
        assert all(n.name in ("x", "v1", "v2") for n in graph)
        assert str(graph)


def heads(x, params):
    hs = [jnp.tanh(x * w) for w in params["w"]]
    a, b = (jnp.sin(h) + 1.0 for h in hs)
    scaled = {name: a * v for name, v in params["v"].items()}
    ends = tuple(jnp.exp(z) for z in (b, b + 1.0))
    kept = []
    for end in ends:
        kept.append(end * x)
    L = kept[0] * kept[1] + scaled["p"] * scaled["q"]
    return L


def test_the_items_of_a_comprehension_are_named_and_written_one_by_one():
    graph = make_graph(heads)(0.5, {"w": [1.0, 2.0], "v": {"p": 1.0, "q": 2.0}})
    made = {node.name: node.operation for node in graph if node.operation}
    assert made == {
        "hs[0]": "jnp.tanh(x * params.w[0])",
        "hs[1]": "jnp.tanh(x * params.w[1])",
        "a": "jnp.sin(hs[0]) + 1.0",
        "b": "jnp.sin(hs[1]) + 1.0",
        "v1": "a * params.v.p",
        "v2": "a * params.v.q",
        "ends[0]": "jnp.exp(b)",
        "ends[1]": "jnp.exp(b + 1.0)",
        "v3": "ends[0] * x",
        "v4": "ends[1] * x",
        "L": "kept[0] * kept[1] + scaled['p'] * scaled['q']",
    }


def test_so_are_the_calls_in_it():
    def affine(p, x):
        return p * x + 1.0

    def f(x, ps):
        zs = [affine(p, x) for p in ps]
        L = zs[0] * zs[1]
        return L

    graph = make_graph(f)(0.5, [1.0, 2.0])
    assert [n.name for n in graph] == ["x", "ps[0]", "zs[0]", "ps[1]", "zs[1]", "L"]
    assert graph["L"].operation == "zs[0] * zs[1]"
    assert graph["zs[1]"].operation == "ps[1] * x + 1.0"


def test_tuples_in_tuples_are_unpacked():
    def cell(carry, x):
        c, h = carry
        c = jnp.tanh(c + x)
        h = h * c
        return (c, h), h

    def f(x, xs):
        a, (b, d) = x * 2.0, (x + 1.0, x - 1.0)
        (c, h), ys = jax.lax.scan(cell, (a, b), xs)
        L = c + h + jnp.sum(ys) * d
        return L

    graph = make_graph(f)(0.5, jnp.ones(3))
    made = {n.name: n.operation for n in graph if n.operation}
    assert [made[name] for name in "abd"] == ["x * 2.0", "x + 1.0", "x - 1.0"]
    assert [graph[name].part for name in ("c", "h", "ys")] == [0, 1, 2]
    assert made["L"] == "c + h + jnp.sum(ys) * d"

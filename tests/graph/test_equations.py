"""The equations of the common operations, y = ..., in whole against tests/graph/golden/equations.txt."""

import linecache

import jax
import jax.numpy as jnp

from overbar import make_graph

from .test_golden import same


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


A, B, T, v, s = of(3, 4), of(4, 5), of(2, 3, 4), of(4), of()
i, n = of(3, dtype=jnp.int32), of(dtype=jnp.int32)

OPERATIONS = [
    ("jnp.exp(a)", (v,)),
    ("jnp.log(a)", (v,)),
    ("jnp.sqrt(a)", (v,)),
    ("jnp.tanh(a)", (v,)),
    ("jnp.sin(a)", (v,)),
    ("jnp.cos(a)", (v,)),
    ("jnp.tan(a)", (v,)),
    ("jnp.abs(a)", (v,)),
    ("jnp.expm1(a)", (v,)),
    ("jnp.log1p(a)", (v,)),
    ("jnp.square(a)", (v,)),
    ("jnp.arcsin(a)", (v,)),
    ("jnp.arctan(a)", (v,)),
    ("jax.nn.relu(a)", (v,)),
    ("jax.nn.silu(a)", (v,)),
    ("jax.nn.gelu(a)", (v,)),
    ("jax.nn.sigmoid(a)", (v,)),
    ("jax.nn.softmax(a)", (v,)),
    ("jax.nn.log_softmax(a)", (v,)),
    ("jax.nn.logsumexp(a)", (v,)),
    ("jax.nn.softmax(a)", (A,)),
    ("jax.nn.softmax(a,axis=0)", (A,)),
    ("jax.nn.logsumexp(a,axis=-1)", (A,)),
    ("jax.nn.log_softmax(a)", (A,)),
    ("jax.scipy.special.erf(a)", (v,)),
    ("jax.lax.rsqrt(a)", (v,)),
    ("a**b", (v, v)),
    ("a**3", (v,)),
    ("a**-1", (v,)),
    ("a**0.5", (v,)),
    ("a/b", (v, v)),
    ("a.mean(-1)", (A,)),
    ("a.mean(0)", (A,)),
    ("a.sum(1)", (A,)),
    ("a.sum(0)*b", (A, v)),
    ("a*b.sum(1)[:,None]", (A, A)),
    ("jnp.linalg.norm(a)", (v,)),
    ("jnp.maximum(a,b)", (v, v)),
    ("jnp.minimum(a,0.3)", (v,)),
    ("jnp.clip(a,-0.5,0.5)", (v,)),
    ("a.max()", (v,)),
    ("a.max(1)", (A,)),
    ("jnp.where(a>0,a*2,b)", (v, v)),
    ("jnp.where(b,a,0.)", (v, of(4, dtype=bool))),
    ("a@b", (A, B)),
    ("a@b", (A, v)),
    ("a@b", (v, B)),
    ("a@b", (v, v)),
    ("a@b", (T, of(2, 4, 3))),
    ("a@b", (T, B)),
    ("jnp.einsum('bij,bkj->bik',a,b)", (T, T)),
    ("jnp.einsum('ij,kj->ik',a,b)", (A, A)),
    ("jnp.outer(a,b)", (v, v)),
    ("a@b.T", (A, A)),
    (
        "a@b+c",
        (
            A,
            B,
            of(
                5,
            ),
        ),
    ),
    ("jnp.tensordot(a,b,2)", (A, A)),
    ("jnp.sum(a@b)", (A, B)),
    ("a[1]", (v,)),
    ("a[b]", (v, n)),
    ("a[b]", (A, i)),
    ("jnp.take(a,b,axis=0)", (A, i)),
    ("a[1:3]", (v,)),
    ("a[:,1:3]*2", (A,)),
    ("a[::2]", (v,)),
    ("a[:,0]", (A,)),
    ("a[::-1]", (v,)),
    ("a.at[1].set(b)", (v, s)),
    ("a.at[b].add(c)", (A, i, A)),
    ("jax.lax.dynamic_slice_in_dim(a,b,2)", (v, n)),
    (
        "jax.lax.dynamic_update_slice(a,b,(1,))",
        (
            v,
            of(
                2,
            ),
        ),
    ),
    ("jnp.cumsum(a)", (v,)),
    ("jnp.cumsum(a,1)", (A,)),
    ("jnp.sort(a)", (v,)),
    ("jnp.sort(a)", (A,)),
    ("jnp.concatenate([a,b])", (v, v)),
    ("jnp.hstack([a,b])", (A, A)),
    ("jnp.pad(a,1)", (v,)),
    ("a.reshape(12)", (A,)),
    ("a.T", (A,)),
    ("jnp.swapaxes(a,1,2)", (T,)),
    ("a+b", (A, v)),
    (
        "a*b[:,None]",
        (
            A,
            of(
                3,
            ),
        ),
    ),
    ("a[:,0:1].squeeze(1)", (A,)),
    ("a.astype(jnp.float16)", (v,)),
    ("a/jnp.sqrt(jnp.mean(a**2,-1,keepdims=True)+1e-6)*b", (A, v)),
    ("-jnp.mean(jnp.sum(b*jax.nn.log_softmax(a),-1))", (A, A)),
    ("jnp.mean((a-b)**2)", (A, A)),
    ("jax.nn.silu(a)*b", (v, v)),
    ("jax.nn.softmax(a@b.T/2.0)@c", (A, A, A)),
    ("-jnp.mean(b*jnp.log(a)+(1-b)*jnp.log(1-a))", (v, v)),
]


def test_equations(tmp_path):
    """Sources in a file of their own, so that each is one statement y = ... of a, b, c."""
    lines = []
    for number, (source, shapes) in enumerate(OPERATIONS):
        names = "abc"[: len(shapes)]
        text = f"def f({', '.join(names)}):\n    y = {source}\n    return y\n"
        file = tmp_path / f"operation_{number}.py"
        file.write_text(text, "utf-8")
        linecache.checkcache(str(file))
        scope = {"jnp": jnp, "jax": jax}
        exec(compile(text, str(file), "exec"), scope)
        with jax.numpy_rank_promotion("allow"):
            graph = make_graph(scope["f"])(*shapes)
        assert graph["y"].operation
        given = [node for node in graph.inputs if node.is_float]
        lines += [f"{source:45} {node.symbol}: {node.equation}" for node in given]
    same("equations.txt", "\n".join(lines) + "\n")


def test_a_part_of_a_split_sends_its_bar_to_its_place():
    def f(x, w):
        q, k = jnp.split(x @ w, 2, axis=-1)
        return jnp.sum(q * k)

    graph = make_graph(f)(of(3, 4), of(4, 6))
    assert graph["x"].equation == "concatenate([q̄, k̄], 1) wᵀ"


@jax.custom_jvp
def soft(x):
    return jnp.clip(x, -1.0, 1.0)


@soft.defjvp
def _soft_jvp(primals, tangents):
    return soft(*primals), tangents[0] * jnp.exp(-(primals[0] ** 2))


@jax.custom_jvp
def relu(x):
    return jnp.maximum(x, 0.0)


relu.defjvps(lambda t, y, x: t * jax.nn.sigmoid(x))


def test_a_derivative_of_the_users_own_is_not_that_of_what_the_function_does():
    def f(x):
        y = soft(x)
        z = relu(y)
        return z

    graph = make_graph(f)(of(3))
    assert [graph[name].equation for name in "xy"] == ["ȳ ⊙ soft′(x)", "z̄ ⊙ relu′(y)"]


def test_what_a_function_closes_over_has_the_programs_name():
    scale, shift, held = jnp.arange(3.0), 0.25, {"w": jnp.ones(3)}

    def f(x):
        y = x * scale + shift
        z = (y - shift) * 0.7 * held["w"]
        w = jnp.dot(z, scale)
        return w

    graph = make_graph(f)(of(3))
    assert [graph[name].equation for name in "xyz"] == ["ȳ ⊙ scale", "0.7 z̄ ⊙ held.w", "w̄ scale"]


def test_a_shift_that_gradients_flow_through_is_not_taken_for_a_logsumexp():
    def f(x):
        m = jnp.max(x)
        y = m + jnp.log(jnp.sum(jnp.exp(x - m)))
        return y

    graph = make_graph(f)(jnp.array([0.5, -1.0, 2.0]))
    assert graph["x"].equation == "m̄ [x = m] + ȳ exp(x − m) / (Σ exp(x − m))"
    assert graph["m"].equation == "ȳ − ȳ Σ exp(x − m) / (Σ exp(x − m))"

"""The twin: rules found at every depth, whoever wrote them, and nothing else changed."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import check_jaxpr

import overbar
from overbar import losses, nn, regularizers, twin


@jax.custom_vjp
def wrong(x):
    """Somebody's custom_vjp, wrong on purpose: the gradient tells whether it was used."""
    return jnp.sin(x)


wrong.defvjp(lambda x: (jnp.sin(x), None), lambda _, y_bar: (100 * y_bar,))

right = jnp.sin

BODIES = {
    "plain": lambda f: lambda x: f(x),
    "jit": lambda f: jax.jit(f),
    "jit in jit": lambda f: jax.jit(lambda x: 2 * jax.jit(f)(x)),
    "vmap": lambda f: jax.vmap(jax.vmap(f)),
    "remat": lambda f: jax.checkpoint(lambda x: f(f(x))),
    "scan": lambda f: lambda x: jax.lax.scan(lambda c, a: (f(c) * a, c), x, jnp.arange(3.0))[0],
    "scan over ys": lambda f: lambda x: jax.lax.scan(lambda c, a: (c, f(a)), 0.0, x)[1],
    "map": lambda f: lambda x: jax.lax.map(f, x),
    "cond": lambda f: lambda x: jax.lax.cond(x.sum() > 0, f, lambda x: f(2 * x), x),
    "switch": lambda f: lambda x: jax.lax.switch(1, [jnp.cos, f, jnp.exp], x),
    "while": lambda f: (
        lambda x: (
            x
            * jax.lax.while_loop(
                lambda c: c[0] < 2, lambda c: (c[0] + 1, f(c[1])), (0, jax.lax.stop_gradient(x))
            )[1]
        )
    ),
    "fori": lambda f: lambda x: jax.lax.fori_loop(0, 3, lambda i, c: f(c), x),
    "scan of cond of jit": lambda f: (
        lambda x: jax.lax.scan(
            lambda c, a: (jax.lax.cond(a > 0, jax.jit(f), lambda c: c, c), None), x, jnp.array([-1.0, 1.0])
        )[0]
    ),
    "inside somebody's custom_vjp": lambda f: _wrap(f),
    "closed-over array": lambda f: lambda x: f(x * np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)),
    "twice": lambda f: lambda x: f(x) + f(x) * f(2 * x),
}


def _wrap(f):
    outer = jax.custom_vjp(lambda x: 3 * f(x))
    outer.defvjp(lambda x: (3 * f(x), None), lambda _, y_bar: (7 * y_bar,))
    return outer


X = jnp.array([[0.3, -0.2], [0.7, 1.1]])


@pytest.mark.parametrize("body", BODIES)
class TestFindsRules:
    def test_gradient_is_autodiffs(self, body):
        f, plain = BODIES[body](wrong), BODIES[body](right)
        if body == "inside somebody's custom_vjp":

            def plain(x):
                return 3 * right(x)

        got = jax.grad(lambda x: (twin(f)(x) ** 2).sum())(X)
        want = jax.grad(lambda x: (plain(x) ** 2).sum())(X)
        np.testing.assert_allclose(got, want, rtol=1e-6)

    def test_no_rule_is_left(self, body):
        jaxpr = jax.make_jaxpr(twin(BODIES[body](wrong)))(X)
        assert "custom_vjp" not in str(jaxpr)
        check_jaxpr(getattr(jaxpr, "jaxpr", jaxpr))

    def test_value_is_the_same(self, body):
        f = BODIES[body](wrong)
        np.testing.assert_array_equal(twin(f)(X), f(X))
        np.testing.assert_allclose(jax.jit(twin(f))(X), f(X), rtol=1e-6)

    def test_under_transformations_of_the_twin(self, body):
        f, plain = twin(BODIES[body](wrong)), twin(BODIES[body](right))
        stacked = jnp.stack([X, -X])
        np.testing.assert_allclose(jax.vmap(f)(stacked), jax.vmap(plain)(stacked), rtol=1e-6)
        got, want = (jax.jvp(g, (X,), (jnp.ones_like(X),))[1] for g in (f, plain))
        np.testing.assert_allclose(got, want, rtol=1e-6)


def network(params, x, t):
    h = nn.tanh(nn.linear(x, *params[0]))
    h = jax.checkpoint(lambda h: nn.relu(nn.linear(h, *params[1])))(h)
    y = jax.jit(lambda h: nn.sigmoid(nn.softplus(h)))(h)
    return losses.l2_loss(y, t).mean() + 0.1 * regularizers.l2(params)


def arguments():
    keys = iter(jax.random.split(jax.random.key(0), 6))
    params = [
        (jax.random.normal(next(keys), s), jax.random.normal(next(keys), s[1:])) for s in [(3, 4), (4, 2)]
    ]
    return params, jax.random.normal(next(keys), (5, 3)), jax.random.normal(next(keys), (5, 2))


@pytest.mark.usefixtures("x64")
def test_our_own_rules_agree_with_their_twin():
    args = jax.tree.map(lambda x: x.astype(jnp.float64), arguments())
    got, want = (jax.jit(jax.grad(f, (0, 1, 2)))(*args) for f in (network, twin(network)))
    chex.assert_trees_all_close(got, want, rtol=1e-12, atol=1e-14)
    got, want = (jax.jit(jax.hessian(f))(*args) for f in (network, twin(network)))
    chex.assert_trees_all_close(got, want, rtol=1e-10, atol=1e-12)


def test_our_custom_rules_name_is_gone():
    assert "nn.tanh" in str(jax.make_jaxpr(network)(*arguments()))
    assert "custom_vjp" not in str(jax.make_jaxpr(twin(network))(*arguments()))


class TestCustomJvp:
    @staticmethod
    def count(f, *args, **options):
        return str(jax.make_jaxpr(twin(f, **options))(*args)).count("custom_jvp_call")

    @staticmethod
    def model(x):
        return jax.nn.relu(wrong(x)) + jax.nn.silu(jax.jit(jax.nn.relu)(x)) + jax.nn.logsumexp(x)

    def test_stays_unless_asked_for(self):
        assert self.count(self.model, X) == str(jax.make_jaxpr(self.model)(X)).count("custom_jvp_call") >= 2

    def test_all(self):
        assert self.count(self.model, X, custom_jvp=True) == 0

    def test_by_name(self):
        for names in ("relu", ["relu"], {"relu", "absent"}):
            assert self.count(self.model, X, custom_jvp=names) == self.count(self.model, X) - 2

    def test_derivative_is_the_bodys(self):
        """jax.nn.relu's custom_jvp has slope 0 at 0; max(x, 0), its body, has ½."""
        assert jax.grad(twin(jax.nn.relu))(0.0) == 0.0
        assert jax.grad(twin(jax.nn.relu, custom_jvp=True))(0.0) == 0.5


class TestAnyFunction:
    def test_custom_vmap(self):
        """JAX does not differentiate one in reverse, but its body and its batched form may be used."""
        f = jax.custom_batching.custom_vmap(wrong)
        f.def_vmap(lambda size, batched, x: (wrong(x), batched[0]))
        for g in (f, jax.vmap(f)):
            assert "custom_vjp" not in str(jax.make_jaxpr(twin(g))(X))
            np.testing.assert_array_equal(twin(g)(X), right(X))

    def test_arguments_that_are_no_arrays_stay_as_they_are(self):
        def f(x, n, *, mode, g=None, flag=True, extra=()):
            assert isinstance(n, int)
            assert mode == "sum"
            y = wrong(x).reshape(n, -1)
            return {"y": y.sum() if flag else y, "n": n, "mode": mode, "none": None, "g": g}

        out = twin(f)(X, 4, mode="sum", g=right, extra=[])
        assert out["n"] == 4
        assert out["mode"] == "sum"
        assert out["g"] is right
        assert out["none"] is None
        assert jax.grad(lambda x: twin(f)(x, 4, mode="sum")["y"])(X).shape == X.shape

    def test_integers_keys_and_several_results(self):
        def f(x, index, key):
            return wrong(x)[index], jax.random.normal(key, (2,)), index

        y, noise, index = twin(f)(X, jnp.array([0, 1]), jax.random.key(0))
        np.testing.assert_array_equal(y, right(X))
        np.testing.assert_array_equal(index, [0, 1])
        np.testing.assert_array_equal(noise, jax.random.normal(jax.random.key(0), (2,)))

    def test_keeps_name_and_docstring(self):
        assert twin(network).__name__ == "network"
        assert not hasattr(twin(nn.sigmoid), "bars")  # it is no rule any more

    def test_bodies_in_named_tuples(self):
        """jax.lax.custom_linear_solve keeps its jaxprs in one."""
        a = jnp.array([[2.0, 0.5], [0.5, 1.0]])

        def solve(f):
            return lambda b: jax.scipy.sparse.linalg.cg(lambda v: a @ v, f(b))[0].sum()

        np.testing.assert_allclose(
            twin(lambda b: jnp.linalg.solve(a, b))(X), jnp.linalg.solve(a, X), rtol=1e-6
        )
        np.testing.assert_allclose(
            jax.grad(twin(solve(wrong)))(X[0]), jax.grad(solve(right))(X[0]), rtol=1e-5
        )

    def test_relu_at_its_kink(self):
        assert jax.grad(twin(nn.relu))(0.0) == jax.grad(nn.relu)(0.0) == 0.0

    @pytest.mark.parametrize(
        ("args", "options"), [((None,), {}), ((right,), {"custom_jvp": 3}), ((right,), {"custom_jvp": [3]})]
    )
    def test_refuses(self, args, options):
        with pytest.raises(TypeError, match=r"twin takes a function|custom_jvp must be"):
            twin(*args, **options)

    def test_rules_with_symbolic_zeros_nondiff_arguments_and_gradients_of_rules(self):
        f = jax.custom_vjp(lambda n, x: jnp.sin(x) * n, nondiff_argnums=(0,))
        f.defvjp(
            lambda n, x: (jnp.sin(x.value) * n, None),
            lambda n, _, y_bar: (y_bar * 5,),
            symbolic_zeros=True,
        )
        assert jax.grad(twin(lambda x: f(3, x)))(0.0) == 3.0
        assert jax.grad(jax.grad(twin(lambda x: f(3, x))))(0.5) == -3 * jnp.sin(0.5)

    def test_effects_stay(self, capfd):
        def f(x):
            jax.debug.print("seen {}", x.shape[0], ordered=True)
            return wrong(x)

        twin(f)(X)
        jax.effects_barrier()
        assert "seen 2" in capfd.readouterr().out

    def test_a_program_without_rules_is_left_alone(self):
        jaxpr = jax.make_jaxpr(lambda x: jax.lax.cond(x.sum() > 0, jax.jit(right), jnp.cos, x))(X)
        assert overbar.twin.__module__ == "overbar.twin"
        assert sys.modules["overbar.twin"].without(jaxpr) is jaxpr

    def test_inner_jit_compiles_once(self):
        """Called eagerly in a loop, the twin of a jitted function is not compiled each time."""
        f, x = twin(jax.jit(lambda x: wrong(x) * 2)), X
        f(x).block_until_ready()
        compiled = []

        def listen(event, duration, **_):
            if event.endswith("backend_compile_duration"):
                compiled.append(duration)

        jax.monitoring.register_event_duration_secs_listener(listen)
        for _ in range(3):
            f(x).block_until_ready()
        assert compiled == []

    def test_deep_nesting_is_quick(self):
        """A chain of 3000 rules in one body: no recursion per operation."""

        def chain(x):
            for _ in range(3000):
                x = wrong(x)
            return x

        assert len(jax.make_jaxpr(twin(chain))(0.5).eqns) == 3000


@pytest.mark.skipif(not hasattr(jax.config, "jax_custom_vjp3"), reason="this JAX has no hijax custom_vjp")
def test_hijax_custom_vjp():
    """With JAX's flag for its new custom_vjp, in a process of its own: the flag is global."""
    program = """
import jax, jax.numpy as jnp, overbar
jax.config.update("jax_custom_vjp3", True)
c = jnp.array([1.0, 2.0])
f = jax.custom_vjp(lambda x: jnp.sin(x) * c)
f.defvjp(lambda x: (jnp.sin(x) * c, None), lambda _, g: (100 * g,))
model = lambda x: jax.jit(f)(x).sum() + jax.lax.scan(lambda k, _: (f(k), None), x, None, 2)[0].sum()
plain = lambda x: (jnp.sin(x) * c).sum() + (jnp.sin(jnp.sin(x) * c) * c).sum()
x = jnp.array([0.3, 0.7])
assert "CustomVJP" in str(jax.make_jaxpr(model)(x))
assert "CustomVJP" not in str(jax.make_jaxpr(overbar.twin(model))(x))
assert jnp.allclose(jax.grad(overbar.twin(model))(x), jax.grad(plain)(x)), "gradient"
assert jax.grad(overbar.nn.sigmoid)(0.0) == 0.25
"""
    subprocess.run([sys.executable, "-c", program], check=True)

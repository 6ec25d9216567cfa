"""The first NaN or infinity, with its usual cause: in scans, while loops, branches, calls and rules."""

import jax
import jax.numpy as jnp
import pytest

from overbar import GraphError, find_nonfinite

pytestmark = pytest.mark.usefixtures("permissive")


def scanned(c, xs):
    def step(c, x):
        s = jnp.sqrt(x)
        return c + s, s

    c, _ = jax.lax.scan(step, c, xs)
    return c


def stepped(x, n):
    def body(i, c):
        d = jnp.sqrt(c - 1)
        return d

    return jax.lax.fori_loop(0, n, body, x)


def branch_in_scan(c, xs):
    def step(c, x):
        c = jax.lax.cond(x > 0, lambda: c * x, lambda: jnp.log(x))
        return c, None

    return jax.lax.scan(step, c, xs)[0]


@jax.jit
def rooted(x):
    s = jnp.sqrt(x)
    return s


@jax.custom_vjp
def ruled(x):
    return x * 2


ruled.defvjp(lambda x: (ruled(x), x), lambda x, bar: (bar / x,))


@pytest.mark.parametrize(
    ("f", "args", "phase", "turn", "cause"),
    [
        (scanned, (1.0, jnp.array([1.0, -1.0, 2.0])), "forward", "step 1", "a root of a negative number"),
        (scanned, (1.0, jnp.array([1.0, 0.0, 2.0])), "backward", "step 1", "sqrt at 0"),
        (stepped, (5.0, jnp.int32(5)), "forward", "step 3", "a root of a negative number"),
        (branch_in_scan, (1.0, jnp.array([1.0, 2.0, 0.0])), "forward", "step 2", "log of 0"),
        (lambda x: rooted(x) * 2, (0.0,), "backward", "", "sqrt at 0"),
        (lambda x: jax.vmap(rooted)(x).sum(), (jnp.array([1.0, 0.0]),), "backward", "", "sqrt at 0"),
        (jax.checkpoint(rooted), (0.0,), "backward", "", "sqrt at 0"),
        (lambda x: jnp.linalg.norm(x) * 2, (jnp.zeros(3),), "backward", "", "norm at 0"),
        (ruled, (0.0,), "backward", "", "the backward written for ruled"),
        (jnp.arccos, (1.0,), "backward", "", "arccos at ±1"),
        (lambda x: x**0.5, (0.0,), "backward", "", "a power at 0"),
        (lambda x: x / 0.0, (1.0,), "forward", "", "division by 0"),
        (lambda x: x * jnp.nan, (1.0,), "forward", "", "NaN is written there"),
        (lambda x: jnp.var(x, ddof=1), (jnp.ones(1),), "forward", "", "0 / 0"),
        (
            lambda x: jax.nn.softmax(jnp.where(x > 9, x, -jnp.inf)).sum(),
            (jnp.ones(2),),
            "forward",
            "",
            "all −inf",
        ),
    ],
)
def test_the_turn_and_the_cause(f, args, phase, turn, cause):
    found = find_nonfinite(f)(*args)
    assert found.phase == phase
    assert found.turn.startswith(turn)
    assert bool(found.turn) == bool(turn)
    assert cause in found.cause
    assert found.turn in str(found)


def test_the_mask_of_an_attention_is_no_finding():
    def attention(x):
        return jax.nn.softmax(jnp.where(jnp.array([True, False]), x, -jnp.inf))[0]

    assert find_nonfinite(attention)(jnp.array([1.0, 2.0])) is None


def test_a_finite_while_loop_has_no_backward_and_that_is_said():
    with pytest.raises(GraphError, match=r"forward everything is finite, but .* no derivative in reverse"):
        find_nonfinite(stepped)(5.0, jnp.int32(1))

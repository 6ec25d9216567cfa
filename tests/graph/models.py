"""The functions that the graph's tests look at, as (function, arguments) by name."""

import functools

import jax
import jax.numpy as jnp

from overbar import losses, make_graph, nn, regularizers


def lecture(w, b, x, t, lam=0.1):
    z = w * x + b
    y = jax.nn.sigmoid(z)
    L = 0.5 * (y - t) ** 2
    R = 0.5 * w**2
    L_reg = L + lam * R
    return L_reg


def xor(params, x, t):
    h = nn.sigmoid(nn.linear(x, params["W1"], params["b1"]))
    y = nn.sigmoid(nn.linear(h, params["W2"], params["b2"]))
    L = losses.l2_loss(y, t).mean()
    R = regularizers.l2((params["W1"], params["W2"]))
    L_reg = L + 1e-3 * R
    return L_reg


def square(x):
    y = x * x
    return y


def fan_out(x):
    y = jnp.sin(x)
    a = y * 2.0
    b = jnp.exp(y)
    c = a + b * y
    return c


def step(h, x):
    h = jnp.tanh(0.5 * h + x)
    return h, h * h


def recurrent(h, xs):
    h, ys = jax.lax.scan(step, h, xs)
    L = jnp.sum(h) + jnp.sum(ys)
    return L


def branch(x, m):
    y = jax.lax.cond(x > 0, lambda u: u * m, lambda u: -u, x)
    L = y * y
    return L


def layer(p, x):
    z = x @ p["w"] + p["b"][None]
    return jnp.tanh(z)


def deep(params, x):
    for p in params:
        x = layer(p, x)
    L = jnp.sum(x**2)
    return L


@jax.jit
def inner(x):
    s = jnp.sin(x)
    return s * s


def calls(x):
    y = inner(x)
    r = jax.checkpoint(jnp.cos)(y)
    keep = jax.lax.stop_gradient(jnp.log(y))
    L = jnp.sum(y * r + keep)
    return L


def layer_norm(x, g):
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * g[None, :]


def attention(p, x):
    q, k, v = jnp.split(x @ p["qkv"], 3, axis=-1)
    scores = q @ k.T / jnp.sqrt(jnp.float32(q.shape[-1]))
    mask = jnp.tril(jnp.ones(scores.shape, bool))
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9))
    return weights @ v @ p["out"]


def mlp(p, x):
    h = jax.nn.gelu(x @ p["up"])
    return h @ p["down"]


def transformer(params, x, t):
    x = x + attention(params, layer_norm(x, params["g1"]))
    x = x + mlp(params, layer_norm(x, params["g2"]))
    L = jnp.mean((x - t) ** 2)
    return L


def transformer_arguments(n=4, d=6):
    keys = iter(jax.random.split(jax.random.key(0), 8))
    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 2 * d), "down": (2 * d, d)}
    params = {name: jax.random.normal(next(keys), shape) / d**0.5 for name, shape in shapes.items()}
    params |= {"g1": jnp.ones(d), "g2": jnp.ones(d)}
    return params, jax.random.normal(next(keys), (n, d)), jax.random.normal(next(keys), (n, d))


def xor_arguments():
    keys = jax.random.split(jax.random.key(1), 2)
    params = {
        "W1": jax.random.normal(keys[0], (2, 3)),
        "b1": jnp.zeros(3),
        "W2": jax.random.normal(keys[1], (3, 1)),
        "b2": jnp.zeros(1),
    }
    x = jnp.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    return params, x, jnp.array([[1.0], [0.0], [0.0], [1.0]])


CASES = {
    "lecture": (lecture, (1.0, 0.5, 2.0, 1.0)),
    "xor": (xor, xor_arguments()),
    "square": (square, (3.0,)),
    "fan_out": (fan_out, (0.5,)),
    "recurrent": (recurrent, (jnp.array([0.5, -1.0]), jnp.arange(6.0).reshape(3, 2) / 6)),
    "branch": (branch, (1.5, 2.0)),
    "deep": (deep, ([{"w": jnp.eye(2) * k, "b": jnp.ones(2)} for k in (0.5, 1.0)], jnp.ones((3, 2)))),
    "calls": (calls, (jnp.array([0.5, 1.0]),)),
    "transformer": (transformer, transformer_arguments()),
}


@functools.cache
def graph_of(name):
    f, args = CASES[name]
    return make_graph(f)(*args)

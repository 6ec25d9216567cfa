"""The four networks whose training is timed: by our rules, and what a peer needs to build the same one.

A size more is four times the work. Parameters lie in a dictionary by name; peers take their values from
there, so that all of them start alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from overbar import losses, nn

CLASSES = 10
Params = dict[str, Any]


class Network(NamedTuple):
    """A network of one size, its first parameters and the batch that it is trained on.

    products: multiplications and additions in the matrix products of the forward pass.
    """

    kind: str
    size: str
    params: Params
    batch: tuple[np.ndarray, np.ndarray]
    loss: Callable[[Params, Any, Any], jax.Array]
    products: int


def cross_entropy(z: jax.Array, labels: Any) -> jax.Array:
    return losses.softmax_cross_entropy_with_integer_labels(z, labels).mean()


def mlp(scale: int, batch: int = 256) -> Network:
    width = 128 * 2**scale
    widths = (784, width, width, CLASSES)
    draw = Drawn(0)
    params = {f"w{i}": draw.weights(n, m) for i, (n, m) in enumerate(itertools.pairwise(widths))}
    params |= {f"b{i}": jnp.zeros(m) for i, m in enumerate(widths[1:])}

    def loss(p: Params, x: Any, labels: Any) -> jax.Array:
        h = nn.sigmoid(nn.linear(x, p["w0"], p["b0"]))
        h = nn.sigmoid(nn.linear(h, p["w1"], p["b1"]))
        return cross_entropy(nn.linear(h, p["w2"], p["b2"]), labels)

    products = batch * sum(n * m for n, m in itertools.pairwise(widths))
    data = draw.normal(batch, 784), draw.integers(CLASSES, batch)
    return Network("sigmoid MLP", f"784-{width}-{width}-10, batch {batch}", params, data, loss, products)


def cnn(scale: int, batch: int = 32) -> Network:
    c = 8 * 2**scale
    draw = Drawn(1)
    params = {
        "k0": draw.weights(3, 3, 1, c),
        "b0": jnp.zeros(c),
        "k1": draw.weights(3, 3, c, 2 * c),
        "b1": jnp.zeros(2 * c),
        "w": draw.weights(49 * 2 * c, CLASSES),
        "b": jnp.zeros(CLASSES),
    }

    def loss(p: Params, x: Any, labels: Any) -> jax.Array:
        h = nn.max_pool(nn.relu(nn.conv(x, p["k0"], p["b0"])), 2, 2)
        h = nn.max_pool(nn.relu(nn.conv(h, p["k1"], p["b1"])), 2, 2)
        return cross_entropy(nn.linear(h.reshape(len(h), -1), p["w"], p["b"]), labels)

    products = batch * (784 * 9 * c + 196 * 9 * c * 2 * c + 49 * 2 * c * CLASSES)
    data = draw.normal(batch, 28, 28, 1), draw.integers(CLASSES, batch)
    return Network("CNN", f"28 × 28, {c} and {2 * c} channels, batch {batch}", params, data, loss, products)


def lstm(scale: int, batch: int = 32, time: int = 64) -> Network:
    h = 64 * 2**scale
    draw = Drawn(2)
    params = {
        "w": draw.weights(h, 4 * h),
        "u": draw.weights(h, 4 * h),
        "c": jnp.zeros(4 * h),
        "v": draw.weights(h, CLASSES),
        "b": jnp.zeros(CLASSES),
    }

    def loss(p: Params, x: Any, labels: Any) -> jax.Array:
        return cross_entropy(nn.linear(nn.lstm(x, p["w"], p["u"], p["c"])[-1], p["v"], p["b"]), labels)

    products = batch * (time * 8 * h * h + h * CLASSES)
    data = draw.normal(time, batch, h), draw.integers(CLASSES, batch)
    return Network("LSTM", f"{h} units, {time} steps, batch {batch}", params, data, loss, products)


LAYERS, HEADS, CHARACTERS = 2, 4, 65


def transformer(scale: int, batch: int = 8, time: int = 64) -> Network:
    d = 64 * 2**scale
    draw = Drawn(3)
    params: Params = {"embedding": draw.weights(CHARACTERS, d), "head": draw.weights(d, CHARACTERS)}
    params |= {"place": 0.1 * draw.weights(time, d), "scale": jnp.ones(d)}
    for i in range(LAYERS):
        params |= {f"{n}{i}": draw.weights(d, d) for n in ("q", "k", "v", "o")}
        params |= {f"up{i}": draw.weights(d, 4 * d), f"down{i}": draw.weights(4 * d, d)}
        params |= {f"s{i}": jnp.ones(d), f"t{i}": jnp.ones(d)}

    def loss(p: Params, ids: Any, following: Any) -> jax.Array:
        x = nn.embedding(p["embedding"], ids)
        x = x + jnp.broadcast_to(p["place"], x.shape)
        for i in range(LAYERS):
            a = nn.rms_norm(x, p[f"s{i}"])
            q, k, v = (nn.linear(a, p[f"{n}{i}"]).reshape(*a.shape[:2], HEADS, -1) for n in ("q", "k", "v"))
            x = x + nn.linear(nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape), p[f"o{i}"])
            a = nn.rms_norm(x, p[f"t{i}"])
            x = x + nn.linear(nn.gelu(nn.linear(a, p[f"up{i}"])), p[f"down{i}"])
        h = nn.rms_norm(x, p["scale"]).reshape(-1, d)
        return losses.linear_cross_entropy(h, p["head"], following.ravel()).mean()

    products = batch * time * (LAYERS * (12 * d * d + 2 * time * d) + d * CHARACTERS)
    data = draw.integers(CHARACTERS, batch, time), draw.integers(CHARACTERS, batch, time)
    size = f"{LAYERS} layers, width {d}, {time} characters, batch {batch}"
    return Network("transformer", size, params, data, loss, products)


NETWORKS: dict[str, Callable[[int], Network]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lstm": lstm,
    "transformer": transformer,
}


class Drawn:
    """Random arrays, one after the other."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape).astype(np.float32)

    def weights(self, *shape: int) -> jax.Array:
        return jnp.asarray(self.normal(*shape) / np.float32(np.sqrt(np.prod(shape[:-1]))))

    def integers(self, end: int, *shape: int) -> np.ndarray:
        return self._rng.integers(0, end, shape).astype(np.int32)

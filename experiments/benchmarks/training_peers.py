"""The same four networks in Flax NNX and in Equinox, out of the layers that these libraries have.

Each method takes our parameters and returns a pytree of the library's own and its loss. Both are trained by
optax and jax.jit as ours is; NNX without nnx.jit, whose own work at every call would be timed as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.training_models import CLASSES, HEADS, LAYERS, Params

Made = tuple[Any, Callable[[Any, Any, Any], jax.Array]]


def cross_entropy(z: Any, labels: Any) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(z, labels).mean()


class Nnx:
    def __init__(self) -> None:
        self.nnx: Any = importlib.import_module("flax.nnx")
        self.rngs = self.nnx.Rngs(0)

    def _functional(self, modules: dict[str, Any], forward: Callable[[Any, Any], Any]) -> Made:
        """The modules' parameters, and the loss as a function of them; forward(modules, x) -> scores."""
        definition, params, rest = self.nnx.split(self.nnx.Dict(**modules), self.nnx.Param, ...)

        def loss(params: Any, x: Any, labels: Any) -> jax.Array:
            return cross_entropy(forward(self.nnx.merge(definition, params, rest), x), labels)

        return params, loss

    def _linear(self, w: Any, b: Any = None) -> Any:
        made = self.nnx.Linear(*w.shape, use_bias=b is not None, rngs=self.rngs)
        made.kernel.set_value(w)
        if b is not None:
            made.bias.set_value(b)
        return made

    def _conv(self, k: Any, b: Any) -> Any:
        made = self.nnx.Conv(*k.shape[2:], kernel_size=k.shape[:2], rngs=self.rngs)
        made.kernel.set_value(k)
        made.bias.set_value(b)
        return made

    def _norm(self, scale: Any) -> Any:
        made = self.nnx.RMSNorm(len(scale), epsilon=1e-6, rngs=self.rngs)
        made.scale.set_value(scale)
        return made

    def mlp(self, p: Params) -> Made:
        layers = {f"l{i}": self._linear(p[f"w{i}"], p[f"b{i}"]) for i in range(3)}

        def forward(m: Any, x: Any) -> Any:
            return m.l2(self.nnx.sigmoid(m.l1(self.nnx.sigmoid(m.l0(x)))))

        return self._functional(layers, forward)

    def cnn(self, p: Params) -> Made:
        modules = {f"c{i}": self._conv(p[f"k{i}"], p[f"b{i}"]) for i in range(2)}

        def forward(m: Any, x: Any) -> Any:
            for c in (m.c0, m.c1):
                x = self.nnx.max_pool(self.nnx.relu(c(x)), (2, 2), (2, 2))
            return m.out(x.reshape(len(x), -1))

        return self._functional(modules | {"out": self._linear(p["w"], p["b"])}, forward)

    def lstm(self, p: Params) -> Made:
        cell = self.nnx.OptimizedLSTMCell(len(p["w"]), len(p["u"]), rngs=self.rngs)
        cell.dense_i.kernel.set_value(p["w"])
        cell.dense_h.kernel.set_value(p["u"])
        cell.dense_h.bias.set_value(p["c"])
        modules = {"rnn": self.nnx.RNN(cell, time_major=True), "out": self._linear(p["v"], p["b"])}

        def forward(m: Any, x: Any) -> Any:
            zero = jnp.zeros((x.shape[1], len(p["u"])))
            return m.out(m.rnn(x, initial_carry=(zero, zero))[-1])

        return self._functional(modules, forward)

    def transformer(self, p: Params) -> Made:
        d = len(p["scale"])
        modules: dict[str, Any] = {
            "embed": self.nnx.Embed(*p["embedding"].shape, rngs=self.rngs),
            "place": self.nnx.Param(p["place"]),
            "norm": self._norm(p["scale"]),
            "head": self._linear(p["head"]),
        }
        modules["embed"].embedding.set_value(p["embedding"])
        for i in range(LAYERS):
            attention = self.nnx.MultiHeadAttention(HEADS, d, use_bias=False, decode=False, rngs=self.rngs)
            for name, layer in (("q", attention.query), ("k", attention.key), ("v", attention.value)):
                layer.kernel.set_value(p[f"{name}{i}"].reshape(layer.kernel.shape))
            attention.out.kernel.set_value(p[f"o{i}"].reshape(attention.out.kernel.shape))
            modules |= {
                f"attention{i}": attention,
                f"s{i}": self._norm(p[f"s{i}"]),
                f"t{i}": self._norm(p[f"t{i}"]),
            }
            modules |= {f"up{i}": self._linear(p[f"up{i}"]), f"down{i}": self._linear(p[f"down{i}"])}

        def forward(m: Any, ids: Any) -> Any:
            x = m.embed(ids) + m.place[...]
            mask = self.nnx.make_causal_mask(ids)
            for i in range(LAYERS):
                x = x + getattr(m, f"attention{i}")(getattr(m, f"s{i}")(x), mask=mask)
                a = getattr(m, f"t{i}")(x)
                x = x + getattr(m, f"down{i}")(self.nnx.gelu(getattr(m, f"up{i}")(a)))
            return m.head(m.norm(x))

        return self._functional(modules, forward)


class Equinox:
    def __init__(self) -> None:
        self.eqx: Any = importlib.import_module("equinox")
        self.key = jax.random.key(0)

    def _set(self, module: Any, **values: Any) -> Any:
        names = list(values)
        return self.eqx.tree_at(lambda m: [getattr(m, n) for n in names], module, [values[n] for n in names])

    def _linear(self, w: Any, b: Any = None) -> Any:
        made = self.eqx.nn.Linear(*w.shape, use_bias=b is not None, key=self.key)
        return self._set(made, weight=w.T, **({} if b is None else {"bias": b}))

    def _conv(self, k: Any, b: Any) -> Any:
        made = self.eqx.nn.Conv2d(*k.shape[2:], 3, padding=1, key=self.key)
        return self._set(made, weight=k.transpose(3, 2, 0, 1), bias=b.reshape(-1, 1, 1))

    def _norm(self, scale: Any) -> Any:
        return self._set(self.eqx.nn.RMSNorm(len(scale), eps=1e-6, use_bias=False), weight=scale)

    def _functional(self, modules: Any, forward: Callable[[Any, Any], Any]) -> Made:
        """The arrays of the modules, and the loss as a function of them; forward is of one example."""
        arrays, rest = self.eqx.partition(modules, self.eqx.is_array)

        def loss(arrays: Any, x: Any, labels: Any) -> jax.Array:
            together = self.eqx.combine(arrays, rest)
            return cross_entropy(jax.vmap(lambda one: forward(together, one))(x), labels)

        return arrays, loss

    def mlp(self, p: Params) -> Made:
        layers = [self._linear(p[f"w{i}"], p[f"b{i}"]) for i in range(3)]

        def forward(m: Any, x: Any) -> Any:
            return m[2](jax.nn.sigmoid(m[1](jax.nn.sigmoid(m[0](x)))))

        return self._functional(layers, forward)

    def cnn(self, p: Params) -> Made:
        w = p["w"].reshape(7, 7, -1, CLASSES).transpose(2, 0, 1, 3).reshape(-1, CLASSES)  # channels first
        convs = [self._conv(p[f"k{i}"], p[f"b{i}"]) for i in range(2)]
        pool = self.eqx.nn.MaxPool2d(2, 2)

        def forward(m: Any, x: Any) -> Any:
            h = x.transpose(2, 0, 1)
            for c in m[0]:
                h = pool(jax.nn.relu(c(h)))
            return m[1](h.ravel())

        return self._functional((convs, self._linear(w, p["b"])), forward)

    def lstm(self, p: Params) -> Made:
        cell = self.eqx.nn.LSTMCell(len(p["w"]), len(p["u"]), key=self.key)
        cell = self._set(cell, weight_ih=p["w"].T, weight_hh=p["u"].T, bias=p["c"])
        zero = jnp.zeros(len(p["u"]))

        def forward(m: Any, x: Any) -> Any:
            (h, _), _ = jax.lax.scan(lambda state, x: (m[0](x, state), None), (zero, zero), x)
            return m[1](h)

        arrays, loss = self._functional((cell, self._linear(p["v"], p["b"])), forward)
        return arrays, lambda arrays, x, labels: loss(arrays, x.swapaxes(0, 1), labels)

    def transformer(self, p: Params) -> Made:
        d = len(p["scale"])
        time = len(p["place"])
        layers = []
        for i in range(LAYERS):
            attention = self.eqx.nn.MultiheadAttention(HEADS, d, key=self.key)
            parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
            projections = {f"{part}_proj": self._linear(p[f"{name}{i}"]) for part, name in parts.items()}
            layers.append(
                (
                    self._norm(p[f"s{i}"]),
                    self._set(attention, **projections),
                    self._norm(p[f"t{i}"]),
                    self._linear(p[f"up{i}"]),
                    self._linear(p[f"down{i}"]),
                )
            )
        embedding = self.eqx.nn.Embedding(weight=p["embedding"])
        ends = (embedding, p["place"], self._norm(p["scale"]), self._linear(p["head"]))
        mask = np.tril(np.ones((time, time), bool))

        def forward(m: Any, ids: Any) -> Any:
            embedding, place, norm, head = m[1]
            x = jax.vmap(embedding)(ids) + place
            for s, attention, t, up, down in m[0]:
                a = jax.vmap(s)(x)
                x = x + attention(a, a, a, mask=mask)
                x = x + jax.vmap(lambda a, t=t, up=up, down=down: down(jax.nn.gelu(up(t(a)))))(x)
            return jax.vmap(lambda a: head(norm(a)))(x)

        return self._functional((layers, ends), forward)

"""The same four networks in PyTorch, eager and compiled, on as many threads as JAX has."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.training_models import CLASSES, HEADS, LAYERS, Network, Params


class Torch:
    """A network's training step in PyTorch: call it to take one and get the loss.

    Args:
      compiled: by torch.compile; where that does not run, the first call raises.
    """

    def __init__(self, network: Network, kind: str, rate: float, compiled: bool) -> None:
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's, which tells of its starts and stops
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(len(os.sched_getaffinity(0)))
        parameters, forward = getattr(self, kind)(network.params)
        x, labels = (self.torch.tensor(np.asarray(a)) for a in network.batch)
        labels = labels.long().ravel()
        self.optimizer = self.torch.optim.Adam(parameters, lr=rate)

        def loss() -> Any:
            z = forward(x)
            return self.torch.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), labels)

        self.loss = self.torch.compile(loss) if compiled else loss
        self.held = sum(t.numel() * 4 for t in parameters) * 3 + x.numel() * x.element_size()

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        value = self.loss()
        value.backward()
        self.optimizer.step()
        return float(value.detach())

    def peak_bytes(self) -> int:
        """The most that a step holds: what is there before it, and what the profiler sees allocated."""
        profiler = self.torch.profiler
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self()
        now = most = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                most = max(most, now)
        return self.held + most

    def _tensor(self, value: Any) -> Any:
        return self.torch.tensor(np.asarray(value), requires_grad=True)

    def _tensors(self, p: Params) -> dict[str, Any]:
        return {name: self._tensor(value) for name, value in p.items()}

    def mlp(self, p: Params) -> tuple[list[Any], Callable[[Any], Any]]:
        linear, sigmoid = self.torch.nn.functional.linear, self.torch.sigmoid
        t = self._tensors({n: v.T for n, v in p.items()})

        def forward(x: Any) -> Any:
            h = sigmoid(linear(x, t["w0"], t["b0"]))
            return linear(sigmoid(linear(h, t["w1"], t["b1"])), t["w2"], t["b2"])

        return list(t.values()), forward

    def cnn(self, p: Params) -> tuple[list[Any], Callable[[Any], Any]]:
        f = self.torch.nn.functional
        t = self._tensors(
            {n: v.transpose(3, 2, 0, 1) if n[0] == "k" else v for n, v in p.items() if n != "w"}
        )
        first = p["w"].reshape(7, 7, -1, CLASSES).transpose(3, 2, 0, 1).reshape(CLASSES, -1)
        t["w"] = self._tensor(first)

        def forward(x: Any) -> Any:
            h = x.permute(0, 3, 1, 2)
            for i in range(2):
                h = f.max_pool2d(f.relu(f.conv2d(h, t[f"k{i}"], t[f"b{i}"], padding=1)), 2)
            return f.linear(h.flatten(1), t["w"], t["b"])

        return list(t.values()), forward

    def lstm(self, p: Params) -> tuple[list[Any], Callable[[Any], Any]]:
        module = self.torch.nn.LSTM(len(p["w"]), len(p["u"]))
        with self.torch.no_grad():
            module.weight_ih_l0.copy_(self._tensor(p["w"].T))
            module.weight_hh_l0.copy_(self._tensor(p["u"].T))
            module.bias_ih_l0.copy_(self._tensor(p["c"]))
            module.bias_hh_l0.zero_()
        module.bias_hh_l0.requires_grad_(False)  # the others have one bias
        v, b = self._tensor(p["v"].T), self._tensor(p["b"])
        held = [w for w in module.parameters() if w.requires_grad]
        return [*held, v, b], lambda x: self.torch.nn.functional.linear(module(x)[0][-1], v, b)

    def transformer(self, p: Params) -> tuple[list[Any], Callable[[Any], Any]]:
        f = self.torch.nn.functional
        t = self._tensors({n: v if n in ("embedding", "place") else v.T for n, v in p.items()})

        def norm(x: Any, scale: Any) -> Any:
            return f.rms_norm(x, scale.shape, scale, 1e-6)

        def forward(ids: Any) -> Any:
            x = f.embedding(ids, t["embedding"]) + t["place"]
            for i in range(LAYERS):
                a = norm(x, t[f"s{i}"])
                q, k, v = (
                    f.linear(a, t[f"{n}{i}"]).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                    for n in ("q", "k", "v")
                )
                y = f.scaled_dot_product_attention(q, k, v, is_causal=True)
                x = x + f.linear(y.transpose(1, 2).flatten(2), t[f"o{i}"])
                a = norm(x, t[f"t{i}"])
                x = x + f.linear(f.gelu(f.linear(a, t[f"up{i}"]), approximate="tanh"), t[f"down{i}"])
            return f.linear(norm(x, t["scale"]), t["head"])

        return list(t.values()), forward

"""PyTorch's CPU kernels on the rules' bench samples: what a compiled step could cost on this machine.

Layers, attention, recurrences and cross-entropy, each with the rule's own arguments and layouts put
into PyTorch's. A rule without a counterpart here is not compared.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from harness import timing
from overbar import Rule, Sample

Forward = Callable[..., Any]  # float tensors -> a tensor


def measure(
    rule: Rule[..., Any], case: Any, sample: Sample, program: Callable[[], Any], rounds: int
) -> dict[str, Any] | None:
    """Quartiles of both's seconds, forward and backward, and of their ratio; None without a counterpart.

    Args:
      case: the rule as a function of its float inputs, a rules.Case.
      program: the rule's compiled passes.
      rounds: of timing.
    """
    torch = importlib.import_module("torch")
    try:
        forward = COUNTERPARTS[rule.name](torch, sample)
    except (KeyError, Unlike):
        return None
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    inputs = [torch.tensor(np.asarray(x), requires_grad=True) for x in case.inputs]
    y = forward(*inputs)
    expected = case.function(case.inputs)[0]
    np.testing.assert_allclose(y.detach().numpy(), np.asarray(expected), rtol=2e-3, atol=2e-3)
    y_bar = torch.tensor(np.random.default_rng(0).standard_normal(y.shape).astype(np.float32))

    def both() -> None:
        torch.autograd.grad(forward(*inputs), inputs, y_bar, allow_unused=True)

    both()
    taken = timing.interleaved({"rule": program, "torch": both}, rounds, at_least=0.002)
    return {
        "torch": torch.__version__,
        "seconds": {name: timing.quartiles(t) for name, t in taken.items()},
        "ratio": timing.quartiles(taken["rule"] / taken["torch"]),
    }


class Unlike(Exception):
    """PyTorch has the layer, but not with these arguments."""


def only(sample: Sample, *known: str) -> None:
    if set(sample.options) - set(known):
        raise Unlike


def integers(torch: Any, sample: Sample) -> Any:
    (found,) = [x for x in jax.tree.leaves(sample.args) if np.issubdtype(np.asarray(x).dtype, np.integer)]
    return torch.tensor(np.asarray(found, np.int64))


def elementwise(name: str, torch: Any, sample: Sample, **options: Any) -> Forward:
    only(sample, *options)
    return partial(getattr(torch.nn.functional, name), **options)


def gelu(torch: Any, sample: Sample) -> Forward:
    approximate = sample.options.get("approximate", True)
    return partial(torch.nn.functional.gelu, approximate="tanh" if approximate else "none")


def linear(torch: Any, sample: Sample) -> Forward:
    return lambda x, w, b=None: torch.nn.functional.linear(x, w.T, b)


def bilinear(torch: Any, sample: Sample) -> Forward:
    function: Forward = torch.nn.functional.bilinear
    return function


def softmax(name: str, torch: Any, sample: Sample) -> Forward:
    only(sample, "axis")
    return partial(getattr(torch.nn.functional, name), dim=sample.options.get("axis", -1))


def cross_entropy(torch: Any, sample: Sample) -> Forward:
    only(sample)
    labels = integers(torch, sample)
    return lambda z: torch.nn.functional.cross_entropy(z, labels, reduction="none")


def linear_cross_entropy(torch: Any, sample: Sample) -> Forward:
    only(sample)
    labels = integers(torch, sample) % sample.args[1].shape[-1]  # −1 is the last class
    return lambda h, w: torch.nn.functional.cross_entropy(h @ w, labels, reduction="none")


def embedding(torch: Any, sample: Sample) -> Forward:
    only(sample)
    ids = integers(torch, sample)
    return lambda table: torch.nn.functional.embedding(ids, table)


def layer_norm(torch: Any, sample: Sample) -> Forward:
    only(sample, "eps")
    return lambda x, *rest: torch.nn.functional.layer_norm(
        x, x.shape[-1:], *rest, eps=sample.options.get("eps", 1e-5)
    )


def rms_norm(torch: Any, sample: Sample) -> Forward:
    only(sample, "eps")
    return lambda x, *rest: torch.nn.functional.rms_norm(
        x, x.shape[-1:], *rest, eps=sample.options.get("eps", 1e-6)
    )


def group_norm(torch: Any, sample: Sample) -> Forward:
    only(sample, "eps", "groups")
    return lambda x, *rest: torch.nn.functional.group_norm(
        x.movedim(-1, 1), sample.options["groups"], *rest, eps=sample.options.get("eps", 1e-5)
    ).movedim(1, -1)


def conv(torch: Any, sample: Sample) -> Forward:
    only(sample, "padding")
    padding = str(sample.options.get("padding", "SAME")).lower()
    if padding not in ("same", "valid"):
        raise Unlike

    def forward(x: Any, kernel: Any, bias: Any = None) -> Any:
        function = getattr(torch.nn.functional, f"conv{kernel.ndim - 2}d")
        order = (kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
        return function(x.movedim(-1, 1), kernel.permute(order), bias, padding=padding).movedim(1, -1)

    return forward


def pool(name: str, torch: Any, sample: Sample) -> Forward:
    only(sample, "window", "strides", "padding")
    if sample.options.get("padding", "VALID") != "VALID":
        raise Unlike
    window, strides = sample.options["window"], sample.options.get("strides", 1)
    function = getattr(torch.nn.functional, f"{name}{sample.args[0].ndim - 2}d")
    return lambda x: function(x.movedim(-1, 1), window, strides).movedim(1, -1)


def attention(torch: Any, sample: Sample) -> Forward:
    only(sample, "is_causal")
    function = torch.nn.functional.scaled_dot_product_attention

    def forward(q: Any, k: Any, v: Any) -> Any:
        heads = (x.transpose(1, 2) for x in (q, k, v))
        options = {"is_causal": sample.options.get("is_causal", False)}
        if q.shape[-2] != k.shape[-2]:
            options["enable_gqa"] = True
        return function(*heads, **options).transpose(1, 2)

    return forward


def recurrence(name: str, torch: Any, sample: Sample) -> Forward:
    """The module of that name, its weights given from outside; absent biases are zero."""
    only(sample)

    def forward(x: Any, w_ih: Any, w_hh: Any, *biases: Any) -> Any:
        hidden = w_hh.shape[0]
        b = [*biases, *[torch.zeros(w_ih.shape[1])] * (2 - len(biases))]
        module = getattr(torch, name)
        weights = [w_ih.T.contiguous(), w_hh.T.contiguous(), *b]
        zeros = torch.zeros(1, x.shape[1], hidden)
        state = (zeros, zeros) if name == "lstm" else zeros
        return module(x, state, weights, True, 1, 0.0, True, False, False)[0]

    return forward


COUNTERPARTS: dict[str, Callable[[Any, Sample], Forward]] = {
    "nn.sigmoid": partial(elementwise, "sigmoid"),
    "nn.tanh": partial(elementwise, "tanh"),
    "nn.relu": partial(elementwise, "relu"),
    "nn.softplus": partial(elementwise, "softplus"),
    "nn.silu": partial(elementwise, "silu"),
    "nn.mish": partial(elementwise, "mish"),
    "nn.gelu": gelu,
    "nn.linear": linear,
    "nn.bilinear": bilinear,
    "nn.softmax": partial(softmax, "softmax"),
    "nn.log_softmax": partial(softmax, "log_softmax"),
    "nn.embedding": embedding,
    "nn.layer_norm": layer_norm,
    "nn.rms_norm": rms_norm,
    "nn.group_norm": group_norm,
    "nn.conv": conv,
    "nn.max_pool": partial(pool, "max_pool"),
    "nn.avg_pool": partial(pool, "avg_pool"),
    "nn.dot_product_attention": attention,
    "nn.rnn": partial(recurrence, "rnn_tanh"),
    "nn.gru": partial(recurrence, "gru"),
    "nn.lstm": partial(recurrence, "lstm"),
    "losses.softmax_cross_entropy_with_integer_labels": cross_entropy,
    "losses.linear_cross_entropy": linear_cross_entropy,
}

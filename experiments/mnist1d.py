"""MNIST-1D: digits as signals of 40 points, shifted, sheared and in noise; four models on 4000 of them.

The models are the paper's, of the same sizes: the linear one and the MLP learn where things lay, and the two
whose weights are shared along the signal find them wherever they lie. The paper's table says 32, 68, 94 and
91 % of the 1000 test signals, for the logistic model, MLP, CNN and GRU. MLP and CNN have gelu for the
paper's relu: at kinks two runs that differ by rounding alone part, and these are to train along one curve by
the rules and by autodiff.

Run it as `python experiments/mnist1d.py --model cnn`.
Source: S. Greydanus, D. Kobak, "Scaling down deep learning with MNIST-1D", 2020.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import harness
from harness import data
from overbar import nn

POINTS, CLASSES = 40, 10

Params = dict[str, jax.Array]


def dense(key: jax.Array, name: str, inputs: int, outputs: int, gain: float = 1.0) -> Params:
    return {f"w_{name}": harness.weights(key, inputs, outputs, gain=gain), f"b_{name}": jnp.zeros(outputs)}


class Logistic:
    """z = x w + b."""

    @staticmethod
    def init(key: jax.Array) -> Params:
        return dense(key, "out", POINTS, CLASSES)

    @staticmethod
    def predict(p: Params, x: Any, key: Any = None) -> jax.Array:
        return nn.linear(x, p["w_out"], p["b_out"])


class MLP:
    """Two layers of 100 gelu, the second beside a straight path."""

    @staticmethod
    def init(key: jax.Array, width: int = 100) -> Params:
        one, two, out = jax.random.split(key, 3)
        first, second = dense(one, "1", POINTS, width, 2**0.5), dense(two, "2", width, width)
        return first | second | dense(out, "out", width, CLASSES)

    @staticmethod
    def predict(p: Params, x: Any, key: Any = None) -> jax.Array:
        h = nn.gelu(nn.linear(x, p["w_1"], p["b_1"]))
        h = h + nn.gelu(nn.linear(h, p["w_2"], p["b_2"]))
        return nn.linear(h, p["w_out"], p["b_out"])


class CNN:
    """Three convolutions with stride 2, 25 channels each: 40 points become 20, 10 and 5."""

    @staticmethod
    def init(key: jax.Array, channels: int = 25) -> Params:
        one, two, three, out = jax.random.split(key, 4)
        p = {
            "k_1": harness.weights(one, 5, 1, channels, gain=0.6),
            "k_2": harness.weights(two, 3, channels, channels, gain=0.6),
            "k_3": harness.weights(three, 3, channels, channels, gain=0.6),
        }
        biases = {f"b_{number}": jnp.zeros(channels) for number in (1, 2, 3)}
        return p | biases | dense(out, "out", 5 * channels, CLASSES)

    @staticmethod
    def predict(p: Params, x: Any, key: Any = None) -> jax.Array:
        h = x[..., None]
        for number in (1, 2, 3):
            h = nn.gelu(nn.conv(h, p[f"k_{number}"], p[f"b_{number}"], strides=2))
        return nn.linear(h.reshape(len(h), -1), p["w_out"], p["b_out"])


class GRU:
    """A GRU of 6 units that reads forward and one that reads backward; their states at all points decide."""

    @staticmethod
    def init(key: jax.Array, units: int = 6) -> Params:
        *keys, out = jax.random.split(key, 5)
        p = dense(out, "out", 2 * units * POINTS, CLASSES)
        for way, (w, u) in zip(("forth", "back"), (keys[:2], keys[2:]), strict=True):
            p |= {
                f"w_{way}": harness.weights(w, 1, 3 * units),
                f"u_{way}": harness.weights(u, units, 3 * units),
            }
            p |= {f"bw_{way}": jnp.zeros(3 * units), f"bu_{way}": jnp.zeros(3 * units)}
        return p

    @staticmethod
    def predict(p: Params, x: Any, key: Any = None) -> jax.Array:
        signal = x.T[..., None]  # (points, n, 1): a recurrence runs over the first axis

        def read(way: str, signal: jax.Array) -> jax.Array:
            return nn.gru(signal, p[f"w_{way}"], p[f"u_{way}"], p[f"bw_{way}"], p[f"bu_{way}"])

        h = jnp.concatenate([read("forth", signal), read("back", signal[::-1])[::-1]], axis=-1)
        return nn.linear(h.swapaxes(0, 1).reshape(len(x), -1), p["w_out"], p["b_out"])


MODELS: dict[str, Any] = {"logistic": Logistic, "mlp": MLP, "cnn": CNN, "gru": GRU}


def task(args: argparse.Namespace) -> harness.Task:
    model, signals = MODELS[args.model], data.load(args.data)
    if signals.x.shape[1:] != (POINTS,) or signals.classes > CLASSES:
        raise harness.BadSetting(
            f"--data {args.data}: expected signals of {POINTS} points in at most {CLASSES} classes, but came "
            f"{signals.x.shape[1:]} in {signals.classes}"
        )
    at_once = {"logistic": 100, "mlp": 20, "gru": 20, "cnn": 1}[args.model]  # as measured: see harness.Task
    return harness.classification(signals, model.init, model.predict, at_once=at_once, test_batch=1000)


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "mnist1d",
        __doc__,
        steps=12000,
        batch=100,
        learning_rate=0.015,
        optimizer="adamw:weight_decay=0.15",
        schedule="cosine",
        evaluate_every=200,
    )
    parser.add_argument("--model", choices=MODELS, default="cnn", help="(default: cnn)")
    parser.add_argument(
        "--data",
        default="mnist1d",
        metavar="SET",
        help="mnist1d, or an .npz of such signals (default: mnist1d)",
    )
    return harness.launch_training(task, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

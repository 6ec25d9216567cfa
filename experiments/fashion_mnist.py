"""Fashion-MNIST: 60,000 pictures of clothes, 28 × 28 pixels, ten kinds; by an MLP or a CNN of rules alone.

    mlp    784 - 512 - 256 - 10, silu, dropout        at least 89 % of the 10,000 test pictures
    cnn    3 × 3 convolution to 32 channels, max-pool, 3 × 3 to 64, average-pool, 128, 10, silu, with
           dropout, half of the pictures from the other side     at least 92 %

With relu, and max-pool twice, two runs that differ by rounding alone part at the kinks, by 3 % in 200 steps;
so they train along one curve, by the rules and by autodiff.

The four files are Debian's package dataset-fashion-mnist (`apt install dataset-fashion-mnist`); `--data`
takes any folder with such files, as MNIST's own.

Run it as `python experiments/fashion_mnist.py --model cnn`.
Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a novel image dataset", 2017.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

import harness
from harness import data
from overbar import nn

FOLDER = "/usr/share/datasets/fashion-mnist"

Params = dict[str, jax.Array]


def dense(key: jax.Array, name: str, inputs: int, outputs: int) -> Params:
    return {f"w_{name}": harness.weights(key, inputs, outputs, gain=2**0.5), f"b_{name}": jnp.zeros(outputs)}


def thinned(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Dropout in training; x itself in an evaluation."""
    return x if key is None else nn.dropout(key, x, rate)


def mirrored(x: Any, key: jax.Array | None) -> Any:
    """Half of the pictures, in training, from the other side: a shoe is a shoe."""
    if key is None:
        return x
    other = jax.random.bernoulli(key, shape=(len(x), 1, 1, 1))
    return jnp.where(jnp.broadcast_to(other, x.shape), x[:, :, ::-1], x)


class MLP:
    @staticmethod
    def init(key: jax.Array, shape: Sequence[int], classes: int) -> Params:
        one, two, out = jax.random.split(key, 3)
        return (
            dense(one, "1", math.prod(shape), 512)
            | dense(two, "2", 512, 256)
            | dense(out, "out", 256, classes)
        )

    @staticmethod
    def predict(p: Params, x: Any, key: jax.Array | None = None) -> jax.Array:
        one, two = (None, None) if key is None else jax.random.split(key)
        h = nn.silu(nn.linear(x.reshape(len(x), -1), p["w_1"], p["b_1"]))
        h = nn.silu(nn.linear(thinned(h, 0.2, one), p["w_2"], p["b_2"]))
        return nn.linear(thinned(h, 0.2, two), p["w_out"], p["b_out"])


class CNN:
    @staticmethod
    def init(key: jax.Array, shape: Sequence[int], classes: int) -> Params:
        height, width, channels = shape
        one, two, three, out = jax.random.split(key, 4)
        p = {
            "k_1": harness.weights(one, 3, 3, channels, 32, gain=2**0.5),
            "b_1": jnp.zeros(32),
            "k_2": harness.weights(two, 3, 3, 32, 64, gain=2**0.5),
            "b_2": jnp.zeros(64),
        }
        pooled = (height // 4) * (width // 4)
        return p | dense(three, "3", pooled * 64, 128) | dense(out, "out", 128, classes)

    @staticmethod
    def predict(p: Params, x: Any, key: jax.Array | None = None) -> jax.Array:
        one, two, side = (None,) * 3 if key is None else jax.random.split(key, 3)
        h = nn.max_pool(nn.silu(nn.conv(mirrored(x, side), p["k_1"], p["b_1"])), 2, 2)
        h = nn.avg_pool(nn.silu(nn.conv(h, p["k_2"], p["b_2"])), 2, 2)
        h = thinned(h.reshape(len(h), -1), 0.25, one)
        h = nn.silu(nn.linear(h, p["w_3"], p["b_3"]))
        return nn.linear(thinned(h, 0.5, two), p["w_out"], p["b_out"])


MODELS: dict[str, Any] = {"mlp": MLP, "cnn": CNN}


def task(args: argparse.Namespace) -> harness.Task:
    model, pictures = MODELS[args.model], data.load(args.data)
    shape = pictures.x.shape[1:]
    if model is CNN and (len(shape) != 3 or min(shape[:2]) < 4):
        raise harness.BadSetting(
            f"--data {args.data}: --model cnn wants pictures (height, width, channels) of 4 × 4 or more, "
            f"but came {shape}"
        )
    return harness.classification(
        pictures,
        lambda key: model.init(key, shape, pictures.classes),
        model.predict,
        test_batch=500,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "fashion_mnist",
        __doc__,
        steps=9400,
        batch=128,
        learning_rate=1e-3,
        schedule="cosine",
        evaluate_every=940,
    )
    parser.add_argument("--model", choices=MODELS, default="cnn", help="(default: cnn)")
    parser.add_argument(
        "--data", default=FOLDER, metavar="DIR", help=f"folder of IDX files (default: {FOLDER})"
    )
    return harness.launch_training(task, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

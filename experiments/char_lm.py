"""A language model of characters: a small transformer of our rules alone, or an LSTM.

    transformer   x ← embedding + place; then in each layer x ← x + attention(rms_norm(x)) and
                  x ← x + MLP(rms_norm(x)); at last the cross-entropy of the next character, where the
                  weights of the last layer are the embedding's
    lstm          embedding, two layers of LSTM, the same loss

The text is Python's standard library, or `--text FILE`; its last tenth is never trained on. `test_bits` are
the bits that a character of that tenth costs, each predicted from at most `--context` before it.

Run it as `python experiments/char_lm.py --text tinyshakespeare.txt`. The defaults are nanoGPT's small CPU
setting (4 layers, 4 heads, width 128, context 64, batch 12, 2000 steps; it reports 1.88 nats, 2.71 bits), but
for a learning rate of 0.002.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import harness
from harness import data
from overbar import losses, nn

WINDOWS = 2000  # of the tenth that is held back, at most; evenly spaced

Params = dict[str, Any]


class Transformer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.width, self.layers, self.heads, self.context = args.width, args.layers, args.heads, args.context
        if self.width % self.heads:
            raise harness.BadSetting(f"--width {self.width} cannot be divided by --heads {self.heads}")

    def init(self, key: jax.Array, characters: int) -> Params:
        d, small = self.width, 0.02 / math.sqrt(2 * self.layers)
        *keys, key_e, key_p = jax.random.split(key, self.layers + 2)

        def layer(key: jax.Array) -> Params:
            one, two, three, four = jax.random.split(key, 4)
            return {
                "attention": {"scale": jnp.ones(d), "in": 0.02 * jax.random.normal(one, (d, 3 * d))}
                | {"out": small * jax.random.normal(two, (d, d))},
                "mlp": {"scale": jnp.ones(d), "in": 0.02 * jax.random.normal(three, (d, 4 * d))}
                | {"out": small * jax.random.normal(four, (4 * d, d))},
            }

        return {
            "embedding": 0.02 * jax.random.normal(key_e, (characters, d)),
            "place": 0.02 * jax.random.normal(key_p, (self.context, d)),
            "layers": [layer(key) for key in keys],
            "scale": jnp.ones(d),
        }

    def states(self, p: Params, ids: Any) -> jax.Array:
        """(n, time, width): what is known after each character."""
        x = nn.embedding(p["embedding"], ids)
        x = x + jnp.broadcast_to(p["place"][: ids.shape[1]], x.shape)
        for layer in p["layers"]:
            x = x + self.attention(layer["attention"], x)
            m = layer["mlp"]
            x = x + nn.linear(nn.gelu(nn.linear(nn.rms_norm(x, m["scale"]), m["in"])), m["out"])
        return nn.rms_norm(x, p["scale"])

    def attention(self, p: Params, x: jax.Array) -> jax.Array:
        parts = nn.linear(nn.rms_norm(x, p["scale"]), p["in"]).reshape(*x.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, i] for i in range(3))
        return nn.linear(nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape), p["out"])


class LSTM:
    def __init__(self, args: argparse.Namespace) -> None:
        self.width, self.layers = args.width, min(args.layers, 2)

    def init(self, key: jax.Array, characters: int) -> Params:
        d = self.width
        *keys, key_e = jax.random.split(key, 2 * self.layers + 1)
        remember = jnp.zeros(4 * d).at[d : 2 * d].set(1.0)  # at first, nothing is forgotten
        return {
            "embedding": harness.weights(key_e, characters, d, gain=math.sqrt(characters / d)),
            "layers": [
                {"w": harness.weights(w, d, 4 * d), "u": harness.weights(u, d, 4 * d), "b": remember}
                for w, u in zip(keys[::2], keys[1::2], strict=True)
            ],
        }

    def states(self, p: Params, ids: Any) -> jax.Array:
        x = nn.embedding(p["embedding"], ids.T)  # (time, n, width): a recurrence runs over the first axis
        for layer in p["layers"]:
            x = nn.lstm(x, layer["w"], layer["u"], layer["b"])
        return x.swapaxes(0, 1)


MODELS: dict[str, Any] = {"transformer": Transformer, "lstm": LSTM}


def task(args: argparse.Namespace) -> harness.Task:
    """Every place of the text is an example: as many characters as the context, and those one further on."""
    known, ids = np.unique(np.frombuffer(data.text(args.text), np.uint8), return_inverse=True)
    ids = ids.astype(np.int32)
    train, test = np.split(ids, [len(ids) * 9 // 10])
    if len(test) <= args.context:
        raise harness.BadSetting(f"the text's {len(ids)} characters are too few for --context {args.context}")
    model = MODELS[args.model](args)

    def windows(text: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        seen = text[starts[:, None] + np.arange(args.context + 1)]
        return {"ids": seen[:, :-1], "next": seen[:, 1:]}

    def rows(p: Params, batch: Any) -> jax.Array:
        h = model.states(p, batch["ids"])
        row = losses.linear_cross_entropy(h.reshape(-1, h.shape[-1]), p["embedding"].T, batch["next"].ravel())
        return row.astype(jnp.float32).reshape(len(h), -1).mean(-1)

    def scores(p: Params, batch: Any) -> dict[str, jax.Array]:
        row = rows(p, batch)
        return {"loss": row, "bits": row / math.log(2)}

    starts = np.arange(0, len(test) - args.context, args.context)
    return harness.Task(
        init=lambda key: model.init(key, len(known)),
        loss=lambda p, batch, key: rows(p, batch).mean(),
        examples=len(train) - args.context,
        batch=lambda chosen: windows(train, chosen),
        scores=scores,
        test=windows(test, starts[:: math.ceil(len(starts) / WINDOWS)]),
        at_once=20,
        test_batch=50,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "char_lm",
        __doc__,
        steps=2000,
        batch=12,
        learning_rate=2e-3,
        optimizer="adamw:b2=0.99,weight_decay=0.1",
        schedule="cosine:alpha=0.1",
        evaluate_every=500,
    )
    parser.set_defaults(warmup=100, clip=1.0)
    parser.add_argument("--model", choices=MODELS, default="transformer", help="(default: transformer)")
    parser.add_argument("--text", type=Path, metavar="FILE", help="(default: Python's standard library)")
    sizes = {"layers": 4, "heads": 4, "width": 128, "context": 64}
    for name, size in sizes.items():
        parser.add_argument(
            f"--{name}", type=harness.count, default=size, metavar="N", help=f"(default: {size})"
        )
    return harness.launch_training(task, parser, argv)


if __name__ == "__main__":
    sys.exit(main())

"""n-bit parity: is the number of ones odd? XOR is its two bits; every bit more makes it harder.

    h = tanh(x W₁ + b₁)
    z = h W₂ + b₂              one score for even, one for odd
    L = mean over all 2ⁿ inputs of the cross-entropy of z

No single bit, and no set of bits that is not all of them, tells anything of the answer.
Run it as `python experiments/parity.py --bits 8`. The exit status is 0 if all 2ⁿ inputs are right, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import harness
from harness import data
from overbar import nn

Params = dict[str, jax.Array]


def init(key: jax.Array, bits: int, hidden: int) -> Params:
    """Random biases too: with none, b̄₂ over all the inputs is 0 but for rounding, each input x having its −x.

    Adam takes steps of their full size along a bar as small as that, and each order of adding up its own.
    """
    key_1, key_2, key_3 = jax.random.split(key, 3)
    return {
        "W₁": harness.weights(key_1, bits, hidden, gain=2.0),
        "b₁": jax.random.normal(key_3, (hidden,)),
        "W₂": harness.weights(key_2, hidden, 2),
        "b₂": jnp.zeros(2),
    }


def predict(params: Params, x: ArrayLike, key: jax.Array | None = None) -> jax.Array:
    h = nn.tanh(nn.linear(2 * x - 1, params["W₁"], params["b₁"]))
    return nn.linear(h, params["W₂"], params["b₂"])


def task(args: argparse.Namespace) -> harness.Task:
    return harness.classification(
        data.load(f"parity:{args.bits}"),
        lambda key: init(key, args.bits, args.hidden or 8 * args.bits),
        predict,
        at_once=50,
    )


def experiment(args: argparse.Namespace, run: harness.Run, task: harness.Task) -> int:
    trained = harness.train(args, run, task)
    harness.draw(run, trained)
    right = round(trained.scores["test_accuracy"] * task.examples)
    run.say(f"parity: {right} of {task.examples} right after {trained.lines[-1]['step']} steps")
    return 0 if right == task.examples else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = harness.training_parser(
        "parity", __doc__, steps=3000, batch=64, learning_rate=0.01, evaluate_every=50
    )
    parser.add_argument(
        "--bits", type=harness.count, default=8, metavar="N", help="bits of an input (default: 8)"
    )
    parser.add_argument(
        "--hidden", type=harness.count, metavar="N", help="hidden units (default: 8 for each bit)"
    )
    return harness.launch_training(task, parser, argv, experiment)


if __name__ == "__main__":
    sys.exit(main())

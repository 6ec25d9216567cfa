"""The experiments' flags: numbers that are checked, and the ones that every experiment or training has."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from harness import devices, optimizers

BadSetting = devices.BadSetting

FLOAT32_TINY, FLOAT32_MAX = 2.0**-126, 3.4028234663852886e38  # smaller ones are 0 where XLA computes


def count(text: str) -> int:
    """A whole number of 1 or more, for argparse."""
    return _number(text, int, "a whole number of 1 or more", lambda n: n >= 1)


def seed(text: str) -> int:
    """A whole number that fits 32 bits, for argparse."""
    return _number(text, int, "a whole number from 0 to 2³² − 1", lambda n: 0 <= n < 2**32)


def positive(text: str) -> float:
    """A number above 0 that float32 holds, for argparse."""
    return _number(text, float, "a finite number above 0", lambda x: FLOAT32_TINY <= x <= FLOAT32_MAX)


def share(text: str) -> float:
    """A number between 0 and 1, for argparse."""
    return _number(text, float, "a number above 0 and below 1", lambda x: 0 < x < 1)


def not_negative(text: str) -> float:
    """A number of 0 or more that float32 holds, for argparse."""
    return _number(text, float, "a finite number of 0 or more", lambda x: 0 <= x <= FLOAT32_MAX)


def folder(text: str) -> Path:
    """A path that is a folder or nothing yet, for argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, but came ''")
    path = Path(text)
    try:
        is_file = path.exists() and not path.is_dir()
    except OSError as error:  # a name that is too long, a folder above that may not be read
        raise argparse.ArgumentTypeError(f"cannot use {text[:40]!r}: {error.strerror}") from None
    if is_file:
        raise argparse.ArgumentTypeError(f"{text} is a file; expected a folder, or a name for a new one")
    return path


Number = TypeVar("Number", int, float)


def _number(text: str, kind: type[Number], wanted: str, fits: Callable[[Number], bool]) -> Number:
    try:
        number = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected {wanted}, but came {text!r}") from None
    if not fits(number):
        raise argparse.ArgumentTypeError(f"expected {wanted}, but came {text!r}")
    return number


class Parser(argparse.ArgumentParser):
    """An argument parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (--help tells more)\n")


def parser(
    name: str,
    doc: str | None,
    *,
    steps: int | None,
    steps_help: str = "steps of descent",
    writes: str | None = None,
) -> argparse.ArgumentParser:
    """The flags that every experiment has; a script adds its own to them.

    A benchmark says what it writes instead of metrics and a picture; it has no --autodiff, since it
    compares the rules with their twin. With steps=None it takes none, and draws nothing at random.
    """
    written = writes or f"metrics.jsonl and {name}.png"
    made = Parser(
        f"{name}.py",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if steps is not None:
        made.add_argument(
            "--steps", type=count, default=steps, metavar="N", help=f"{steps_help} (default: {steps})"
        )
        made.add_argument(
            "--seed", type=seed, default=0, metavar="N", help="seed of all random numbers (default: 0)"
        )
    made.add_argument(
        "--out",
        type=folder,
        default=Path("runs", name),
        metavar="DIR",
        help=f"folder for settings.json, {written} (default: runs/{name})",
    )
    if writes is None:
        add_autodiff(made)
    made.set_defaults(name=name)
    return made


def add_autodiff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--autodiff",
        action="store_true",
        help="train on the twin: JAX's own derivatives instead of the rules",
    )


def add_learning_rate(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--learning-rate",
        type=positive,
        default=default,
        metavar="X",
        help=f"size of a step of descent (default: {default:g})",
    )


def add_lambda(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--lambda",
        dest="lam",
        type=not_negative,
        default=default,
        metavar="X",
        help=f"λ, the weight of the L2 regularizer (default: {default:g})",
    )


def training_parser(
    name: str,
    doc: str | None,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    optimizer: str = "adam",
    schedule: str = "constant",
    evaluate_every: int | None = None,
    checkpoint_every: int | None = None,
) -> argparse.ArgumentParser:
    """The flags of what is trained by `harness.train`, with the script's own defaults."""
    made = parser(
        name, doc, steps=steps, writes=f"metrics.jsonl, events for TensorBoard, checkpoints, {name}.png"
    )
    add_autodiff(made)
    add_learning_rate(made, learning_rate)
    made.add_argument(
        "--batch", type=count, default=batch, metavar="N", help=f"examples a step (default: {batch})"
    )
    made.add_argument(
        "--optimizer",
        type=optimizers.optimizer_spec,
        default=optimizer,
        metavar="NAME",
        help=f"one of optax's, with options as in adamw:b2=0.99,weight_decay=0.1 (default: {optimizer})",
    )
    made.add_argument(
        "--schedule",
        type=optimizers.schedule_spec,
        default=schedule,
        metavar="NAME",
        help=f"of the learning rate: {', '.join(optimizers.SCHEDULES)}, with options as in cosine:alpha=0.1 "
        f"(default: {schedule})",
    )
    made.add_argument(
        "--warmup",
        type=not_negative_count,
        default=0,
        metavar="N",
        help="steps in which the rate rises to its full size",
    )
    made.add_argument(
        "--clip", type=positive, metavar="X", help="the largest norm that the gradient may have"
    )
    made.add_argument(
        "--accumulate", type=count, default=1, metavar="N", help="take each batch in N parts, for less memory"
    )
    made.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="to compute in; parameters stay float32 (default: float32)",
    )
    made.add_argument(
        "--evaluate-every",
        type=count,
        default=evaluate_every or max(1, steps // 20),
        metavar="N",
        help=f"steps between evaluations (default: {evaluate_every or max(1, steps // 20)})",
    )
    made.add_argument(
        "--converged",
        type=share,
        metavar="X",
        help="stop early once the mean loss, from one evaluation to the next, falls by less than this share",
    )
    made.add_argument(
        "--checkpoint-every",
        type=not_negative_count,
        default=checkpoint_every,
        metavar="N",
        help="steps between checkpoints; 0 for none "
        f"(default: {'a tenth of the steps' if checkpoint_every is None else checkpoint_every})",
    )
    made.add_argument(
        "--keep", type=count, default=3, metavar="N", help="checkpoints to keep, and the best (default: 3)"
    )
    made.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    devices.add_flags(made)
    return made


def not_negative_count(text: str) -> int:
    """A whole number of 0 or more, for argparse."""
    return _number(text, int, "a whole number of 0 or more", lambda n: n >= 0)

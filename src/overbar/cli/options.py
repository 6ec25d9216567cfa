"""How a call is read, and what is wrong with one, in one line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from overbar.cli.output import CANNOT


class Parser(argparse.ArgumentParser):
    """Keeps the lines of a description as written, and says what is wrong with a call in one line."""

    def __init__(self, **settings: Any) -> None:
        keeps = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": keeps, "allow_abbrev": False, **settings})

    def error(self, message: str) -> Any:
        self.exit(CANNOT, f"{self.prog}: {message}; see {self.prog} --help\n")


def parsed(parser: Parser, argv: Sequence[str]) -> argparse.Namespace:
    """The options; arguments of the function may stand before, between and after them."""
    # argparse takes -1e-3 for an option, but not what begins with a space.
    options, others = parser.parse_known_args([f" {text}" if _is_number(text) else text for text in argv])
    if others and ("sample" not in options or any(text.startswith("-") for text in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.sample = [*options.sample, *others]
    return options


def seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, but is {value}")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, but is {text.strip()}")
    return value


def count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, but is {value}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

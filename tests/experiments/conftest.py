"""What the tests of the experiments share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A run of an experiment takes long and meets nothing of JAX that the library's tests do not."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.once)


@pytest.fixture(autouse=True)
def standard_promotion() -> Iterator[None]:
    """optax.adam raises a float to its integer step count, which the library's tests forbid."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def read_metrics() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads a run's metrics.jsonl strictly: NaN and Infinity are no JSON."""

    def refuse(token: str) -> None:
        raise AssertionError(f"metrics.jsonl holds {token}")

    def read(folder: Path) -> list[dict[str, Any]]:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        assert text == "" or text.endswith("\n")
        return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]

    return read

"""What the tests of the benchmarks share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "experiments" / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Loads a benchmark anew, by its name, as a script is: what it adds to the path is taken off again."""
    monkeypatch.setattr("sys.path", list(sys.path))

    def load(name):
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load

"""The whole text of a graph, and its pictures, against tests/graph/golden.

Where a change is meant, write the files anew and read the difference:

    OVERBAR_GOLDEN=write python -m pytest -n 0 tests/graph/test_golden.py && git diff tests/graph/golden
"""

import os
from pathlib import Path

import pytest

from overbar import make_graph

from . import models
from .libraries import LIBRARIES
from .models import CASES

pytestmark = pytest.mark.usefixtures("permissive")

GOLDEN = Path(__file__).with_name("golden")
TEXTS = [*CASES, *LIBRARIES]


def graph_of(name):
    if name in CASES:
        return models.graph_of(name)
    found = LIBRARIES[name]()
    if found is None:
        pytest.skip(f"{name} is not installed")
    f, args = found
    return make_graph(f)(*args)


def same(name, text):
    path = GOLDEN / name
    if os.environ.get("OVERBAR_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text.splitlines() == path.read_text("utf-8").splitlines()


@pytest.mark.parametrize("name", TEXTS)
def test_print(name):
    same(f"{name}.txt", str(graph_of(name)) + "\n")


@pytest.mark.parametrize("name", ["lecture", "square", "xor", "deep"])
def test_dot_and_mermaid(name):
    same(f"{name}.dot", graph_of(name).dot())
    same(f"{name}.mmd", graph_of(name).mermaid())

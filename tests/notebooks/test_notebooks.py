"""Each notebook runs from top to bottom in a fresh kernel, and shows what it is kept with.

What is kept was written by such a run. After a change that shows in a notebook, write it anew and look
at the difference: `python tests/notebooks/test_notebooks.py` (a name, as 01_backprop_by_hand, does one).

Text must be the same, but for its numbers, which may differ as other versions of JAX round differently:
by one in the last digit that is shown, or one part in a thousand. Of an SVG the labels are compared as
text; of a PNG, which other versions of matplotlib draw otherwise, that there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
RELATIVE = 1e-3


def executed(path: Path) -> Any:
    """The notebook with the outputs of a fresh run, and nothing that tells when or where it ran."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(
        notebook, timeout=300, resources=resources, record_timing=False, coalesce_streams=True
    )
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def texts(notebook: Any) -> list[tuple[int, str]]:
    """What the code cells show, each with the number of its cell; of an SVG its labels."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if output.output_type == "stream":
                found.append((number, output.text))
            elif "text/html" in data:
                found.append((number, "\n".join(labels(data["text/html"]))))
            elif "image/png" in data:
                found.append((number, "a picture"))
            else:
                found.append((number, data["text/plain"]))
    return found


def labels(svg: str) -> list[str]:
    """The lines of text in an SVG, in their order."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def same(kept: str, shown: str) -> bool:
    """Whether two texts are the same but for the last digits of their numbers."""
    if NUMBER.sub("#", kept) != NUMBER.sub("#", shown):
        return False
    return all(map(close, NUMBER.findall(kept), NUMBER.findall(shown)))


def close(kept: str, shown: str) -> bool:
    digits = kept.partition("e")[0].partition(".")[2]
    exponent = float(kept.partition("e")[2] or 0)
    last = 10.0 ** (exponent - len(digits)) if digits else 0.0
    return abs(float(kept) - float(shown)) <= max(1.01 * last, RELATIVE * abs(float(kept)) if digits else 0.0)


# ---------------------------------------------------------------------- tests


@pytest.mark.once
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_is_kept_with(path: Path) -> None:
    kept = nbformat.read(path, as_version=4)
    shown = texts(executed(path))
    expected = texts(kept)
    assert [number for number, _ in shown] == [number for number, _ in expected]
    for (number, old), (_, new) in zip(expected, shown, strict=True):
        assert same(old, new), f"cell {number} showed\n{new}\nbut is kept with\n{old}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_clean(path: Path) -> None:
    """Every code cell was run, in order; nothing tells when or on which machine."""
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    shown = "\n".join(text for _, text in texts(notebook))
    assert not re.search(r"0x[0-9a-f]{6}|/home/|/tmp/|/usr/|Traceback", shown)
    assert "<Figure" not in shown  # a picture that was not drawn


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS


def test_numbers_are_compared_and_nothing_else_is_let_pass() -> None:
    assert same("w = 0.08936", "w = 0.08937")
    assert same("cost 1.235e+05", "cost 1.236e+05")
    assert same("12.34567", "12.34999")
    assert not same("w = 0.08936", "w = 0.08956")
    assert not same("w = 0.08936", "w = -0.08936")
    assert not same("w = 0.08936", "v = 0.08936")
    assert not same("9 nodes", "10 nodes")
    assert not same("x1 = 2", "x2 = 2")
    assert not same("1000 steps", "1001 steps")


if __name__ == "__main__":
    names = sys.argv[1:] or [path.stem for path in NOTEBOOKS]
    for name in names:
        target = ROOT / "notebooks" / f"{name}.ipynb"
        nbformat.write(executed(target), target)
        print(f"written: {target.relative_to(ROOT)}")

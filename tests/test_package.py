"""What holds of the package as a whole: its floors, its public face, and what the README promises."""

import ast
import linecache
import re
from pathlib import Path

import pytest

import overbar

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "overbar").rglob("*.py"))

# The floor a module stands on; an import goes down, or stays within its own package.
FLOORS = {
    "_dtypes": 0,
    "_contract": 0,
    "_adapter": 0,
    "_jax_nn": 0,
    "_like": 0,
    "_draws": 0,
    "_asked": 0.5,  # knows types and programs, no rule
    "_tails": 1,
    "rule": 1,
    "elementwise": 1.5,  # rules of one row, upon the rule
    "nn": 2,
    "losses": 2,
    "regularizers": 2,
    "twin": 2,
    "graph": 3,
    "check": 4,
    "cli": 5,
}


def part(path):
    return path.relative_to(ROOT / "src" / "overbar").with_suffix("").parts[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert not [m for m in imported if m.startswith(("jax._src", "jaxlib"))]
    if part(path) == "__init__":
        return
    for module in imported:
        if module.startswith("overbar."):
            other = module.split(".")[1]
            assert other == part(path) or FLOORS[other] < FLOORS[part(path)], module


def test_custom_vjp_is_touched_in_one_file():
    """Only rule.py defines one, only the adapter knows how a jaxpr calls one."""
    uses = [
        path.name
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr == "custom_vjp")
        or (isinstance(node, ast.ImportFrom) and "custom_vjp" in [alias.name for alias in node.names])
    ]
    assert set(uses) == {"rule.py"}


def test_public_names_are_there():
    for module in (overbar, overbar.nn, overbar.losses):
        assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("module", [overbar.nn, overbar.losses, overbar.regularizers])
def test_a_rule_is_registered_under_its_public_name(module):
    rules = {name: value for name, value in vars(module).items() if isinstance(value, overbar.Rule)}
    assert rules
    home = module.__name__.removeprefix("overbar.")
    for name, value in rules.items():
        # swish is silu, as in jax.nn: a second name of the same rule
        assert overbar.registry.get(f"{home}.{name}", value) is value
        assert overbar.registry[value.name] is value
        assert value.name.startswith(f"{home}.")
    assert {r.name for r in rules.values()} <= {f"{home}.{name}" for name in rules}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)


def test_readme_commands_are_one_line_each():
    first, second, *_ = blocks("sh")
    assert first.count("\n") == second.count("\n") == 1
    assert "experiments/xor.py" in first
    assert "pytest" in second


def test_readme_examples_run():
    names: dict = {}
    for i, block in enumerate(blocks("python")):
        file = f"README.md block {i}"
        # As a notebook does it: the graph's names come from the source.
        linecache.cache[file] = (len(block), None, block.splitlines(keepends=True), file)
        exec(compile(block, file, "exec"), names)


def test_readme_points_at_files_that_are_there():
    text = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target

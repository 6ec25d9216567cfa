"""`overbar rules`: the registered rules, or one of them."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from typing import TYPE_CHECKING, Any

from overbar.cli.output import Refused, near, say

if TYPE_CHECKING:
    from overbar.rule import Rule


def add(commands: Any) -> None:
    brief = "list the rules of this library: equations and residuals"
    rules = commands.add_parser("rules", help=brief, description=f"{brief[0].upper()}{brief[1:]}.")
    rules.set_defaults(run=_run)
    rules.add_argument("name", metavar="NAME", nargs="?", help="print this rule's docstring, as nn.sigmoid")
    rules.add_argument("--json", action="store_true", help="print JSON")


def _run(options: argparse.Namespace) -> int:
    """`overbar rules`: lists the registered rules, or shows one."""
    from overbar.rule import registry

    if options.name is None:
        told: Any = [_row(rule) for rule in registry.values()]
        text = "\n".join(map(_block, registry.values()))
    elif options.name in registry:
        rule = registry[options.name]
        doc = inspect.getdoc(rule.primal) or "It has no docstring."
        told = {**_row(rule), "doc": doc}
        text = f"{_block(rule)}\n\n{doc}"
    else:
        close = near(options.name, list(registry))
        raise Refused(f"there is no rule {options.name}{close or '; see overbar rules'}")
    say(json.dumps(told, ensure_ascii=False) if options.json else text, sys.stdout)
    return 0


def _row(rule: Rule[..., Any]) -> dict[str, Any]:
    return {"name": rule.name, "bars": rule.bars, "residuals": rule.residuals, "options": list(rule.static)}


def _block(rule: Rule[..., Any]) -> str:
    lines = [rule.name, *(f"    {equation}" for equation in rule.bars.values())]
    lines += [f"    keeps {name}: {text}" for name, text in rule.residuals.items()]
    return "\n".join(lines)

"""Writes the README's table of rules, from the registry and what rules.py measured.

    python experiments/benchmarks/rules.py --out runs/rules                all rules, or some by name
    python experiments/benchmarks/rule_table.py runs/rules/results.json    keeps the figures, writes the table
    python experiments/benchmarks/rule_table.py                            writes it from the figures kept

Figures of the rules in the files given take the place of older ones; those of other rules stay as long
as device and versions are the same.

The figures are kept in measured.json beside this file; a test compares the README with the registry.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from overbar import Rule, registry

KEPT = Path(__file__).with_name("measured.json")
README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- the table of rules: begin -->", "<!-- the table of rules: end -->"
FAMILIES = ("nn", "losses", "regularizers")
COLUMNS = ["rule", "backward", "kept (bytes an element)", "kinks", "ULP", "time", "memory", "to PyTorch"]


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """What the table tells of a rule's measurements: those of its first bench sample, beside autodiff."""
    if result["verdict"] == "wrong" or not result.get("bench"):
        return {"verdict": result["verdict"]}
    (m, *_) = result["bench"]
    peer = "namesake" if "namesake" in m["ratio"] else "twin"
    found = {
        "verdict": result["verdict"],
        "peer": peer,
        "ulp": [_short(result["ulp"].get(name)) for name in ("rule", peer)],
        "time": [_short(x) for x in m["ratio"][peer]],
        "kept": [m["kept_bytes"][name] for name in ("rule", peer)],
        "temporary": [m["temporary_bytes"][name] for name in ("rule", peer)],
        "elements": m["elements"],
        "every_time": [_short(other["ratio"][peer][1]) for other in result["bench"]],
    }
    return found | ({"torch": _short(m["torch"]["ratio"][1])} if m.get("torch") else {})


def _short(x: float | None) -> float | None:
    return None if x is None else float(f"{x:.3g}")


def keep(results: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The part of results.json that the README shows, so small that it can be kept with the code.

    Args:
      results: what rules.py wrote.
      before: what was kept before: it stays for other rules, if it was measured on the same.
    """
    about = {key: results[key] for key in ("device", "jax", "optax")}
    same = all(before.get(key) == value for key, value in about.items())
    known = {r.name for r in shipped()}
    stays = {n: found for n, found in before["rules"].items() if n in known} if same else {}
    return about | {"rules": stays | {r["rule"]: figures(r) for r in results["results"]}}


def shipped() -> list[Rule[..., Any]]:
    """The library's rules; an example that runs can have registered others."""
    return [rule for rule in registry.values() if rule.name.split(".")[0] in FAMILIES]


def rows(measured: dict[str, Any]) -> Iterator[list[str]]:
    for rule in shipped():
        found = measured["rules"].get(rule.name, {})
        yield [
            f"`{rule.name}`",
            "; ".join(dict.fromkeys(rule.bars.values())),
            kept(rule, found),
            ", ".join(f"{slope:g} at {x:g}" for x, slope in rule.kinks.items()) or "",
            beside(found.get("ulp")),
            f"{found['time'][1]:.2f}" if "time" in found else "",
            ratio(found.get("temporary"), found.get("kept")),
            f"{found['torch']:.2f}" if "torch" in found else "",
        ]


def kept(rule: Rule[..., Any], found: dict[str, Any]) -> str:
    names = ", ".join(rule.residuals) or "nothing"
    return f"{names} ({found['kept'][0] / found['elements']:.3g})" if found.get("elements") else names


def beside(pair: Sequence[float | None] | None) -> str:
    if not pair or pair[0] is None:
        return ""
    ours, theirs = (("all" if x is None or x > 1e5 else f"{x:.2g}") for x in pair)
    return ours if ours == theirs else f"{ours} ({theirs})"


def ratio(temporary: Sequence[int] | None, kept: Sequence[int] | None) -> str:
    """Temporary and kept bytes together, the rule's to autodiff's."""
    if not temporary or not kept:
        return ""
    ours, theirs = (a + b for a, b in zip(temporary, kept, strict=True))
    return f"{ours / theirs:.2f}" if theirs else "1.00" if ours == 0 else "—"


def table(measured: dict[str, Any]) -> str:
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(measured)]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{text}\n\n{summary(measured)}"


def summary(measured: dict[str, Any]) -> str:
    """The mean over all samples, and the rules that are slower than autodiff by more than 3 %."""
    every = {n: found["every_time"] for n, found in measured["rules"].items() if "every_time" in found}
    times = [t for of_rule in every.values() for t in of_rule]
    if not times:
        return ""
    mean = math.exp(sum(map(math.log, times)) / len(times))
    slow = [f"`{n}` {max(t):.2f}" for n, t in every.items() if max(t) > 1.03]
    return (
        f"Geometric mean of the times over {len(times)} samples: {mean:.2f} "
        f"({measured['device'].split(':')[0]}, JAX {measured['jax']}). "
        f"Above 1.03: {', '.join(slow) or 'none'}."
    )


def written(readme: str, measured: dict[str, Any]) -> str:
    """The README with the table put between its two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table(measured)}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", nargs="*", type=Path, help="results.json of rules.py, one or several")
    args = parser.parse_args(argv)
    for path in args.results:
        before = json.loads(KEPT.read_text(encoding="utf-8"))
        found = keep(json.loads(path.read_text(encoding="utf-8")), before)
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    measured = json.loads(KEPT.read_text(encoding="utf-8"))
    README.write_text(written(README.read_text(encoding="utf-8"), measured), encoding="utf-8")
    missing = [rule.name for rule in shipped() if rule.name not in measured["rules"]]
    print(
        f"{README.name}: {len(shipped())} rules"
        + (f"; not measured: {', '.join(missing)}" if missing else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What a check found: the findings, the verdict they add up to, and how it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, Literal

Status = Literal["ok", "wrong", "unknown", "left out"]
MARKS: dict[str, str] = {"ok": "✓", "wrong": "✗", "unknown": "?", "left out": "–"}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
      check: which check found it.
      what: the finding in a sentence.
      rule: the rule to blame, with its source file and line; None while it is not known.
      input: the input whose bar is wrong.
      where: the entry of that bar.
      got, expected: the two values there.
      cause: what explains the numbers, where something does.
      example: the smallest arguments found that show it, where that is not on the sample.
    """

    check: str
    what: str
    rule: str | None = None
    input: str | None = None
    where: tuple[int, ...] | None = None
    got: Any = None
    expected: Any = None
    cause: str | None = None
    example: str = ""


@dataclass(frozen=True)
class Line:
    """One check: how it ended, the worst error in units of its bound, and a word on it."""

    check: str
    status: Status
    worst: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Report:
    """The result of `overbar.check`.

    Attributes:
      subject: the name of the function.
      verdict: "correct", "wrong" or "inconclusive".
      reason: why it is inconclusive, else "".
      oracle: what the bars were compared with.
      rules: the hand-written rules found in the function, each with its source.
      lines: one a check.
      findings: what is wrong, the most telling first.
      remarks: what is no fault but worth knowing.
      checked: False where nothing could be checked at all (the function raises, has no float input ...).
      seconds: how long it took.
    """

    subject: str
    verdict: Literal["correct", "wrong", "inconclusive"]
    reason: str
    oracle: str
    rules: Sequence[str] = ()
    lines: Sequence[Line] = ()
    findings: Sequence[Finding] = field(default_factory=tuple)
    remarks: Sequence[str] = ()
    checked: bool = True
    seconds: float = 0.0

    @property
    def exit_status(self) -> int:
        """0 correct, 1 wrong, 2 cannot be checked, 3 inconclusive: the shell command's."""
        if not self.checked:
            return 2
        return {"correct": 0, "wrong": 1, "inconclusive": 3}[self.verdict]

    def raise_if_wrong(self) -> Report:
        """Raises AssertionError with the printed report unless the verdict is "correct"; returns itself."""
        if self.verdict != "correct":
            raise AssertionError(str(self))
        return self

    def to_json(self) -> str:
        """The whole report as JSON; a number JSON has no word for is written as text."""
        return json.dumps(_plain(asdict(self)), default=str, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        out = [f"{self.subject}: compared with {self.oracle or 'nothing'}"]
        out += [f"  rule {name}" for name in self.rules]
        width = max((len(line.check) for line in self.lines), default=0)
        for line in self.lines:
            row = f"  {MARKS[line.status]} {line.check:<{width}}  {_worst(line):<18} {line.note}"
            out.append(row.rstrip())
        for finding in self.findings:
            out += [f"  ✗ {finding.what}", *(f"      {told}" for told in _details(finding))]
        out += [f"  – {remark}" for remark in self.remarks]
        return "\n".join([*out, self.last_line])

    def _repr_html_(self) -> str:
        """The same as a table, for a notebook."""
        rows = "".join(
            f"<tr><td>{MARKS[line.status]}</td><td>{escape(line.check)}</td>"
            f"<td>{escape(_worst(line))}</td><td>{escape(line.note)}</td></tr>"
            for line in self.lines
        )
        told = [[f"✗ {finding.what}", *_details(finding)] for finding in self.findings]
        told += [[f"– {remark}"] for remark in self.remarks]
        below = "".join(f"<p>{'<br>'.join(map(escape, lines))}</p>" for lines in told)
        head = f"{self.subject}: compared with {self.oracle or 'nothing'}"
        return (
            f"<div><p>{escape(head)}<br>{'<br>'.join(escape(f'rule {name}') for name in self.rules)}</p>"
            f"<table><thead><tr><th></th><th>check</th><th>worst error</th><th></th></tr></thead>"
            f"<tbody>{rows}</tbody></table>{below}<p><b>{escape(self.last_line)}</b></p></div>"
        )

    @property
    def last_line(self) -> str:
        """The one line to act on."""
        if self.verdict == "wrong":
            first = self.findings[0]
            at = f" [{first.rule.split(' at ')[0]}, {first.input}]" if first.rule and first.input else ""
            return f"wrong{at}: {first.cause or first.what}"
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict


def _worst(line: Line) -> str:
    return "" if line.worst is None else f"{line.worst:.2g} of the bound"


def _details(finding: Finding) -> list[str]:
    told = []
    if finding.where is not None:
        entry = f"[{','.join(map(str, finding.where))}]" if finding.where else ""
        got, expected = _number(finding.got), _number(finding.expected)
        told.append(f"at {finding.input}{entry}: got {got}, expected {expected}")
    if finding.rule:
        told.append(f"rule {finding.rule}")
    if finding.cause:
        told.append(f"likely cause: {finding.cause}")
    if finding.example:
        told.append(f"smallest input found that shows it: {finding.example}")
    return told


def _number(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, int | float | complex) else str(value)


def _plain(value: Any) -> Any:
    """What JSON has words for: NaN and ∞ become text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value

"""What a check found: the findings, the verdict they add up to, and how it is shown."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
    """

    check: str
    what: str
    rule: str | None = None
    input: str | None = None
    where: tuple[int, ...] | None = None
    got: Any = None
    expected: Any = None
    cause: str | None = None


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
    """

    subject: str
    verdict: Literal["correct", "wrong", "inconclusive"]
    reason: str
    oracle: str
    rules: Sequence[str] = ()
    lines: Sequence[Line] = ()
    findings: Sequence[Finding] = field(default_factory=tuple)

    def raise_if_wrong(self) -> Report:
        """Raises AssertionError with the printed report unless the verdict is "correct"; returns itself."""
        if self.verdict != "correct":
            raise AssertionError(str(self))
        return self

    def to_json(self) -> str:
        """The whole report as JSON; a number JSON has no word for is written as text."""
        return json.dumps(asdict(self), default=str, ensure_ascii=False)

    def __str__(self) -> str:
        out = io.StringIO()
        print(f"{self.subject}: compared with {self.oracle or 'nothing'}", file=out)
        for name in self.rules:
            print(f"  rule {name}", file=out)
        width = max((len(line.check) for line in self.lines), default=0)
        for line in self.lines:
            worst = "" if line.worst is None else f"{line.worst:.2g} of the bound"
            print(f"  {MARKS[line.status]} {line.check:<{width}}  {worst:<20} {line.note}".rstrip(), file=out)
        for finding in self.findings:
            print(f"  ✗ {finding.what}", file=out)
            if finding.where is not None:
                at = (
                    f"{finding.input}[{','.join(map(str, finding.where))}]"
                    if finding.where
                    else finding.input
                )
                print(f"      at {at}: got {finding.got:.7g}, expected {finding.expected:.7g}", file=out)
            if finding.rule:
                print(f"      rule {finding.rule}", file=out)
            if finding.cause:
                print(f"      likely cause: {finding.cause}", file=out)
        print(self._last_line(), file=out, end="")
        return out.getvalue()

    def _last_line(self) -> str:
        if self.verdict == "wrong":
            first = self.findings[0]
            return f"wrong: {first.cause or first.what}"
        return f"{self.verdict}: {self.reason}" if self.reason else self.verdict

"""Two versions side by side, as Markdown that GitHub shows: for the summary of a job and for a comment.

It needs the standard library only, so that a job that may write comments installs nothing. The text of a row may come
from anybody's pull request: ``code`` leaves nothing in it that GitHub would render, link or notify.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_grpo.types import Outcome, Verdict

if TYPE_CHECKING:
    from pytest_grpo.types import Row

ICONS = {Verdict.FAIL: "\N{CROSS MARK} ", Verdict.INCONCLUSIVE: "\N{WARNING SIGN} ", Verdict.PASS: ""}
MAX_LETTERS = 300
"""Of one name or reason."""
_COLUMNS = ("test", "quantity", "ratio", "interval", "outcome")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_,()='")


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of an arm on both sides."""

    test: str
    metric: str
    outcome: Outcome
    verdict: Verdict
    ratio: float
    """NaN when nothing was measured."""
    low: float | None
    high: float | None
    reason: str

    @classmethod
    def of(cls, nodeid: str, row: Row) -> Compared:
        """The row of the test ``nodeid``."""
        outcome, verdict = Outcome(row.outcome), Verdict(row.verdict)
        return cls(nodeid, row.metric, outcome, verdict, row.measured, row.low, row.high, row.reason)


def versions_markdown(rows: Sequence[Compared], *, max_rows: int = 1000) -> str:
    """How many there are of each outcome, a table of what differs, the reasons, and the rest folded away.

    Red rows come first, then those that are undecided. ``max_rows`` are shown.
    """
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    ranked = sorted(rows, key=lambda row: (row.outcome is Outcome.SAME, order.index(row.verdict)))
    shown = ranked[:max_rows]
    different = [row for row in shown if not _is_quiet(row)]
    quiet = [row for row in shown if _is_quiet(row)]
    lines = [f"{count(rows)}.", ""]
    lines += [*_table(different), ""] if different else []
    lines += _reasons(different)
    if quiet:
        lines += ["", f"<details><summary>{len(quiet)} same</summary>", "", *_table(quiet), "", "</details>"]
    if len(rows) > len(shown):
        lines += ["", f"{len(rows) - len(shown)} rows more are not shown."]
    return "\n".join([*lines, ""])


def count(rows: Sequence[Compared]) -> str:
    """``2 faster, 1 slower, 14 same``"""
    found = [row.outcome for row in rows]
    return ", ".join(f"{found.count(outcome)} {outcome}" for outcome in Outcome if outcome in found) or "no quantity"


def code(text: str) -> str:
    """``text`` on one line of ASCII, as code: no mention, no link and no markup is left in it."""
    line = " ".join(text.split()).encode("unicode_escape").decode("ascii").replace("\\\\", "\\")
    kept = line if len(line) <= MAX_LETTERS else f"{line[:MAX_LETTERS]}..."
    inside = "".join(letter if letter in _PLAIN else f"&#{ord(letter)};" for letter in kept)
    return f"<code>{inside}</code>" if inside else ""


def _is_quiet(row: Compared) -> bool:
    return row.outcome is Outcome.SAME and row.verdict is Verdict.PASS


def _table(rows: Sequence[Compared]) -> list[str]:
    cells = [
        (_short(row.test), code(row.metric), _number(row.ratio), _interval(row), f"{ICONS[row.verdict]}{row.outcome}")
        for row in rows
    ]
    return [_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), *map(_line, cells)]


def _reasons(rows: Sequence[Compared]) -> list[str]:
    """One line for each reason, with all quantities that it holds for."""
    named: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            named.setdefault(code(row.reason), []).append(f"{code(row.metric)} in {_short(row.test)}")
    return [f"- {', '.join(names)}: {reason}" for reason, names in named.items()]


def _short(nodeid: str) -> str:
    return code(re.sub(r"^[^\[]*::", "", nodeid))


def _interval(row: Compared) -> str:
    if row.low is None or row.high is None or math.isnan(row.low) or math.isnan(row.high):
        return "-"
    return f"{_number(row.low)} to {_number(row.high)}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""What is found of a run as files: JSON, and Markdown for a pull request."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from pytest_grpo.logs.comparing import Comparison
from pytest_grpo.logs.findings.blocks import Interval
from pytest_grpo.logs.findings.stalls import Stalls
from pytest_grpo.logs.findings.trends import Trend
from pytest_grpo.logs.judging import Judged
from pytest_grpo.logs.reports.text import (
    Table,
    confidence_line,
    difference_lines,
    difference_table,
    headline_lines,
    headline_table,
    parts_lines,
    parts_table,
    run_lines,
)
from pytest_grpo.logs.settled import Settled


def as_json(judged: Judged, comparison: Comparison | None) -> str:
    """Numbers that are none are null. A change is a fraction, or a difference where ``is_ratio`` is false."""
    shares = judged.shares
    content = {
        "run": _run(judged.settled),
        "tolerance": judged.tolerance,
        "is_bad": judged.is_bad,
        "headlines": [_trend(each) for each in judged.headlines],
        "stalls": [_stalls(each) for each in judged.stalls],
        "parts": [_trend(each) for each in judged.parts],
        "shares": {quantity.name: _interval(share) for quantity, share in shares.parts} if shares else {},
        "unaccounted": _interval(shares.unaccounted) if shares else None,
        "against": None if comparison is None else _comparison(comparison),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _run(settled: Settled) -> dict[str, Any]:
    log = settled.log
    return {
        "name": log.name,
        "format": log.format,
        "stack": log.stack,
        "num_steps": len(log.steps),
        "first_step": log.steps[0],
        "last_step": log.steps[-1],
        "warm_up_steps": settled.warm_up,
        "notes": log.notes,
    }


def _trend(trend: Trend) -> dict[str, Any]:
    return {
        "quantity": trend.quantity.name,
        "unit": trend.quantity.unit,
        "is_ratio": trend.quantity.is_ratio,
        "num_values": trend.num_values,
        "verdict": str(trend.verdict),
        "reason": trend.reason,
        "level": _interval(trend.center),
        "change": _interval(trend.change),
        "change_per_100_steps": _number(trend.change_per_100),
        "shifts": [
            {
                "step": shift.step,
                "before": shift.before,
                "after": shift.after,
                "change": shift.change,
                "p_value": shift.p_value,
            }
            for shift in trend.shifts
        ],
    }


def _stalls(stalls: Stalls) -> dict[str, Any]:
    return {
        "quantity": stalls.quantity.name,
        "steps": stalls.steps,
        "factor": _number(stalls.factor),
        "cost": stalls.cost,
        "every": stalls.every,
        "part": stalls.part or None,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "run": _run(comparison.there),
        "num_steps": len(comparison.steps),
        "stall_costs": comparison.stall_costs,
        "run_spread": comparison.run_spread,
        "is_bad": comparison.is_bad,
        "differences": [
            {
                "quantity": each.quantity.name,
                "here": _number(each.here),
                "there": _number(each.there),
                "change": _interval(each.change),
                "outcome": str(each.outcome),
                "reason": each.reason,
            }
            for each in comparison.differences
        ],
    }


def _interval(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {"value": _number(interval.value), "low": _number(interval.low), "high": _number(interval.high)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_markdown(judged: Judged, comparison: Comparison | None) -> str:
    """The tables and lines of the terminal."""
    blocks = [
        _list(run_lines(judged.settled)),
        _table(headline_table(judged)),
        _list(headline_lines(judged)),
        _table(parts_table(judged)),
        _list([*parts_lines(judged), confidence_line(judged)]),
    ]
    if comparison is not None:
        blocks += [
            _list(run_lines(comparison.there)),
            _table(difference_table(comparison)),
            _list(difference_lines(comparison)),
        ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _table(table: Table) -> str:
    if not table:
        return ""
    header, *rows = (f"| {' | '.join(map(_escaped, cells))} |" for cells in table)
    return "\n".join([header, "|---" * len(table[0]) + "|", *rows])


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    """On one line, and nothing in it is a cell's end or markup."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|`*_<>[]#" else letter for letter in plain)

"""A verdict in words: the measurement, the reason, and what to try next."""

from __future__ import annotations

import math

from pytest_grpo.measuring.statistics.sign_test import Estimate, Plan, median_ratio
from pytest_grpo.reports.table import describe_measured
from pytest_grpo.settings.thresholds import Threshold, format_number
from pytest_grpo.types import Row, Verdict


def explain(row: Row) -> list[str]:
    """The verdict in one line, then the figures behind it, then what to try next."""
    lines = [
        f"{row.metric}: {row.verdict}: measured {describe_measured(row)}, threshold {row.threshold} ({row.source})"
    ]
    if row.reason:
        lines.append(f"  {row.reason}")
    if row.num_pairs is not None and row.confidence is not None:
        pairs = "1 pair" if row.num_pairs == 1 else f"{row.num_pairs} pairs"
        lines.append(f"  median of {pairs} with its {100 * row.confidence:.2f} % interval, in {row.duration_s:.1f} s")
    for name, quantities in (row.arms or {}).items():
        lines.append(f"  arm {name}: {_medians(quantities)}")
    lines.append(f"  device {row.device}{_conditions(row)}")
    advice = _advice(row)
    return [*lines, f"  try: {advice}"] if advice else lines


def inconclusive_reason(
    estimate: Estimate, plan: Plan, threshold: Threshold, *, budget_s: float | None, left_out: str
) -> str:
    """Why the pairs did not decide. ``budget_s`` is the time limit that was reached, None if all pairs were taken.
    ``left_out`` says how many more did not count."""
    pairs = f"{estimate.num_pairs} pairs"
    if estimate.num_pairs == 0:
        return f"no pair was measured within {budget_s:g} s" + (f": {left_out}" if left_out else "")
    dropped = f"; {left_out}" if left_out else ""
    short = not threshold.low <= estimate.median <= threshold.high
    needed = plan.min_pairs(Verdict.FAIL if short else Verdict.PASS)
    if estimate.num_pairs < needed:
        what = "a failure" if short else "a pass"
        end = f"{pairs} fit into the budget of {budget_s:g} s" if budget_s is not None else f"all {pairs} were taken"
        return f"{end}; {what} needs {needed}{dropped}"
    end = f" in {budget_s:g} s" if budget_s is not None else ""
    return f"the interval includes the threshold after {pairs}{end}{dropped}"


def _medians(quantities: dict[str, list[float]]) -> str:
    return ", ".join(
        f"{name} {format_number(median_ratio(values) if min(values) > 0 else sum(values) / len(values))}"
        for name, values in quantities.items()
        if values
    )


def _conditions(row: Row) -> str:
    conditions = row.conditions or {}
    parts = []
    others = conditions.get("cores_of_others")
    if isinstance(others, float) and not math.isnan(others):
        parts.append(f"others used {others:.1f} cores")
    if conditions.get("gpu_throttle_reasons"):
        parts.append(f"GPU throttled: {conditions['gpu_throttle_reasons']}")
    return "".join(f"; {part}" for part in parts)


def _advice(row: Row) -> str:
    if row.verdict == Verdict.INCONCLUSIVE and " is not sound: " in row.reason:
        return "fix what is red first; a loop that is not sound has no speed"
    if row.verdict == Verdict.INCONCLUSIVE:
        return "a quieter machine, --grpo-budget with more seconds, or --grpo-pairs with more pairs"
    if row.reason.startswith("wrong answers"):
        return "compare the two paths on one input first; speed counts only if it is correct"
    if row.num_pairs is not None:
        return "--grpo-html report.html to see the pairs; grpo bisect GOOD BAD to find the commit"
    return ""

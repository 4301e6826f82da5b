"""What is found of a run as text: tables and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_grpo.logs.comparing import Comparison, Difference
from pytest_grpo.logs.findings.stalls import Stalls
from pytest_grpo.logs.findings.trends import Trend, Verdict
from pytest_grpo.logs.judging import Judged
from pytest_grpo.logs.reports.numbers import change_of, number_of, share_of, signed, value_of
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.settled import Settled
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA

Table = list[tuple[str, ...]]
"""A header and rows."""
MAX_STEPS_SHOWN = 8
UNPAIRED = (
    "Two runs are no paired measurement: machine, neighbours, random numbers and the order of data differ, too.",
    "To prove a change of code, measure both versions in pairs, in one run: pytest --grpo-against REVISION",
)


def run_lines(settled: Settled) -> list[str]:
    """What was read, and what was left out of it."""
    log = settled.log
    of_stack = "" if log.stack in log.format else f" of {log.stack}"
    return [
        f"{log.name}: {log.format}{of_stack}; {len(log.steps)} steps are judged, {log.steps[0]} to {log.steps[-1]}",
        f"{_count(len(settled.warm_up), 'step')} of warm-up left out{_after_starts(log, settled.warm_up)}",
        *log.notes,
    ]


def _after_starts(log: RunLog, warm_up: Sequence[int]) -> str:
    starts = [start for start in log.starts if start in warm_up]
    return f" (from step {_listed(starts)} on)" if starts else ""


def headline_table(judged: Judged) -> Table:
    log = judged.settled.log
    over = f"over {log.steps[-1] - log.steps[0]} steps"
    return [("quantity", "level", over, "verdict"), *((each.quantity.name, *_cells(each)) for each in judged.headlines)]


def _cells(trend: Trend) -> tuple[str, str, str]:
    return value_of(trend.quantity, trend.center), change_of(trend.quantity, trend.change), _verdict(trend)


def _verdict(trend: Trend) -> str:
    if trend.verdict in (Verdict.DRIFTS, Verdict.IMPROVES) and not trend.shifts:
        return f"{trend.verdict} {signed(trend.quantity, trend.change_per_100)}/100 steps"
    return f"in {trend.num_values} steps" if trend.quantity.is_part and trend.center is None else str(trend.verdict)


def headline_lines(judged: Judged) -> list[str]:
    """Why a verdict is unclear, where a level shifts, and what the stalls cost."""
    lines = [f"{each.quantity.name}: {each.reason}" for each in judged.headlines if each.reason]
    for trend in judged.headlines:
        for shift in trend.shifts:
            before, after = (number_of(trend.quantity, value) for value in (shift.before, shift.after))
            change = signed(trend.quantity, shift.change)
            lines.append(f"{trend.quantity.name}: from step {shift.step} on {after}, before {before}: {change}")
    return [*lines, *(stall_line(judged, each) for each in judged.stalls)]


def stall_line(judged: Judged, stalls: Stalls) -> str:
    name = stalls.quantity.name
    if not stalls.steps:
        return f"{name}: no stalls"
    tolerated = f" (more than {_percent(judged.tolerance)})" if judged.is_costly(stalls) else ""
    part = f", most of it in {stalls.part}" if stalls.part else ""
    cycle = ": a cycle of the loop, no loss" if stalls.is_cycle else ""
    every = f", every {stalls.every} steps{cycle}" if stalls.every else ""
    return (
        f"{name}: {_count(len(stalls.steps), 'stall')} cost {100 * stalls.cost:.1f} % of the time{tolerated}{part}: "
        f"{stalls.factor:.2g} times the median around, at step {_listed(stalls.steps)}{every}"
    )


def parts_table(judged: Judged) -> Table:
    """Empty when the log has no parts."""
    if judged.shares is None:
        return []
    trends = {each.quantity: each for each in judged.parts}
    rows = [(quantity.name, share_of(share), *_cells(trends[quantity])) for quantity, share in judged.shares.parts]
    rest = ("unaccounted", share_of(judged.shares.unaccounted), "-", "-", "-")
    return [("part of step_s", "share", "level", headline_table(judged)[0][2], "verdict"), *rows, rest]


def parts_lines(judged: Judged) -> list[str]:
    if judged.shares is None or not judged.shares.is_beyond:
        return []
    return ["The parts take longer than the step: some run at the same time, or outside of it."]


def confidence_line(judged: Judged) -> str:
    of_parts = f", {_percent(1 - judged.parts_alpha)} of parts" if judged.parts else ""
    return (
        f"Intervals hold with {_percent(1 - judged.alpha)} each{of_parts}, so that about {_percent(FAMILY_ALPHA)} of "
        f"quiet runs have a false alarm. Changes within {_percent(judged.tolerance)} are steady."
    )


def difference_table(comparison: Comparison) -> Table:
    rows = [
        (
            each.quantity.name,
            number_of(each.quantity, each.here),
            number_of(each.quantity, each.there),
            change_of(each.quantity, each.change),
            str(each.outcome),
        )
        for each in comparison.differences
    ]
    return [("quantity", "here", "there", "change", "verdict"), *rows]


def difference_lines(comparison: Comparison) -> list[str]:
    """What was compared, why a verdict is unclear, and what such a comparison cannot prove."""
    steps = comparison.steps
    return [
        *(_reason(each) for each in comparison.differences if each.reason and not each.quantity.is_part),
        *_stall_costs(comparison),
        f"{len(steps)} steps that both runs have, {steps[0]} to {steps[-1]}, were compared one by one.",
        UNPAIRED[0],
        f"Verdicts count in that runs of one code spread by {_percent(comparison.run_spread)} (--run-spread).",
        UNPAIRED[1],
    ]


def _reason(difference: Difference) -> str:
    return f"{difference.quantity.name}: {difference.reason}"


def _stall_costs(comparison: Comparison) -> list[str]:
    if comparison.stall_costs is None or not any(comparison.stall_costs):
        return []
    here, there = (f"{100 * cost:.1f} %" for cost in comparison.stall_costs)
    return [f"step_s: stalls cost {here} of the time here and {there} there; the medians above do not see them"]


def _listed(steps: Sequence[int]) -> str:
    more = f" and {len(steps) - MAX_STEPS_SHOWN} more" if len(steps) > MAX_STEPS_SHOWN else ""
    return f"{', '.join(map(str, steps[:MAX_STEPS_SHOWN]))}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"

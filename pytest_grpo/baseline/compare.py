"""``python -m pytest_grpo.baseline.compare BEFORE NOW``: what changed between two stored results, as plain text."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Sequence

from pytest_grpo.baseline.files import Baseline, read_baseline, read_sessions
from pytest_grpo.baseline.fingerprint import check_same, differing
from pytest_grpo.baseline.regressions import Change, Outcome, compare_rows, differing_devices
from pytest_grpo.programs import program
from pytest_grpo.reports.table import arm_quantity
from pytest_grpo.settings.option_values import DEFAULT_TOLERANCE, parse_tolerance
from pytest_grpo.settings.thresholds import format_number
from pytest_grpo.types import Row

REGRESSION_EXIT_CODE = 1

_COLUMNS = ("test", "metric", "before", "now", "change", "interval", "pairs", "verdict")


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare two stored baselines. Exit code: 0 no regression, 1 a regression, 2 a usage error."""
    from grpo_core.commands.command_line.parser import CommandParser
    from grpo_core.home import Home

    parser = CommandParser(
        prog="grpo compare",
        description="find the gates that lost between two stored results",
        example="grpo compare before after --tolerance 0.1",
    )
    parser.add_argument("before", metavar="BEFORE", help="a baseline's name (see --grpo-save) or file")
    parser.add_argument("now", metavar="NOW", help="the baseline to compare with it")
    parser.add_argument(
        "--tolerance",
        default=str(DEFAULT_TOLERANCE),
        metavar="FRACTION",
        help="how much worse is tolerated",
    )
    parser.add_argument("--any-machine", action="store_true", help="compare even if machine or software differ")
    flags = parser.parse_args(arguments)
    tolerance = parse_tolerance(flags.tolerance)
    home = Home.from_environment()
    before, *others = read_sessions(home, flags.before)
    now = read_baseline(home, flags.now)
    if not flags.any_machine:
        check_comparable(before, now)
    for label, result in (("before", before), ("now", now)):
        print(f"{label:6}  {result.name}  {result.created_at}  {result.fingerprint.describe_commit()}")
    for difference in differing(before.fingerprint, now.fingerprint):
        print(f"differs {difference}")
    same_code = [other.results for other in others if other.name != now.name]
    changes = compare_rows(now.results, before.results, tolerance, same_code)
    print("", *change_table(changes), sep="\n")
    return REGRESSION_EXIT_CODE if any(change.outcome is Outcome.REGRESSION for change in changes) else 0


def change_table(changes: Sequence[Change]) -> list[str]:
    """A header, a line per gate, the absolute numbers (shown, never judged), and a count of the outcomes."""
    cells = [_COLUMNS, *map(_cells, changes)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    absolute = [text for change in changes if (text := _absolute(change))]
    if absolute:
        lines += ["", "Medians per arm, before -> now (shown, not judged):", *absolute]
    spreads = {
        change.prediction.describe() for change in changes if change.prediction and not change.prediction.is_measured
    }
    if spreads:
        lines += ["", *sorted(spreads)]
    counts = Counter(change.outcome for change in changes)
    summary = ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome])
    return [*lines, "", summary or "no gates"]


def check_comparable(before: Baseline, now: Baseline) -> None:
    """Raises pytest.UsageError that names each field in which the two results must agree but differ."""
    differences = differing(before.fingerprint, now.fingerprint) + differing_devices(before.results, now.results)
    check_same(f"baselines {before.name!r} and {now.name!r}", differences)


def _cells(change: Change) -> tuple[str, ...]:
    before, now = (format_number(row.measured) if row else "-" for row in (change.before, change.now))
    row = change.row
    metric = row.metric if row.system_key == "grpo_core" else f"{row.metric} ({row.system})"
    pairs = "-" if change.factor is None else change.pairs_text
    test = change.nodeid.rpartition("/")[2]
    return (test, metric, before, now, change.change_text, change.interval_text, pairs, str(change.outcome))


def _absolute(change: Change) -> str:
    if change.before is None or change.now is None:
        return ""
    before, now = _medians(change.before), _medians(change.now)
    arms = [f"{arm} {format_number(before[arm])} -> {format_number(now[arm])}" for arm in before if arm in now]
    return f"  {change.row.metric}: {', '.join(arms)} {change.row.quantity}" if arms else ""


def _medians(row: Row) -> dict[str, float]:
    """The median of the compared quantity, per arm."""
    if row.quantity is None:
        return {}
    return {arm: statistics.median(arm_quantity(row, arm)) for arm in row.arms or ()}


if __name__ == "__main__":
    sys.exit(main())

"""``grpo history``: at which commits the stored runs got slower, as plain text."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_grpo.baseline.files import Baseline, baselines_folder, list_baselines
from pytest_grpo.drift.changes import MIN_RUNS, Change, Outcome, find_changes, judged
from pytest_grpo.drift.exports import as_csv, as_json, write_text
from pytest_grpo.drift.series import History, Series, read_history
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA
from pytest_grpo.programs import program
from pytest_grpo.reports.table import GAP
from pytest_grpo.settings.thresholds import format_number

LOSS_EXIT_CODE = 1
MIN_P, MAX_P = 0.001, 0.5
"""What ``--max-p`` may be: a smaller one would take minutes of permutations."""
_COLUMNS = ("test", "metric", "from", "to", "change", "p", "commits", "verdict")


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Find the change points of the stored runs. Exit code: 0 no loss, 1 a loss, 2 a usage error."""
    from grpo_core.home import Home

    flags = _parser().parse_args(arguments)
    home = Home.from_environment()
    baselines, problems = list_baselines(home)
    history = _select(baselines, flags, baselines_folder(home))
    changes = find_changes(history.series, flags.max_p)
    if flags.json is not None:
        write_text("--json", flags.json, as_json(changes, flags.max_p))
    if flags.csv is not None:
        write_text("--csv", flags.csv, as_csv(history.series))
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(*_lines(history, changes, flags.max_p), sep="\n")
    return LOSS_EXIT_CODE if any(change.outcome is Outcome.LOSS for change in changes) else 0


def _parser() -> argparse.ArgumentParser:
    from grpo_core.commands.command_line.parser import CommandParser

    parser = CommandParser(
        prog="grpo history",
        description="find the commits at which the stored results changed",
        example="grpo history --since 2026-01-31",
    )
    add = parser.add_argument
    add("--metric", action="append", metavar="NAME", help="only this gate and its arms over `reference`; repeatable")
    add("--since", type=_date, metavar="DATE", help="only runs stored from this day or time on (ISO 8601, UTC)")
    add("--json", type=Path, metavar="FILE", help="write the changes to this file")
    add("--csv", type=Path, metavar="FILE", help="write the series to this file, for Apache Otava")
    add("--max-p", type=_max_p, default=FAMILY_ALPHA, metavar="P", help="probability of one false change or more")
    return parser


def _date(text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are days and times such as 2026-01-31") from None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _max_p(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not MIN_P <= value <= MAX_P:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {MIN_P} to {MAX_P}")
    return value


def _select(baselines: Sequence[Baseline], flags: argparse.Namespace, folder: Path) -> History:
    """Raises pytest.UsageError when nothing is left that can be judged."""
    if not baselines:
        raise pytest.UsageError(f"history: {folder} has no stored runs; store each with pytest --grpo-save NAME")
    if flags.since is not None:
        newest = baselines[-1].created_at
        baselines = [each for each in baselines if datetime.fromisoformat(each.created_at) >= flags.since]
        if not baselines:
            raise pytest.UsageError(
                f"--since {flags.since:%Y-%m-%d %H:%M}: no stored run is that new; the newest is of {newest}"
            )
    history = read_history(baselines)
    series = history.series
    if flags.metric:
        series = _named(series, flags.metric)
    longest = max((len(each.values) for each in series), default=0)
    if longest < MIN_RUNS:
        left_out = f", {history.num_dirty_runs} with changed files left out" if history.num_dirty_runs else ""
        raise pytest.UsageError(
            f"history: no gate has more than {longest} stored runs of one machine{left_out}; {MIN_RUNS} are needed: "
            "store more with pytest --grpo-save NAME"
        )
    return History(series, history.num_runs, history.num_dirty_runs)


def _named(series: Sequence[Series], names: Sequence[str]) -> tuple[Series, ...]:
    from grpo_core.commands.command_line.parser import did_you_mean

    known = sorted({each.gate.metric for each in series} | {_own_metric(each) for each in series})
    for name in names:
        if name not in known:
            allowed = f"allowed are {', '.join(known)}" if known else "no stored run has a gate with pairs"
            raise pytest.UsageError(f"--metric {name!r}: not in the stored runs; {did_you_mean(name, known, allowed)}")
    return tuple(each for each in series if each.gate.metric in names or _own_metric(each) in names)


def _own_metric(series: Series) -> str:
    """The gate's metric, without the arm over its reference."""
    return series.gate.metric.partition(":")[0]


def _lines(history: History, changes: Sequence[Change], max_p: float) -> list[str]:
    lines = []
    for machine, num_runs in history.num_runs.items():
        mine = [each for each in history.series if each.machine == machine]
        too_few = sum(len(each.values) < MIN_RUNS for each in mine)
        note = f"; {too_few} series with less than {MIN_RUNS} runs are not judged" if too_few else ""
        lines += [f"{machine}: {num_runs} runs, {len(mine)} series{note}"]
        found = [change for change in changes if change.machine == machine]
        lines += ["", *_table(found), ""] if found else []
    if history.num_dirty_runs:
        lines += [f"{history.num_dirty_runs} runs with changed files are left out: their code is unknown"]
    counts = Counter(change.outcome for change in changes)
    summary = ", ".join(f"{outcome}: {counts[outcome]}" for outcome in Outcome if counts[outcome]) or "no change"
    return [*lines, f"{summary}; {len(judged(history.series))} series that vary were judged (p <= {max_p:g} in all)"]


def _table(changes: Sequence[Change]) -> list[str]:
    """A header, and for each change a line, the command that finds its commit, and what else differs there."""
    cells = [_COLUMNS, *map(_cells, changes)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    header, *rows = (
        GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )
    lines = [header]
    for row, change in zip(rows, changes, strict=True):
        lines += [row, *(f"{GAP}{text}" for text in (change.bisect, *change.notes) if text)]
    return lines


def _cells(change: Change) -> tuple[str, ...]:
    commits = "..".join(run.commit[:12] or run.name for run in (change.last_before, change.first_after))
    return (
        change.gate.nodeid.rpartition("/")[2],
        change.gate.label,
        format_number(change.before),
        format_number(change.after),
        f"{100 * change.fraction:+.1f} %",
        f"{change.p_value:.2g}",
        commits,
        str(change.outcome),
    )


if __name__ == "__main__":
    sys.exit(main())

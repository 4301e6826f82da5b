"""``grpo judge``: drift, shifts and stalls of a finished run, by the log that it left; and one run over another."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_grpo.drift.exports import write_text
from pytest_grpo.logs.comparing import DEFAULT_RUN_SPREAD, Comparison, compare_runs
from pytest_grpo.logs.judging import DEFAULT_TOLERANCE, Judged, judge_run
from pytest_grpo.logs.locate import locate
from pytest_grpo.logs.readers.formats import FORMATS, read_run
from pytest_grpo.logs.reports.exports import as_json, as_markdown
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
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.settled import WARM_UP_STEPS, settle
from pytest_grpo.logs.vocabulary.quantities import HEADLINES
from pytest_grpo.programs import program
from pytest_grpo.reports.table import GAP

BAD_EXIT_CODE = 1


@program
def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a run. Exit code: 0 nothing bad is proven, 1 something is, 2 a usage error."""
    flags = _parser().parse_args(arguments)
    log = _read(flags.run, flags.format)
    _check_metrics(log, flags.metric)
    judged = judge_run(log, flags.warm_up, flags.tolerance, flags.metric)
    comparison = None if flags.against is None else _compare(judged, flags)
    if flags.json is not None:
        write_text("--json", flags.json, as_json(judged, comparison))
    if flags.markdown is not None:
        write_text("--markdown", flags.markdown, as_markdown(judged, comparison))
    print(*_lines(judged, comparison), sep="\n")
    return BAD_EXIT_CODE if judged.is_bad or (comparison is not None and comparison.is_bad) else 0


def _parser() -> argparse.ArgumentParser:
    from grpo_core.commands.command_line.parser import CommandParser

    parser = CommandParser(
        prog="grpo judge",
        description="judge a finished run of any stack by the log that it left",
        example="grpo judge runs/metrics.jsonl --against runs/before.jsonl",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a log, a folder that holds one, or the name of a run in GRPO_HOME")
    add("--against", metavar="RUN", help="another run, to compare this one with")
    add("--format", choices=FORMATS, help="the format of the logs (default: detected)")
    add("--metric", action="append", default=[], metavar="NAME", help="judge only this quantity; repeatable")
    add("--warm-up", type=_steps, default=WARM_UP_STEPS, metavar="STEPS", help="steps left out after each start")
    add(
        "--tolerance",
        type=_fraction,
        default=DEFAULT_TOLERANCE,
        metavar="FRACTION",
        help="a change, or a share of time lost in stalls, that does not matter",
    )
    add(
        "--run-spread",
        type=_fraction,
        default=DEFAULT_RUN_SPREAD,
        metavar="FRACTION",
        help="how far runs of one code spread (a standard deviation)",
    )
    add("--json", type=Path, metavar="FILE", help="write what is found to this file")
    add("--markdown", type=Path, metavar="FILE", help="write the tables to this file")
    return parser


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 0")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are fractions from 0 to below 1")
    return value


def _read(text: str, format: str | None) -> RunLog:
    from grpo_core.home import Home

    return read_run(locate(text, Home.from_environment().events), text, format)


def _check_metrics(log: RunLog, names: Sequence[str]) -> None:
    from grpo_core.commands.command_line.parser import did_you_mean

    known = [quantity.name for quantity in log.headlines]
    for name in names:
        if name not in known:
            allowed = f"it has {', '.join(known)}"
            if name in (quantity.name for quantity in HEADLINES):
                raise pytest.UsageError(f"--metric {name!r}: {log.name} does not have it; {allowed}")
            raise pytest.UsageError(f"--metric {name!r}: not in {log.name}; {did_you_mean(name, known, allowed)}")


def _compare(judged: Judged, flags: argparse.Namespace) -> Comparison:
    there = settle(_read(flags.against, flags.format), flags.warm_up)
    quantities = [trend.quantity for trend in (*judged.headlines, *judged.parts)]
    return compare_runs(judged.settled, there, quantities, flags.tolerance, flags.run_spread)


def _lines(judged: Judged, comparison: Comparison | None) -> list[str]:
    sections = [
        run_lines(judged.settled),
        [*_table(headline_table(judged)), *headline_lines(judged)],
        [*_table(parts_table(judged)), *parts_lines(judged)],
        [confidence_line(judged)],
    ]
    if comparison is not None:
        sections += [
            [f"against {line}" if place == 0 else line for place, line in enumerate(run_lines(comparison.there))],
            _table(difference_table(comparison)),
            difference_lines(comparison),
        ]
    shown = [section for section in sections if section]
    return [line for place, section in enumerate(shown) for line in ([""] if place else []) + section]


def _table(table: Table) -> list[str]:
    """Its lines, the columns aligned."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [GAP.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table]


if __name__ == "__main__":
    sys.exit(main())

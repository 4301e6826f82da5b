"""``grpo explain``: where a run's time goes, and what to try."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grpo_core.explain.advice import NUM_SHARES, Advice, advise
from grpo_core.explain.health import complaints
from grpo_core.explain.run_record import RunRecord, read_run
from grpo_core.explain.settings import settings_of
from grpo_core.home import Home
from grpo_core.ledger.account import OTHER

UNHEALTHY_EXIT_CODE = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="RUN", help="the run's name; grpo runs lists them")
    parser.add_argument(
        "--shares", type=_positive, default=NUM_SHARES, metavar="N", help="show so many of the largest shares"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Explain. 0 with advice; 1 where the run is not healthy: then it says why, and advises nothing."""
    home = Home.from_environment()
    record = read_run(home, flags.name)
    wrong = complaints(record)
    for complaint in wrong:
        console.print(f"not healthy: {complaint.what}; {complaint.remedy}", soft_wrap=True, markup=False)
    if wrong:
        console.print("no advice on speed before this is fixed", soft_wrap=True)
        return UNHEALTHY_EXIT_CODE
    console.print(_headline(record), soft_wrap=True, markup=False)
    console.print(_table(advise(record, settings_of(home, record.run), flags.shares)))
    console.print(
        "at best: if that took no time and all else as long as now; measure it with the phase", soft_wrap=True
    )
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: give 1 or more")
    return number


def _headline(record: RunRecord) -> str:
    num_steps = len(record.steps)
    return (
        f"run {record.run}: {record.step_s:.2f} s per step, {3600 / record.step_s:,.0f} steps per hour "
        f"({num_steps} warm step{'' if num_steps == 1 else 's'})"
    )


def _table(advices: list[Advice]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("of a step", justify="right")
    table.add_column("what", overflow="fold")
    table.add_column("at best", justify="right")
    table.add_column("try", overflow="fold")
    table.add_column("judged by", no_wrap=True)
    for advice in advices:
        rule = advice.rule
        table.add_row(
            f"{advice.share:.0%}",
            Text(_what(advice)),
            f"{advice.bound:.1f} x",
            Text("nothing that this version knows" if rule is None else f"{rule.setting} ({rule.source})"),
            "grpo profile" if rule is None else f"grpo bench --phase {rule.phase}",
        )
    return table


def _what(advice: Advice) -> str:
    if advice.rule is not None:
        return f"{advice.rule.what} ({advice.span})"
    return f"{advice.thread}: {'in no span' if advice.span == OTHER else advice.span}"

"""``grpo runs``: what runs take on disk, and the end of those that nobody needs."""

from __future__ import annotations

import argparse
import time
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from grpo_core.errors import ConfigError
from grpo_core.home import Home

if TYPE_CHECKING:
    from grpo_core.schedule.runs.stored_runs import StoredRun

_DEFAULT_DAYS = 30.0
_MAX_DAYS = 36_500.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the runs that did not change for --days, with their weights, checkpoints, batches and events",
    )
    parser.add_argument(
        "--days", type=float, default=_DEFAULT_DAYS, metavar="N", help="how long a run is kept after its last change"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """List the runs; with ``--prune``, remove the old ones. Without it nothing changes."""
    from grpo_core.schedule.runs.stored_runs import DAY_S, remove_remains, remove_run, stored_runs

    if not 0 <= flags.days <= _MAX_DAYS:
        raise ConfigError(f"--days {flags.days:g}: give 0 to {_MAX_DAYS:g}")
    home = Home.from_environment()
    console.print(_table(home, stored_runs(home)))
    if not flags.prune:
        return 0
    oldest_s = time.time() - flags.days * DAY_S
    for place in (home, home.measured):
        for one in stored_runs(place):
            if one.changed_at_s < oldest_s and not one.is_training:
                remove_run(place, one.name)
                console.print(f"removed {one.name}: {_size(one.num_bytes)}", soft_wrap=True)
    num_remains = sum(map(remove_remains, (home, home.measured)))
    console.print(f"removed {num_remains} leftovers of killed processes")
    return 0


def _table(home: Home, runs: list[StoredRun]) -> Table:
    table = Table("run", "step", "state", "on disk", "last change", title=f"runs in {home.data}")
    for one in runs:
        changed = f"{datetime.fromtimestamp(one.changed_at_s):%Y-%m-%d %H:%M}"
        step = "-" if one.step is None else f"{one.step} of {one.num_steps}"
        table.add_row(one.name, step, one.state, _size(one.num_bytes), changed)
    return table


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"

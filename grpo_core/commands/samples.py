"""``grpo samples``: print what was said in a step of a run, and what it earned."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from grpo_core.errors import ConfigError, printable
from grpo_core.home import Home

_DEFAULT_COUNT = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", metavar="RUN", help="a run, as grpo runs lists it")
    parser.add_argument("--step", type=int, metavar="N", help="the step (default: the newest one that was kept)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--worst", type=int, metavar="N", help="the N answers with the least reward")
    which.add_argument("--best", type=int, metavar="N", help="the N answers with the largest reward")
    which.add_argument("--first", type=int, default=_DEFAULT_COUNT, metavar="N", help="the first N answers")


def run(flags: argparse.Namespace, console: Console) -> int:
    """Print them. Nothing changes."""
    for name in ("worst", "best", "first"):
        if (count := vars(flags)[name]) is not None and count < 1:
            raise ConfigError(f"--{name} {count}: give at least 1")
    from grpo_core.schedule.samples import read_samples

    for row in _chosen(read_samples(_find(Home.from_environment(), flags.run_name, flags.step)), flags):
        print(_text(row))  # rich would expand tabs
    return 0


def _find(home: Home, run: str, step: int | None) -> Path:
    from grpo_core.schedule.samples import sample_files

    files = sample_files(home, run)
    if not files:
        runs = sorted(path.parent.name for path in home.samples.glob("*/step-*.parquet"))
        raise ConfigError(
            f"run {run!r} has no samples in {home.samples}; runs with some: {', '.join(dict.fromkeys(runs)) or 'none'}"
        )
    if step is not None and step not in files:
        raise ConfigError(f"--step {step}: not kept; run {run!r} has {', '.join(map(str, sorted(files)))}")
    return files[max(files) if step is None else step]


def _chosen(rows: list[dict[str, Any]], flags: argparse.Namespace) -> list[dict[str, Any]]:
    for name, sign in (("worst", 1), ("best", -1)):
        if (count := vars(flags)[name]) is not None:
            return sorted(rows, key=lambda row: sign * row["reward"])[:count]
    return rows[: flags.first]


def _text(row: dict[str, Any]) -> str:
    from grpo_core.schedule.samples import scores_of

    scores = ", ".join(f"{name} {_number(value)}" for name, value in scores_of(row).items())
    place = f"row {row['row']}" if row["row"] is not None else f"group {row['group']}"
    turn = f", turn {row['turn'] + 1}" if row["turn"] else ""
    earned = f"reward {_number(row['reward'])}" + (f" ({scores})" if scores else "")
    head = f"--- step {row['step']}, {place}, sample {row['sample'] + 1}{turn}: {earned}, advantage "
    ended = f"{row['num_tokens']} tokens" + (", cut off" if row["finish_reason"] == "length" else "")
    said = f"{row['prompt']}\n>>> {row['completion']}\n"
    return printable(f"{head}{_number(row['advantage'])}, {ended}\n{said}")


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"

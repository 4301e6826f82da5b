"""Kills, full disks, outages, bad inputs and long soaks: every fault is injected from outside of the process.

``python bench/crash_test.py --markdown crash.md`` writes the tables of docs/scaling.md and takes hours;
``python bench/crash_test.py --short`` takes three minutes on two cores.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.crash_study.disks import study_disks
from bench.crash_study.inputs import study_inputs
from bench.crash_study.kills import study_kills
from bench.crash_study.model import write_model
from bench.crash_study.outages import study_outages
from bench.crash_study.parsers import PARSERS
from bench.crash_study.prefixes import study_prefixes
from bench.crash_study.runs import CASES, VLLM_CASES, import_all, start, wait
from bench.crash_study.soak import study_soak
from bench.reporting.options import OneLineParser, add_json, add_markdown, natural
from grpo_core.home import write_json

PARTS = ("kills", "prefixes", "disks", "inputs", "outages", "soak")


@dataclass(frozen=True, slots=True)
class Size:
    """How much of each part is done."""

    num_kills: int  # in all cases together
    num_prefixes: int
    num_disk_faults: int  # of each kind
    num_inputs: int  # to all parsers together
    outage_s: float
    window_s: float
    soak_s: float
    engine: str = "torch"


LONG = Size(200, 10_000, 60, 10_000, 600.0, 20.0, 3600.0)
SHORT = Size(12, 4, 2, 1_000, 24.0, 4.0, 20.0)
SIZES = {
    "num_kills": "how often runs are killed, in all cases together",
    "num_prefixes": "from how many states of each case a run goes on",
    "num_disk_faults": "how many writes fail, of each kind",
    "num_inputs": "how many bad inputs all parsers get together",
    "outage_s": "how long the service has faults, in seconds",
    "soak_s": "how long the soak is, in seconds",
}
"""Options that change one field of a ``Size``, and what it is."""


def main(arguments: list[str] | None = None) -> int:
    """0 when everything held; else the first thing that did not is the last line, and the exit code is 1."""
    parser = OneLineParser(description="Hurt runs from outside, and see that nothing is lost.")
    parser.add_argument("--short", action="store_true", help="a few of each, in minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    parser.add_argument("--seed", type=natural, default=0, help="seed of all random draws (default 0)")
    for name, meaning in SIZES.items():
        option = f"--{name.removeprefix('num_').replace('_', '-')}"
        sizes = f"(default {getattr(LONG, name):g}, {getattr(SHORT, name):g} with --short)"
        parser.add_argument(option, dest=name, type=natural, help=f"{meaning} {sizes}")
    parser.add_argument(
        "--engine", choices=("torch", "vllm"), default="torch", help="who samples in runs that are killed"
    )
    add_json(parser)
    add_markdown(parser)
    options = parser.parse_args(arguments)
    given = {name: value for name in SIZES if (value := vars(options)[name]) is not None}
    size = replace(SHORT if options.short else LONG, engine=options.engine, **given)
    tables: list[str] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="grpo-crash-") as scratch:
        folder = Path(scratch)
        model = folder / "model"
        import_all()  # once, for all that are forked; this process computes nothing
        wait(start(lambda: _write_model(model), folder / "making"))
        for part in options.parts:
            began_s = time.monotonic()
            try:
                rows = _STUDIES[part](size, model, folder / part, options.seed)
            except AssertionError as error:
                print(f"{part}: {error}", file=sys.stderr)
                return 1
            table = _table(part, rows)
            figures[part] = rows
            tables.append(table)
            print(f"{table}\n{part}: {time.monotonic() - began_s:.0f} s\n", flush=True)
    if options.markdown is not None:
        options.markdown.write_text("\n".join(tables), encoding="utf-8")
    if options.json is not None:
        write_json(options.json, figures)
    return 0


Rows = list[dict[str, Any]]


def _kills(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    rows: Rows = []
    cases = VLLM_CASES if size.engine == "vllm" else CASES
    for number, case in enumerate(cases):
        share = size.num_kills // len(cases) + (number < size.num_kills % len(cases))
        found = study_kills(case, share, model, folder / str(number), seed)
        rows.append({"run": case.name, "kills": found.num_kills, "runs": found.num_runs, "resumes": found.num_resumes})
    return rows


def _prefixes(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    rows: Rows = []
    for number, case in enumerate(case for case in CASES if case.is_deterministic and case.processes == 1):
        found = study_prefixes(case, size.num_prefixes, model, folder / str(number), seed)
        rows.append({"run": case.name, "states": found.num_states, "went on": found.num_resumed})
    return rows


def _disks(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    rows: Rows = []
    for fault, found in study_disks(size.num_disk_faults, model, folder, seed).items():
        rows.append({"disk": fault, "faults": found.num_faults, "ended with a line": found.num_lines})
    return rows


def _inputs(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    rows: Rows = []
    for number, parser in enumerate(PARSERS):
        share = max(1, size.num_inputs // len(PARSERS))
        found = study_inputs(parser, share, folder / str(number), seed)
        rows.append({"input": parser.name, "inputs": found.num_inputs, "refused": found.num_refused})
    return rows


def _outages(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    found = study_outages(CASES[0], size.outage_s, size.window_s, model, folder, seed)
    ratio = f"{found.slower:.3f} ({found.low:.3f} to {found.high:.3f})"
    return [
        {
            "events": found.num_events,
            "lost": 0,
            "sent twice": found.num_sent_twice,
            "steps": found.num_steps,
            "time of a step, service away over service there": ratio,
            "lines in the terminal": found.num_lines,
        }
    ]


def _soak(size: Size, model: Path, folder: Path, seed: int) -> Rows:
    found = study_soak(CASES[1], size.soak_s, model, folder)
    pairs = {"memory, MiB": found.memory_mib, "open files": found.files, "threads": found.threads}
    pairs["disk, MiB"] = found.disk_mib
    return [
        {"what": name, "second quarter": f"{before:.1f}", "last quarter": f"{after:.1f}", "steps": found.num_steps}
        for name, (before, after) in pairs.items()
    ]


_STUDIES: dict[str, Callable[[Size, Path, Path, int], Rows]] = {
    "kills": _kills,
    "prefixes": _prefixes,
    "disks": _disks,
    "inputs": _inputs,
    "outages": _outages,
    "soak": _soak,
}


def _table(part: str, rows: Rows) -> str:
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([str(row[column]) for column in columns] for row in rows)]
    return f"**{part}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _write_model(folder: Path) -> int:
    write_model(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())

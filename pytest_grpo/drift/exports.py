"""A history as files: the changes as JSON, the series as the CSV that Apache Otava reads.

The CSV has a line per run: ``time``, ``commit``, ``branch``, ``run``, then a column per gate. ``branch`` is the
machine, because Otava refuses to mix branches. Otava needs a number in every cell: a run that did not measure a gate
repeats the run before it, as Otava itself fills gaps; ``nan`` stands where the machine never measured the gate.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.drift.changes import Change
from pytest_grpo.drift.series import Gate, Run, Series

NO_VALUE = "nan"


def as_json(changes: Sequence[Change], max_p: float) -> str:
    content = {"max_p": max_p, "changes": [_change(change) for change in changes]}
    return json.dumps(content, indent=2) + "\n"


def _change(change: Change) -> dict[str, Any]:
    gate = change.gate
    return {
        "machine": change.machine,
        "test": gate.nodeid,
        "metric": gate.metric,
        "system": gate.system,
        "device": gate.device,
        "phase": gate.phase,
        "from": change.before,
        "to": change.after,
        "change": change.fraction,
        "p_value": change.p_value,
        "outcome": str(change.outcome),
        "last_before": _run(change.last_before),
        "first_after": _run(change.first_after),
        "bisect": change.bisect or None,
        "notes": change.notes,
    }


def _run(run: Run) -> dict[str, str]:
    return {"run": run.name, "created_at": run.created_at, "commit": run.commit}


def as_csv(series: Sequence[Series]) -> str:
    """The series of all machines, run by run, oldest first."""
    columns = _columns([each.gate for each in series])
    values: dict[tuple[str, str], dict[Gate, float]] = {}
    runs: dict[tuple[str, str], Run] = {}
    for each in series:
        for run, value in zip(each.runs, each.values, strict=True):
            runs[each.machine, run.name] = run
            values.setdefault((each.machine, run.name), {})[each.gate] = value
    latest = {(each.machine, each.gate): each.values[0] for each in series}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", "commit", "branch", "run", *columns.values()])
    for (machine, name), run in sorted(runs.items(), key=lambda item: item[1].created_at):
        latest |= {(machine, gate): value for gate, value in values[machine, name].items()}
        cells = [latest.get((machine, gate)) for gate in columns]
        time = f"{datetime.fromisoformat(run.created_at):%Y-%m-%d %H:%M:%S %z}"
        writer.writerow([time, run.commit, machine, name, *(NO_VALUE if cell is None else cell for cell in cells)])
    return text.getvalue()


def _columns(gates: Sequence[Gate]) -> dict[Gate, str]:
    """A name per gate: its metric, with test and device where two gates have that metric."""
    labels = Counter(gate.label for gate in dict.fromkeys(gates))
    return {
        gate: gate.label if labels[gate.label] == 1 else f"{gate.nodeid} {gate.label} {gate.device}" for gate in gates
    }


def write_text(option: str, path: Path, text: str) -> None:
    """Raises pytest.UsageError that names ``option`` when the file cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise pytest.UsageError(
            f"{option} {path}: cannot be written: {error.strerror}; name a file in a folder that you can write"
        ) from error

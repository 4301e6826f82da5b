"""Where the time of a thread went, step by step: the ledger as a stacked band, and its sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grpo_core.dashboard.columns import Float64, Table, binned, newest_of_each, rounded
from grpo_core.dashboard.run_data import RunData
from grpo_core.telemetry import columns

TRAINER = "trainer-0/train"
_ROOMS = ("sample", "train", "wait")
_PARTS: Mapping[str, str] = {
    "train.packing": "layout_ms",
    "train.scoring": "scoring_ms",
    "train.forward": "loss_forward_ms",
    "train.backward": "backward_ms",
    "train.gradient_sum": "gradient_sum_ms",
    "train.optimizer": "optimizer_ms",
    "train.sums": "sums_ms",
    "publish": "publish_ms",
}
"""Spans of a step that a run without a ledger has in its ``train_step`` events."""

_NO_SPANS = ("started_s", "wall_s")
_SPAN_COLUMNS = tuple(
    name for name, type_ in columns.FIELDS.get("ledger", {}).items() if type_ is float and name not in _NO_SPANS
)
FIELDS: Mapping[str, tuple[str, ...]] = {
    "train_step": ("step", "time", "step_s", *_PARTS.values()),
    "ledger": ("step", *_SPAN_COLUMNS),
}
"""What the accounts are made of, by kind of event."""


def accounts_json(run: RunData) -> list[dict[str, Any]]:
    """An account per thread. Without a ledger: the trainer's, from its steps; the wait is what lies between them."""
    if names := run.table_names("ledger"):
        tables = [(name.partition("/")[2], run.table(name)) for name in names]
        return [_account(thread, *_ledger_of(table)) for thread, table in tables if table is not None and len(table)]
    table = run.table("train_step")
    if table is None or not len(table):
        return []
    return [_account(TRAINER, table["step"], _seconds_of_steps(table))]


def _ledger_of(table: Table) -> tuple[Float64, dict[str, Float64]]:
    """The steps and the seconds of each span. A step may have several rows that follow each other: they add up."""
    step = table["step"]
    starts = np.flatnonzero(np.diff(step, prepend=np.nan) != 0)
    return step[starts], {
        span_of(column): np.add.reduceat(np.nan_to_num(table[column]), starts) for column in _SPAN_COLUMNS
    }


def span_of(column: str) -> str:
    """``sample.decode`` for the column ``sample_decode_s`` of a ``ledger`` event."""
    name = column.removesuffix("_s")
    room, _, rest = name.partition("_")
    return f"{room}.{rest}" if room in _ROOMS else name


def _account(thread: str, step: Float64, seconds: Mapping[str, Float64]) -> dict[str, Any]:
    """Spans that never ran are left out; the largest comes first, waits and what no span names last."""
    chosen = newest_of_each(step)
    kept = {name: np.nan_to_num(values[chosen]) for name, values in seconds.items()}
    totals = {name: float(values.sum()) for name, values in kept.items()}
    names = sorted((name for name in kept if totals[name] > 0), key=lambda name: (_rank(name), -totals[name]))
    layers = []
    for name in names:
        points = binned(step[chosen], kept[name])
        layers.append({"name": name, "total_s": round(totals[name], 4), "y": rounded(points.mean)})
    x = rounded(binned(step[chosen], step[chosen]).x)
    return {"thread": thread, "wall_s": round(sum(totals.values()), 4), "x": x, "layers": layers}


def _rank(name: str) -> int:
    return 2 if name == "other" else 1 if name.startswith("wait") else 0


def _seconds_of_steps(table: Table) -> dict[str, Float64]:
    seconds = {name: table[field] / 1000 for name, field in _PARTS.items()}
    named = np.sum([np.nan_to_num(values) for values in seconds.values()], axis=0)
    seconds["other"] = np.maximum(table["step_s"] - named, 0.0)
    since_last = np.diff(table["time"], prepend=np.nan)
    seconds["wait.batch"] = np.maximum(since_last - table["step_s"], 0.0)
    return seconds

"""The rows of W&B's history that events become. Each row costs W&B about as much as thirty values, so a batch and the
step that trains on it share one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.telemetry.events import MAX_TIME_S, Record
from grpo_core.telemetry.wandb.names import named_metrics

_LAST_OF_A_STEP = "train_step"


@dataclass(frozen=True, slots=True)
class Row:
    """What is logged at once, with the time of its last event."""

    time_s: float
    values: Mapping[str, Any]

    def with_event(self, time_s: float, values: Mapping[str, Any]) -> Row:
        return Row(time_s, {**self.values, **values})


def rows_of(records: Sequence[Record], table_of: Callable[[Record], Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of ``records``, each when its last event has come. ``table_of`` gives the values of ``samples``.

    Step k + 1 trains on batch k. What comes of a batch and not of its step is a row too.
    """
    unfinished: dict[int, Row] = {}
    for record in records:
        time_s, kind = record.get("time"), record["kind"]
        if not isinstance(time_s, int | float) or not abs(time_s) < MAX_TIME_S:  # not one of our events
            continue
        values = table_of(record) if kind == "samples" else named_metrics(record)
        step = _step_of(record)
        if not values:
            continue
        if step is None:
            yield Row(time_s, values)
            continue
        row = unfinished.pop(step, None)
        if row is not None and any(row.values.get(name, value) != value for name, value in values.items()):
            yield row
            row = None
        row = Row(time_s, values) if row is None else row.with_event(time_s, values)
        if kind == _LAST_OF_A_STEP:
            yield row
        else:
            unfinished[step] = row
    yield from unfinished.values()


def _step_of(record: Record) -> int | None:
    """The step whose row an event belongs to."""
    match record:
        case {"kind": "train_step", "step": int(step)} if not isinstance(step, bool):
            return step
        case {"kind": "rollout" | "reward", "batch_index": int(batch)} if not isinstance(batch, bool):
            return batch + 1
    return None

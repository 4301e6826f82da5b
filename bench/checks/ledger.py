"""Whether the ledger of a run leaves nothing out and counts nothing twice."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_core.home import Home
    from grpo_core.schedule.stack import LocalStack


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run's ``ledger`` events by thread, and what another clock says that it took."""

    threads: Mapping[str, Sequence[Mapping[str, Any]]]
    wall_s: float


def record(stack: LocalStack, home: Home) -> Recorded:
    """Train ``stack`` from its first step and read the ledger of that."""
    from grpo_core.telemetry import open_telemetry

    from .whole_runs import train_in_test

    path = home.events / f"{stack.config.run}.jsonl"
    num_before = len(path.read_bytes().splitlines()) if path.exists() else 0
    stack.trainer.version = 0
    with open_telemetry(stack.config, home) as telemetry:
        start = time.monotonic()
        train_in_test(stack, telemetry)
        wall_s = time.monotonic() - start
    threads: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for event in map(json.loads, path.read_text(encoding="utf-8").splitlines()[num_before:]):
        if event["kind"] == "ledger":
            threads[f"{event['process']} {event['thread']}"].append(event)
    return Recorded(threads, wall_s)


def other_share(recorded: Recorded) -> float:
    """Of the thread that has most of it."""
    return max(
        sum(event["other_s"] for event in events) / sum(event["wall_s"] for event in events)
        for events in recorded.threads.values()
    )


def gap_share(recorded: Recorded) -> float:
    """How far the columns of the training thread, all together, are from the run's wall clock."""
    from grpo_core.ledger.spans import SPANS

    columns = [*(span.column for span in SPANS), "other_s"]
    events = recorded.threads["trainer-0 train"]
    total_s = sum(event[column] for event in events for column in columns)
    return abs(total_s - recorded.wall_s) / recorded.wall_s

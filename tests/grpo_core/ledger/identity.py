"""What must hold for the ``ledger`` events of every run: they add up, and no moment is in two of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from grpo_core.ledger.spans import SPANS

Record = Mapping[str, Any]

ROUNDING = 1e-6
CLOCKS_S = 0.01  # a window's start is read from another clock than its length


def by_thread(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """The ``ledger`` events among ``records`` of each process and thread, in order."""
    threads: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record["kind"] == "ledger":
            threads[record["process"], record["thread"]].append(record)
    return threads


def check_identity(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Spans and other are the wall clock in each event, and no windows of one thread overlap. Returns the threads."""
    threads = by_thread(records)
    for events in threads.values():
        for event in events:
            named = sum(event[span.column] for span in SPANS)
            assert named + event["other_s"] == pytest.approx(event["wall_s"], rel=ROUNDING)
            assert min(event[span.column] for span in SPANS) >= 0 <= event["other_s"]
            check_lane(event)
        for before, after in pairwise(events):
            assert before["started_s"] + before["wall_s"] <= after["started_s"] + CLOCKS_S
    return threads


def check_lane(event: Record) -> None:
    """Its intervals follow each other, within the window and without overlap. A follower's account has none."""
    end_s, total_s = 0.0, 0.0
    for _, start_s, seconds in json.loads(event["lane"]):
        assert start_s >= end_s - CLOCKS_S
        end_s, total_s = start_s + seconds, total_s + seconds
    assert total_s == 0 or total_s == pytest.approx(event["wall_s"], abs=1e-3)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from grpo_core.telemetry.wandb.names import BATCH, STEP
from grpo_core.telemetry.wandb.rows import Row, rows_of


def event(kind: str, time_s: float, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "time": time_s, "id": f"a-{time_s}", "run": "r", **fields}


def rollout(batch: Any, time_s: float) -> dict[str, Any]:
    return event("rollout", time_s, batch_index=batch, tokens_per_second=10.0 * time_s)


def reward(batch: int, function: str, time_s: float) -> dict[str, Any]:
    return event("reward", time_s, batch_index=batch, function=function, score_mean=0.5)


def trained(step: Any, time_s: float) -> dict[str, Any]:
    return event("train_step", time_s, step=step, loss=0.25)


def gpu(index: int, time_s: float) -> dict[str, Any]:
    return event("gpu_stats", time_s, source="nvml", device_index=index, utilization_percent=50.0)


def rows(*records: Mapping[str, Any]) -> list[Row]:
    return list(rows_of(records, table_of=lambda _: {"samples": "table"}))


def test_a_batch_and_the_step_that_trains_on_it_are_one_row_with_the_time_of_its_last_event() -> None:
    (row,) = rows(rollout(4, 1.0), reward(4, "exact", 2.0), reward(4, "length", 2.5), trained(5, 3.0))

    assert row.time_s == 3.0
    assert row.values == {
        BATCH: 4,
        "timing/tokens_per_second": 10.0,
        "rollout/reward/exact/mean": 0.5,
        "rollout/reward/length/mean": 0.5,
        STEP: 5,
        "loss/policy": 0.25,
    }


def test_a_batch_that_is_sampled_ahead_waits_for_its_own_step() -> None:
    found = rows(rollout(0, 1.0), rollout(1, 2.0), trained(1, 3.0), rollout(2, 4.0), trained(2, 5.0))

    assert [(row.values.get(BATCH), row.values.get(STEP)) for row in found] == [(0, 1), (1, 2), (2, None)]
    assert [row.time_s for row in found] == [3.0, 5.0, 4.0]


def test_what_is_of_no_step_is_a_row_of_its_own_at_its_own_time() -> None:
    found = rows(rollout(0, 1.0), gpu(0, 1.5), gpu(1, 1.6), event("samples", 1.7, step=1, file="x"), trained(1, 2.0))

    assert [row.time_s for row in found] == [1.5, 1.6, 1.7, 2.0]
    assert found[2].values == {"samples": "table"}
    assert found[3].values.keys() >= {BATCH, STEP}


def test_a_batch_that_comes_twice_keeps_both() -> None:
    """A run that was stopped and resumed samples its last batch again."""
    found = rows(rollout(0, 1.0), rollout(0, 2.0), trained(1, 3.0), trained(1, 4.0))

    assert [row.values.get("timing/tokens_per_second") for row in found] == [10.0, 20.0, None]
    assert [row.values.get(STEP) for row in found] == [None, 1, 1]


@pytest.mark.parametrize("value", [None, True, "1", [1], 1.5, {}, 10**400, float("nan")])
def test_events_of_another_program_end_nothing(value: Any) -> None:
    found = rows(rollout(value, 1.0), trained(value, 2.0), {"kind": value}, {**rollout(0, 0.0), "time": value})

    assert all(0 <= row.time_s <= 2 for row in found)
    assert [row.values for row in found if "loss/policy" in row.values]


def test_kinds_that_are_not_shown_make_no_row() -> None:
    assert rows(event("ledger", 1.0, step=1), event("figures", 2.0, step=1)) == []

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_grpo.systems.event_file import EventFile
from pytest_grpo.systems.step_record import StepRecord

RECORD = StepRecord(
    step=3,
    reward_mean=0.5,
    loss=-0.25,
    grad_norm=1.5,
    policy_lag_steps=1,
    buffer_depth=2,
    trainer_wait_s=0.1,
    sampler_wait_s=0.0,
    rollout_s=2.0,
    train_s=1.0,
    publish_s=0.5,
    finished_at_s=100.0,
    num_prompt_tokens=30,
    num_completion_tokens=40,
    num_loss_tokens=38,
)


def events(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_step_is_two_events(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with EventFile(file, run="mine") as written:
        written.write(RECORD)
        rollout, train_step = events(file)  # a reader sees it before the block ends
    assert {event["run"] for event in (rollout, train_step)} == {"mine"}
    assert (rollout["kind"], rollout["tokens_per_second"], rollout["batch_index"]) == ("rollout", 20.0, 2)
    assert (train_step["kind"], train_step["step_s"], train_step["publish_ms"]) == ("train_step", 1.5, 500.0)
    for kind, fields in RECORD.events().items():
        written_fields = rollout if kind == "rollout" else train_step
        assert {name: written_fields[name] for name in fields} == fields


def test_no_file_takes_nothing_and_a_closed_one_no_more(tmp_path: Path) -> None:
    EventFile().write(RECORD)
    file = tmp_path / "events.jsonl"
    with EventFile(file) as written:
        pass
    written.write(RECORD)
    assert file.read_text() == ""


def test_a_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    for _ in range(2):
        with EventFile(tmp_path / "events.jsonl") as written:
            written.write(RECORD)
    assert len(events(tmp_path / "events.jsonl")) == 4


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_json_has_not_is_null(tmp_path: Path, loss: float) -> None:
    file = tmp_path / "events.jsonl"
    with EventFile(file) as written:
        written.write(replace(RECORD, loss=loss, rollout_s=0.0))
    assert events(file)[1]["loss"] is None
    assert events(file)[0]["tokens_per_second"] == 0.0


def test_every_field_is_a_column_of_the_panels() -> None:
    from grpo_core.telemetry.columns import FIELDS

    for kind, fields in RECORD.events().items():
        types = FIELDS[kind]
        assert {name: type(value) for name, value in fields.items()} == {name: types[name] for name in fields}

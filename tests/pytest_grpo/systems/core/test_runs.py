"""Runs of grpo_core's loop over the parts of its system."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import STEP_ANNOTATIONS, GrpoSystem
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

if TYPE_CHECKING:
    from tests.pytest_grpo.systems.conftest import MakeBatch, MakeSettings

VALUES = ("step", "reward_mean", "loss", "grad_norm", "num_prompt_tokens", "num_completion_tokens", "num_loss_tokens")


@pytest.fixture
def system(make_settings: MakeSettings) -> GrpoSystem:
    return load_system("grpo_core", make_settings())


def reward(prompt: str, answers: Sequence[str]) -> float:
    return float(sum(len(answer) for answer in answers) % 7)


def plan(**changes: object) -> RunPlan:
    values: dict[str, object] = {"group_size": 3, "max_tokens": 6, "learning_rate": 1e-2} | changes
    return RunPlan(("3 + 4 = ", "12 + "), reward, **values)  # pyright: ignore[reportArgumentType]


def values_of(records: Sequence[StepRecord]) -> list[list[float]]:
    return [[getattr(record, name) for name in VALUES] for record in records]


def test_a_run_tells_what_it_did(system: GrpoSystem) -> None:
    before = system.weights()
    earned: list[float] = []

    def watched(prompt: str, answers: Sequence[str]) -> float:
        earned.append(reward(prompt, answers))
        return earned[-1]

    given = plan()
    records = system.run(3, RunPlan(given.prompts, watched, group_size=3, max_tokens=6, learning_rate=1e-2))
    assert len(records) == 3
    assert len(earned) == 3 * 6
    for place, record in enumerate(records):
        assert record.step == records[0].step + place
        assert record.reward_mean == pytest.approx(np.mean(earned[6 * place : 6 * place + 6]))
        assert (record.policy_lag_steps, record.buffer_depth) == (0, 1)
        assert record.num_prompt_tokens == 3 * sum(len(system.encode(prompt)) for prompt in given.prompts)
        assert 6 <= record.num_loss_tokens == record.num_completion_tokens <= 36
        assert min(record.rollout_s, record.train_s, record.publish_s) > 0
        assert min(record.trainer_wait_s, record.sampler_wait_s) >= 0
        assert math.isfinite(record.loss)
    assert all(one.finished_at_s < other.finished_at_s for one, other in pairwise(records))
    assert any(np.any(system.weights()[name] != values) for name, values in before.items())


def test_a_run_begins_with_the_present_weights(
    system: GrpoSystem, make_settings: MakeSettings, randomize: Callable[[GrpoSystem], None]
) -> None:
    """Also where the sampler knows other weights under the number of the run's first version."""
    stale = load_system("grpo_core", make_settings(home=system_home(make_settings, "stale")))
    stale.swap_adapter(stale.publish_adapter())
    for each in (system, stale):
        randomize(each)
    expected, found = (values_of(each.run(2, plan())) for each in (system, stale))
    assert expected == found
    fresh = load_system("grpo_core", make_settings(home=system_home(make_settings, "fresh")))
    assert values_of(fresh.run(2, plan())) != expected


def system_home(make_settings: MakeSettings, name: str) -> Path:
    return make_settings().home.parent / name


def test_steps_ahead_stay_within_the_lag_budget(system: GrpoSystem) -> None:
    records = system.run(6, plan(max_policy_lag_steps=2, buffer_depth=2))
    assert max(record.policy_lag_steps for record in records) in (1, 2)
    assert all(record.buffer_depth <= 2 for record in records)


def test_an_episode_of_several_turns_is_one_reward(system: GrpoSystem) -> None:
    turns: list[int] = []

    def last(prompt: str, answers: Sequence[str]) -> float:
        turns.append(len(answers))
        return reward(prompt, answers)

    def reply(prompt: str, answers: Sequence[str]) -> str | None:
        return "\nAnd? " if len(answers) < 2 else None

    given = RunPlan(("3 + 4 = ",), last, group_size=4, max_tokens=4, reply=reply)
    (record,) = system.run(1, given)
    assert turns == [2, 2, 2, 2]
    assert 8 <= record.num_completion_tokens <= 32
    assert record.num_prompt_tokens > 2 * 4 * len(system.encode("3 + 4 = "))


def test_events_hold_the_records(system: GrpoSystem, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    with system.events(file):
        records = [*system.run(1, plan()), *system.run(1, plan())]
    system.run(1, plan())
    events = [json.loads(line) for line in file.read_text().splitlines()]
    for kind in ("rollout", "train_step"):
        told = [event for event in events if event["kind"] == kind]
        assert len(told) == 2
        for record, event in zip(records, told, strict=True):
            expected = record.events()[kind]
            assert {name: event[name] for name in expected} == pytest.approx(expected)


@pytest.mark.slow
def test_a_state_is_all_that_a_run_goes_on_from(make_settings: MakeSettings, tmp_path: Path) -> None:
    first, second = (
        load_system("grpo_core", make_settings(home=tmp_path / name, seed=seed))
        for seed, name in enumerate(("first", "second"))
    )
    first.run(2, plan())
    first.save_state(tmp_path / "state")
    went_on = first.run(2, plan())
    second.run(1, plan())  # it has a past of its own
    second.load_state(tmp_path / "state")
    assert values_of(second.run(2, plan())) == values_of(went_on)
    first.load_state(tmp_path / "state")
    assert values_of(first.run(2, plan())) == values_of(went_on), "back to where it was"


def test_a_step_leaves_a_trace(system: GrpoSystem, make_batch: MakeBatch, tmp_path: Path) -> None:
    from grpo_core.telemetry.traces.profiler import read_trace

    batch = make_batch(system)
    with system.trace(tmp_path):
        system.train_step(batch)
        system.publish_adapter()
    found = read_trace(tmp_path).annotations
    assert [found[name].count for name in STEP_ANNOTATIONS] == [1, 1, 1, 1]

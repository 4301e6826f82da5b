"""The checks of a run find nothing in a real one, and each lie that a system could tell."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.checks.system_runs import (
    depth_error,
    lag_over_budget,
    num_episodes_missing,
    num_events_lost,
    num_steps_missing,
    num_turns_missing,
    num_wrong_after_restart,
    num_wrong_events,
    num_wrong_records,
    read_events,
)
from bench.checks.watched_run import PROMPTS, WatchedRun, plan_of, watch_run
from grpo_core.types import Int32
from pytest_grpo.systems.event_file import EventFile
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, SystemSettings
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

NUM_STEPS = 3


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> GrpoSystem:
    return load_system("grpo_core", SystemSettings(home=tmp_path_factory.mktemp("home"), device="cpu"))


def test_nothing_is_wrong_with_a_run_in_turns(core: GrpoSystem, tmp_path: Path) -> None:
    with core.events(tmp_path / "events.jsonl"):
        run = watch_run(core, NUM_STEPS, plan_of(learning_rate=1e-3))
    events = read_events(tmp_path / "events.jsonl")
    assert num_steps_missing(run) == lag_over_budget(run) == num_episodes_missing(run) == 0
    assert num_wrong_records(run, core) == 0
    assert num_events_lost(run, events) == num_wrong_events(run, events) == 0
    assert depth_error(run) == 0


@pytest.mark.slow
def test_nothing_is_wrong_with_a_run_that_samples_ahead(core: GrpoSystem) -> None:
    run = watch_run(core, 6, plan_of(max_policy_lag_steps=2, buffer_depth=2))
    assert num_steps_missing(run) == lag_over_budget(run) == num_episodes_missing(run) == 0
    assert num_wrong_records(run, core) == 0
    assert depth_error(run) <= 1


Lie = Callable[[StepRecord, int], StepRecord]


class Liar(GrpoSystem):
    """A run whose steps take some milliseconds each; what it tells of them goes through ``lie``."""

    name = "liar"

    def __init__(self, lie: Lie = lambda record, place: record, *, ahead: int = 0, num_lost: int = 0) -> None:
        self._lie, self._ahead, self._num_lost = lie, ahead, num_lost
        self._events = EventFile()

    def encode(self, text: str) -> Int32:
        import numpy as np

        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def events(self, file: Path) -> EventFile:
        self._events = EventFile(file, self.name)
        return self._events

    def run(self, num_steps: int, plan: RunPlan) -> Sequence[StepRecord]:
        records: list[StepRecord] = []
        waiting: list[float] = []
        num_sampled = 0
        for place in range(num_steps):
            start = time.perf_counter()
            while num_sampled < min(num_steps, place + 1 + self._ahead):
                waiting.append(self._sample(plan, num_sampled))
                num_sampled += 1
            sampled = time.perf_counter()
            time.sleep(0.002)
            end = time.perf_counter()
            record = StepRecord(
                step=place + 1,
                reward_mean=waiting[0],
                loss=0.5,
                grad_norm=1.0,
                policy_lag_steps=min(place, self._ahead),
                buffer_depth=len(waiting),
                trainer_wait_s=sampled - start,
                sampler_wait_s=0.0,
                rollout_s=sampled - start,
                train_s=end - sampled,
                publish_s=0.0,
                finished_at_s=end,
                num_prompt_tokens=plan.group_size * sum(map(len, plan.prompts)),
                num_completion_tokens=3 * plan.num_episodes,
                num_loss_tokens=3 * plan.num_episodes,
            )
            del waiting[0]
            records.append(self._lie(record, place))
            self._events.write(records[-1])
        return records

    def _sample(self, plan: RunPlan, place: int) -> float:
        rewards = [
            plan.reward(prompt, (f"{place} {sample}",)) for prompt in plan.prompts for sample in range(plan.group_size)
        ]
        time.sleep(0.002)
        kept = rewards[: len(rewards) - self._num_lost]
        return sum(kept) / len(kept)


def told(**changes: Any) -> Lie:
    """Of the second step other values than the true ones."""
    return lambda record, place: replace(record, **changes) if place == 1 else record


def watched(system: GrpoSystem, num_steps: int = NUM_STEPS, **changes: Any) -> WatchedRun:
    return watch_run(system, num_steps, plan_of(**changes))


def test_an_honest_one_passes() -> None:
    run = watched(Liar())
    assert num_wrong_records(run, Liar()) == num_episodes_missing(run) == num_steps_missing(run) == 0
    assert lag_over_budget(run) == depth_error(run) == 0
    ahead = watched(Liar(ahead=1), max_policy_lag_steps=1, buffer_depth=2)
    assert num_episodes_missing(ahead) == lag_over_budget(ahead) == 0
    assert depth_error(ahead) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": math.nan},
        {"grad_norm": math.inf},
        {"train_s": -0.001},
        {"train_s": 3600.0},
        {"rollout_s": 3600.0},
        {"trainer_wait_s": 3600.0},
        {"num_completion_tokens": 10**6},
        {"num_completion_tokens": 1},
        {"num_loss_tokens": 0},
        {"num_loss_tokens": 10**6},
        {"num_prompt_tokens": 1},
    ],
)
def test_values_that_cannot_be_are_found(changes: dict[str, float]) -> None:
    system = Liar(told(**changes))
    assert num_wrong_records(watched(system), system) >= 1


@pytest.mark.parametrize("shift_s", [-3600.0, 3600.0])
def test_a_step_that_ended_when_it_cannot_have_is_found(shift_s: float) -> None:
    system = Liar(lambda record, place: replace(record, finished_at_s=record.finished_at_s + shift_s))
    assert num_wrong_records(watched(system), system) >= 1


def test_a_lost_episode_shows_in_the_mean_reward() -> None:
    assert num_episodes_missing(watched(Liar(num_lost=1))) == NUM_STEPS
    assert num_episodes_missing(watched(Liar(told(reward_mean=math.nan)))) == 1


def test_a_prompt_that_is_left_out_is_counted() -> None:
    run = watched(Liar())
    first = run.plan.num_episodes
    fewer = replace(run, earned=[*run.earned[:first], *run.earned[first + 4 :]])
    assert num_episodes_missing(fewer) >= 4
    others = [replace(episode, prompt=PROMPTS[0]) for episode in run.earned[:first]]
    assert num_episodes_missing(replace(run, earned=[*others, *run.earned[first:]])) >= 8


def test_a_turn_that_is_left_out_is_counted() -> None:
    run = watched(Liar())
    assert num_turns_missing(run, num_turns=1) == 0
    assert num_turns_missing(run, num_turns=2) == len(run.earned)


@pytest.mark.slow
def test_episodes_of_two_turns_have_two_answers(core: GrpoSystem) -> None:
    given = plan_of(reply=lambda prompt, answers: " And?" if len(answers) == 1 else None)
    run = watch_run(core, 2, given)
    assert num_episodes_missing(run) == num_turns_missing(run, num_turns=2) == 0
    assert num_wrong_records(run, core) == 0


def test_a_lag_that_is_told_or_proven_counts() -> None:
    assert lag_over_budget(watched(Liar(told(policy_lag_steps=2)), max_policy_lag_steps=1)) == 1
    hidden = Liar(lambda record, place: replace(record, policy_lag_steps=0), ahead=2)
    assert lag_over_budget(watched(hidden)) == 2, "two batches were sampled before the first update"
    assert lag_over_budget(watched(hidden, max_policy_lag_steps=2)) == 0


def test_a_depth_that_cannot_be_counts_as_what_can() -> None:
    empty = Liar(lambda record, place: replace(record, buffer_depth=3))
    assert depth_error(watched(empty, num_steps=6, max_policy_lag_steps=3, buffer_depth=3)) == 2
    assert math.isinf(depth_error(replace(watched(Liar()), records=())))


def test_steps_are_counted() -> None:
    run = watched(Liar())
    assert num_steps_missing(replace(run, records=run.records[:1])) == 2
    assert num_steps_missing(replace(run, records=run.records[::-1])) == 2
    assert num_steps_missing(replace(run, records=())) == 3


def test_events_are_held_against_the_records(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    system = Liar()
    with system.events(file):
        run = watched(system)
    events = read_events(file)
    assert num_events_lost(run, events) == num_wrong_events(run, events) == 0
    assert num_events_lost(run, events[1:]) == 1
    assert num_events_lost(run, read_events(tmp_path / "none.jsonl")) == 2 * NUM_STEPS
    changed = json.loads(json.dumps(events))
    changed[1]["loss"] = 0.25
    changed[3]["policy_lag_steps"] = None
    del changed[0]["num_prompt_tokens"]
    assert num_wrong_events(run, changed) == 3
    assert num_wrong_events(run, events[::-1]) > 0


def test_a_restart_repeats_every_value() -> None:
    went_on, again = watched(Liar()), watched(Liar())
    assert num_wrong_after_restart(went_on, again) == 0
    assert num_wrong_after_restart(went_on, watched(Liar(told(loss=0.6, step=9)))) == 2
    assert num_wrong_after_restart(went_on, watched(Liar(told(grad_norm=math.nan)))) == 1
    assert num_wrong_after_restart(went_on, replace(again, records=again.records[:1])) == 2

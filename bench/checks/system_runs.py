"""What a system tells of its steps, held against what was seen of the run from outside."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from pytest_grpo.systems.protocol import GrpoSystem
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

from .watched_run import Earned, WatchedRun

CLOCK_SLACK_S = 1e-3
"""By how much times may contradict each other: clocks are read one after the other."""
RELATIVE_SLACK = 1e-5
REPEATED = ("step", "reward_mean", "loss", "grad_norm", "num_prompt_tokens", "num_completion_tokens", "num_loss_tokens")
"""The values of a step that a restart gives again."""


def num_steps_missing(run: WatchedRun) -> int:
    """Steps without a record, records without a step, and numbers out of their order."""
    wrong_order = sum(later.step != earlier.step + 1 for earlier, later in pairwise(run.records))
    return abs(run.num_steps - len(run.records)) + wrong_order


def lag_over_budget(run: WatchedRun) -> int:
    """Updates by which the oldest batch was over the plan's budget: as told, or as the order of events proves."""
    lags = [max(record.policy_lag_steps, lag) for record, lag in zip(run.records, _proven_lags(run), strict=False)]
    return max(0, max(lags, default=0) - run.plan.max_policy_lag_steps)


def _proven_lags(run: WatchedRun) -> list[int]:
    """Per step the least lag that its batch can have: its weights were published before its last reward."""
    lags = []
    for place, batch in enumerate(run.batches):
        if batch:
            last_s = max(episode.at_s for episode in batch)
            lags.append(place - sum(record.finished_at_s <= last_s for record in run.records[:place]))
        else:
            lags.append(0)
    return lags


def depth_error(run: WatchedRun) -> float:
    """How far the mean number of waiting batches is from its setting. The last steps drain the buffer.

    A depth that more batches need than had earned their rewards counts as what there could be.
    """
    steady = max(1, run.num_steps - run.plan.buffer_depth + 1)
    depths = [min(record.buffer_depth, most) for record, most in zip(run.records, _possible_depths(run), strict=False)][
        :steady
    ]
    return abs(sum(depths) / len(depths) - run.plan.buffer_depth) if depths else math.inf


def _possible_depths(run: WatchedRun) -> list[int]:
    """Per step the batches that had all their rewards when it began, less those of the steps before."""
    ends = [max((episode.at_s for episode in batch), default=math.inf) for batch in run.batches]
    begins = [record.finished_at_s - record.publish_s - record.train_s for record in run.records]
    return [sum(end <= begin + CLOCK_SLACK_S for end in ends) - place for place, begin in enumerate(begins)]


def seconds_per_step(records: Sequence[StepRecord]) -> float:
    """From the end of the first step to the end of the last one."""
    return (records[-1].finished_at_s - records[0].finished_at_s) / (len(records) - 1)


def seconds_of_the_slower_side(records: Sequence[StepRecord]) -> float:
    """Per step, the sum of one side's times, whichever is larger. The first step is left out, as above."""
    steady = records[1:]
    sampling = sum(record.rollout_s for record in steady)
    training = sum(record.train_s + record.publish_s for record in steady)
    return max(sampling, training) / len(steady)


def num_episodes_missing(run: WatchedRun) -> int:
    """Episodes that a step's batch should have and lacks, or has beyond that, and steps whose mean reward is not that
    of their episodes."""
    missing = 0
    for place, batch in enumerate(run.batches):
        expected = Counter(prompt for prompt in run.plan.prompts for _ in range(run.plan.group_size))
        found = Counter(episode.prompt for episode in batch)
        missing += max((expected - found).total(), (found - expected).total())
        if place < len(run.records) and batch:
            mean = sum(episode.reward for episode in batch) / len(batch)
            missing += not _is_close(run.records[place].reward_mean, mean)
    return missing


def num_turns_missing(run: WatchedRun, num_turns: int) -> int:
    """Episodes that ended before their last turn, or went on after it."""
    return sum(len(episode.answers) != num_turns for episode in run.earned)


def num_wrong_records(run: WatchedRun, system: GrpoSystem) -> int:
    """Values that cannot be true: not finite, against the clock, more tokens than there can be."""
    before_s = run.started_s
    wrong = 0
    for record, batch in zip(run.records, run.batches, strict=False):
        wrong += sum(not math.isfinite(value) for value in asdict(record).values())
        wrong += _num_wrong_times(record, batch, before_s, run)
        wrong += _num_wrong_tokens(record, batch, run.plan, system)
        before_s = record.finished_at_s
    return wrong


def _num_wrong_times(record: StepRecord, batch: Sequence[Earned], before_s: float, run: WatchedRun) -> int:
    """``before_s``: the end of the step before."""
    own_s = record.trainer_wait_s + record.train_s + record.publish_s
    if run.plan.max_policy_lag_steps == 0:
        own_s = max(own_s, record.rollout_s + record.train_s + record.publish_s)
    rewarded_s = max((episode.at_s for episode in batch), default=run.started_s)
    least = min(record.trainer_wait_s, record.sampler_wait_s, record.rollout_s, record.train_s, record.publish_s)
    return sum(
        (
            least < 0,
            own_s > record.finished_at_s - before_s + CLOCK_SLACK_S,  # more time than there was
            record.finished_at_s < rewarded_s - CLOCK_SLACK_S,  # trained before it was sampled
            record.finished_at_s > run.ended_s + CLOCK_SLACK_S,
        )
    )


def _num_wrong_tokens(record: StepRecord, batch: Sequence[Earned], plan: RunPlan, system: GrpoSystem) -> int:
    num_answers = sum(len(episode.answers) for episode in batch)
    is_possible = num_answers <= record.num_completion_tokens <= num_answers * plan.max_tokens
    wrong = (not is_possible) + (not 0 < record.num_loss_tokens <= record.num_completion_tokens)
    if plan.reply is None:
        num_prompt_tokens = sum(len(system.encode(prompt)) for prompt in plan.prompts) * plan.group_size
        wrong += record.num_prompt_tokens != num_prompt_tokens
    return wrong


def read_events(file: Path) -> list[dict[str, Any]]:
    """The events of a file, in order; none where there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def num_events_lost(run: WatchedRun, events: Sequence[Mapping[str, Any]]) -> int:
    """Of each kind that a step has: how many are missing, or too many."""
    kinds = Counter(event["kind"] for event in events)
    return sum(abs(kinds[kind] - run.num_steps) for kind in ("rollout", "train_step"))


def num_wrong_events(run: WatchedRun, events: Sequence[Mapping[str, Any]]) -> int:
    """Fields of the events that are not what the step's record says, and events out of their order."""
    wrong = 0
    for kind in ("rollout", "train_step"):
        found = [event for event in events if event["kind"] == kind]
        expected = [record.events()[kind] for record in run.records]
        wrong += abs(len(expected) - len(found))
        wrong += sum(later["time"] < earlier["time"] for earlier, later in pairwise(found))
        for fields, event in zip(expected, found, strict=False):
            wrong += sum(not _is_close(event.get(name), value) for name, value in fields.items())
    return wrong


def num_wrong_after_restart(went_on: WatchedRun, restarted: WatchedRun) -> int:
    """Values of the steps after a restart that are not those of the run that went on, times and waits aside."""
    wrong = abs(len(went_on.records) - len(restarted.records))
    for record, again in zip(went_on.records, restarted.records, strict=False):
        expected, found = asdict(record), asdict(again)
        wrong += sum(not _is_close(found[name], expected[name]) for name in REPEATED)
    return wrong


def _is_close(value: object, expected: float) -> bool:
    """A NaN is close to nothing."""
    if not isinstance(value, int | float):
        return False
    return math.isclose(value, expected, rel_tol=RELATIVE_SLACK, abs_tol=1e-9)

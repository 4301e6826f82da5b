"""Whether what telemetry keeps is what the product returned: exact values, field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import LocalStack
    from grpo_core.types import Batch, StepMetrics

Fields = Mapping[str, Any]


def num_wrong_fields(expected: Fields, found: Fields) -> int:
    """Fields of ``expected`` that ``found`` lacks or holds with another value or type, at any depth.

    JSON has neither NaN nor infinities: null stands for them.
    """
    return sum(name not in found or not _is_same(value, found[name]) for name, value in expected.items())


def _is_same(value: Any, found: Any) -> bool:
    if isinstance(value, float) and not math.isfinite(value):
        return found is None
    if isinstance(value, Mapping):
        return isinstance(found, dict) and value.keys() == found.keys() and not num_wrong_fields(value, found)
    if isinstance(value, list | tuple):
        return isinstance(found, list) and len(value) == len(found) and all(map(_is_same, value, found))
    # repr: 0.0 is neither 0 nor False nor -0.0
    return type(value) is type(found) and repr(value) == repr(found)


def telling_metrics(metrics: StepMetrics) -> StepMetrics:
    """``metrics`` with a value of its own in each number, some of them easy to lose: 0, tiny, huge, not finite."""
    floats = iter([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, -1 / 3])
    changed: dict[str, Any] = {}
    for place, (name, value) in enumerate(asdict(metrics).items()):
        if isinstance(value, float):
            changed[name] = next(floats, place + 1 / 7)
        elif isinstance(value, int) and not isinstance(value, bool):
            changed[name] = 2**53 + place if place % 2 else 0
        elif isinstance(value, str):
            changed[name] = f"Zug {place}: ä → {value!r}"
    return replace(metrics, **changed)


@dataclass
class Told:
    """One run: what its parts returned, and the events of two sinks."""

    metrics: list[StepMetrics] = field(default_factory=list)  # as the trainer returned them: telling ones
    batches: list[Batch] = field(default_factory=list)  # as the trainer got them
    num_bytes: list[int] = field(default_factory=list)  # of the weights after each step
    reports: Sequence[StepReport] = ()
    in_file: list[Fields] = field(default_factory=list)
    sent: list[Fields] = field(default_factory=list)  # what a service got


@dataclass
class Listener:
    """A service that remembers what it was sent."""

    records: list[Fields]
    name: str = "listener"

    def open(self) -> None:
        """It is always there."""

    def send(self, records: Sequence[Fields]) -> int:
        self.records += records
        return 0

    def close(self) -> None:
        """Nothing waits."""


def listen(stack: LocalStack, path: Path) -> Told:
    """Train ``stack`` with its events in the file ``path`` and sent to a service."""
    from grpo_core.telemetry.delivery.background_sink import BackgroundSink
    from grpo_core.telemetry.delivery.delivery import Delivery
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.jsonl import JsonlSink

    from .whole_runs import train_in_test

    told = Told()
    step = stack.trainer.step

    def watched(batch: Batch) -> StepMetrics:
        told.batches.append(batch)
        metrics = step(batch)
        told.metrics.append(replace(telling_metrics(metrics), step=metrics.step))
        tensors = stack.trainer.weights().tensors.values()
        told.num_bytes.append(sum(tensor.numpy().nbytes for tensor in tensors))
        return told.metrics[-1]

    delivery = Delivery(Listener(told.sent), path, path.with_suffix(".cursor"))
    sinks = [JsonlSink(path), BackgroundSink(delivery, "")]
    with pytest.MonkeyPatch.context() as patch, Telemetry(stack.config.run, sinks) as telemetry:
        patch.setattr(stack.trainer, "step", watched)
        told.reports = train_in_test(stack, telemetry).reports
    told.in_file = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return told


def num_wrong_values(told: Told, stack: LocalStack) -> int:
    """Fields of all events that are not what the run's parts returned, and events out of their order or number."""
    expected = {
        "train_step": [_train_step(told, stack, place) for place in range(len(told.metrics))],
        "rollout": [_rollout(batch) for batch in told.batches],
        "reward": [
            {
                "batch_index": batch.index,
                "function": each.name,
                "num_failed": each.num_failed,
                "reward_s": each.duration_s,
            }
            for batch in told.batches
            for each in batch.stats.reward_functions
        ],
        "adapter_publish": [
            {"version": metrics.step, "publish_ms": report.publish_ms, "num_bytes": num_bytes}
            for metrics, report, num_bytes in zip(told.metrics, told.reports, told.num_bytes, strict=True)
        ],
        "adapter_load": [{"version": batch.policy_version} for batch in told.batches],
        "run_started": [{"num_steps": stack.config.schedule.num_steps, "preset": stack.config.model.name}],
        "run_finished": [{"num_steps": len(told.metrics)}],
    }
    return sum(_num_wrong(expected, records, stack.config.run) for records in (told.in_file, told.sent))


def _num_wrong(expected: Mapping[str, Sequence[Fields]], records: Sequence[Fields], run: str) -> int:
    """Wrong fields of one sink's ``records``; a missing or an extra event is one, too."""
    num_wrong = sum(record["run"] != run for record in records)
    num_wrong += sum(later["time"] < earlier["time"] for earlier, later in pairwise(records))
    for kind, events in expected.items():
        found = [record for record in records if record["kind"] == kind]
        num_wrong += abs(len(events) - len(found))
        num_wrong += sum(num_wrong_fields(event, record) for event, record in zip(events, found, strict=False))
    return num_wrong


def _train_step(told: Told, stack: LocalStack, place: int) -> Fields:
    """The event of the step in ``place``. Its number and lag follow from the place, not from a report."""
    schedule, report, batch = stack.config.schedule, told.reports[place], told.batches[place]
    return {
        **asdict(told.metrics[place]),
        "step": place + 1,
        "policy_version": batch.policy_version,
        "policy_lag_steps": place - batch.policy_version,
        "max_policy_lag_steps": schedule.max_policy_lag_steps,
        "buffer_depth": report.buffer_depth,
        "configured_buffer_depth": schedule.buffer_depth,
        "step_s": report.step_s,
        "publish_ms": report.publish_ms,
    }


def _rollout(batch: Batch) -> Fields:
    """The event of ``batch``; what it has in sum is counted from the completions."""
    trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    rewards = [trajectory.reward for trajectory in trajectories]
    num_tokens = sum(len(turn.completion_ids) for turn in turns)
    stats = asdict(batch.stats)
    del stats["reward_functions"]  # each has an event of its own
    return {
        **stats,
        "batch_index": batch.index,
        "policy_version": batch.policy_version,
        "num_completions": len(turns),
        "num_completion_tokens": num_tokens,
        "num_prompt_tokens": sum(len(turn.prompt_ids) for turn in turns),
        "tokens_per_second": num_tokens / batch.stats.duration_s,
        "reward_mean": sum(rewards) / len(rewards),
    }

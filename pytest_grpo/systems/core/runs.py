"""The training loop of grpo_core over the parts of a ``GrpoCoreSystem``, as ``grpo train --resume`` runs it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_grpo.systems.core.plan_environment import PlanFactory
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.tokenizer import Tokenizer
    from grpo_core.rollout.protocol import LocalEngine
    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import Stack
    from grpo_core.telemetry.events import Event, Sink
    from grpo_core.training.trainer import Trainer


@dataclass
class EventLog:
    """A sink that keeps the events."""

    events: list[Event] = field(default_factory=list)

    def write(self, event: Event) -> None:
        self.events.append(event)

    def flush(self) -> None:
        """Nothing waits."""

    def begin_close(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def of_kind(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


@dataclass
class CoreRuns:
    """Runs one after the other, each from where the last one ended. Each has a folder of its own in ``home``."""

    config: GrpoConfig
    home: Path
    store: AdapterStore
    engine: LocalEngine
    tokenizer: Tokenizer
    trainer: Trainer
    _event_file: Path | None = None
    _num_runs: int = 0

    def run(self, num_steps: int, plan: RunPlan) -> tuple[StepRecord, ...]:
        """As ``GrpoSystem.run``."""
        from grpo_core.schedule.interrupt import StopRequest
        from grpo_core.schedule.loop import train
        from grpo_core.telemetry.events import Telemetry
        from grpo_core.telemetry.jsonl import JsonlSink
        from grpo_core.training.checkpoint.checkpoint import save_checkpoint

        # The loop takes version 0 for the base model, which is never published. These weights may be others.
        self.trainer.version = max(self.trainer.version, 1)
        self.trainer.learning_rate = plan.learning_rate
        stack = self._stack(self.trainer.version + num_steps, plan)
        save_checkpoint(stack.checkpoint_folder, self.trainer, stack.config.model_dump(mode="json"), keep_last=1)
        self.engine.use_version(0)  # it may have other weights under the number of a version to come
        self.engine.forget_prompts()
        log = EventLog()
        sinks: list[Sink] = [log] if self._event_file is None else [log, JsonlSink(self._event_file)]
        start = time.perf_counter()
        with Telemetry(self.config.run, sinks) as telemetry:
            stop = StopRequest()  # which nothing sets: signals are pytest's
            reports = train(stack, telemetry, resume=True, save_checkpoints=False, stop=stop).reports
        return _records(reports, log, start)

    def _stack(self, last_step: int, plan: RunPlan) -> Stack:
        from grpo_core.config import build_config
        from grpo_core.home import Home
        from grpo_core.rollout.play.build import build_collector
        from grpo_core.schedule.stack import Stack

        self._num_runs += 1
        folder = self.home / f"run-{self._num_runs}"
        home = Home(data=folder / "data", traces=folder / "traces")
        config = build_config(_with_plan(self.config.model_dump(), last_step, plan))
        collector = build_collector(config, home, self.engine, self.tokenizer, PlanFactory(plan))
        return Stack(config, home, self.store, collector, self.trainer, self.tokenizer)

    @contextmanager
    def events(self, file: Path) -> Iterator[None]:
        """As ``GrpoSystem.events``."""
        self._event_file = file
        try:
            yield
        finally:
            self._event_file = None

    def save(self, folder: Path) -> None:
        """As ``GrpoSystem.save_state``."""
        from grpo_core.training.checkpoint.checkpoint import save_checkpoint

        save_checkpoint(folder, self.trainer, self.config.model_dump(mode="json"))

    def load(self, folder: Path) -> None:
        """As ``GrpoSystem.load_state``.

        Raises:
            CheckpointError: there is no state, or it does not fit.
        """
        from grpo_core.training.checkpoint.checkpoint import load_checkpoint, restore_trainer
        from grpo_core.training.checkpoint.random_state import restore_random_state

        checkpoint = load_checkpoint(folder)
        restore_trainer(self.trainer, checkpoint)
        restore_random_state(checkpoint.random)


def _with_plan(values: dict[str, Any], last_step: int, plan: RunPlan) -> dict[str, Any]:
    """The configuration with ``plan`` in it: one starting state, which has all prompts."""
    values["rollout"] |= {
        "num_groups": 1,
        "group_size": plan.group_size,
        "max_completion_tokens": plan.max_tokens,
        "seed": plan.seed,
    }
    values["schedule"] |= {
        "num_steps": last_step,
        "max_policy_lag_steps": plan.max_policy_lag_steps,
        "buffer_depth": plan.buffer_depth,
    }
    return values


def _records(reports: Sequence[StepReport], log: EventLog, start: float) -> tuple[StepRecord, ...]:
    """One per step. Reports have the steps, events have when the sampler began and ended each batch."""
    begun = [start, *(report.finished_at_s for report in reports)]
    waits = [report.finished_at_s - report.step_s - before for report, before in zip(reports, begun, strict=False)]
    sampler_waits = _sampler_waits(log)
    return tuple(
        StepRecord(
            step=report.metrics.step,
            reward_mean=report.metrics.reward_mean,
            loss=report.metrics.loss,
            grad_norm=report.metrics.grad_norm,
            policy_lag_steps=report.policy_lag_steps,
            buffer_depth=report.buffer_depth,
            trainer_wait_s=wait_s,
            sampler_wait_s=sampler_wait_s,
            rollout_s=report.rollout.duration_s,
            train_s=report.step_s - report.publish_ms / 1e3,
            publish_s=report.publish_ms / 1e3,
            finished_at_s=report.finished_at_s,
            num_prompt_tokens=report.rollout.num_prompt_tokens,
            num_completion_tokens=report.rollout.num_completion_tokens,
            num_loss_tokens=report.metrics.num_loss_tokens,
        )
        for report, wait_s, sampler_wait_s in zip(reports, waits, sampler_waits, strict=True)
    )


def _sampler_waits(log: EventLog) -> list[float]:
    """Seconds from the end of each batch to the beginning of the next one, which begins with a load."""
    (started,) = log.of_kind("run_started")
    ends = [started.time_s, *(event.time_s for event in log.of_kind("rollout"))]
    begins = [event.time_s - _load_s(event.fields) for event in log.of_kind("adapter_load")]
    return [max(0.0, begin - end) for end, begin in zip(ends, begins, strict=False)]


def _load_s(fields: Mapping[str, Any]) -> float:
    return (fields["load_ms"] + fields["swap_ms"]) / 1e3

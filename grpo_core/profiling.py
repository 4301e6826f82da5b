"""Runs a part of the stack (rollout, trainer or the whole schedule), times it, and stores a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from grpo_core.config import GrpoConfig
from grpo_core.home import Home

if TYPE_CHECKING:
    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import Stack
    from grpo_core.telemetry import Telemetry
    from grpo_core.types import Batch, StepMetrics


def keep_measurement(
    config: GrpoConfig, home: Home, console: Console, name: str, what: str, *, warmup: bool, traced: bool
) -> dict[str, Any]:
    """Measure ``what`` (rollout, trainer or e2e), print the result, store it as a snapshot, and return it.

    Raises:
        GrpoError: a model, environment or package is missing.
    """
    trace_folder = home.traces / name if traced else None
    payload = _measure(config, home, console, what, warmup=warmup, trace_folder=trace_folder)
    _report(console, payload)
    if trace_folder is not None:
        console.print(f"trace: {trace_folder}", soft_wrap=True)
    _persist(config, home, console, name, payload)
    return payload


def _measure(
    config: GrpoConfig, home: Home, console: Console, what: str, *, warmup: bool, trace_folder: Path | None
) -> dict[str, Any]:
    """The measurement, as the payload of a snapshot. A run of the same name is left alone."""
    from grpo_core.schedule.runs.lock import hold_run
    from grpo_core.schedule.stack import build_stack
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.gpu import GpuSampler

    with console.status(f"loading {config.model.name}"):
        stack = build_stack(config, home.measured)
    measure = {"rollout": _measure_rollout, "trainer": _measure_trainer, "e2e": _measure_schedule}[what]
    with (
        stack,
        hold_run(home.measured, config.run),
        open_telemetry(config, home.measured) as telemetry,
        GpuSampler(telemetry, config.telemetry.gpu_stats_interval_s) as sampler,
        console.status(f"measuring {what}"),
    ):
        if sampler.note:
            console.print(sampler.note)
        stack.store.discard_after(config.run, -1)
        try:
            measured = measure(stack, telemetry, warmup, trace_folder)
        finally:
            stack.store.discard_after(config.run, -1)
    return {"target": what, "config": config.model_dump(mode="json"), **measured}


def _measure_rollout(stack: Stack, telemetry: Telemetry, warmup: bool, trace_folder: Path | None) -> dict[str, Any]:
    from torch.autograd.profiler import record_function

    from grpo_core.schedule.rollout_thread import emit_rollout
    from grpo_core.telemetry.traces.profiler import trace

    num_steps = stack.config.schedule.num_steps
    if warmup:
        stack.collector.collect(num_steps)
    batches: list[Batch] = []
    with trace(trace_folder or Path(), enabled=trace_folder is not None):
        for index in range(num_steps):
            with record_function("rollout"):
                batches.append(stack.collector.collect(index))
    for batch in batches:
        emit_rollout(batch, 0, telemetry)
    return {**_rollout_figures(batches), "batches": [asdict(batch.stats) for batch in batches]}


def _measure_trainer(stack: Stack, telemetry: Telemetry, warmup: bool, trace_folder: Path | None) -> dict[str, Any]:
    """Train on batches collected beforehand, so that the trace holds the trainer's work alone."""
    from grpo_core.schedule.loop import publish
    from grpo_core.schedule.rollout_thread import emit_rollout
    from grpo_core.telemetry.traces.profiler import trace

    num_steps = stack.config.schedule.num_steps
    batches = [stack.collector.collect(index) for index in range(num_steps)]
    if warmup:
        stack.trainer.step(batches[0])
    metrics: list[StepMetrics] = []
    with trace(trace_folder or Path(), enabled=trace_folder is not None):
        for batch in batches:
            metrics.append(stack.trainer.step(batch))
            publish(stack, telemetry)
    for batch in batches:
        emit_rollout(batch, 0, telemetry)
    return {**_rollout_figures(batches), **_trainer_figures(metrics), "steps": [asdict(step) for step in metrics]}


def _measure_schedule(stack: Stack, telemetry: Telemetry, warmup: bool, trace_folder: Path | None) -> dict[str, Any]:
    from grpo_core.schedule.interrupt import interruption
    from grpo_core.schedule.loop import train

    assert trace_folder is None
    if warmup:
        stack.collector.collect(stack.config.schedule.num_steps)
    result = train(stack, telemetry, save_checkpoints=False)
    if result.interrupted:
        assert result.stop_signal is not None
        raise interruption(result.stop_signal)  # a partial run is not a measurement: store nothing
    reports = result.reports
    return {
        **_trainer_figures([report.metrics for report in reports]),
        "timing/tokens_per_second": median(report.rollout.tokens_per_second for report in reports),
        "timing/step_s": median(report.step_s for report in reports),
        "duration_s": result.duration_s,
        "reward_mean": reports[-1].metrics.reward_mean,
        "policy_lag_steps": [report.policy_lag_steps for report in reports],
        "buffer_depth": [report.buffer_depth for report in reports],
        "num_stale_dropped": result.num_stale_dropped,
        "steps": [_step_record(report) for report in reports],
    }


def _step_record(report: StepReport) -> dict[str, Any]:
    return {**asdict(report.metrics), **asdict(report.rollout), "step_s": report.step_s}


def _rollout_figures(batches: Sequence[Batch]) -> dict[str, Any]:
    rewards = [t.reward for batch in batches for group in batch.groups for t in group.trajectories]
    return {
        "timing/tokens_per_second": median(batch.stats.tokens_per_second for batch in batches),
        "timing/rollout_s": median(batch.stats.duration_s for batch in batches),
        "reward_mean": sum(rewards) / len(rewards),
    }


def _trainer_figures(metrics: Sequence[StepMetrics]) -> dict[str, Any]:
    return {
        "loss_forward_ms": median(step.loss_forward_ms for step in metrics),
        "backward_ms": median(step.backward_ms for step in metrics),
        "optimizer_ms": median(step.optimizer_ms for step in metrics),
        "num_forward_passes": sum(step.num_forward_passes for step in metrics),
        "num_micro_batches": sum(step.num_micro_batches for step in metrics),
        "num_tokenizer_calls": sum(step.num_tokenizer_calls for step in metrics),
    }


def _report(console: Console, payload: Mapping[str, Any]) -> None:
    table = Table("metric", "value", title=f"{payload['target']} (medians over the measured steps)")
    for key, value in payload.items():
        if isinstance(value, int | float):
            table.add_row(key, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}")
    console.print(table)


def _persist(config: GrpoConfig, home: Home, console: Console, name: str, payload: Mapping[str, Any]) -> None:
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.snapshots import persist_profile_snapshot

    path = persist_profile_snapshot(home, name, payload)
    with open_telemetry(config, home.measured) as telemetry:
        telemetry.emit("snapshot", profile_name=name, path=str(path))
    console.print(f"snapshot: {path}", soft_wrap=True)

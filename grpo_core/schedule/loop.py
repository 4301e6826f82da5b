"""rollout -> score -> train -> publish: the rollout thread plays, this one trains, a bounded buffer between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grpo_core.config import GrpoConfig
from grpo_core.errors import GrpoError
from grpo_core.hardware import Energy, open_gpus
from grpo_core.ledger import spans
from grpo_core.ledger.recorder import Recorder, recording
from grpo_core.schedule.accounting.books import Books
from grpo_core.schedule.accounting.events import hear_accounts, process_name
from grpo_core.schedule.accounting.figures import Devices, Figures
from grpo_core.schedule.buffer.buffer import Lease, RolloutBuffer
from grpo_core.schedule.checkpoints import Checkpoints
from grpo_core.schedule.cores import own_torch_threads
from grpo_core.schedule.evaluations import Evaluations, OnEvaluation
from grpo_core.schedule.followers import send_batch, send_end, send_start
from grpo_core.schedule.interrupt import StopRequest, stop_on_signals
from grpo_core.schedule.reports import OnStep, StepReport, TrainResult
from grpo_core.schedule.rollout_thread import rollout_thread
from grpo_core.schedule.runs.lock import hold_run
from grpo_core.schedule.samples import SampleFiles
from grpo_core.schedule.stack import LocalStack, Stack
from grpo_core.schedule.start import open_buffer, prepare
from grpo_core.telemetry.events import Telemetry
from grpo_core.training.checkpoint.random_state import capture_random_state
from grpo_core.training.stopwatch import Stopwatch

OnCheckpoint = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class _TrainContext:
    """Stack, telemetry, checkpoints and callbacks of one call of ``train``."""

    stack: Stack
    telemetry: Telemetry
    checkpoints: Checkpoints
    evaluations: Evaluations | None
    samples: SampleFiles | None
    on_step: OnStep


def train(
    stack: Stack,
    telemetry: Telemetry,
    *,
    resume: bool = False,
    save_checkpoints: bool = True,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    on_evaluation: OnEvaluation | None = None,
    stop: StopRequest | None = None,
    keep_reports: bool = True,
) -> TrainResult:
    """Run ``schedule.num_steps`` steps in all; with ``resume``, those that are left.

    Ctrl-C ends the run after the step under way, with a checkpoint. A second one ends it at once. SIGTERM does the same
    within ``schedule.stop_grace_s``. ``stop`` is for a caller that handles the signals itself.
    ``on_checkpoint`` gets the folder of each checkpoint when it is on disk, ``on_evaluation`` each evaluation.
    Pass ``keep_reports=False`` for a long run: a report takes 2 kB. ``on_step`` gets each of them.

    Raises:
        ConfigError: the run has a checkpoint already and ``resume`` is off, or another process trains it now.
        CheckpointError, AdapterError: there is nothing to resume, or it does not fit.
        GrpoError: as ``Collector.collect``, or the engine has died. The steps that were done are saved.
    """
    with (
        hold_run(stack.home, stack.config.run),
        recording(process_name(stack.trainer.ranks.rank), "train") as recorder,
        stack.store.publishing(),
    ):
        checkpoints = Checkpoints(stack, enabled=save_checkpoints, resumed=resume, on_saved=on_checkpoint)
        reports: list[StepReport] = []

        def on_report(report: StepReport) -> None:
            if keep_reports:
                reports.append(report)
            if on_step is not None:
                on_step(report)

        evaluations = None
        if save_checkpoints and stack.config.evaluation.every_steps:
            evaluations = Evaluations(stack, telemetry, on_evaluation)
        samples = SampleFiles(stack.config, stack.home, stack.tokenizer) if save_checkpoints else None
        parts = _TrainContext(stack, telemetry, checkpoints, evaluations, samples, on_report)
        result = _train(parts, recorder, stop, resume=resume)
        return replace(result, reports=tuple(reports))


def _train(parts: _TrainContext, recorder: Recorder, stop: StopRequest | None, *, resume: bool) -> TrainResult:
    """Its result has no ``reports``."""
    stack, telemetry, config = parts.stack, parts.telemetry, parts.stack.config
    with spans.START:
        resumed = prepare(stack, resume=resume)
        send_start(stack.trainer.ranks, stack.trainer, resumed)
    first_step = stack.trainer.version
    start = time.perf_counter()
    _emit_start(config, telemetry)
    with (
        nullcontext(stop) if stop is not None else stop_on_signals(config.schedule.stop_grace_s) as request,
        open_buffer(stack, resumed) as buffer,
        own_torch_threads(config, stack.trainer.ranks.size),
        open_gpus() as handles,
    ):
        books = Books(telemetry, recorder, _open_figures(stack, handles))
        _run_steps(parts, books, buffer, request)
    num_steps = stack.trainer.version - first_step
    send_end(stack.trainer.ranks)
    books.close(stack.trainer.version)
    duration_s = time.perf_counter() - start
    telemetry.emit("run_finished", num_steps=num_steps, duration_s=duration_s)
    return TrainResult(
        reports=(),
        num_steps=num_steps,
        duration_s=duration_s,
        checkpoint=parts.checkpoints.newest,
        interrupted=stack.trainer.version < config.schedule.num_steps,
        num_stale_dropped=buffer.num_stale_dropped,
        stop_signal=request.signal,
        figures=books.figures.last,
    )


def _run_steps(parts: _TrainContext, books: Books, buffer: RolloutBuffer, request: StopRequest) -> None:
    """Train until all steps are done or ``request`` comes, and save the last one."""
    stack, telemetry, checkpoints, evaluations = parts.stack, parts.telemetry, parts.checkpoints, parts.evaluations
    with request.calling(buffer.close), rollout_thread(stack, buffer, telemetry, books.figures, evaluations):
        while request.signal is None and (lease := _take(buffer, checkpoints)) is not None:
            report = _train_step(stack, lease, telemetry)
            books.figures.published(report.metrics.step)
            followers = hear_accounts(stack.trainer.ranks)
            with spans.CHECKPOINT:
                random_state = capture_random_state()  # first: without lag, no environment runs before the next line
            buffer.acknowledge(lease)
            with spans.TELEMETRY:
                parts.on_step(report)
            if parts.samples is not None:
                with spans.TELEMETRY:
                    _write_samples(parts.samples, report.metrics.step, lease, telemetry)
            checkpoints.step_done(buffer, random_state)
            if evaluations is not None:
                with spans.EVALUATE:
                    evaluations.keep_best()
            with spans.TELEMETRY:
                books.close_step(lease.batch, report.metrics, lease.num_stale_tokens, followers)
        checkpoints.save_last(buffer)  # before the rollout thread's batch under way is waited for
        with spans.PUBLISH:
            stack.store.wait()
    if evaluations is not None:
        with spans.EVALUATE:
            if request.signal is None:
                evaluations.run_last(stack.trainer.version)
            evaluations.keep_best()


def _write_samples(samples: SampleFiles, step: int, lease: Lease, telemetry: Telemetry) -> None:
    if samples.is_due(step) and (path := samples.write(step, lease.batch)) is not None:
        telemetry.emit("samples", step=step, batch_index=lease.batch.index, file=path.name)


def _open_figures(stack: Stack, handles: Mapping[int, Any]) -> Figures:
    trainer = stack.trainer
    with spans.START:
        num_read = _num_bytes_of_a_decode_step(stack)
        devices = Devices.measure(trainer.device, trainer.compute_dtype, trainer.ranks.size, num_read)
        return Figures(stack.config, devices, Energy(handles))


def _num_bytes_of_a_decode_step(stack: Stack) -> int | None:
    """Weights of the layers, in the engine's number type. The head is left out: of its rows only those are read that
    may be drawn. None where another process decodes."""
    if not isinstance(stack, LocalStack) or stack.config.rollout.engine == "vllm":
        return None
    return stack.trainer.num_layer_weights * getattr(torch, stack.config.model.dtype).itemsize


def _emit_start(config: GrpoConfig, telemetry: Telemetry) -> None:
    telemetry.emit(
        "run_started",
        preset=config.model.name,
        environment=config.environment.name,
        num_steps=config.schedule.num_steps,
        max_policy_lag_steps=config.schedule.max_policy_lag_steps,
        configured_buffer_depth=config.schedule.buffer_depth,
    )


def _take(buffer: RolloutBuffer, checkpoints: Checkpoints) -> Lease | None:
    """As ``buffer.take``. If the rollout thread failed, save a checkpoint first: the trainer's state is intact."""
    try:
        return buffer.take()
    except GrpoError:
        checkpoints.save_last(buffer)
        raise


def _train_step(stack: Stack, lease: Lease, telemetry: Telemetry) -> StepReport:
    start = time.perf_counter()
    with spans.STORE:
        send_batch(stack.trainer.ranks, lease.batch)
    metrics = stack.trainer.step(lease.batch)
    if metrics.num_skipped_updates:
        telemetry.emit(
            "step_skipped",
            step=metrics.step,
            batch_index=lease.batch.index,
            nonfinite_trajectories=metrics.nonfinite_trajectories,
            num_skipped_steps=stack.trainer.num_skipped_steps,
        )
    publish_ms = publish(stack, telemetry)
    end = time.perf_counter()
    report = StepReport(
        metrics=metrics,
        rollout=lease.batch.stats,
        policy_lag_steps=lease.policy_lag_steps,
        buffer_depth=lease.depth_before,
        step_s=end - start,
        publish_ms=publish_ms,
        finished_at_s=end,
    )
    with spans.TELEMETRY:
        _emit_step(stack, telemetry, report, lease.batch.policy_version)
    return report


def _emit_step(stack: Stack, telemetry: Telemetry, report: StepReport, policy_version: int) -> None:
    telemetry.emit(
        "train_step",
        policy_version=policy_version,
        policy_lag_steps=report.policy_lag_steps,
        policy_lag_updates=(report.policy_lag_steps + 1) * stack.config.training.updates_per_batch - 1,
        max_policy_lag_steps=stack.config.schedule.max_policy_lag_steps,
        buffer_depth=report.buffer_depth,
        configured_buffer_depth=stack.config.schedule.buffer_depth,
        step_s=report.step_s,
        publish_ms=report.publish_ms,
        **asdict(report.metrics),
    )


def publish(stack: Stack, telemetry: Telemetry) -> float:
    """Publish the trainer's weights as its version, and prune versions over the lag budget.

    Returns milliseconds of the step: what the disk takes comes while the run goes on (``BackgroundStore``).
    """
    times = Stopwatch(stack.trainer.device)
    with times.part("publish"):
        weights = stack.trainer.weights()
        stack.store.publish_soon(weights, keep_last=stack.config.schedule.max_policy_lag_steps + 2)
    publish_ms = times.total_ms("publish")
    telemetry.emit(
        "adapter_publish", version=weights.version.number, publish_ms=publish_ms, num_bytes=weights.num_bytes
    )
    return publish_ms

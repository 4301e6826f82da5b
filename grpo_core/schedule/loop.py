"""rollout -> score -> train -> publish: one thread plays, this one trains, a bounded buffer between them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.autograd.profiler import record_function

from grpo_core.config import GrpoConfig
from grpo_core.errors import ConfigError
from grpo_core.rollout.episode import EpisodeFailure
from grpo_core.schedule.buffer import Lease, RolloutBuffer
from grpo_core.schedule.stack import Stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.training.checkpoint import load_checkpoint, restore_trainer, save_checkpoint
from grpo_core.types import Batch, RolloutStats, StepMetrics


@dataclass(frozen=True, slots=True)
class StepReport:
    """One finished step, as the schedule saw it."""

    metrics: StepMetrics
    rollout: RolloutStats
    policy_lag_steps: int
    buffer_depth: int  # finished batches that waited when the step took its own, itself included
    step_s: float  # training and publishing, without the wait for a batch
    publish_ms: float
    finished_at_s: float  # on the monotonic clock


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. ``interrupted`` when it was asked to stop before its last step."""

    reports: tuple[StepReport, ...]
    duration_s: float
    checkpoint: Path | None
    interrupted: bool
    num_stale_dropped: int


OnStep = Callable[[StepReport], None]


def train(
    stack: Stack,
    telemetry: Telemetry,
    *,
    resume: bool = False,
    save_checkpoints: bool = True,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Run ``schedule.num_steps`` steps in all; with ``resume``, those that are left.

    Ctrl-C ends the run after the step under way, with a checkpoint. A second one ends it at once.

    Raises:
        ConfigError: the run has a checkpoint already and ``resume`` is off.
        CheckpointError, AdapterError: there is nothing to resume, or it does not fit.
    """
    config = stack.config
    _prepare(stack, resume)
    first_step = stack.trainer.version
    start = time.perf_counter()
    telemetry.emit(
        "run_started",
        preset=config.model.name,
        environment=config.environment.name,
        num_steps=config.schedule.num_steps,
        max_policy_lag_steps=config.schedule.max_policy_lag_steps,
        configured_buffer_depth=config.schedule.buffer_depth,
    )
    reports: list[StepReport] = []
    checkpoint: Path | None = None
    with _open_buffer(stack, first_step, resume) as buffer, _own_threads(config):
        stopping = threading.Event()
        with _stop_on_interrupt(stopping, buffer), _rollouts(stack, buffer, telemetry):
            while not stopping.is_set() and (lease := buffer.take()) is not None:
                report = _train_step(stack, lease, telemetry)
                buffer.acknowledge(lease)
                reports.append(report)
                if on_step is not None:
                    on_step(report)
                if save_checkpoints and stack.trainer.version % config.schedule.checkpoint_every_steps == 0:
                    checkpoint = _save(stack)
            if save_checkpoints and stack.trainer.version > first_step:
                checkpoint = _save(stack)
    duration_s = time.perf_counter() - start
    telemetry.emit("run_finished", num_steps=len(reports), duration_s=duration_s)
    interrupted = stack.trainer.version < config.schedule.num_steps
    return TrainResult(tuple(reports), duration_s, checkpoint, interrupted, buffer.num_stale_dropped)


def _prepare(stack: Stack, resume: bool) -> None:
    """Bring trainer and adapter store to the same version: the checkpoint's, or the base model."""
    if resume:
        restore_trainer(stack.trainer, load_checkpoint(stack.checkpoint_folder))
        stack.store.discard_after(stack.config.run, stack.trainer.version - 1)
        stack.store.publish(stack.trainer.adapter())
    elif any(stack.checkpoint_folder.glob("step-*")):
        raise ConfigError(
            f"run {stack.config.run!r} has checkpoints in {stack.checkpoint_folder}; continue it with --resume, "
            "or give --run another name"
        )
    else:
        stack.store.discard_after(stack.config.run, -1)


def _open_buffer(stack: Stack, first_step: int, resume: bool) -> RolloutBuffer:
    schedule = stack.config.schedule
    depth, lag, num_steps = schedule.buffer_depth, schedule.max_policy_lag_steps, schedule.num_steps
    if resume:
        return RolloutBuffer.recover(stack.buffer_folder, depth, lag, num_steps, first_step)
    return RolloutBuffer(stack.buffer_folder, depth, lag, num_steps)


@contextmanager
def _rollouts(stack: Stack, buffer: RolloutBuffer, telemetry: Telemetry) -> Iterator[None]:
    """The rollout thread, for the length of the ``with`` block. Whatever ends the block, the thread ends with it."""
    producer = threading.Thread(target=_produce, args=(stack, buffer, telemetry), name="rollout", daemon=True)
    producer.start()
    is_urgent = False
    try:
        yield
    except KeyboardInterrupt:  # the second one: nobody waits for the batch that is being collected
        is_urgent = True
        raise
    finally:
        buffer.close()
        if not is_urgent:
            producer.join()


def _produce(stack: Stack, buffer: RolloutBuffer, telemetry: Telemetry) -> None:
    """The rollout thread: collect every batch that the buffer grants."""
    try:
        torch.set_num_threads(_num_threads(stack.config))
        while (grant := buffer.wait_for_slot()) is not None:
            swap = stack.engine.use_version(buffer.trainer_version)
            telemetry.emit(
                "adapter_load",
                version=swap.policy_version,
                cache_hit=swap.cache_hit,
                load_ms=swap.load_ms,
                swap_ms=swap.swap_ms,
            )
            try:
                with record_function("rollout"):
                    batch = stack.collector.collect(grant.index)
            finally:
                emit_failures(stack.collector.failures, telemetry)
            buffer.put(batch)
            emit_rollout(batch, buffer.depth, telemetry)
    except BaseException as error:  # whatever it is, it must reach the trainer, which waits for this thread
        buffer.close(error)


def emit_failures(failures: Sequence[EpisodeFailure], telemetry: Telemetry) -> None:
    """An ``episode_failed`` event for each attempt that was given up."""
    for failure in failures:
        telemetry.emit(
            "episode_failed",
            batch_index=failure.batch_index,
            environment=failure.environment,
            environment_seed=str(failure.environment_seed),
            group_number=failure.group,
            sample_number=failure.sample,
            attempt=failure.attempt,
            error=failure.error,
        )


def emit_rollout(batch: Batch, depth: int, telemetry: Telemetry) -> None:
    """The ``rollout`` event of ``batch``; ``depth`` batches waited when it was done."""
    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    telemetry.emit(
        "rollout",
        batch_index=batch.index,
        policy_version=batch.policy_version,
        tokens_per_second=batch.stats.tokens_per_second,
        reward_mean=sum(rewards) / max(len(rewards), 1),
        buffer_depth=depth,
        **asdict(batch.stats),
    )


def _train_step(stack: Stack, lease: Lease, telemetry: Telemetry) -> StepReport:
    start = time.perf_counter()
    metrics = stack.trainer.step(lease.batch)
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
    telemetry.emit(
        "train_step",
        policy_version=lease.batch.policy_version,
        policy_lag_steps=lease.policy_lag_steps,
        max_policy_lag_steps=stack.config.schedule.max_policy_lag_steps,
        buffer_depth=lease.depth_before,
        configured_buffer_depth=stack.config.schedule.buffer_depth,
        step_s=report.step_s,
        publish_ms=publish_ms,
        **asdict(metrics),
    )
    return report


def publish(stack: Stack, telemetry: Telemetry) -> float:
    """Store the trainer's adapter as its version, forget the ones too old to be sampled from; milliseconds."""
    start = time.perf_counter()
    adapter = stack.trainer.adapter()
    with record_function("publish"):
        stack.store.publish(adapter)
        stack.store.prune(stack.config.run, keep_last=stack.config.schedule.max_policy_lag_steps + 2)
    publish_ms = (time.perf_counter() - start) * 1e3
    telemetry.emit(
        "adapter_publish", version=adapter.version.number, publish_ms=publish_ms, num_bytes=adapter.num_bytes
    )
    return publish_ms


def _save(stack: Stack) -> Path:
    return save_checkpoint(stack.checkpoint_folder, stack.trainer, stack.config.model_dump(mode="json"))


@contextmanager
def _own_threads(config: GrpoConfig) -> Iterator[None]:
    """Give the calling thread its share of the cores, so that rollouts and training do not take each other's."""
    before = torch.get_num_threads()
    torch.set_num_threads(_num_threads(config))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _num_threads(config: GrpoConfig) -> int:
    """Of the rollouts and of the training, each."""
    if config.schedule.torch_threads is not None:
        return config.schedule.torch_threads
    sharing = 2 if config.schedule.max_policy_lag_steps > 0 else 1
    return max(1, (os.cpu_count() or 1) // sharing)


@contextmanager
def _stop_on_interrupt(stopping: threading.Event, buffer: RolloutBuffer) -> Iterator[None]:
    """The first Ctrl-C asks the loop to stop; the second one is the ordinary KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)

    def stop(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, previous)
        stopping.set()
        buffer.close()

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)

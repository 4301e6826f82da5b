"""The rollout thread: it collects every batch that the buffer grants, and emits its events."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from statistics import fmean, pstdev

import torch
from torch.autograd.profiler import record_function

from grpo_core.ledger import spans
from grpo_core.ledger.recorder import recording
from grpo_core.rollout.play.episode import EpisodeFailure
from grpo_core.schedule.accounting.events import emit_accounts, process_name
from grpo_core.schedule.accounting.figures import Figures
from grpo_core.schedule.buffer.buffer import RolloutBuffer
from grpo_core.schedule.cores import num_torch_threads
from grpo_core.schedule.evaluations import Evaluations
from grpo_core.schedule.stack import LocalStack, Stack
from grpo_core.telemetry.events import Telemetry
from grpo_core.training.metrics import peak_memory_bytes
from grpo_core.types import Batch, RolloutStats


@contextmanager
def rollout_thread(
    stack: Stack,
    buffer: RolloutBuffer,
    telemetry: Telemetry,
    figures: Figures,
    evaluations: Evaluations | None = None,
) -> Iterator[None]:
    """Run the rollout thread inside the block. It ends with the block, whatever ends that."""
    arguments = (stack, buffer, telemetry, figures, evaluations)
    producer = threading.Thread(target=_produce, args=arguments, name="rollout", daemon=True)
    producer.start()
    is_urgent = False
    try:
        yield
    except KeyboardInterrupt:  # the second Ctrl-C: do not wait for the batch under way
        is_urgent = True
        raise
    finally:
        buffer.close()
        if not is_urgent:
            with spans.WAIT_END:
                producer.join()


def _produce(
    stack: Stack, buffer: RolloutBuffer, telemetry: Telemetry, figures: Figures, evaluations: Evaluations | None
) -> None:
    """Collect every batch that the buffer grants."""
    step = buffer.trainer_version
    with recording(process_name(stack.trainer.ranks.rank), "rollout") as recorder:
        try:
            torch.set_num_threads(num_torch_threads(stack.config, stack.trainer.ranks.size))
            while (index := buffer.wait_for_slot()) is not None:
                if evaluations is not None:
                    with spans.EVALUATE:
                        evaluations.run_due(buffer.trainer_version)
                stats = _collect(stack, buffer, index, telemetry, figures)
                step = index + 1
                accounts = recorder.cut()
                figures.played(accounts[0], stats)
                with spans.TELEMETRY:
                    emit_accounts(accounts, step, telemetry)
        except BaseException as error:  # whatever it is, the trainer waits for this thread and must get it
            buffer.close(error)
        emit_accounts(recorder.cut(), step, telemetry)


def _collect(stack: Stack, buffer: RolloutBuffer, index: int, telemetry: Telemetry, figures: Figures) -> RolloutStats:
    """Collect batch ``index``, which was granted."""
    swap = stack.collector.use_version(buffer.trainer_version)
    figures.in_use(swap.policy_version)
    num_read_bytes = _num_read_bytes(stack)
    telemetry.emit(
        "adapter_load",
        version=swap.policy_version,
        cache_hit=swap.cache_hit,
        load_ms=swap.load_ms,
        swap_ms=swap.swap_ms,
    )
    try:
        with record_function("rollout"):
            batch = stack.collector.collect(index)
    finally:
        with spans.TELEMETRY:
            emit_failures(stack.collector.failures, telemetry)
    stats = replace(
        batch.stats,
        num_read_bytes=_num_read_bytes(stack) - num_read_bytes,
        peak_memory_bytes=peak_memory_bytes(stack.trainer.device),
    )
    batch = replace(batch, stats=stats)
    buffer.put(batch)
    with spans.TELEMETRY:
        emit_rollout(batch, buffer.depth, telemetry)
    return stats


def _num_read_bytes(stack: Stack) -> int:
    """Bytes of weights read from disk so far; 0 where other machines read them."""
    return stack.adapters.num_read_bytes if isinstance(stack, LocalStack) else 0


def emit_failures(failures: Sequence[EpisodeFailure], telemetry: Telemetry) -> None:
    """An ``episode_failed`` event for each attempt that was given up."""
    for failure in failures:
        telemetry.emit(
            "episode_failed",
            batch_index=failure.batch_index,
            environment=failure.environment,
            environment_seed=str(failure.environment_seed),
            group_number=failure.group,
            refill_number=failure.refill,
            sample_number=failure.sample,
            attempt=failure.attempt,
            error=failure.error,
        )


def emit_rollout(batch: Batch, depth: int, telemetry: Telemetry) -> None:
    """The ``rollout`` event of ``batch``. With it, ``depth`` finished batches wait."""
    rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
    telemetry.emit(
        "rollout",
        batch_index=batch.index,
        policy_version=batch.policy_version,
        tokens_per_second=batch.stats.tokens_per_second,
        reward_mean=sum(rewards) / max(len(rewards), 1),
        buffer_depth=depth,
        **{name: value for name, value in asdict(batch.stats).items() if name != "reward_functions"},
    )
    emit_rewards(batch, telemetry)


def emit_rewards(batch: Batch, telemetry: Telemetry) -> None:
    """A ``reward`` event for each reward function of ``batch``."""
    trajectories = [trajectory for group in batch.groups for trajectory in group.trajectories]
    for function in batch.stats.reward_functions:
        scores = [score for each in trajectories if (score := each.scores.get(function.name)) is not None]
        telemetry.emit(
            "reward",
            batch_index=batch.index,
            function=function.name,
            score_mean=fmean(scores) if scores else None,
            score_std=pstdev(scores) if scores else None,
            num_scored=len(scores),
            num_failed=function.num_failed,
            reward_s=function.duration_s,
        )

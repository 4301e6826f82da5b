"""Training on machines that share a volume: in this process, on several GPUs, or with remote rollout workers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grpo_core.cloud.shared_store import SharedAdapterStore
from grpo_core.config import GrpoConfig
from grpo_core.config.arguments import train_arguments
from grpo_core.errors import EngineError
from grpo_core.home import Home
from grpo_core.schedule.step_line import learning_rate_line, step_line

if TYPE_CHECKING:
    from grpo_core.cloud.fleet import RolloutFleet
    from grpo_core.lora.store import AdapterStore
    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import Stack


def has_checkpoint(config: GrpoConfig, home: Home) -> bool:
    return any((home.checkpoints / config.run).glob("step-*"))


def train_run(
    config: GrpoConfig, home: Home, *, commit: Callable[[], None], resume: bool, fleet: RolloutFleet | None = None
) -> dict[str, Any]:
    """Train in this process and print a line per step. Returns the results of the run.

    Every published adapter, and every earlier checkpoint, is committed before any engine is asked to sample from it.
    ``fleet`` collects the batches instead of this process.

    Raises:
        GrpoError: as ``schedule.loop.train``.
        KeyboardInterrupt, SystemExit: a signal ended it; the steps that were done are saved and committed.
    """
    from grpo_core.schedule.interrupt import interruption
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry.gpu import GpuSampler
    from grpo_core.telemetry.sinks import open_telemetry

    rewards: list[float] = []
    lags: list[int] = []

    def on_step(report: StepReport) -> None:
        rewards.append(report.rollout.sampled_reward_mean)
        lags.append(report.policy_lag_steps)
        _print_step(report)

    try:
        with (
            _open_stack(config, home, SharedAdapterStore(home.adapters, commit), fleet) as stack,
            open_telemetry(stack.config_in_use, home) as telemetry,
            GpuSampler(telemetry, config.telemetry.gpu_stats_interval_s),
        ):
            if line := learning_rate_line(stack):
                print(line, flush=True)
            result = train(
                stack,
                telemetry,
                resume=resume,
                on_step=on_step,
                on_checkpoint=lambda _: commit(),
                on_evaluation=lambda found: print(found, flush=True),
                keep_reports=False,
            )
    finally:
        commit()
    if result.interrupted:
        assert result.stop_signal is not None
        raise interruption(result.stop_signal)  # no result: Modal starts a preempted call again, and it resumes
    return {
        "run": config.run,
        "num_steps": result.num_steps,
        "reward_means": rewards,
        "policy_lag_steps": lags,
        "duration_s": result.duration_s,
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
        "events": str(home.events / f"{config.run}.jsonl"),
    }


@contextmanager
def _open_stack(config: GrpoConfig, home: Home, store: AdapterStore, fleet: RolloutFleet | None) -> Iterator[Stack]:
    """A run's stack that publishes to ``store``. With a ``fleet`` it has no engine of its own."""
    from grpo_core.model.tokenizer import load_tokenizer
    from grpo_core.schedule.stack import Stack, build_stack, build_trainer
    from grpo_core.training.distributed.ranks import SingleProcess

    if fleet is not None:
        tokenizer = load_tokenizer(config.model.name, add_bos=config.model.add_bos)
        yield Stack(config, home, store, fleet, build_trainer(config, SingleProcess()), tokenizer)
        return
    with build_stack(config, home) as stack:
        yield replace(stack, store=store)


def train_with_torchrun(
    config: GrpoConfig,
    home: Home,
    num_gpus: int,
    *,
    commit: Callable[[], None],
    resume: bool,
    commit_every_s: float = 30,
) -> dict[str, Any]:
    """Train with one process per GPU, and commit every ``commit_every_s``. Returns where the events are.

    Raises:
        EngineError: the processes failed; what they wrote is committed.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_gpus}"]
    # Without "--", torchrun would take --run for an abbreviation of one of its own flags.
    command = [*launcher, "-m", "grpo_core.cli", "--", *train_arguments(config, resume=resume)]
    process = subprocess.Popen(command)
    try:
        while process.poll() is None:
            try:
                process.wait(commit_every_s)
            except subprocess.TimeoutExpired:
                commit()
    finally:
        process.terminate()
        process.wait()
        commit()
    if process.returncode:
        raise EngineError(
            f"run {config.run!r}: torchrun ended with exit code {process.returncode}; its output says why"
        )
    return {"run": config.run, "num_gpus": num_gpus, "events": str(home.events / f"{config.run}.jsonl")}


def _print_step(report: StepReport) -> None:
    print(step_line(report), flush=True)

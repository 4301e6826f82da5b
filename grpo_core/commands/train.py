"""``grpo train``: the whole loop, with a progress bar, or in a log file a line per step."""

from __future__ import annotations

import argparse
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console

from grpo_core.commands.command_line.on_modal import add_modal_flag, check_for_modal, running_app, sources_for
from grpo_core.commands.command_line.options import Given, add_config_flags, full_config, given_settings
from grpo_core.commands.command_line.output import lasting
from grpo_core.commands.command_line.steps import MIN_CHART_STEPS, print_result, show_steps
from grpo_core.config import EvaluationConfig, GrpoConfig
from grpo_core.errors import ConfigError, InvalidNameError
from grpo_core.home import Home, check_writable
from grpo_core.schedule.launch import launch_training, stop_with_launcher
from grpo_core.schedule.runs.lock import check_free
from grpo_core.schedule.runs.resumption import Change, find_resumption
from grpo_core.schedule.step_line import figures_line, learning_rate_line

if TYPE_CHECKING:
    from grpo_core.schedule.reports import StepReport, TrainResult
    from grpo_core.schedule.stack import LocalStack, Stack

MAX_PROCESSES = 256
"""On one machine. More is a slip, which would start them all."""

TRAIN_DEFAULTS: Mapping[str, Any] = {"environment.name": "arithmetic", "schedule.num_steps": 60}

FIRST_RUN: Mapping[str, Any] = {
    "model.name": "adder",
    "environment.name": "arithmetic",
    "environment.max_operand": 14,
    "environment.questions": "training",
    "rollout.engine": "torch",
    "rollout.max_completion_tokens": 8,
    "training.learning_rate": 3e-3,
    "training.learning_rate_schedule": "linear",
    "training.kl_coefficient": 0.0,
    "schedule.num_steps": 120,
}
"""Of a run for which neither a model nor an environment nor an engine is given: one that learns soon."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_flags(parser, TRAIN_DEFAULTS)
    parser.add_argument(
        "--run", metavar="NAME", help="names the run's files (default: environment, time and six digits of its own)"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="train in N processes on this machine, one per GPU"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run NAME from its checkpoint")
    add_modal_flag(parser)
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="with --modal: containers that play the episodes"
    )


def run(flags: argparse.Namespace, console: Console) -> int:
    """Train. 0 when all steps are done, 130 when Ctrl-C ended it with a checkpoint, 143 when SIGTERM did."""
    console.file = lasting(console.file)
    given = given_settings(flags)
    name = flags.run if flags.run is not None else given.values.get("run")
    _check_flags(flags, name)
    if flags.modal:
        return _train_on_modal(flags, given, name)
    home = Home.from_environment()
    changes: tuple[Change, ...] = ()
    if flags.resume:
        resumption = find_resumption(home, str(name), given.values, given.typed)
        config, changes = resumption.config, resumption.changes
        if resumption.is_finished:
            if _is_first_process():
                console.print(f"run {name!r} has done its {resumption.step} steps; more with --steps N", soft_wrap=True)
            return 0
    else:
        config = _new_config(given, name)
    if _is_first_process():
        check_writable(home.data)  # one that cannot be written is said before torch is imported
        check_free(home, config.run)

    from grpo_core.rollout.engines import check_engine

    check_engine(config)
    if flags.processes > 1:
        launch_training(config, flags.processes, resume=flags.resume)
        return 0

    return _train_here(config, home, console, changes, resume=flags.resume)


def _check_flags(flags: argparse.Namespace, name: Any) -> None:
    """Raises ConfigError for flags that do not go together, InvalidNameError for a name that no command could give."""
    if flags.resume and name is None:
        raise ConfigError("--resume: which run? add --run NAME")
    if not flags.resume and str(name).startswith("-"):
        raise InvalidNameError(f"run {name!r} begins as an option does; choose a name like 'my-run'")
    if flags.modal:
        return
    if flags.workers:
        raise ConfigError("--workers needs --modal, whose containers they are; add it, or leave --workers out")
    if not 1 <= flags.processes <= MAX_PROCESSES:
        raise ConfigError(f"--processes {flags.processes}: give 1 to {MAX_PROCESSES}, at most one per GPU")


def _train_here(config: GrpoConfig, home: Home, console: Console, changes: Sequence[Change], *, resume: bool) -> int:
    """Train in this process, alone or as one of several. Returns the exit code."""
    from grpo_core.schedule.followers import follow
    from grpo_core.schedule.stack import build_stack, build_trainer
    from grpo_core.training.distributed.ranks import open_ranks

    stop_with_launcher()
    with open_ranks() as ranks:
        if ranks.rank > 0:
            follow(build_trainer(config, ranks), config)
            return 0
        if changes:
            console.print(f"changed since the checkpoint: {', '.join(map(str, changes))}", soft_wrap=True)
        with console.status(f"loading {config.model.name}"):
            stack = build_stack(config, home, ranks)
        if line := learning_rate_line(stack):
            console.print(line, soft_wrap=True)
        with stack:
            before = None if resume else _held_out_answers(stack)
            result = _train(stack, console, resume=resume)
            after = None if result.interrupted else _held_out_answers(stack)
            if after is not None:
                was = "" if before is None else f"; before training {before}"
                console.print(f"held-out questions, greedy answers: {after} right{was}", soft_wrap=True)
        if result.interrupted:
            console.print(f"stopped early; continue with: {_resuming(config.run, ranks.size)}", soft_wrap=True)
            assert result.stop_signal is not None
            return 128 + result.stop_signal
    return 0


def _train_on_modal(flags: argparse.Namespace, given: Given, name: Any) -> int:
    """In a container, which has the checkpoint: with ``--resume`` it gets only what was given here."""
    if flags.processes != 1:
        raise ConfigError("--processes is not for --modal; set the number of GPUs with GRPO_MODAL_GPU=H100:4")
    if flags.resume:
        check_for_modal(None, flags.workers)
        settings = json.dumps({**given.values, "run": name}, default=str)
        engine = given.values.get("rollout", {}).get("engine", "auto")
    else:
        config = _new_config(given, name)
        check_for_modal(config, flags.workers)
        settings = config.model_dump_json()
        engine = config.rollout.engine if "engine" in config.rollout.model_fields_set else "auto"
    environment = str(given.values.get("environment", {}).get("name", ""))
    with running_app() as app:
        sources = sources_for(app, environment)
        app.train_grpo.remote(
            settings=settings, resume=flags.resume, workers=flags.workers, engine=engine, sources=sources
        )
    return 0


def _new_config(given: Given, name: Any) -> GrpoConfig:
    """The configuration of a run that starts, under a name of its own where ``name`` is None."""
    chosen = (("model", "name"), ("environment", "name"), ("environment", "data"), ("rollout", "engine"))
    is_first = not any(key in given.values.get(section, {}) for section, key in chosen)
    config = full_config(given, FIRST_RUN if is_first else TRAIN_DEFAULTS, "run" if name is None else name)
    return config if name is not None else config.model_copy(update={"run": _new_name(config.environment.name)})


def _is_first_process() -> bool:
    """Whether this is the one of several processes that speaks for all; ``torchrun`` numbers them."""
    return os.environ.get("RANK", "0") == "0"


def _resuming(run: str, num_processes: int) -> str:
    """The command that goes on with ``run``. All else is in its checkpoint."""
    return f"grpo train --run {run} --resume" + (f" --processes {num_processes}" if num_processes > 1 else "")


def _new_name(environment: str) -> str:
    """A run's name that no other run has: two may start in one second."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", environment).strip("-") or "run"
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"


def _train(stack: Stack, console: Console, *, resume: bool) -> TrainResult:
    from grpo_core.schedule.interrupt import stop_on_signals
    from grpo_core.schedule.loop import train
    from grpo_core.telemetry import open_telemetry
    from grpo_core.telemetry.gpu import GpuSampler

    config = stack.config
    rewards: list[float] = []
    with (
        stop_on_signals(config.schedule.stop_grace_s) as stop,  # outermost: telemetry ends within the grace time, too
        open_telemetry(stack.config_in_use, stack.home) as telemetry,
        GpuSampler(telemetry, config.telemetry.gpu_stats_interval_s) as sampler,
    ):
        if sampler.note:
            console.print(sampler.note)
        with show_steps(console, config) as show:

            def on_step(report: StepReport) -> None:
                rewards.append(report.rollout.sampled_reward_mean)
                show(report)

            result = train(
                stack,
                telemetry,
                resume=resume,
                on_step=on_step,
                on_evaluation=lambda found: console.print(str(found), markup=False, soft_wrap=True),
                stop=stop,
                keep_reports=False,
            )
    print_result(console, rewards, stack.trainer.version - len(rewards) + 1, result)
    if line := figures_line(result.figures):
        console.print(line, soft_wrap=True)
    console.print(f"checkpoint: {result.checkpoint}", soft_wrap=True)
    console.print(f"events: {stack.home.events / f'{config.run}.jsonl'}", soft_wrap=True)
    return result


def _held_out_answers(stack: LocalStack) -> str | None:
    """How many of how many are right. None where no questions are held out, or the run is too short."""
    from grpo_core.evaluation.evaluator import Evaluator

    config = stack.config
    is_quick = config.rollout.engine == "torch"  # the plain one takes questions one at a time, vLLM starts slowly
    holds_out = (config.environment.name, config.environment.questions) == ("arithmetic", "training")
    if not holds_out or config.schedule.num_steps < MIN_CHART_STEPS or not is_quick:
        return None
    greedy_only = config.model_copy(update={"evaluation": EvaluationConfig(num_samples=1)})
    found = Evaluator(greedy_only, stack.engine, stack.tokenizer).evaluate(stack.trainer.version)
    return f"{round(found.greedy_passed.value * found.num_questions)} of {found.num_questions}"

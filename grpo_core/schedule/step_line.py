"""A run's lines in a log: one at its start, one per finished step, one at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.schedule.reports import StepReport
    from grpo_core.schedule.stack import Stack


def learning_rate_line(stack: Stack) -> str | None:
    """Which learning rate the run has, if nobody set it, or if it is not the same in every step."""
    training, trainer = stack.config.training, stack.trainer
    notes = []
    if training.learning_rate is None:
        notes.append(f"the default for a hidden size of {trainer.hidden_size}")
    if training.warmup_steps:
        notes.append(f"reached in step {training.warmup_steps}")
    if training.learning_rate_schedule != "constant":
        notes.append(f"{training.learning_rate_schedule} to step {stack.config.schedule.num_steps}")
    return f"learning rate {trainer.learning_rate:.2g} ({'; '.join(notes)})" if notes else None


def figures_line(figures: Mapping[str, float | None]) -> str | None:
    """How fast the run was at its end, and how idle its two sides were; None before its second step."""
    steps_per_hour, trainer, sampler = (
        figures.get(name) for name in ("steps_per_hour", "trainer_idle_share", "sampler_idle_share")
    )
    if steps_per_hour is None or trainer is None or sampler is None:
        return None
    return f"{steps_per_hour:,.0f} steps per hour; idle in the last step: trainer {trainer:.0%}, rollouts {sampler:.0%}"


def step_line(report: StepReport) -> str:
    return (
        f"step {report.metrics.step}: reward {report.rollout.sampled_reward_mean:.3f}, {report.step_s:.2f} s, "
        f"{report.rollout.tokens_per_second:.0f} tokens/s, policy lag {report.policy_lag_steps}, "
        f"learning rate {report.metrics.learning_rate:.2g}"
    )

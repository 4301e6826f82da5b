"""A run's lines in a log: one at its start, one per finished step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.schedule.loop import StepReport
    from grpo_core.schedule.stack import Stack


def learning_rate_line(stack: Stack) -> str | None:
    """Which learning rate the run has, if nobody set it."""
    if stack.config.training.learning_rate is not None:
        return None
    trainer = stack.trainer
    return f"learning rate {trainer.learning_rate:.2g} (the default for a hidden size of {trainer.hidden_size})"


def step_line(report: StepReport) -> str:
    return (
        f"step {report.metrics.step}: reward {report.rollout.sampled_reward_mean:.3f}, {report.step_s:.2f} s, "
        f"{report.rollout.tokens_per_second:.0f} tokens/s, policy lag {report.policy_lag_steps}"
    )

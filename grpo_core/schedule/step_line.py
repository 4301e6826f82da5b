"""One finished step as a line of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grpo_core.schedule.loop import StepReport


def step_line(report: StepReport) -> str:
    return (
        f"step {report.metrics.step}: reward {report.rollout.sampled_reward_mean:.3f}, {report.step_s:.2f} s, "
        f"{report.rollout.tokens_per_second:.0f} tokens/s, policy lag {report.policy_lag_steps}"
    )

"""What a system tells of one step of its training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pytest_grpo.systems.figures import check_figures

Fields = Mapping[str, int | float]


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One whole step of ``GrpoSystem.run``: sampling a batch, training on it, publishing the new weights.

    Sampling may overlap with the steps before. Times are seconds of the wall clock, with the device synchronized.
    """

    step: int
    """Counts the system's steps: each record has the next number."""
    reward_mean: float
    """Over all completions of the batch."""
    loss: float
    grad_norm: float
    """Before clipping."""
    policy_lag_steps: int
    """Updates between the weights that sampled the batch, its oldest completion, and those that the step began with."""
    buffer_depth: int
    """Finished batches that waited when the step took its own, itself included: 1 where sampling and training take
    turns."""
    trainer_wait_s: float
    """The trainer waited for the batch."""
    sampler_wait_s: float
    """The sampler waited before the batch, for leave to begin it."""
    rollout_s: float
    """Sampling the batch, its rewards included."""
    train_s: float
    """Forward, backward and the update."""
    publish_s: float
    """From the update until a sampler can have the new weights."""
    finished_at_s: float
    """When they were published, on the clock ``time.perf_counter``."""
    num_prompt_tokens: int
    """Of the prompts of all completions: one that several share counts for each of them."""
    num_completion_tokens: int
    num_loss_tokens: int
    """Tokens that the policy chose: those with a loss."""

    def __post_init__(self) -> None:
        check_figures(self)

    def events(self) -> dict[str, Fields]:
        """The step's events, by kind, with the fields that the panels show. ``EventFile`` writes them."""
        rate = self.num_completion_tokens / self.rollout_s if self.rollout_s > 0 else 0.0
        return {
            "rollout": {
                "batch_index": self.step - 1,
                "reward_mean": self.reward_mean,
                "duration_s": self.rollout_s,
                "tokens_per_second": rate,
                "num_prompt_tokens": self.num_prompt_tokens,
                "num_completion_tokens": self.num_completion_tokens,
            },
            "train_step": {
                "step": self.step,
                "reward_mean": self.reward_mean,
                "loss": self.loss,
                "grad_norm": self.grad_norm,
                "policy_lag_steps": self.policy_lag_steps,
                "buffer_depth": self.buffer_depth,
                "num_loss_tokens": self.num_loss_tokens,
                "step_s": self.train_s + self.publish_s,
                "publish_ms": self.publish_s * 1e3,
            },
        }

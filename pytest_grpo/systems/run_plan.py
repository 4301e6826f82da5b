"""What a run of whole training steps is to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_grpo.systems.unsupported import UnsupportedError

Reward = Callable[[str, Sequence[str]], float]
"""What the answers to a prompt earned: one answer per turn. Called once per episode, by any thread."""
Reply = Callable[[str, Sequence[str]], str | None]
"""What follows the answers so far to a prompt, before the next one; None ends the episode."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The task and the schedule of ``GrpoSystem.run``.

    A batch has ``group_size`` completions of each prompt, so ``len(prompts) * group_size`` episodes. The texts are
    those that the policy reads and writes, without special tokens.
    """

    prompts: tuple[str, ...]
    reward: Reward
    group_size: int = 4
    max_tokens: int = 16
    """Of one answer, its stop token included."""
    max_policy_lag_steps: int = 0
    """The most updates that a batch's weights may be behind the trainer's. 0: sampling and training take turns."""
    buffer_depth: int = 1
    """Finished batches that should wait for the trainer."""
    learning_rate: float = 0.0
    seed: int = 0
    """Of the sampling. The same seed, weights and step give the same batch where the system can do so."""
    reply: Reply | None = None
    """For several turns: the next prompt is all that was said so far. None: one answer ends an episode."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("group_size", self.group_size, 1),
            ("max_tokens", self.max_tokens, 1),
            ("max_policy_lag_steps", self.max_policy_lag_steps, 0),
            ("buffer_depth", self.buffer_depth, 1),
        ):
            if value < least:
                raise ValueError(f"{name} {value}: allowed are whole numbers from {least} on")
        if not self.prompts:
            raise ValueError("prompts: there are none; give one at least")

    @property
    def num_episodes(self) -> int:
        """The episodes of one batch."""
        return len(self.prompts) * self.group_size

    def in_turns(self, system: str) -> None:
        """For a system that samples and trains in turns, with one answer per episode: refuse all other plans.

        Raises:
            UnsupportedError: the plan asks for more.
        """
        if self.max_policy_lag_steps > 0 or self.buffer_depth > 1:
            raise UnsupportedError(
                f"system {system}: samples and trains in turns; give max_policy_lag_steps 0 and buffer_depth 1"
            )
        if self.reply is not None:
            raise UnsupportedError(f"system {system}: an episode has one answer; leave out reply")

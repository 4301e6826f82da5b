"""What became of every token that was sampled for a step."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from grpo_core.types import RolloutStats, StepMetrics


@dataclass(frozen=True, slots=True)
class TokenLedger:
    """Completion tokens of one step. The engine counts ``num_sampled_tokens``; the others are counted where a token
    ends, so that ``num_missing_tokens`` is 0 only where none is lost and none counted twice."""

    num_sampled_tokens: int
    num_trained_tokens: int  # with a loss that no mask took out
    num_forced_tokens: int
    num_masked_tokens: int
    num_dropped_tokens: int  # of groups without a gradient, failed attempts, openings, and steps that were skipped
    num_stale_tokens: int  # of batches over the lag budget
    num_replaced_tokens: int  # of starting states that others replaced
    num_preempted_tokens: int  # of requests that were ended before their completion

    @classmethod
    def of_step(cls, stats: RolloutStats, metrics: StepMetrics, num_stale_tokens: int = 0) -> TokenLedger:
        """The tokens of a batch with ``stats`` after the step with ``metrics``, and of stale batches before it."""
        trained = 0 if metrics.is_skipped else metrics.num_effective_tokens
        return cls(
            num_sampled_tokens=stats.num_sampled_tokens + num_stale_tokens,
            num_trained_tokens=trained,
            num_forced_tokens=metrics.num_forced_tokens,
            num_masked_tokens=metrics.num_loss_tokens
            - metrics.num_effective_tokens,  # means of several passes add up so
            num_dropped_tokens=metrics.num_dropped_tokens
            + stats.num_unused_tokens
            + metrics.num_effective_tokens
            - trained,
            num_stale_tokens=num_stale_tokens,
            num_replaced_tokens=stats.num_replaced_tokens,
            num_preempted_tokens=stats.num_preempted_tokens,
        )

    @property
    def num_missing_tokens(self) -> int:
        """Sampled tokens that are in no other field."""
        counts = asdict(self)
        return counts.pop("num_sampled_tokens") - sum(counts.values())

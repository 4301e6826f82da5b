"""Dynamic sampling (DAPO): the groups of a batch, and the ones that were replaced."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.rollout.protocol import EngineCounters
from grpo_core.types import Group, RewardFunctionStats, RolloutStats


class SampledGroups:
    """The groups of each starting state, one per agent, by its place in the batch.

    A starting state where all rewards of each group are equal has no gradient, and is replaced by a new one in the same
    place (Yu et al. 2025, DAPO, section 3.2). Where one group has a gradient, all its groups stay.
    """

    def __init__(self, starts: Mapping[int, tuple[Group, ...]]) -> None:
        self._starts = dict(starts)
        self._replaced: list[tuple[Group, ...]] = []
        self._refilled: set[int] = set()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of the batch, in the order of their starting states."""
        return tuple(group for groups in self._starts.values() for group in groups)

    @property
    def without_gradient(self) -> list[int]:
        """Places whose starting state has none."""
        return [place for place, groups in self._starts.items() if not any(group.has_spread for group in groups)]

    def replace(self, starts: Mapping[int, tuple[Group, ...]]) -> None:
        """Replace the starting states in the places of ``starts``; the old ones leave the batch."""
        self._replaced += [self._starts[place] for place in starts]
        self._starts.update(starts)
        self._refilled.update(starts)

    def stats(
        self,
        *,
        duration_s: float,
        used: EngineCounters,
        num_failed_episodes: int,
        num_unused_tokens: int,
        reward_functions: tuple[RewardFunctionStats, ...],
    ) -> RolloutStats:
        """Over everything that was sampled, replaced groups included. ``used`` is what the engine did for it."""
        played = [group for groups in (*self._starts.values(), *self._replaced) for group in groups]
        trajectories = [trajectory for group in played for trajectory in group.trajectories]
        turns = [turn for trajectory in trajectories for turn in trajectory.turns]
        without_gradient = self.without_gradient
        return RolloutStats(
            duration_s=duration_s,
            num_prompt_tokens=sum(len(turn.prompt_ids) for turn in turns),
            num_prefill_tokens=used.num_prefill_tokens,
            num_completion_tokens=sum(len(turn.completion_ids) for turn in turns),
            num_completions=len(turns),
            num_failed_episodes=num_failed_episodes,
            num_sampled_groups=len(self._starts) + len(self._replaced),
            num_replaced_groups=len(self._replaced),
            num_refilled_groups=len(self._refilled.difference(without_gradient)),
            num_zero_variance_groups=len(without_gradient),
            num_trajectories=len(trajectories),
            sampled_reward_mean=sum(trajectory.reward for trajectory in trajectories) / max(len(trajectories), 1),
            reward_functions=reward_functions,
            num_sampled_tokens=used.num_sampled_tokens,
            num_preempted_tokens=used.num_lost_tokens,
            num_unused_tokens=num_unused_tokens,
            num_cached_tokens=used.num_cached_tokens,
            num_decode_steps=used.num_decode_steps,
            num_decode_rows=used.num_decode_rows,
            num_preemptions=used.num_preemptions,
            kv_share_steps=used.kv_share_steps,
            num_replaced_tokens=sum(group.num_completion_tokens for groups in self._replaced for group in groups),
        )

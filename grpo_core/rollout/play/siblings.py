"""Episodes of one starting state become groups: the siblings of each agent, with what they earned."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from grpo_core.config import RolloutConfig
from grpo_core.rollout.play.episode import Episode
from grpo_core.rollout.play.overlong import overlong_penalty
from grpo_core.types import Group, Trajectory


def groups_of(episodes: Sequence[Episode], index: int, config: RolloutConfig) -> dict[tuple[int, str], Group]:
    """The trajectories of batch ``index`` so far: one group per starting state and agent, in this order."""
    members: dict[tuple[int, str], list[Trajectory]] = defaultdict(list)
    for episode in episodes:
        rewards = episode.rewards if episode.rewards is not None else episode.environment.rewards()
        place = f"{episode.group}.{episode.refill}" if episode.refill else f"{episode.group}"
        for agent, turns in episode.turns.items():
            penalty = overlong_penalty(
                episode.max_answer_tokens[agent],
                max_tokens=config.max_completion_tokens,
                buffer_tokens=config.overlong_buffer_tokens,
            )
            group_id = f"{index}-{place}-{agent}"
            trajectory = Trajectory(
                group_id, agent, tuple(turns), float(rewards[agent]), penalty, episode.scores, episode.row
            )
            members[episode.group, agent].append(trajectory)
    return {key: Group(siblings[0].group_id, tuple(siblings)) for key, siblings in sorted(members.items())}

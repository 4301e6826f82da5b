"""The rewards of episodes whose questions come from a data set: all of a batch at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from grpo_core.environments.dataset.environment import AGENT, DatasetEnvironment
from grpo_core.environments.dataset.reward_function import Answer
from grpo_core.environments.dataset.rewards import Rewards
from grpo_core.rollout.play.episode import Episode
from grpo_core.types import RewardFunctionStats


def reward_episodes(rewards: Rewards, episodes: Sequence[Episode]) -> tuple[RewardFunctionStats, ...]:
    """Set what each of ``episodes`` earned; they are over. Returns what the functions took.

    One that no function has an opinion on gets the mean of its siblings: it has no advantage and moves none of theirs.

    Raises:
        EnvironmentCodeError: as ``Rewards.score``.
    """
    found = rewards.score([_answer(episode) for episode in episodes])
    siblings: dict[int, list[float]] = defaultdict(list)
    for episode, scored in zip(episodes, found.answers, strict=True):
        if scored.reward is not None:
            siblings[episode.group].append(scored.reward)
    for episode, scored in zip(episodes, found.answers, strict=True):
        others = siblings[episode.group]
        mean = sum(others) / len(others) if others else 0.0
        episode.rewards = {AGENT: mean if scored.reward is None else scored.reward}
        episode.scores = scored.scores
    return found.functions


def _answer(episode: Episode) -> Answer:
    environment = episode.environment
    assert isinstance(environment, DatasetEnvironment)
    (turn,) = episode.turns[AGENT]
    episode.row = environment.row + 1
    return Answer(
        row=episode.row,
        prompt=environment.prompt,
        completion=environment.completion,
        completion_ids=turn.completion_ids.tolist(),
        columns=environment.columns,
    )

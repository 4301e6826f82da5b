"""Play environments with the policy: all agents of all episodes that wait for a move form one batch of requests."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from grpo_core.config import RolloutConfig
from grpo_core.environments.protocol import Environment, EnvironmentFactory
from grpo_core.environments.state_cache import StateCache
from grpo_core.errors import InvalidActionError
from grpo_core.model import Tokenizer
from grpo_core.rollout.constraint import Line, LineConstraint
from grpo_core.rollout.protocol import GenerationRequest, RolloutEngine, SamplingParams
from grpo_core.types import Batch, Completion, Group, Int32, Observation, RolloutStats, Trajectory

logger = logging.getLogger("grpo_core.rollout")

_OPENING, _EPISODE = 0, 1  # streams of random numbers that never meet


@dataclass
class Episode:
    """One environment being played, and what each agent has said in it."""

    environment: Environment
    group: int
    sample: int
    turns: dict[str, list[Completion]] = field(default_factory=lambda: defaultdict(list))
    num_rounds: int = 0
    failed: bool = False


class Collector:
    """Turns a batch index into a ``Batch``: the same index, seed and policy version give the same batch.

    With a state cache, starting states are those that the policy reached which first played them.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        tokenizer: Tokenizer,
        factory: EnvironmentFactory,
        config: RolloutConfig,
        *,
        model_fingerprint: str,
        state_cache: StateCache | None = None,
        want_ref_logprobs: bool = True,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._factory = factory
        self._config = config
        self._fingerprint = model_fingerprint
        self._state_cache = state_cache
        self._want_ref_logprobs = want_ref_logprobs
        self._line = lru_cache(maxsize=65536)(self._encode_line)
        self._constraint = lru_cache(maxsize=4096)(self._build_constraint)

    def collect(self, index: int) -> Batch:
        """Play ``num_groups`` starting states, ``group_size`` episodes each, to their end.

        Raises:
            PromptError: an observation does not fit the model's context.
        """
        start = time.perf_counter()
        before = self._engine.counters
        episodes = self.start(index)
        while self.play_round(episodes, index):
            pass
        groups = self.groups(episodes, index)
        turns = [turn for group in groups for trajectory in group.trajectories for turn in trajectory.turns]
        return Batch(
            index=index,
            policy_version=self._engine.policy_version,
            groups=groups,
            stats=RolloutStats(
                duration_s=time.perf_counter() - start,
                num_prompt_tokens=sum(len(turn.prompt_ids) for turn in turns),
                num_prefill_tokens=(self._engine.counters - before).num_prefill_tokens,
                num_completion_tokens=sum(len(turn.completion_ids) for turn in turns),
                num_completions=len(turns),
                num_failed_episodes=sum(episode.failed for episode in episodes),
            ),
        )

    def start(self, index: int) -> list[Episode]:
        """The episodes of batch ``index``. Siblings start from one state, after the opening when there is one."""
        episodes: list[Episode] = []
        for group in range(self._config.num_groups):
            first = self._factory()
            first.reset(_seed(self._config.seed, index, group))
            if first.in_opening:
                self._pass_opening(first, group)
            state = first.snapshot()
            episodes.append(Episode(first, group, 0))
            for sample in range(1, self._config.group_size):
                sibling = self._factory()
                sibling.restore(state)
                episodes.append(Episode(sibling, group, sample))
        return episodes

    def _pass_opening(self, environment: Environment, group: int) -> None:
        """Restore the state after the opening, or play there. Openings repeat from batch to batch, by group."""
        key = {
            "environment": self._factory.key,
            "model": self._fingerprint,
            "temperature": str(self._config.temperature),
            "top_p": str(self._config.top_p),
            "max_completion_tokens": self._config.max_completion_tokens,
            "seed": self._config.seed,
            "group": group,
        }
        cached = self._state_cache.get(key) if self._state_cache is not None else None
        if cached is not None:
            environment.restore(cached)
            return
        played = 0
        while environment.in_opening and not environment.done:
            observations = environment.observe()
            seeds = [_seed(self._config.seed, _OPENING, group, played, slot) for slot in range(len(observations))]
            completions = self._engine.generate(
                [
                    self._request(item, seed, wants_reference=False)
                    for item, seed in zip(observations, seeds, strict=True)
                ]
            )
            environment.step(self._actions(observations, completions))
            played += 1
        if self._state_cache is not None:
            self._state_cache.put(key, environment.snapshot())

    def play_round(self, episodes: Sequence[Episode], index: int) -> bool:
        """Let every agent that waits for a move make it, all in one request to the engine. False when none waits."""
        playing = [episode for episode in episodes if not episode.failed and not episode.environment.done]
        if not playing:
            return False
        asked = [(episode, episode.environment.observe()) for episode in playing]
        requests = [
            self._request(observation, self._turn_seed(index, episode, slot), self._want_ref_logprobs)
            for episode, observations in asked
            for slot, observation in enumerate(observations)
        ]
        completions = iter(self._engine.generate(requests))
        for episode, observations in asked:
            self._step(episode, observations, [next(completions) for _ in observations])
        return True

    def _step(self, episode: Episode, observations: Sequence[Observation], completions: list[Completion]) -> None:
        for observation, completion in zip(observations, completions, strict=True):
            episode.turns[observation.agent].append(completion)
        episode.num_rounds += 1
        try:
            episode.environment.step(self._actions(observations, completions))
        except InvalidActionError as error:
            # One broken episode costs its own trajectories, not the batch.
            logger.warning("episode %d of group %d dropped: %s", episode.sample, episode.group, error)
            episode.failed = True

    def _actions(self, observations: Sequence[Observation], completions: Sequence[Completion]) -> dict[str, str]:
        return {
            observation.agent: self._tokenizer.decode(completion.completion_ids)
            for observation, completion in zip(observations, completions, strict=True)
        }

    def groups(self, episodes: Sequence[Episode], index: int) -> tuple[Group, ...]:
        """What was played so far, siblings together. Failed episodes are left out."""
        members: dict[tuple[int, str], list[Trajectory]] = defaultdict(list)
        for episode in episodes:
            if episode.failed:
                continue
            rewards = episode.environment.rewards()
            for agent, turns in episode.turns.items():
                group_id = f"{index}-{episode.group}-{agent}"
                trajectory = Trajectory(group_id, agent, tuple(turns), float(rewards[agent]))
                members[episode.group, agent].append(trajectory)
        return tuple(Group(siblings[0].group_id, tuple(siblings)) for _, siblings in sorted(members.items()))

    def _turn_seed(self, index: int, episode: Episode, slot: int) -> int:
        return _seed(self._config.seed, _EPISODE, index, episode.group, episode.sample, episode.num_rounds, slot)

    def _request(self, observation: Observation, seed: int, wants_reference: bool) -> GenerationRequest:
        constraint = None
        if observation.choices is not None:
            constraint = self._constraint(observation.choices, observation.distinct_choices)
        return GenerationRequest(
            prompt_ids=self._tokenizer.encode(observation.prompt),
            sampling=SamplingParams(
                seed=seed,
                temperature=self._config.temperature,
                top_p=self._config.top_p,
                max_tokens=self._config.max_completion_tokens,
            ),
            constraint=constraint,
            want_ref_logprobs=wants_reference,
        )

    def _build_constraint(self, choices: tuple[tuple[str, ...], ...], distinct: bool) -> LineConstraint:
        return LineConstraint(tuple(tuple(self._line(line) for line in lines) for lines in choices), distinct)

    def _encode_line(self, text: str) -> Line:
        ids: Int32 = self._tokenizer.encode(text)
        return tuple(int(token) for token in ids)


def _seed(*parts: int) -> int:
    """A seed that depends on every part."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])

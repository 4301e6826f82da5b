"""Collects batches: all agents of all episodes that must act next form one batch of requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from grpo_core.config import RolloutConfig
from grpo_core.environments.dataset.source import DatasetFactory
from grpo_core.environments.protocol import Environment, EnvironmentFactory
from grpo_core.environments.state_cache import StateCache
from grpo_core.environments.user_code import users_code
from grpo_core.errors import (
    ConstraintError,
    EnvironmentCodeError,
    EpisodeError,
    GrpoError,
    InvalidActionError,
    PromptError,
)
from grpo_core.ledger import spans
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.play.dataset_rewards import reward_episodes
from grpo_core.rollout.play.environment_calls import failure_line, observe, read_rewards
from grpo_core.rollout.play.episode import MAX_ATTEMPTS, Episode, EpisodeFailure
from grpo_core.rollout.play.opening_states import OpeningStates
from grpo_core.rollout.play.requests import RequestBuilder
from grpo_core.rollout.play.round import Round
from grpo_core.rollout.play.seeds import environment_seed, turn_seed
from grpo_core.rollout.play.siblings import groups_of
from grpo_core.rollout.play.starting_states import SampledGroups
from grpo_core.rollout.protocol import AdapterSwap, RolloutEngine
from grpo_core.types import Batch, Group, Observation, RewardFunctionStats, added_up

logger = logging.getLogger(__name__)


class Collector:
    """Turns a batch index into a ``Batch``: the same index, seed and policy version give the same batch.

    ``groups`` are the indices of the batch's starting states that this collector plays. Collectors with disjoint
    ``groups`` produce the same batch together as one alone.

    With a state cache, a starting state is computed once, with the policy of that time, and reused.

    While the engine decodes, environments with all their answers step in a thread of their own. Requests enter the
    engine only between rounds and in the order of the episodes, so that a batch does not depend on timing. An episode
    that fails is logged and restarts from its starting state, with other sampling seeds.
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
        groups: range | None = None,
    ) -> None:
        self._engine = engine
        self._groups = range(config.num_groups) if groups is None else groups
        self._tokenizer = tokenizer
        self._factory = factory
        self._config = config
        self._want_ref_logprobs = want_ref_logprobs
        self._failures: list[EpisodeFailure] = []
        self._num_unused_tokens = 0  # of failed attempts and of openings, since the last ``start`` or ``collect``
        self._requests = RequestBuilder(tokenizer, config)
        self._openings = OpeningStates(
            state_cache, config, {"environment": factory.key, "model": model_fingerprint, "prompts": self._requests.key}
        )
        self._dataset = factory if isinstance(factory, DatasetFactory) else None
        self._order = None if self._dataset is None else self._dataset.order(config.num_groups)
        self._reward_stats: list[RewardFunctionStats] = []

    @property
    def failures(self) -> tuple[EpisodeFailure, ...]:
        """The failed attempts since the last call of ``start`` or ``collect``."""
        return tuple(self._failures)

    def use_version(self, number: int) -> AdapterSwap:
        """Play with this policy version from now on. Raises as ``RolloutEngine.use_version``."""
        return self._engine.use_version(number)

    def collect(self, index: int) -> Batch:
        """Play the starting states of ``groups``, ``group_size`` episodes each, to their end.

        Starting states without a gradient are replaced, at most ``max_refill_rounds`` times. A replacement depends only
        on its place in the batch and on the number of replacements there, so no cursor has to be stored.

        Raises:
            PromptError: an observation of a starting state does not fit the model's context.
            AdapterError: the engine cannot sample from its policy version.
            EpisodeError: an episode failed in every attempt.
            EnvironmentCodeError: an environment failed before the first action: a retry would fail again.
        """
        start = time.perf_counter()
        before = self._engine.counters
        self._forget_attempts()
        self._reward_stats.clear()
        sampled = SampledGroups(self._play(index, self._groups, refill=0))
        for refill in range(1, self._config.max_refill_rounds + 1):
            places = sampled.without_gradient
            if not places:
                break
            sampled.replace(self._play(index, places, refill))
        with spans.STORE:
            return Batch(
                index=index,
                policy_version=self._engine.policy_version,
                groups=sampled.groups,
                stats=sampled.stats(
                    duration_s=time.perf_counter() - start,
                    used=self._engine.counters - before,
                    num_failed_episodes=len(self._failures),
                    num_unused_tokens=self._num_unused_tokens,
                    reward_functions=added_up(self._reward_stats),
                ),
            )

    def _play(self, index: int, places: Sequence[int], refill: int) -> dict[int, tuple[Group, ...]]:
        """Play the starting states in ``places``, or their ``refill``-th replacements, to the end: their groups."""
        episodes = self._begin(index, places, refill)
        while self.play_round(episodes, index):
            pass
        found: dict[int, list[Group]] = {place: [] for place in places}
        with spans.STORE:
            for (place, _), group in groups_of(episodes, index, self._config).items():
                found[place].append(group)
        return {place: tuple(groups) for place, groups in found.items()}

    def start(self, index: int) -> list[Episode]:
        """The episodes of batch ``index``. Siblings share a starting state, after the opening if any."""
        self._forget_attempts()
        return self._begin(index, self._groups, refill=0)

    def _forget_attempts(self) -> None:
        self._failures.clear()
        self._num_unused_tokens = 0

    def _begin(self, index: int, places: Sequence[int], refill: int) -> list[Episode]:
        firsts = self._starting_environments(index, places, refill)
        episodes: list[Episode] = []
        for group, first in zip(places, firsts, strict=True):
            with self._starting("snapshot and restore"), spans.ENVIRONMENT:
                state = first.snapshot()
                episodes.append(Episode(first, group, 0, state, refill))
                for sample in range(1, self._config.group_size):
                    sibling = self._factory()
                    sibling.restore(state)
                    episodes.append(Episode(sibling, group, sample, state, refill))
        return episodes

    def _starting(self, what: str) -> AbstractContextManager[None]:
        """For what an environment does before the first action."""
        return users_code(f"environment {self._factory.name!r}: {what}", "fix the environment")

    def _starting_environments(self, index: int, places: Sequence[int], refill: int) -> list[Environment]:
        """One environment per place, after its opening. Openings are the same in every batch, by place and refill."""
        environments: list[Environment] = []
        openings: list[Episode] = []
        for group in places:
            seed = self._seed(index, group, refill)
            with spans.ENVIRONMENT:
                first = self._factory()
            with self._starting(f"reset({seed})"), spans.ENVIRONMENT:
                first.reset(seed)
                in_opening = first.in_opening
            if in_opening:
                cached = self._openings.get(group, refill)
                if cached is not None:
                    first.restore(cached)
                else:
                    openings.append(Episode(first, group, 0, first.snapshot(), refill, is_opening=True))
            environments.append(first)
        while self.play_round(openings, index):
            pass
        for opening in openings:
            self._num_unused_tokens += opening.num_answer_tokens
            environments[places.index(opening.group)] = opening.environment
            self._openings.put(opening.group, refill, opening.environment)
        return environments

    def _seed(self, index: int, group: int, refill: int) -> int:
        """What the environment of a starting state is reset with: of a data set, the row."""
        if self._order is not None:
            return self._order.row(self._config.seed, index, group, refill)
        return environment_seed(self._config.seed, index, group, refill)

    def play_round(self, episodes: Sequence[Episode], index: int) -> bool:
        """One turn of every agent that must act, in one batch of requests. False when there is none.

        Raises what ``collect`` raises.
        """
        for episode in episodes:
            if episode.observations is None:
                with self._starting("its first observation"):
                    try:
                        self._prepare(episode, index)
                    except (InvalidActionError, ConstraintError) as error:
                        raise EnvironmentCodeError(f"environment {self._factory.name!r}: {error}") from error
        playing = [episode for episode in episodes if episode.requests]
        Round(
            self._engine,
            advance=lambda episode: self._advance(episode, index),
            replace=lambda episode, error: self._replace(episode, index, error),
        ).play(playing)
        if self._dataset is not None and playing and all(episode.rewards is not None for episode in episodes):
            self._reward_stats += reward_episodes(self._dataset.rewards, episodes)
        return bool(playing)

    def _advance(self, episode: Episode, index: int) -> None:
        """Step the environment with the answers of all agents, and prepare its next round."""
        with spans.PROMPT:
            actions = {
                observation.agent: self._tokenizer.decode(completion.completion_ids)
                for observation, completion in episode.in_order()
            }
        try:
            with spans.ENVIRONMENT:
                episode.play(actions)
            self._prepare(episode, index)
        except Exception as error:  # environments are user code: an exception costs one attempt, not the run
            self._replace(episode, index, error)

    def _replace(self, episode: Episode, index: int, error: Exception) -> None:
        """Record an attempt that failed with ``error``, and start the next one.

        Raises:
            EpisodeError: it was the last one.
        """
        failure = self._describe(episode, index, error)
        self._failures.append(failure)
        self._num_unused_tokens += episode.num_answer_tokens
        episode.attempt += 1
        if episode.attempt == MAX_ATTEMPTS:
            raise EpisodeError(f"{failure}; fix the environment, or exclude the states it cannot play") from error
        logger.warning("%s; retrying", failure, exc_info=None if isinstance(error, GrpoError) else error)
        try:
            with spans.ENVIRONMENT:
                episode.restart(self._factory())
            self._prepare(episode, index)
        except Exception as again:  # as above
            self._replace(episode, index, again)

    def _describe(self, episode: Episode, index: int, error: Exception) -> EpisodeFailure:
        return EpisodeFailure(
            environment=self._factory.name,
            environment_seed=self._seed(index, episode.group, episode.refill),
            batch_index=index,
            group=episode.group,
            refill=episode.refill,
            sample=episode.sample,
            is_opening=episode.is_opening,
            attempt=episode.attempt + 1,
            num_rounds=episode.num_rounds,
            error=failure_line(error),
        )

    def _prepare(self, episode: Episode, index: int) -> None:
        """Build the requests of the agents of ``episode`` that must act, or read the rewards if it is over."""
        observations: tuple[Observation, ...] = ()
        with spans.ENVIRONMENT:
            is_over = episode.is_over
            if not is_over:
                observations = observe(episode.environment)
        if is_over and not episode.is_opening:
            with spans.REWARD:
                episode.rewards = read_rewards(episode.environment, episode.turns)
        wants_reference = self._want_ref_logprobs and not episode.is_opening
        with spans.PROMPT:
            try:
                episode.requests = tuple(
                    self._requests.build(
                        observation,
                        turn_seed(self._config.seed, index, episode, place),
                        want_ref_logprobs=wants_reference,
                        last=episode.chats.get(observation.agent),
                    )
                    for place, observation in enumerate(observations)
                )
            except PromptError as error:
                if self._dataset is None:
                    raise
                row = self._seed(index, episode.group, episode.refill) + 1
                raise PromptError(f"{self._dataset.rows.source}, row {row}: {error}") from error
        episode.observations = observations
        episode.answers.clear()

    def groups(self, episodes: Sequence[Episode], index: int) -> tuple[Group, ...]:
        """The trajectories so far, by group. Groups are complete, because a failed episode is retried."""
        return tuple(groups_of(episodes, index, self._config).values())

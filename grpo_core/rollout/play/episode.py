"""One episode: its environment, its turns so far, and its failed attempts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_core.environments.protocol import Environment
from grpo_core.rollout.protocol import GenerationRequest
from grpo_core.types import Completion, Message, Observation

MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class EpisodeFailure:
    """A failed attempt at an episode, with all that is needed to reproduce it."""

    environment: str  # its name
    environment_seed: int  # of its reset
    batch_index: int
    group: int
    refill: int  # 0, or which replacement of the group's starting state
    sample: int
    is_opening: bool
    attempt: int  # counted from 1
    num_rounds: int  # that it had stepped through
    error: str

    def __str__(self) -> str:
        what = "the opening" if self.is_opening else f"sample {self.sample}"
        group = f"group {self.group}, refill {self.refill}" if self.refill else f"group {self.group}"
        return (
            f"batch {self.batch_index}, {group}, {what}, attempt {self.attempt} of {MAX_ATTEMPTS}: "
            f"environment {self.environment!r} with seed {self.environment_seed} failed after "
            f"{self.num_rounds} round{'' if self.num_rounds == 1 else 's'}: {self.error}"
        )


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A turn of a chat: what an agent read, and what it said."""

    messages: Sequence[Message]
    answer: str
    completion: Completion


@dataclass
class Episode:
    """One environment and the turns of its agents."""

    environment: Environment
    group: int
    sample: int
    starting_state: Mapping[str, Any]  # a snapshot: every attempt starts here
    refill: int = 0  # from 1 on: which replacement of the group's first starting state
    is_opening: bool = False  # ends with the opening, and is not trained on
    attempt: int = 0
    num_rounds: int = 0
    turns: dict[str, list[Completion]] = field(default_factory=lambda: defaultdict(list))
    chats: dict[str, ChatTurn] = field(default_factory=dict)  # by agent: its last turn, if that was of a chat
    max_answer_tokens: Counter[str] = field(default_factory=Counter)  # by agent: of its longest open-ended answer
    rewards: Mapping[str, float] | None = None  # by agent, once it is over
    scores: Mapping[str, float | None] = field(default_factory=dict)  # by reward function
    row: int | None = None  # of the data set, counted from 1
    observations: tuple[Observation, ...] | None = None  # of the next round; None before the first
    requests: tuple[GenerationRequest, ...] = ()  # one per observation
    answers: dict[int, Completion] = field(default_factory=dict)  # to the requests, by index

    @property
    def is_over(self) -> bool:
        """No agent has to act any more. Asks the environment."""
        return self.environment.done or (self.is_opening and not self.environment.in_opening)

    @property
    def is_answered(self) -> bool:
        return len(self.answers) == len(self.requests)

    def in_order(self) -> Iterable[tuple[Observation, Completion]]:
        """Each agent's observation of this round, with its answer."""
        assert self.observations is not None
        return zip(self.observations, (self.answers[place] for place in range(len(self.answers))), strict=True)

    def play(self, actions: Mapping[str, str]) -> None:
        """Step the environment with the answers of this round."""
        for request, (observation, completion) in zip(self.requests, self.in_order(), strict=True):
            agent, num_tokens = observation.agent, len(completion.completion_ids)
            self.turns[agent].append(completion)
            if observation.messages is not None:
                self.chats[agent] = ChatTurn(observation.messages, actions[agent], completion)
            if request.is_open_ended:
                self.max_answer_tokens[agent] = max(self.max_answer_tokens[agent], num_tokens)
        self.num_rounds += 1
        self.environment.step(actions)

    @property
    def num_answer_tokens(self) -> int:
        """Completion tokens of this attempt so far. A round that failed may have its answers in ``turns`` already."""
        answers = [*(turn for turns in self.turns.values() for turn in turns), *self.answers.values()]
        return sum(len(completion.completion_ids) for completion in {id(answer): answer for answer in answers}.values())

    def restart(self, environment: Environment) -> None:
        """Start the next attempt, in a new environment."""
        self.environment = environment
        self.turns.clear()
        self.chats.clear()
        self.max_answer_tokens.clear()
        self.answers.clear()
        self.num_rounds = 0
        environment.restore(self.starting_state)

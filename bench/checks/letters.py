"""An environment that keeps a record of every episode, so that a batch can be held against what was played."""

from __future__ import annotations

import string
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_core.types import Observation

WRITERS = ("anna", "boris")
NUM_TURNS = 2
WORDS = tuple(f"{word}\n" for word in string.ascii_lowercase)
FIRST_ANSWER = (WORDS,) * 16
OPENING = "Dear friend, in the spring the fleet left Brest and Paris asked Burgundy twice. I write to tell you that"
NEXT = f"{OPENING} nothing is decided yet. As you said,"


class LetterLostError(Exception):
    """An episode that fails on purpose."""


@dataclass
class Letters:
    """One episode: two writers answer the same prompt with ``FIRST_ANSWER``, then another in free text.

    Each reward follows from the writer's own answers, so that no two are equal unless the answers are.
    """

    number: int  # of the episodes of a factory
    is_lost: bool  # it fails in its last turn
    answers: list[Mapping[str, str]] = field(default_factory=list)
    has_begun: bool = False

    @property
    def in_opening(self) -> bool:
        return False

    @property
    def done(self) -> bool:
        return len(self.answers) == NUM_TURNS

    def reset(self, seed: int) -> None:
        self.has_begun = True

    def observe(self) -> tuple[Observation, ...]:
        if self.done:
            return ()
        if not self.answers:
            return tuple(Observation(writer, OPENING, FIRST_ANSWER) for writer in WRITERS)
        return tuple(Observation(writer, NEXT) for writer in WRITERS)

    def step(self, actions: Mapping[str, str]) -> None:
        if self.is_lost and len(self.answers) == NUM_TURNS - 1:
            raise LetterLostError(self.lost_as)
        self.answers.append(dict(actions))

    @property
    def lost_as(self) -> str:
        """The message of its error."""
        return f"letter {self.number} is lost"

    def rewards(self) -> Mapping[str, float]:
        return {writer: reward_of(self.texts(writer)) for writer in WRITERS}

    def texts(self, writer: str) -> tuple[str, ...]:
        """What ``writer`` answered, by turn."""
        return tuple(answer[writer] for answer in self.answers)

    def snapshot(self) -> dict[str, Any]:
        return {"environment": "letters"}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.has_begun = True


def reward_of(texts: tuple[str, ...]) -> float:
    """From 0 to 1, by the bytes of ``texts``."""
    return zlib.crc32("\n".join(texts).encode()) / 2**32


@dataclass
class LetterFactory:
    """Makes ``Letters`` and remembers them. Each ``loses_every``-th one fails, none at 0."""

    loses_every: int = 0
    made: list[Letters] = field(default_factory=list)
    name: str = "letters"
    key: str = "letters"

    def __call__(self) -> Letters:
        number = len(self.made) + 1
        self.made.append(Letters(number, is_lost=bool(self.loses_every) and number % self.loses_every == 0))
        return self.made[-1]

    @property
    def begun(self) -> list[Letters]:
        """The episodes that were started."""
        return [letters for letters in self.made if letters.has_begun]

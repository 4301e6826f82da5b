"""Addition in one turn: the smallest environment with a reward that can be verified."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from grpo_core.errors import InvalidActionError, shown
from grpo_core.types import Observation, Questions

AGENT = "solver"


def question(a: int, b: int) -> str:
    """The prompt."""
    return f"Q: {a} + {b} =\nA:"


def answer(a: int, b: int) -> str:
    """The text that should follow the prompt."""
    return f" {a + b}"


def is_held_out(a: int, b: int) -> bool:
    """Whether the question is one of those, one in five, that ``training`` leaves out."""
    return (a + 2 * b) % 5 == 0


class ArithmeticEnvironment:
    """One question per episode, its numbers in 0..``max_operand`` drawn from the seed. The answer is free text.

    ``questions`` are all of them, those that are not held out, or those that are. The reward is 1.0 for the sum with
    nothing but blanks around it, else 0.0. There is no opening.
    """

    def __init__(self, *, max_operand: int = 9, questions: Questions = "all") -> None:
        self._max_operand = max_operand
        self._questions: Questions = questions
        self.reset(0)

    @property
    def in_opening(self) -> bool:
        return False

    @property
    def done(self) -> bool:
        return self._answered

    def reset(self, seed: int) -> None:
        rng = random.Random(seed)
        while True:
            self._a, self._b = rng.randint(0, self._max_operand), rng.randint(0, self._max_operand)
            part = "held_out" if is_held_out(self._a, self._b) else "training"
            if self._questions in ("all", part):
                break
        self._answered = False
        self._reward = 0.0

    def observe(self) -> tuple[Observation, ...]:
        return () if self._answered else (Observation(AGENT, question(self._a, self._b)),)

    def step(self, actions: Mapping[str, str]) -> None:
        assert not self._answered, "the episode is done"
        if AGENT not in actions:
            raise InvalidActionError(f"no answer for {AGENT!r}, only for {sorted(actions)}; answer for {AGENT!r}")
        self._reward = float(actions[AGENT].strip() == answer(self._a, self._b).strip())
        self._answered = True

    def rewards(self) -> Mapping[str, float]:
        return {AGENT: self._reward}

    def snapshot(self) -> dict[str, Any]:
        return {
            "environment": "arithmetic",
            "a": self._a,
            "b": self._b,
            "answered": self._answered,
            "reward": self._reward,
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        if snapshot.get("environment") != "arithmetic" or set(snapshot) != set(self.snapshot()):
            raise InvalidActionError(
                f"snapshot of {shown(snapshot.get('environment'))} with keys {shown(list(snapshot))}: only one that "
                "ArithmeticEnvironment.snapshot made can be restored; make a new one"
            )
        self._a, self._b = snapshot["a"], snapshot["b"]
        self._answered, self._reward = snapshot["answered"], snapshot["reward"]

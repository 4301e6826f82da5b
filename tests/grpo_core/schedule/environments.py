"""Arithmetic that pays a random policy, or sometimes nobody, and two that end a run."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.arithmetic import ArithmeticEnvironment


class Chatty(ArithmeticEnvironment):
    """Pays for long answers, which a random policy can give, unlike right ones."""

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward = float(len(actions["solver"]))


class Picky(Chatty):
    """Pays nobody where the first number is even: such groups have no gradient."""

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward *= self._a % 2


class Broken(Chatty):
    """The third batch of two times two episodes breaks it."""

    num_steps = 0

    def step(self, actions: Mapping[str, str]) -> None:
        Broken.num_steps += 1
        if Broken.num_steps > 2 * 4:
            raise ZeroDivisionError("a bug of the environment")
        super().step(actions)


class Worthless(Chatty):
    """Its rewards cannot be trained on."""

    def rewards(self) -> Mapping[str, float]:
        return {"solver": float("nan")}


def chatty(config: EnvironmentConfig) -> Chatty:
    return Chatty()


def picky(config: EnvironmentConfig) -> Picky:
    return Picky()


def broken(config: EnvironmentConfig) -> Broken:
    return Broken()


def worthless(config: EnvironmentConfig) -> Worthless:
    return Worthless()

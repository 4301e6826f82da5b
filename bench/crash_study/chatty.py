"""The environment of the runs that are hurt: arithmetic that pays for long answers, which a random policy can give."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_core.config import EnvironmentConfig
from grpo_core.environments.arithmetic import ArithmeticEnvironment


class Chatty(ArithmeticEnvironment):
    """Pays a token's worth per character; nobody where the first number is even, so that refills have work to do."""

    def __init__(self, config: EnvironmentConfig) -> None:
        super().__init__()

    def step(self, actions: Mapping[str, str]) -> None:
        super().step(actions)
        self._reward = float(len(actions["solver"])) * (self._a % 2)

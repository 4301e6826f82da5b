"""An environment of two agents and several turns, which fails where it is told to."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpo_core.config import EnvironmentConfig
from grpo_core.environments import ConfiguredFactory, EnvironmentFactory
from grpo_core.errors import InvalidActionError
from grpo_core.types import Observation


@dataclass
class Duel:
    """Two agents answer in each of ``horizon`` turns, after an opening of two. What was said is the state.

    ``breaks`` names what fails: ``opening``, ``step``, ``wrong move``, ``observe``, ``nobody``, ``prompt`` or
    ``rewards``.
    """

    horizon: int = 2
    breaks: str = ""
    is_slow: bool = False
    said: list[str] = field(default_factory=list)
    seed: int = 0

    @property
    def in_opening(self) -> bool:
        return len(self.said) < 2

    @property
    def done(self) -> bool:
        return len(self.said) >= 2 + self.horizon

    def reset(self, seed: int) -> None:
        self.seed, self.said = seed, []

    def observe(self) -> tuple[Observation, ...]:
        board = "".join(self.said) + f"turn {len(self.said)}\n"
        if len(self.said) == 3:
            if self.breaks == "observe":
                raise KeyError("a lost board")
            if self.breaks == "nobody":
                return ()
            if self.breaks == "prompt":
                board *= 80
        return (
            Observation("left", f"left: {board}", choices=(("A\n", "B\n", "C D\n"), ("E\n", "F\n"))),
            Observation("right", f"right: {board}", choices=(("G\n", "H\n"),)),
        )

    def step(self, actions: Mapping[str, str]) -> None:
        if self.is_slow:
            time.sleep(random.uniform(0, 0.004))
        if self.breaks == ("opening" if self.in_opening else "step"):
            raise ZeroDivisionError("a broken rule")
        if self.breaks == "wrong move" and not self.in_opening:
            raise InvalidActionError("a broken move")
        assert sorted(actions) == ["left", "right"]
        self.said.append(actions["left"] + actions["right"])

    def rewards(self) -> Mapping[str, float]:
        if self.breaks == "rewards":
            return {"left": 0.0}
        return {"left": float("".join(self.said[2:]).count("A")), "right": -1.5}

    def snapshot(self) -> dict[str, Any]:
        return {"said": list(self.said), "seed": self.seed}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        self.said, self.seed = list(snapshot["said"]), snapshot["seed"]


def duels(breaks: Mapping[int, str] | str = "", is_slow: bool = False) -> EnvironmentFactory:
    """What ``breaks`` in the environments made, counted from 0, or in each of them."""
    made: list[Duel] = []

    def make(_: EnvironmentConfig) -> Duel:
        made.append(Duel(breaks=breaks if isinstance(breaks, str) else breaks.get(len(made), ""), is_slow=is_slow))
        return made[-1]

    return ConfiguredFactory(EnvironmentConfig(name="games:duel"), "duel", make)

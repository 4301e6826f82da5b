"""A simulated machine that runs two arms, one run after the other. What slows a run may depend on the runs before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.verdict_study.noises import JITTER
from pytest_grpo.measuring.sampling.rounds import RoundSampler
from pytest_grpo.measuring.sampling.sample import Arm
from pytest_grpo.types import Sample

NEW, OLD = "new", "old"
"""The arm under test, and the one that it is compared with."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an arm."""

    arm: str
    previous: str | None
    """The arm that ran before it."""
    place: int
    """Of its arm in the round: 0 for the one that begins it."""


Slowdown = Callable[[Run], float]
"""The factor on the seconds of a run."""
RunNoise = Callable[[random.Random], Slowdown]
"""What slows the runs of one session; called once per session."""


@dataclass(slots=True)
class Machine:
    """Takes a second for a run of the old arm and ``1 / speedup`` for one of the new arm, times noise."""

    rng: random.Random
    slowdown: Slowdown
    speedup: float
    num_runs: int = 0
    _previous: str | None = None
    _arms_of_round: list[str] = field(default_factory=list)

    def start_round(self) -> None:
        self._arms_of_round.clear()

    def run(self, arm: str) -> float:
        """The seconds of the next run."""
        self.num_runs += 1
        if arm not in self._arms_of_round:
            self._arms_of_round.append(arm)
        factor = self.slowdown(Run(arm, self._previous, self._arms_of_round.index(arm)))
        self._previous = arm
        quiet_s = 1 / self.speedup if arm == NEW else 1.0
        return quiet_s * factor * self.rng.lognormvariate(0, JITTER)

    def sampler(self) -> RoundSampler:
        """The plugin's own, on this machine."""
        arms: dict[str, Arm] = {
            NEW: lambda: Sample(self.run(NEW)),
            OLD: lambda: Sample(self.run(OLD)),
        }
        return RoundSampler(arms, budget_s=1e9, rng=self.rng, take=self._take, is_simulated=True)

    def _take(self, arm: Arm, name: str, repeats: int) -> Sample:
        return Sample(sum(self.run(name) for _ in range(repeats)) / repeats)

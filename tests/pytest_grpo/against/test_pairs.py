"""Pairs of one arm on two sides that only pretend to run."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import pytest

from pytest_grpo.against.pairs import ArmPairs, Rules, watch
from pytest_grpo.types import Outcome, Sample

RULES = Rules((8, 12, 18, 27, 40), 0.05, budget_s=math.inf, max_cores_of_others=math.inf, max_wait_s=0, with_gpu=False)


@dataclass(slots=True)
class Machine:
    """What the side that ran last has left behind."""

    noise: random.Random
    carry_over: float
    last: str = "other"


@dataclass(slots=True)
class PretendedSide:
    name: str
    machine: Machine
    seconds: float = field(default=1.0)

    def measure(self, arm: str, repeats: int) -> Sample:
        suffers = self.name == "other" and self.machine.last == "here"
        self.machine.last = self.name
        noise = math.exp(self.machine.noise.gauss(0, 0.01))
        return Sample(self.seconds * noise * (1 + self.machine.carry_over * suffers))

    def took_s(self, arm: str, repeats: int) -> float:
        return 1.0


def compare(seconds: float, carry_over: float, seed: int) -> ArmPairs:
    machine = Machine(random.Random(seed), carry_over)
    sides = (PretendedSide("here", machine, seconds), PretendedSide("other", machine))
    first = (Sample(1.0), Sample(1.0))
    watched = watch(["seconds"], ("here", "other"), RULES, 0.01)
    pairs = ArmPairs("step", sides, RULES, first, watched, random.Random(seed + 1))  # pyright: ignore[reportArgumentType]
    while not pairs.is_over:
        pairs.take_pair()
    return pairs


@pytest.mark.parametrize(
    ("seconds", "outcome"),
    [
        pytest.param(1.0, Outcome.SAME, marks=pytest.mark.slow),
        (1.2, Outcome.SLOWER),
        pytest.param(0.8, Outcome.FASTER, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_what_one_side_leaves_behind_is_no_difference_between_versions(
    seconds: float, outcome: Outcome, seed: int
) -> None:
    """This side leaves caches behind in which the other one takes 15 % longer."""
    (watched,) = compare(seconds, 0.15, seed).watched
    assert watched.change is not None
    assert watched.change.outcome is outcome

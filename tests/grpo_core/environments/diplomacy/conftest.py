"""How games are played in these tests: at random, but with attacks, so that units are dislodged."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from grpo_core.types import Observation

Player = Callable[[random.Random, Observation], str]


@pytest.fixture
def play_at_random() -> Player:
    return _play


def _play(rng: random.Random, observation: Observation) -> str:
    """A legal answer. Where a unit could support a move of another one, the two often agree on it."""
    assert observation.choices is not None
    if observation.distinct_choices:
        return "".join(rng.sample(observation.choices[0], len(observation.choices)))
    answer = {lines[0][2:5]: rng.choice(lines) for lines in observation.choices}
    if len(answer) < len(observation.choices):  # builds, any site in any segment
        return "".join(rng.choice(lines) for lines in observation.choices)
    supports = [line for lines in observation.choices for line in lines if " S " in line and " - " in line]
    for line in rng.sample(supports, min(len(supports), 12)):
        move = line.partition(" S ")[2]
        if any(move in lines for lines in observation.choices):
            answer[line[2:5]], answer[move[2:5]] = line, move
    return "".join(answer.values())

"""Diplomacy with the same work for any prompt: of each unit's legal orders two of equal length are left.

So each order is one choice and a run of forced tokens, whichever it is, and an answer has the same number of both.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from grpo_core.environments.diplomacy.game import DiplomacyEnvironment
from grpo_core.environments.diplomacy.phase import PhaseCache
from grpo_core.model.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from grpo_core.config import EnvironmentConfig
    from grpo_core.types import Observation

MODEL = "tiny"

_shared_phases = cache(PhaseCache)  # as in the game itself: one for all its environments


def make(config: EnvironmentConfig) -> EqualOrders:
    """For ``environment.name``."""
    return EqualOrders(horizon=config.horizon, compact_prompts=config.compact_prompts, phases=_shared_phases())


class EqualOrders(DiplomacyEnvironment):
    """Its observations are the game's own, but for the choices."""

    def observe(self) -> tuple[Observation, ...]:
        return tuple(map(_narrowed, super().observe()))


def _narrowed(observation: Observation) -> Observation:
    assert observation.choices is not None
    return replace(observation, choices=tuple(map(equal_lines, observation.choices)))


@cache
def _tokenizer() -> Tokenizer:
    return load_tokenizer(MODEL)


@cache  # the clock of the phase runs while it is called
def equal_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The first two of ``lines`` with equally many tokens; all of them where there are none."""
    by_length: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        alike = by_length[len(_tokenizer().encode(line))]
        alike.append(line)
        if len(alike) == 2:
            return tuple(alike)
    return lines

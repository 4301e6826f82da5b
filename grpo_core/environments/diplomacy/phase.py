"""A cache of legal orders and prompts by position: siblings reach the same positions again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

from grpo_core.environments.diplomacy.orders import OrderChoices
from grpo_core.types import Observation

MAX_PHASES = 256


@dataclass(slots=True)
class Phase:
    """The legal orders of every power that must order now, and their observations once they are built."""

    choices: Mapping[str, OrderChoices]
    observations: tuple[Observation, ...] | None = None


class PhaseCache:
    """An LRU cache of at most ``max_phases`` phases. Thread-safe; environments share it.

    The key must contain all that legal orders and prompts depend on.
    """

    def __init__(self, max_phases: int = MAX_PHASES) -> None:
        assert max_phases >= 1
        self._max_phases = max_phases
        self._phases: OrderedDict[Hashable, Phase] = OrderedDict()
        self._lock = threading.Lock()
        self.num_hits = 0
        self.num_misses = 0

    @property
    def num_phases(self) -> int:
        """Phases held now, at most ``max_phases``."""
        return len(self._phases)

    def get(self, key: Hashable, read: Callable[[], Phase]) -> Phase:
        """The phase cached under ``key``, else the result of ``read``."""
        with self._lock:
            phase = self._phases.get(key)
            if phase is not None:
                self._phases.move_to_end(key)
                self.num_hits += 1
                return phase
            self.num_misses += 1
        phase = read()
        with self._lock:
            self._phases[key] = phase
            if len(self._phases) > self._max_phases:
                self._phases.popitem(last=False)
        return phase

"""The names that a stack gives to what is judged."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from pytest_grpo.logs.vocabulary.quantities import Quantity

MILLI = 1e-3
GIB = 1024.0**3


@dataclass(frozen=True, slots=True)
class Entry:
    """The first of ``names`` that a log has is the quantity; times ``scale`` it is in the quantity's unit."""

    quantity: Quantity
    names: tuple[str, ...]
    scale: float = 1.0

    def name_in(self, logged: Set[str]) -> str | None:
        return next((name for name in self.names if name in logged), None)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """``steps`` are the columns of a W&B row that may hold its step, and what is added to them; the first one counts.

    Without any, W&B's own step is the step. ``total_tokens`` count up from the beginning of the run. ``timers`` have
    rows of their own, a row per call, before the row of their step.
    """

    stack: str
    entries: tuple[Entry, ...]
    steps: tuple[tuple[str, int], ...] = ()
    total_tokens: tuple[str, ...] = ()
    timers: tuple[str, ...] = ()

    def num_known(self, logged: Set[str]) -> int:
        """How many quantities a log with these names has."""
        return sum(entry.name_in(logged) is not None for entry in self.entries)

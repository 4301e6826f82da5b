"""The interface of an environment: episodes of several turns, in which several agents may act at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from grpo_core.types import Observation


class Environment(Protocol):
    """One episode at a time. The same seed always starts the same episode.

    The collector calls ``reset``, then ``observe`` and ``step`` in turn until ``done``. While ``in_opening`` is true,
    the turns only lead to the starting state: they are not trained on, and a ``snapshot`` of the state after them can
    be cached and restored.
    """

    @property
    def in_opening(self) -> bool:
        """Whether the turns only lead to the starting state: they are not trained on. False without an opening."""
        ...

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        ...

    def reset(self, seed: int) -> None:
        """Start the episode of ``seed``, at its opening when it has one."""
        ...

    def observe(self) -> tuple[Observation, ...]:
        """One observation per agent that must act now. Empty only when ``done``."""
        ...

    def step(self, actions: Mapping[str, str]) -> None:
        """Apply the answers of all observed agents, by agent name, as the policy wrote them.

        Raises:
            InvalidActionError: an observed agent has no answer.
        """
        ...

    def rewards(self) -> Mapping[str, float]:
        """Each agent's return since the end of the opening. Agents keep their names throughout."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """The state as plain JSON, from which ``restore`` continues identically."""
        ...

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from ``snapshot``, taken by an environment of the same configuration.

        Raises:
            InvalidActionError: the snapshot is not one of this environment's.
        """
        ...


class EnvironmentFactory(Protocol):
    """Makes environments of one configuration. ``name`` is what messages call them; ``key`` is all that their openings
    depend on, for the state cache."""

    @property
    def name(self) -> str: ...

    @property
    def key(self) -> str: ...

    def __call__(self) -> Environment: ...

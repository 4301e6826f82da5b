"""State that the gates of one process share: the error budget, the A/A control, the random order of pairs, and which
phases are not sound."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_grpo.gate.setup_clock import SetupClock
from pytest_grpo.measuring.control import Control, run_control
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.settings.option_values import DEFAULT_MAX_CORES_OF_OTHERS

ShowProgress = Callable[[str], None]
"""Shows a short text in place; an empty text clears it."""


@dataclass(slots=True)
class GateSession:
    """State that the gates of one process share."""

    error_budget: ErrorBudget
    has_control: bool = True
    max_cores_of_others: float = DEFAULT_MAX_CORES_OF_OTHERS
    rng: random.Random = field(default_factory=random.Random)
    setup_clock: SetupClock = field(default_factory=SetupClock)
    _control: Control | None = None
    _red: dict[int, dict[str, list[str]]] = field(default_factory=dict)
    """Per phase and node id the exact metrics that are red: those without pairs."""

    def control_problem(self) -> str:
        """The result of the A/A control. It runs at the first call, and again as long as it could not be decided."""
        if not self.has_control:
            return ""
        if self._control is None or not self._control.is_final:
            self._control = run_control(self.rng, self.max_cores_of_others)
        return self._control.problem

    def note_red(self, phase: int, nodeid: str, metric: str) -> None:
        """Remember that an exact metric of ``phase`` is red in the test ``nodeid``."""
        self._red.setdefault(phase, {}).setdefault(nodeid, []).append(metric)

    def red_metrics(self, phase: int) -> list[str]:
        """The exact metrics of ``phase`` that are red so far: while there is one, its speeds prove nothing."""
        return list(dict.fromkeys(metric for metrics in self._red.get(phase, {}).values() for metric in metrics))

    def forget(self, nodeid: str) -> None:
        """The test ``nodeid`` runs anew."""
        for tests in self._red.values():
            tests.pop(nodeid, None)

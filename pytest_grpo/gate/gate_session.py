"""State that the gates of one process share: the error budget, the A/A control, the random order of pairs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_grpo.measuring.control import Control, run_control
from pytest_grpo.measuring.stats import AlphaLedger
from pytest_grpo.settings.config import DEFAULT_MAX_CORES_OF_OTHERS

ShowProgress = Callable[[str], None]
"""Shows a short text in place; an empty text clears it."""


@dataclass(slots=True)
class GateSession:
    """State that the gates of one process share."""

    ledger: AlphaLedger
    has_control: bool = True
    max_cores_of_others: float = DEFAULT_MAX_CORES_OF_OTHERS
    rng: random.Random = field(default_factory=random.Random)
    _control: Control | None = None

    def control_problem(self) -> str:
        """The result of the A/A control. It runs at the first call, and again as long as it could not be decided."""
        if not self.has_control:
            return ""
        if self._control is None or not self._control.is_final:
            self._control = run_control(self.rng, self.max_cores_of_others)
        return self._control.problem

"""State that the gates of one process share: the error budget, the A/A control, the random order of pairs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pytest_grpo.measuring.control import find_problem
from pytest_grpo.measuring.ledger import AlphaLedger

ShowProgress = Callable[[str], None]
"""Shows a short text in place; an empty text clears it."""


@dataclass(slots=True)
class GateSession:
    """State that the gates of one process share."""

    ledger: AlphaLedger
    has_control: bool = True
    rng: random.Random = field(default_factory=random.Random)
    _control: str | None = None

    def control_problem(self) -> str:
        """The result of the A/A control, which runs at the first call."""
        if self._control is None:
            self._control = find_problem(self.rng) if self.has_control else ""
        return self._control

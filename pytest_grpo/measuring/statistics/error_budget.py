"""The error budget of a session, shared by the comparisons that are decided one after another."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA

FIRST_PART = 0.9
"""What the last expected comparison takes of the rest; the others share what it leaves."""


@dataclass(slots=True)
class ErrorBudget:
    """Holm's correction for comparisons that are decided before the later ones are measured.

    Of 1 % and two expected comparisons the first gets 0.5 %, the second 0.45 %, and two more that nobody expected
    0.024 % and 0.0082 %. ``num_gates`` is the expected number: each of those gets an equal share of what is left. From
    the last of them on, the *j*-th gets 1 / (j + 1/9) of what is left: nine tenths, then ever smaller parts.

    **The whole stays below alpha.** Each share is a part of what is left, and below all of it. So the shares that were
    kept and what is left always sum to ``alpha``, and something is always left. A comparison that fails gives its share
    back: until the first false failure only true failures gave back, so the shares of sound comparisons sum to less
    than ``alpha``, as in Holm's steps.

    **The shares fall slowly.** With r left before the last expected comparison, r / (9 j + 1) is left after the *j*-th,
    so its share is about r / (9 j²). The 200th comparison of a session that expected one gets 2.7e-8: 26 pairs that
    agree have a smaller probability, so it can still fail within 40.
    """

    num_gates: int
    alpha: float = FAMILY_ALPHA
    _left: float = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.alpha

    def grant(self) -> float:
        """The share of the next comparison."""
        share = self._left * self._part()
        self.num_gates -= 1
        self._left -= share
        return share

    def give_back(self, share: float) -> None:
        """Return the share of a comparison that failed."""
        self._left += share
        if self.num_gates < 1:
            self.num_gates += 1

    def _part(self) -> float:
        if self.num_gates > 1:
            return 1 / self.num_gates
        place = 2 - self.num_gates  # 1 for the last expected comparison
        return 1 / (place + 1 / FIRST_PART - 1)

"""Counts: held against a number or another arm's count exactly, without statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pytest_grpo.settings.thresholds import Threshold, format_number

ROUNDING = 1e-15
"""Relative error of a factor such as 1/49, below the step from one count to the next up to 10 ** 15."""


@dataclass(frozen=True, slots=True)
class HeldCount:
    """A count ``value``, held against ``threshold``, whose bounds are counts, too. With ``is_strict`` an edge fails."""

    value: float
    threshold: Threshold
    is_strict: bool

    @classmethod
    def against(cls, value: float, other: float, ratio: Threshold, *, is_strict: bool) -> HeldCount:
        """``value`` held against ``ratio`` times ``other``."""
        low, high = (bound * other if math.isfinite(bound) else bound for bound in (ratio.low, ratio.high))
        return cls(value, replace(ratio, low=low, high=high, unit=""), is_strict)

    @property
    def holds(self) -> bool:
        bounds = self.threshold.low, self.threshold.high
        if any(math.isclose(self.value, bound, rel_tol=ROUNDING) for bound in bounds):
            return not self.is_strict
        return self.threshold.low < self.value < self.threshold.high

    @property
    def threshold_text(self) -> str:
        """E.g. ``== 1``; ``> 1`` where the edge fails."""
        if not self.is_strict:
            return str(self.threshold)
        return f"{'>' if self.threshold.kind == 'at_least' else '<'} {format_number(self.threshold.bound)}"

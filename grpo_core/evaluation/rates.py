"""A share of questions with its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959964  # the normal distribution's 97.5th percentile


@dataclass(frozen=True, slots=True)
class Rate:
    """``low`` to ``high`` is its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def rate_of(num_passed: int, num_asked: int) -> Rate:
    """The share of passed questions with Wilson's interval (Wilson 1927), which holds for small numbers, too."""
    assert 0 <= num_passed <= num_asked > 0
    share = num_passed / num_asked
    scale = 1 + _Z**2 / num_asked
    centre = (share + _Z**2 / (2 * num_asked)) / scale
    half = _Z * math.sqrt(share * (1 - share) / num_asked + _Z**2 / (4 * num_asked**2)) / scale
    return Rate(share, max(0.0, centre - half), min(1.0, centre + half))

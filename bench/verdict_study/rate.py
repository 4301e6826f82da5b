"""A fraction of trials with its exact confidence interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest


@dataclass(frozen=True, slots=True)
class Rate:
    """``num_hits`` of ``num_trials``."""

    num_hits: int
    num_trials: int

    @classmethod
    def of(cls, hits: ArrayLike) -> Rate:
        return cls(int(np.count_nonzero(hits)), np.size(hits))

    @property
    def share(self) -> float:
        return self.num_hits / self.num_trials

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of Clopper and Pearson."""
        ends = binomtest(self.num_hits, self.num_trials).proportion_ci(0.95, method="exact")
        return ends.low, ends.high

    @property
    def with_interval(self) -> str:
        low, high = self.interval
        return f"{self} [{100 * low:.1f}, {100 * high:.1f}]"

    def as_json(self) -> dict[str, object]:
        low, high = self.interval
        return {"median": self.share, "low": low, "high": high, "n": self.num_trials, "unit": "share"}

    def __str__(self) -> str:
        return f"{100 * self.share:.{2 if self.share < 0.1 else 1}f} %"

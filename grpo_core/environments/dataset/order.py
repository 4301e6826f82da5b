"""Which row of a data set stands in which place of which batch: epochs, each in an order of its own.

It depends on the run's seed and the place only, so that a resumed run, or another machine, takes the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_EPOCH, _REFILL = 10, 11  # streams of random numbers, apart from those of play.seeds


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Batch ``index`` takes ``num_groups`` rows, where the batch before it stopped. Every row comes once an epoch.

    A refill (dynamic sampling) takes any row, drawn anew: it is beside the epochs.
    """

    num_rows: int
    num_groups: int
    shuffle: bool

    def row(self, run_seed: int, index: int, group: int, refill: int) -> int:
        """The row, counted from 0, of place ``group`` in batch ``index``, or of its ``refill``-th replacement."""
        if refill:
            drawn = np.random.SeedSequence((run_seed, _REFILL, index, group, refill))
            return int(np.random.default_rng(drawn).integers(self.num_rows))
        epoch, place = divmod(index * self.num_groups + group, self.num_rows)
        return int(_permutation(run_seed, epoch, self.num_rows)[place]) if self.shuffle else place


@lru_cache(maxsize=4)
def _permutation(run_seed: int, epoch: int, num_rows: int) -> np.ndarray:
    return np.random.default_rng(np.random.SeedSequence((run_seed, _EPOCH, epoch))).permutation(num_rows)

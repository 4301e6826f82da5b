"""Shifts: the blocks at which the level of a run changes at once, where that is what it does.

E-divisive finds the change points of the centers. A drift has some, too, so they are shifts only where levels describe
the centers better than a smooth curve. Pure functions.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

from pytest_grpo.drift.divisive import Split, find_splits
from pytest_grpo.logs.findings.blocks import NUM_CURVE, Blocks, curve_residuals, level_residuals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def find_shifts(blocks: Blocks, alpha: float) -> list[Split]:
    """In the order of the run. A run without a change has one with probability ``alpha`` at most.

    None are looked for among blocks that depend on each other: E-divisive takes them to be exchangeable.
    """
    splits = find_splits(blocks.centers, alpha) if blocks.are_independent else []
    edges = [split.index for split in splits]
    is_smooth = _cost(curve_residuals(blocks), NUM_CURVE) <= _cost(level_residuals(blocks, edges), 2 * len(edges) + 1)
    return [] if is_smooth else splits


def _cost(residuals: NDArray[np.float64], num_fitted: int) -> float:
    """The Bayesian information criterion."""
    size, square = len(residuals), float(residuals @ residuals)
    return size * math.log(max(square / size, sys.float_info.min)) + num_fitted * math.log(size)

"""Blocks of steps: the values of steps that follow each other are alike, the centers of long blocks hardly are.

The method of batch means (Schmeiser, "Batch size effects in the analysis of simulation output", 1982): a run is cut
into 10 to 20 blocks, and Student's t of their centers gives the intervals. A block is at least twice as long as the
steps stay alike, which an AR(1) fit tells; what is left of the likeness of neighbours widens the interval. A run that
is too short for ten such blocks has no interval. ``bench/judge_quality.py`` measures the error rates. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_grpo.baseline.session_spread import t_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_BLOCKS = 10
"""Fewer have intervals that prove nothing, and no order of them proves a shift."""
MAX_BLOCKS = 20
MIN_STEPS = 2 * MIN_BLOCKS
ALIKE_PER_BLOCK = 2.0
"""The least length of a block, in the steps that a value stays alike (the integrated autocorrelation time)."""
_STRETCHES = 5
"""The likeness is the median over so many stretches of the run: a shift of level or a drift is no likeness."""
_MAX_LIKENESS = 0.97
_TO_SD = 1.4826  # times the median absolute deviation, for normal values
_CLIP_SD = 3.0


@dataclass(frozen=True, slots=True)
class Interval:
    """``low`` to ``high`` covers the true value, of which ``value`` is the estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """``centers`` of blocks that follow each other, and the mean step of each. ``alike_steps``: see ``Blocks.of``."""

    steps: tuple[float, ...]
    centers: tuple[float, ...]
    first_steps: tuple[int, ...]
    alike_steps: float

    @classmethod
    def of(cls, steps: Sequence[int], values: Sequence[float], *, is_robust: bool) -> Blocks | None:
        """``values`` at ``steps``, cut into blocks; None when there are too few for ten.

        A center is the median of a block if ``is_robust``, else the mean. ``alike_steps`` is how many values tell as
        much as one that is independent.
        """
        import numpy as np

        series = np.asarray(values, dtype=np.float64)
        alike = _alike_steps(series)
        num_blocks = min(MAX_BLOCKS, int(len(series) / math.ceil(ALIKE_PER_BLOCK * alike)))
        if num_blocks < MIN_BLOCKS:
            return None
        center = np.median if is_robust else np.mean
        parts = np.array_split(np.arange(len(series)), num_blocks)
        return cls(
            tuple(float(np.mean([steps[place] for place in part])) for part in parts),
            tuple(float(center(series[part])) for part in parts),
            tuple(steps[part[0]] for part in parts),
            alike,
        )


def too_alike(values: Sequence[float]) -> str:
    """Why ``values`` have no blocks."""
    import numpy as np

    alike = _alike_steps(np.asarray(values, dtype=np.float64))
    needed = MIN_BLOCKS * math.ceil(ALIKE_PER_BLOCK * alike)
    return f"{len(values)} values, of which {alike:.0f} in a row are alike: {needed} are needed"


def level(blocks: Blocks, edges: Sequence[int], alpha: float) -> Interval:
    """The mean center; the interval misses the true one with probability ``alpha``.

    What the run does on purpose, or at least steadily, is no error of it: a trend, or levels that begin at the blocks
    ``edges``, if there are any.
    """
    import numpy as np

    residuals = level_residuals(blocks, edges) if edges else line_residuals(blocks)
    num_fitted = len(edges) + 1 if edges else 2
    degrees = len(residuals) - num_fitted
    error = math.sqrt(float(residuals @ residuals) / degrees / len(residuals)) * _widening(residuals, num_fitted)
    center, margin = float(np.mean(blocks.centers)), t_quantile(alpha / 2, degrees) * error
    return Interval(center, center - margin, center + margin)


def trend(blocks: Blocks, alpha: float) -> Interval:
    """The slope of the centers per step, by least squares; the interval misses the true one with ``alpha``."""
    import numpy as np

    times = np.asarray(blocks.steps) - np.mean(blocks.steps)
    slope = float(times @ np.asarray(blocks.centers) / (times @ times))
    residuals = line_residuals(blocks)
    degrees = len(residuals) - 2
    error = math.sqrt(float(residuals @ residuals) / degrees / float(times @ times)) * _widening(residuals, 2)
    margin = t_quantile(alpha / 2, degrees) * error
    return Interval(slope, slope - margin, slope + margin)


def line_residuals(blocks: Blocks) -> NDArray[np.float64]:
    """The centers without their trend."""
    import numpy as np

    times, centers = np.asarray(blocks.steps) - np.mean(blocks.steps), np.asarray(blocks.centers)
    return centers - centers.mean() - times * (times @ centers / (times @ times))


def level_residuals(blocks: Blocks, edges: Sequence[int]) -> NDArray[np.float64]:
    """The centers without the levels that begin at the blocks ``edges``."""
    import numpy as np

    return np.concatenate([part - part.mean() for part in np.split(np.asarray(blocks.centers), list(edges))])


def _widening(residuals: NDArray[np.float64], num_fitted: int) -> float:
    """How much longer an error is because neighbouring blocks are still alike."""
    likeness = _likeness(residuals, num_fitted)
    return math.sqrt((1 + likeness) / (1 - likeness))


def _alike_steps(series: NDArray[np.float64]) -> float:
    """(1 + phi) / (1 - phi) of an AR(1) series, by the median phi of a few stretches."""
    import numpy as np

    stretches = [part for part in np.array_split(series, _STRETCHES) if len(part) >= MIN_BLOCKS]
    if not stretches:
        stretches = [series]
    likeness = float(np.median([_likeness(_clipped(part), 1) for part in stretches]))
    return (1 + likeness) / (1 - likeness)


def _clipped(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances from the middle; a stall counts as three standard deviations."""
    import numpy as np

    distances = part - np.median(part)
    widest = _CLIP_SD * _TO_SD * float(np.median(np.abs(distances)))
    clipped = np.clip(distances, -widest, widest)
    return clipped - clipped.mean()


def _likeness(residuals: NDArray[np.float64], num_fitted: int) -> float:
    """The correlation of neighbours, from 0 on, without the bias of a short series (Kendall 1954)."""
    size, square = len(residuals), float(residuals @ residuals)
    if square == 0:
        return 0.0
    found = float(residuals[1:] @ residuals[:-1]) / square
    return min(max((found * size + num_fitted) / max(size - 3 * num_fitted, 1), 0.0), _MAX_LIKENESS)

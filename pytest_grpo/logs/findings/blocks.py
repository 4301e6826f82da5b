"""Blocks of steps: the values of steps that follow each other are alike, the centers of long blocks hardly are.

The method of batch means (Schmeiser, "Batch size effects in the analysis of simulation output", 1982): a run is cut
into 10 to 20 blocks, and Student's t of their centers gives the intervals. How many steps in a row are alike is told by
an AR(1) fit, and a block is 2.5 times as long. Where ten blocks are shorter than that, only as many count as would not
be, and with less than six there is no interval. What is left of the likeness of neighbours widens an interval, too.
``bench/judge_quality.py`` measures the error rates. Pure functions.
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
"""Of fewer, no order proves a shift."""
MAX_BLOCKS = 20
MIN_STEPS = 3 * MIN_BLOCKS
ALIKE_PER_BLOCK = 2.5
"""The length of an independent block, in the steps that are alike (the integrated autocorrelation time)."""
MIN_INDEPENDENT = 6
"""Fewer have intervals that prove nothing."""
NUM_CURVE = 4
"""The coefficients of the curve that is fitted to the centers, a cubic."""
_STRETCHES = 5
"""The likeness is the median over so many stretches of the run: a shift of level or a drift is no likeness."""
_MAX_LIKENESS = 0.97
_CAUTION = 2
_TO_SD = 1.4826  # times the median absolute deviation, for normal values
_CLIP_SD = 3.0
_ROUNDING = 1e-12
"""Of the largest value: what is left of a straight line is rounding, and no likeness."""


@dataclass(frozen=True, slots=True)
class Interval:
    """``low`` to ``high`` covers the true value, of which ``value`` is the estimate."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Blocks:
    """``centers`` of blocks that follow each other, the mean and the first step of each.

    They tell as much as ``num_independent`` blocks that have nothing to do with each other.
    """

    steps: tuple[float, ...]
    centers: tuple[float, ...]
    first_steps: tuple[int, ...]
    num_independent: float

    @property
    def are_independent(self) -> bool:
        return self.num_independent >= len(self.centers)

    @classmethod
    def of(cls, steps: Sequence[int], values: Sequence[float], *, is_robust: bool) -> Blocks | None:
        """``values`` at ``steps``, cut into blocks; None when there are too few.

        A center is the median of a block if ``is_robust``, else the mean.
        """
        import numpy as np

        series = np.asarray(values, dtype=np.float64)
        num_independent = len(series) / (ALIKE_PER_BLOCK * _alike_steps(series))
        if num_independent < MIN_INDEPENDENT:
            return None
        num_blocks = min(max(int(num_independent), MIN_BLOCKS), MAX_BLOCKS)
        center = np.median if is_robust else np.mean
        parts = np.array_split(np.arange(len(series)), num_blocks)
        return cls(
            tuple(float(np.mean([steps[place] for place in part])) for part in parts),
            tuple(float(center(series[part])) for part in parts),
            tuple(steps[part[0]] for part in parts),
            min(num_independent, float(num_blocks)),
        )


def too_alike(values: Sequence[float]) -> str:
    """Why ``values`` have no blocks."""
    import numpy as np

    alike = _alike_steps(np.asarray(values, dtype=np.float64))
    needed = math.ceil(MIN_INDEPENDENT * ALIKE_PER_BLOCK * alike)
    return f"{len(values)} values are too few: about {alike:.0f} in a row are alike, so {needed} are needed"


def level(blocks: Blocks, edges: Sequence[int], alpha: float) -> Interval:
    """The mean center; the interval misses the true one with probability ``alpha``.

    What the run does steadily is no error of it: a trend, or levels that begin at the blocks ``edges``, if any do.
    """
    residuals = level_residuals(blocks, edges) if edges else curve_residuals(blocks)
    margin = _margin(blocks, residuals, len(edges) + 1 if edges else NUM_CURVE, 1 / len(residuals), alpha)
    center = math.fsum(blocks.centers) / len(residuals)
    return Interval(center, center - margin, center + margin)


def trend(blocks: Blocks, alpha: float) -> Interval:
    """The slope of the centers per step, by least squares; the interval misses the true one with ``alpha``.

    A trend that slows down or speeds up is one: its error is measured around a cubic.
    """
    import numpy as np

    times = np.asarray(blocks.steps) - np.mean(blocks.steps)
    slope = float(times @ np.asarray(blocks.centers) / (times @ times))
    margin = _margin(blocks, curve_residuals(blocks), NUM_CURVE, 1 / float(times @ times), alpha)
    return Interval(slope, slope - margin, slope + margin)


def _margin(blocks: Blocks, residuals: NDArray[np.float64], num_fitted: int, leverage: float, alpha: float) -> float:
    """Half of an interval. ``leverage`` times the variance of a center is that of the estimate, were they independent.

    Centers that are not are worth fewer; and neighbours that are still alike widen it (AR(1) of the centers).
    """
    variance = float(residuals @ residuals) / (len(residuals) - num_fitted)
    likeness = _likeness(residuals, num_fitted)
    widening = (1 + likeness) / (1 - likeness) * len(residuals) / blocks.num_independent
    degrees = max(int(blocks.num_independent) - num_fitted, 1)
    return t_quantile(alpha / 2, degrees) * math.sqrt(variance * leverage * widening)


def curve_residuals(blocks: Blocks) -> NDArray[np.float64]:
    """The centers without a smooth curve: a trend may slow down, as a reward does that levels off."""
    import numpy as np

    basis, _ = np.linalg.qr(np.vander(np.linspace(-1.0, 1.0, len(blocks.centers)), NUM_CURVE))
    centers = np.asarray(blocks.centers)
    return centers - basis @ (basis.T @ centers)


def level_residuals(blocks: Blocks, edges: Sequence[int]) -> NDArray[np.float64]:
    """The centers without the levels that begin at the blocks ``edges``."""
    import numpy as np

    return np.concatenate([part - part.mean() for part in np.split(np.asarray(blocks.centers), list(edges))])


def _alike_steps(series: NDArray[np.float64]) -> float:
    """(1 + phi) / (1 - phi) of an AR(1) series, by the median phi of a few stretches."""
    import numpy as np

    num_stretches = _STRETCHES if len(series) >= _STRETCHES * MIN_BLOCKS else 1
    stretches = np.array_split(series, num_stretches)
    likeness = float(np.median([_likeness(_clipped(_detrended(part)), 2, _CAUTION) for part in stretches]))
    return (1 + likeness) / (1 - likeness)


def _detrended(part: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    times = np.arange(len(part)) - (len(part) - 1) / 2
    residuals = part - part.mean() - times * (times @ part / (times @ times))
    return np.where(np.abs(residuals) > _ROUNDING * np.abs(part).max(), residuals, 0.0)


def _clipped(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """A stall counts as three standard deviations."""
    import numpy as np

    widest = _CLIP_SD * _TO_SD * float(np.median(np.abs(part)))
    clipped = np.clip(part, -widest, widest)
    return clipped - clipped.mean()


def _likeness(residuals: NDArray[np.float64], num_fitted: int, caution: int = 0) -> float:
    """The correlation of neighbours, from 0 on. It is biased in a short series, by more where more was fitted.

    ``caution`` makes it larger: blocks that are too long cost less than blocks that are too short.
    """
    size, square = len(residuals), float(residuals @ residuals)
    if square == 0:
        return 0.0
    found = float(residuals[1:] @ residuals[:-1]) / square
    return min(max((found * size + num_fitted) / (size - num_fitted - 2 - caution), 0.0), _MAX_LIKENESS)

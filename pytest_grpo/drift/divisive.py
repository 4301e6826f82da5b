"""E-divisive: at which places does a series change? Pure functions; the same values give the same answer.

Source: Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data" (2014),
with distances to the power 1. Values before and after a split differ by their energy distance, which is 0 when both are
of one distribution. The series is split where it is largest, then the parts. Chance is measured by a permutation test:
what is the largest energy distance when the values of each part are in random order?
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_SEGMENT = 3
"""Values on each side of a split: one or two slow runs are no change of level."""
SEED = 0
MIN_ORDERS = 1000
"""Random orders that a p-value is from at least, with the one that was observed."""
ORDERS_PER_ALPHA = 5
"""And at least so many that the p-value has this many steps up to ``alpha``."""
_FIRST_BATCH = 16
_MAX_BATCH_VALUES = 50_000
"""Of the matrices of all permutations that are computed at once."""
_ROUNDING = 1e-9
"""Sums in another order differ by rounding. A permutation that is as large within it counts as large."""


@dataclass(frozen=True, slots=True)
class Split:
    """The values from ``index`` on differ from those before."""

    index: int
    p_value: float


@dataclass(frozen=True, slots=True)
class _Weights:
    """The energy distance as a weighted sum of three sums of distances, for each split [tau, kappa].

    A split compares ``values[:tau]`` with ``values[tau:kappa]``. Where one is too short, all weights are 0, and so is
    the distance: one above 0 is of an allowed split.
    """

    both: NDArray[np.float64]
    before: NDArray[np.float64]
    until: NDArray[np.float64]


def find_splits(values: Sequence[float], alpha: float) -> list[Split]:
    """The change points in the order of the series.

    A series without a change has one with probability ``alpha`` at most, if its values are exchangeable.
    """
    import numpy as np

    rng = np.random.default_rng(SEED)
    series = np.asarray(values, dtype=np.float64)
    found: list[Split] = []
    while True:
        edges = [0, *sorted(split.index for split in found), len(series)]
        parts = [series[start:end] for start, end in itertools.pairwise(edges)]
        candidates = [(*best_split(part), start) for part, start in zip(parts, edges, strict=False) if _is_long(part)]
        if not candidates:
            break
        distance, index, start = max(candidates, key=lambda candidate: candidate[0])
        p_value = _p_value([part for part in parts if _is_long(part)], distance, alpha, rng)
        if p_value > alpha:
            break
        found.append(Split(start + index, p_value))
    return sorted(found, key=lambda split: split.index)


def best_split(values: NDArray[np.float64]) -> tuple[float, int]:
    """The largest energy distance of a split, and the index of the first value after it. Only above 0 is it exact."""
    import numpy as np

    distances = _distances(values[None, :])[0]
    row, column = np.unravel_index(np.argmax(distances), distances.shape)
    return float(distances[row, column]), int(row) + MIN_SEGMENT


def _is_long(part: NDArray[np.float64]) -> bool:
    return len(part) >= 2 * MIN_SEGMENT


def _p_value(parts: Sequence[NDArray[np.float64]], distance: float, alpha: float, rng: np.random.Generator) -> float:
    """How often a random order within ``parts`` has a split of at least ``distance``.

    It stops as soon as the p-value must exceed ``alpha``; what it returns is then above ``alpha`` and not exact.
    """
    import numpy as np

    num_orders = max(MIN_ORDERS, math.ceil(ORDERS_PER_ALPHA / alpha))
    longest = max(len(part) for part in parts)
    num_seen, num_large, batch = 1, 1, _FIRST_BATCH
    while num_seen < num_orders and num_large <= alpha * num_orders:
        batch = min(batch, num_orders - num_seen, max(1, _MAX_BATCH_VALUES // longest**2))
        largest = np.full(batch, -math.inf)
        for part in parts:
            orders = rng.permuted(np.tile(part, (batch, 1)), axis=1)
            np.maximum(largest, _distances(orders).max(axis=(1, 2)), out=largest)
        num_large += int(np.count_nonzero(largest >= distance - _ROUNDING * abs(distance)))
        num_seen += batch
        batch *= 2
    return num_large / num_seen


def _distances(series: NDArray[np.float64]) -> NDArray[np.float64]:
    """The energy distance of each split of each row of ``series``: [row, tau - MIN_SEGMENT, kappa - 2 MIN_SEGMENT]."""
    import numpy as np

    sums = np.abs(series[:, :, None] - series[:, None, :])
    np.cumsum(sums, axis=1, out=sums)
    np.cumsum(sums, axis=2, out=sums)  # [row, i, j]: all distances between the first i + 1 values and the first j + 1
    num_values = series.shape[1]
    squares = np.einsum("rii->ri", sums)
    until = slice(2 * MIN_SEGMENT - 1, num_values)
    before = slice(MIN_SEGMENT - 1, num_values - MIN_SEGMENT)
    weights = _weights(num_values)
    found = weights.both * sums[:, before, until]
    found -= weights.before * squares[:, before, None]
    found -= weights.until * squares[:, None, until]
    return found


@functools.lru_cache(maxsize=256)
def _weights(num_values: int) -> _Weights:
    """With S(a, b) for all distances between the first a and the first b values, and m = kappa - tau, the distance is

    tau m / kappa x [2 (S(tau, kappa) - S(tau, tau)) / (tau m) - S(tau, tau) / (tau (tau - 1))
                     - (S(kappa, kappa) - 2 S(tau, kappa) + S(tau, tau)) / (m (m - 1))].
    """
    import numpy as np

    tau = np.arange(MIN_SEGMENT, num_values - MIN_SEGMENT + 1)[:, None]
    kappa = np.arange(2 * MIN_SEGMENT, num_values + 1)[None, :]
    is_allowed = kappa - tau >= MIN_SEGMENT
    after = np.where(is_allowed, kappa - tau, MIN_SEGMENT)
    of_after = tau / (kappa * (after - 1))
    return _Weights(
        both=is_allowed * (2 / kappa + 2 * of_after),
        before=is_allowed * (2 / kappa + after / (kappa * (tau - 1)) + of_after),
        until=is_allowed * of_after,
    )

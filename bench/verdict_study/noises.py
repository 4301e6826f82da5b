"""Noise models for sample times on shared machines."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Noise = Callable[[np.random.Generator, tuple[int, int]], Floats]
"""Returns log factors of the sample times [gates, samples], with the samples in order of time."""
JITTER = 0.04
BURST_FACTOR = 1.5
BURST_SHARE = 0.1
MAX_TREND = 0.10


def independent(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return JITTER * rng.standard_normal(shape)


def drift(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return _autoregressive(JITTER * rng.standard_normal(shape))


def fast_drift(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Drift that changes from pair to pair. Mirrored pairs (ABBA) err together under it."""
    return _autoregressive(JITTER * rng.standard_normal(shape), memory=0.5)


def heavy_tails(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Student's t with 3 degrees of freedom: its standard deviation is 7 %, and now and then a sample is far out."""
    return JITTER * rng.standard_t(3, shape)


def bursts(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return independent(rng, shape) + _slow_stretches(rng, shape)


def drifting_heavy_tails(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return _autoregressive(heavy_tails(rng, shape)) + _trend(rng, shape)


def all_at_once(rng: np.random.Generator, shape: tuple[int, int], scale: float = 1.0) -> Floats:
    """The three jitters times ``scale``, slow stretches and a trend."""
    jitter = independent(rng, shape) + heavy_tails(rng, shape) + _autoregressive(heavy_tails(rng, shape))
    return scale * jitter + _slow_stretches(rng, shape) + _trend(rng, shape)


NOISES: dict[str, Noise] = {
    "independent, 4 %": independent,
    "drift, 4 %": drift,
    "fast drift, 4 %": fast_drift,
    "heavy tails, 4 %": heavy_tails,
    "bursts": bursts,
    "drifting heavy tails": drifting_heavy_tails,
    "all at once, 4 % together": functools.partial(all_at_once, scale=1 / math.sqrt(3)),
    "all at once, 4 % each": all_at_once,
}


BEYOND_DECLARED = "all at once, 4 % each"
"""The one noise of more than the declared 4 %. It counts for every rate but ``power_at_10_percent``."""


def _autoregressive(steps: Floats, memory: float = 0.9) -> Floats:
    """AR(1) with the spread of ``steps``."""
    values = np.array(steps)
    for place in range(1, values.shape[1]):
        values[:, place] = memory * values[:, place - 1] + math.sqrt(1 - memory**2) * steps[:, place]
    return values


def _slow_stretches(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Stretches of 5 to 10 samples, a tenth of them slow because another process uses the cores."""
    num_gates, num_samples = shape
    lengths = rng.integers(5, 11, (num_gates, num_samples // 5 + 2))
    starts = np.cumsum(lengths, axis=1) - rng.integers(0, 5, (num_gates, 1))
    is_start = np.zeros((num_gates, num_samples + 1), dtype=np.int64)
    np.put_along_axis(is_start, np.minimum(starts, num_samples), 1, axis=1)
    stretch = np.cumsum(is_start[:, :num_samples], axis=1)
    is_slow = rng.random(lengths.shape) < BURST_SHARE
    return np.where(np.take_along_axis(is_slow, stretch, axis=1), math.log(BURST_FACTOR), 0.0)


def _trend(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Up to 10 % slower or faster from the first to the last sample."""
    return rng.uniform(-MAX_TREND, MAX_TREND, (shape[0], 1)) * np.linspace(0, 1, shape[1])

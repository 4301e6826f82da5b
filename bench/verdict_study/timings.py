"""Simulated times of two equally fast arms, interleaved as the plugin samples them, and in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.verdict_study.noises import Floats, Noise

SUITES_PER_CHUNK = 2_000


@dataclass(frozen=True, slots=True)
class Timings:
    """Log ratios of suites whose two arms are equally fast."""

    pairs: Floats
    """Pair by pair, interleaved as the plugin does [suites, gates, pairs]."""
    mean_of_blocks: Floats
    """All of one arm, then all of the other: their means [suites, gates]."""
    median_of_blocks: Floats


def simulate(noise: Noise, rng: np.random.Generator, num_suites: int, num_gates: int, num_pairs: int) -> Timings:
    chunks = []
    for start in range(0, num_suites, SUITES_PER_CHUNK):
        num_rows = min(SUITES_PER_CHUNK, num_suites - start) * num_gates
        samples = noise(rng, (num_rows, 2 * num_pairs))
        signs = order_signs(rng, num_rows, num_pairs)
        first, second = samples[:, :num_pairs], samples[:, num_pairs:]
        chunks.append(
            (
                (signs * (samples[:, 0::2] - samples[:, 1::2])).reshape(-1, num_gates, num_pairs),
                np.log(np.exp(first).mean(axis=1) / np.exp(second).mean(axis=1)).reshape(-1, num_gates),
                (np.median(first, axis=1) - np.median(second, axis=1)).reshape(-1, num_gates),
            )
        )
    return Timings(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def order_signs(rng: np.random.Generator, num_gates: int, num_pairs: int) -> Floats:
    """1 where the pair's first sample is of the first arm, -1 where it is of the second [gates, pairs].

    As ``pytest_grpo.measuring.sampling.rounds.RoundSampler`` orders them: each pair at random.
    """
    return rng.choice([-1.0, 1.0], size=(num_gates, num_pairs))

"""Noises that depend on which arm runs when. One small function each; the jitter of 4 % comes on top."""

from __future__ import annotations

import math
import random

from bench.verdict_study.machine import NEW, OLD, Run, RunNoise, Slowdown
from bench.verdict_study.noises import BURST_FACTOR, BURST_SHARE, JITTER

CARRY_OVER = 1.15
SECOND_PLACE = 1.10
STALL_FACTOR = 5.0
STALL_SHARE = 0.3
MACHINE_STALL_SHARE = 0.1


def quiet(rng: random.Random) -> Slowdown:
    return lambda run: 1.0


def carry_over_to_new(rng: random.Random) -> Slowdown:
    """The new arm takes 15 % longer right after the old one."""
    return lambda run: CARRY_OVER if run.arm == NEW and run.previous == OLD else 1.0


def carry_over_to_old(rng: random.Random) -> Slowdown:
    """The old arm takes 15 % longer right after the new one."""
    return lambda run: CARRY_OVER if run.arm == OLD and run.previous == NEW else 1.0


def position(rng: random.Random) -> Slowdown:
    """The arm that runs second in a round takes 10 % longer."""
    return lambda run: SECOND_PLACE if run.place == 1 else 1.0


def stalls(rng: random.Random) -> Slowdown:
    """30 % of the runs of the new arm take five times as long."""

    def slow(run: Run) -> float:
        return STALL_FACTOR if run.arm == NEW and rng.random() < STALL_SHARE else 1.0

    return slow


def stalls_of_the_machine(rng: random.Random) -> Slowdown:
    """A tenth of all runs takes five times as long, whichever arm it is."""
    return lambda run: STALL_FACTOR if rng.random() < MACHINE_STALL_SHARE else 1.0


def heavy_tails(rng: random.Random) -> Slowdown:
    """As the noise of that name: Student's t with 3 degrees of freedom, scaled by 4 %."""

    def slow(run: Run) -> float:
        chi_square = sum(rng.gauss(0, 1) ** 2 for _ in range(3))
        return math.exp(JITTER * rng.gauss(0, 1) / math.sqrt(chi_square / 3))

    return slow


def bursts(rng: random.Random) -> Slowdown:
    """A tenth of the stretches of 5 to 10 runs is 1.5 times slower."""
    num_left, factor = 0, 1.0

    def slow(run: Run) -> float:
        nonlocal num_left, factor
        if num_left == 0:
            num_left, factor = rng.randint(5, 10), BURST_FACTOR if rng.random() < BURST_SHARE else 1.0
        num_left -= 1
        return factor

    return slow


RUN_NOISES: dict[str, RunNoise] = {
    "none of these": quiet,
    "carry-over to the new arm": carry_over_to_new,
    "carry-over to the old arm": carry_over_to_old,
    "position effect": position,
    "stalls": stalls,
    "stalls of the machine": stalls_of_the_machine,
    "heavy tails": heavy_tails,
    "bursts": bursts,
}
IS_WRONG_BY_MEANS = {"stalls"}
"""With these the new arm is slower than the old one, however much faster by the median."""

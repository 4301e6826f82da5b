"""The A/A control: the same work measured against itself, once per session, before the first timing verdict."""

from __future__ import annotations

import hashlib
import random

from pytest_grpo.measuring.sampler import Sampler
from pytest_grpo.measuring.stats import control_problem

NUM_PAIRS = 20
NUM_TRIES = 2
BUDGET_S = 10.0


def find_problem(rng: random.Random) -> str:
    """Why timings on this machine cannot be trusted now; empty when they can.

    The control runs again before it reports a problem, so a moment of noise is forgiven.
    """
    work = _Work()
    problem = ""
    for _ in range(NUM_TRIES):
        sampler = Sampler({"once": work, "again": work}, budget_s=BUDGET_S, rng=rng)
        sampler.take_until(NUM_PAIRS)
        ratios = [_seconds(taken["once"].seconds) / _seconds(taken["again"].seconds) for taken in sampler.rounds]
        problem = control_problem(ratios)
        if not problem:
            return ""
    return f"the A/A control fired: {problem}; run it on a quieter machine"


def _seconds(value: float | None) -> float:
    assert value is not None
    return value


class _Work:
    """Some milliseconds of arithmetic and memory traffic."""

    def __init__(self) -> None:
        self._block = bytes(4 << 20)

    def __call__(self) -> None:
        hashlib.sha256(self._block).digest()
        sorted(range(50_000), key=lambda value: value * 7919 % 50_021)

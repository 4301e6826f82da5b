"""The A/A control: the same work measured against itself, once per session, before the first timing verdict."""

from __future__ import annotations

import hashlib
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pytest_grpo.measuring.machine.cpu_use import num_cores_for_us
from pytest_grpo.measuring.machine.quiet import WAIT_SHARE, QuietGuard
from pytest_grpo.measuring.sampling.rounds import Round, RoundSampler
from pytest_grpo.measuring.statistics.sign_test import control_problem

NUM_PAIRS = 20
MIN_PAIRS = 11
"""With fewer, ``control_problem`` could find no bias."""
NUM_TRIES = 2
BUDGET_S = 10.0


@dataclass(frozen=True, slots=True)
class Control:
    """Why timings on this machine cannot be trusted now; empty when they can. The next gate asks again unless it
    ``is_final``."""

    problem: str
    is_final: bool = True


def run_control(rng: random.Random, max_cores_of_others: float) -> Control:
    """Measure the same work against itself, with as many threads as the gates use.

    It runs again before it reports a problem, so a moment of noise is forgiven. Pairs during which others used more
    cores are left out. If too few remain, it says nothing about quiet times.
    """
    problem = ""
    with _Work(num_threads()) as work:
        for _ in range(NUM_TRIES):
            sampler = RoundSampler({"once": work, "again": work}, budget_s=BUDGET_S, rng=rng)
            guard = QuietGuard(max_cores_of_others, WAIT_SHARE * BUDGET_S)

            def check(_: Round, sampler: RoundSampler = sampler, guard: QuietGuard = guard) -> bool:
                if not guard.counts():
                    sampler.drop_last()
                guard.start_round()
                return True

            sampler.take_until(NUM_PAIRS, check)
            if guard.num_busy and len(sampler.rounds) < MIN_PAIRS:
                return Control(f"too few pairs for the A/A control: {guard.left_out()}", is_final=False)
            ratios = [_seconds(taken["once"].seconds) / _seconds(taken["again"].seconds) for taken in sampler.rounds]
            problem = control_problem(ratios)
            if not problem:
                return Control("")
    return Control(f"this machine is too noisy for timings (A/A control): {problem}; run it on a quieter machine")


def num_threads() -> int:
    """Torch's threads where it is loaded; else as many as this process may use cores."""
    torch = sys.modules.get("torch")
    return num_cores_for_us() if torch is None else torch.get_num_threads()


def _seconds(value: float | None) -> float:
    assert value is not None
    return value


class _Work:
    """Some milliseconds of arithmetic in each of ``num_threads`` threads, then some of Python in one of them.

    Like a parallel loop of torch it ends with its slowest thread. Hashing leaves Python's lock to the others.
    """

    def __init__(self, num_threads: int) -> None:
        self._block = bytes(4 << 20)
        self._num_threads = num_threads
        self._pool = ThreadPoolExecutor(num_threads)

    def __enter__(self) -> _Work:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def __call__(self) -> None:
        hashes = [self._pool.submit(self._hash) for _ in range(self._num_threads)]
        for done in hashes:
            done.result()
        sorted(range(50_000), key=lambda value: value * 7919 % 50_021)

    def _hash(self) -> bytes:
        return hashlib.sha256(self._block).digest()

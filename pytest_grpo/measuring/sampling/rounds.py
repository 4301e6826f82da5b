"""Measuring arms side by side: interleaved rounds in random order.

On a shared machine the speed drifts. Adjacent samples share most of the drift, so it cancels in their ratio. The rest
favours each arm equally often, because each round has a random order.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field

from pytest_grpo.measuring.sampling.sample import Arm, measure, only_new_objects_collected, took_s
from pytest_grpo.types import Sample

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""

MIN_SAMPLE_S = 0.05
MAX_REPEATS = 1_000_000
MAX_WARMUPS = 5
WARMUP_SPREAD = 0.10
WARMUP_SHARE = 0.1
DEFAULT_BUDGET_S = 45.0

Round = Mapping[str, Sample]
"""One sample of each arm, taken next to each other."""

Measure = Callable[[Arm, str, int], Sample]
"""One sample of the arm with that name, the mean of so many runs."""

Run = Callable[[Arm, str, int], float]
"""The seconds of one run, from so many runs of the arm with that name, of which no sample is kept."""


@dataclass(frozen=True, slots=True)
class Order:
    """How a round was taken: the arms in order, and, of a doubled round, what each measured right after another arm."""

    names: tuple[str, ...]
    first_samples: Round | None = None


@dataclass(slots=True)
class RoundSampler:
    """Takes rounds of samples from ``arms`` until its ``budget_s`` is spent.

    In a doubled round (``is_doubled``) each arm is measured twice in a row, and its second sample counts: the first one
    follows another arm, and may suffer from what that left in caches and allocators. In block mode (``block_size`` > 1)
    an arm runs that many times in a row, after one run that is not counted.
    """

    arms: Mapping[str, Arm]
    budget_s: float = DEFAULT_BUDGET_S
    block_size: int = 1
    rng: random.Random = field(default_factory=random.Random)
    is_doubled: bool = False
    rounds: list[Round] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    """How each of ``rounds`` was taken."""
    spent_s: float = 0.0
    first_budget_s: float = field(init=False)
    """``budget_s`` before anything was added to it."""
    run_s: float = 0.0
    """What one run of each arm took in the last round, together; 0 before the first one."""
    _round_s: float = 0.0
    take: Measure = field(default_factory=lambda: measure)
    run: Run = field(default_factory=lambda: took_s)
    has_equal_repeats: bool = False
    """The arms do the same work, so each sample has as many runs."""
    is_simulated: bool = False
    """Nothing is timed, so garbage collections do no harm."""
    _repeats: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.first_budget_s = self.budget_s

    def take_until(self, num_rounds: int, on_round: Callable[[Round], bool] | None = None) -> bool:
        """Measure until there are ``num_rounds`` rounds; False when the budget does not allow the next one.

        ``on_round`` sees each round; when it returns False, that was the last one.

        Raises:
            MeasurementError: an arm measured something that is not finite and above zero.
        """
        with nullcontext() if self.is_simulated else only_new_objects_collected():
            if not self._repeats:
                self._warm_up()
            while len(self.rounds) < num_rounds:
                if self._round_s and self.spent_s + self._round_s > self.budget_s:
                    return False
                start = time.perf_counter()
                self._take_round()
                self._round_s = time.perf_counter() - start
                self.spent_s += self._round_s
                self.run_s = self._round_s / self._num_runs()
                if on_round is not None and not on_round(self.rounds[-1]):
                    break
        return True

    def drop_last(self) -> None:
        """Forget the last round; the time it took stays spent."""
        self.rounds.pop()
        self.orders.pop()

    def start_afresh(self) -> None:
        """Forget all rounds; the time they took stays spent."""
        self.rounds.clear()
        self.orders.clear()
        self._round_s = 0.0

    def _warm_up(self) -> None:
        """Run the arms unmeasured until two runs in a row take about the same time; find out how often to repeat."""
        start = time.perf_counter()
        before: dict[str, float] = {}
        for _ in range(MAX_WARMUPS):
            took = {name: self.run(arm, name, 1) for name, arm in self.arms.items()}
            is_stable = bool(before) and all(
                abs(took[name] - before[name]) <= WARMUP_SPREAD * before[name] for name in took
            )
            before = took
            if is_stable or time.perf_counter() - start > WARMUP_SHARE * self.budget_s:
                break
        for name, seconds in before.items():
            self._repeats[name] = self._repeats_for(name, seconds)
        if self.has_equal_repeats:
            self._repeats = dict.fromkeys(self._repeats, max(self._repeats.values()))
        self.spent_s += time.perf_counter() - start

    def _repeats_for(self, name: str, run_s: float) -> int:
        """How many runs last ``MIN_SAMPLE_S``. A run of tiny work is mostly clock overhead, so more are timed."""
        repeats = 1
        while run_s * repeats < MIN_SAMPLE_S and repeats < MAX_REPEATS:
            repeats = min(MAX_REPEATS, max(2 * repeats, math.ceil(MIN_SAMPLE_S / max(run_s, 1e-9))))
            run_s = self.run(self.arms[name], name, repeats)
        return repeats

    def _num_runs(self) -> int:
        """Runs of each arm in the last round, in samples of that many repeats."""
        if self.block_size > 1:
            return self.block_size + 1
        return 1 if self.orders[-1].first_samples is None else 2

    def _take_round(self) -> None:
        # Each round has an independent random order, so under any drift pairs of equal arms err like fair coins.
        # Mirrored rounds (ABBA) err together when the drift is not linear.
        names = list(self.arms)
        self.rng.shuffle(names)
        first: dict[str, Sample] = {}
        samples: dict[str, Sample] = {}
        for name in names:
            if self.block_size > 1:
                self.run(self.arms[name], name, 1)
            elif self.is_doubled:
                first[name] = self.take(self.arms[name], name, self._repeats[name])
            samples[name] = self.take(self.arms[name], name, self._repeats[name] * self.block_size)
        self.rounds.append({name: samples[name] for name in self.arms})
        self.orders.append(Order(tuple(names), first or None))

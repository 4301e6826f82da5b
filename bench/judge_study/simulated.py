"""Simulated runs that ``grpo judge`` judges: quiet ones, ones in which something changes, and two of a kind."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np

from bench.history_quality import noise
from bench.verdict_study.noises import Floats
from bench.verdict_study.rate import Rate
from pytest_grpo.logs.comparing import Outcome, compare_runs
from pytest_grpo.logs.findings.trends import Verdict
from pytest_grpo.logs.judging import DEFAULT_TOLERANCE, Judged, judge_run
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.settled import WARM_UP_STEPS, settle
from pytest_grpo.logs.vocabulary.quantities import CYCLE, ROLLOUT, STEP, TOKENS

QUANTITIES = (STEP, CYCLE, ROLLOUT, TOKENS)
"""Judged together; they are independent here."""
NUMS_OF_STEPS = (60, 200, 600)
SPREAD = 0.05
TRUE_MEMORY = 0.5
"""Of the runs in which something changes."""
SLOW_MEMORY = 0.97
RUN_SPREADS = (0.0, 0.05)


@dataclass(frozen=True, slots=True)
class Noise:
    """How the logs of a quiet run's steps vary: AR(1) with a memory; ``slow_share`` of the variance hardly forgets."""

    name: str
    memory: float
    slow_share: float = 0.0

    def logs(self, rng: np.random.Generator, num_runs: int, num_steps: int, spread: float = SPREAD) -> Floats:
        fast = noise(rng, num_runs, num_steps, 1.0, self.memory)
        slow = noise(rng, num_runs, num_steps, 1.0, SLOW_MEMORY)
        return spread * (np.sqrt(1 - self.slow_share) * fast + np.sqrt(self.slow_share) * slow)


QUIET = (
    *(Noise(f"memory {memory:g}", memory) for memory in (0.0, 0.5, 0.8, 0.9)),
    Noise("memory 0, a tenth slow", 0.0, 0.1),
    Noise("memory 0, half slow", 0.0, 0.5),
)
CHANGED = Noise("changed", TRUE_MEMORY)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one quantity: by how much it changes over the run, bit by bit or at once in the middle."""

    name: str
    size: float
    is_shift: bool = False

    def logs(self, num_steps: int) -> Floats:
        place = np.arange(num_steps) / (num_steps - 1)
        return np.log1p(self.size) * (np.where(place >= 0.5, 1.0, 0.0) if self.is_shift else place)


TRUTHS = (
    *(Truth(f"drift of {100 * size:.0f} %", size) for size in (0.05, 0.10, 0.20)),
    *(Truth(f"shift of {100 * size:.0f} %", size, is_shift=True) for size in (0.05, 0.10, 0.20)),
)
FACTORS = (2.0, 3.0, 6.0)
"""One step takes this many times as long."""
STALL_SPREADS = (0.05, 0.20)
STALLS = tuple(product(FACTORS, STALL_SPREADS))
DIFFERENCES = (0.0, 0.05, 0.10, 0.30)


@dataclass(frozen=True, slots=True)
class Alarms:
    """Of quiet runs: those with a false change, those with a false stall, and columns without an interval."""

    changes: Rate
    stalls: Rate
    undecided: Rate


def run_of(columns: Floats) -> RunLog:
    """A run whose quantities have these logs [quantities, steps]."""
    named = dict(zip(QUANTITIES, (tuple(np.exp(column).tolist()) for column in columns), strict=False))
    return RunLog("run", "simulated", "none", tuple(range(1, columns.shape[1] + 1)), named, (1,), ())


def judge(columns: Floats) -> Judged:
    return judge_run(run_of(columns), WARM_UP_STEPS, DEFAULT_TOLERANCE)


def study_alarms(options: argparse.Namespace, num_steps: int, kind: Noise) -> Alarms:
    """Runs in which nothing changes. A false improvement counts, too: nobody should believe it either."""
    rng = np.random.default_rng([options.seed, num_steps, QUIET.index(kind)])
    logs = (kind.logs(rng, len(QUANTITIES), num_steps) for _ in range(options.quiet))
    judged = [judge(columns) for columns in logs]
    verdicts = [[trend.verdict for trend in each.headlines] for each in judged]
    false = [any(verdict not in (Verdict.STEADY, Verdict.UNCLEAR) for verdict in each) for each in verdicts]
    undecided = [trend.change is None and not trend.shifts for each in judged for trend in each.headlines]
    return Alarms(
        Rate.of(false), Rate.of([any(one.steps for one in each.stalls) for each in judged]), Rate.of(undecided)
    )


def study_truth(options: argparse.Namespace, num_steps: int, truth: Truth) -> Rate:
    """Runs of four quantities, of which one gets worse: how often that is found."""
    rng = np.random.default_rng([options.seed, num_steps, TRUTHS.index(truth), 1])
    found = []
    for _ in range(options.changed):
        columns = CHANGED.logs(rng, len(QUANTITIES), num_steps)
        columns[0] += truth.logs(num_steps)
        found.append(judge(columns).headlines[0].verdict.is_bad)
    return Rate.of(found)


def study_stalls(options: argparse.Namespace, factor: float, spread: float) -> Rate:
    """Runs of 200 steps of which one, after the warm-up, is a stall: how often it is found."""
    rng = np.random.default_rng([options.seed, round(factor), round(100 * spread), 2])
    found = []
    for _ in range(options.changed):
        columns, place = CHANGED.logs(rng, 1, 200, spread), int(rng.integers(WARM_UP_STEPS, 200))
        columns[0, place] += np.log(factor)
        found.append(place + 1 in judge(columns).stalls[0].steps)
    return Rate.of(found)


def study_difference(options: argparse.Namespace, true_spread: float, told_spread: float, size: float) -> Rate:
    """Two runs of 200 steps; runs of one code spread by ``true_spread``: how often one is called worse or better."""
    rng = np.random.default_rng([options.seed, round(100 * true_spread), round(100 * size), 3])
    found = []
    for _ in range(options.changed if size else options.quiet):
        both = CHANGED.logs(rng, 2, 200) + true_spread * rng.standard_normal((2, 1))
        here, there = (settle(run_of(logs[None, :]), WARM_UP_STEPS) for logs in (both[0] + np.log1p(size), both[1]))
        comparison = compare_runs(here, there, [STEP], DEFAULT_TOLERANCE, told_spread)
        found.append(comparison.differences[0].outcome in (Outcome.WORSE, Outcome.BETTER))
    return Rate.of(found)

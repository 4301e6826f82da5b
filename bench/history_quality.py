"""How often ``grpo history`` is wrong, how often it finds a change, and how far off: on simulated stored runs.

``python bench/history_quality.py --markdown history.md`` writes the tables of docs/history.md; it takes some minutes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from bench.reporting.figures import table
from bench.reporting.options import OneLineParser, add_json, add_markdown, natural, positive
from bench.verdict_study.noises import Floats
from bench.verdict_study.rate import Rate
from grpo_core.home import write_json
from pytest_grpo.baseline.fingerprint import take_fingerprint
from pytest_grpo.drift.changes import find_changes
from pytest_grpo.drift.divisive import find_splits
from pytest_grpo.drift.series import Gate, Run, Series
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA

NUMS_OF_RUNS = (20, 50, 100)
SPREADS = (0.02, 0.05)
QUIET = ((0.02, 0.0), (0.05, 0.0), (0.02, 0.5))
"""How far runs spread, and the memory of that: with 0.5, runs that follow each other are alike (AR(1))."""
STEPS = (0.03, 0.05, 0.10)
DRIFT_PER_RUN = 0.01


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of the series that changes: by how much, at once or run by run from the middle on."""

    name: str
    size: float
    is_drift: bool = False

    def logs(self, num_runs: int) -> Floats:
        """The log of each run's ratio without noise; the first half does not change."""
        after = np.maximum(0, np.arange(num_runs) - num_runs // 2 + 1)
        return np.log1p(self.size) * (after if self.is_drift else after > 0)


TRUTHS = (
    *(Truth(f"step of {100 * size:.0f} %", size) for size in STEPS),
    Truth(f"drift of {100 * DRIFT_PER_RUN:.0f} % per run", DRIFT_PER_RUN, is_drift=True),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of one truth: how often, and for steps the distance to the true run, over those found."""

    power: Rate
    median_off: float
    within_two: Rate | None


def noise(rng: np.random.Generator, num_series: int, num_runs: int, spread: float, memory: float) -> Floats:
    """Logs of the runs' ratios when nothing changes: [series, runs], normal with standard deviation ``spread``."""
    values = rng.standard_normal((num_series, num_runs))
    for run in range(1, num_runs):
        values[:, run] = memory * values[:, run - 1] + np.sqrt(1 - memory**2) * values[:, run]
    return spread * values


def as_series(logs: Floats) -> list[Series]:
    """Each row as the ratio of a gate, larger is worse; run ``3`` was of commit ``3``."""
    fingerprint = take_fingerprint(Path("/"), {})
    runs = tuple(Run(str(run), f"2026-01-01T00:00:{run:06}", str(run), fingerprint) for run in range(logs.shape[1]))
    return [
        Series("machine", Gate("test", f"gate{place}", "grpo_core", "cpu", None, 1), runs, tuple(np.exp(row).tolist()))
        for place, row in enumerate(logs)
    ]


def study_alarms(options: argparse.Namespace, num_runs: int, spread: float, memory: float) -> Rate:
    """Histories without a change in which ``grpo history`` finds one."""
    rng = np.random.default_rng([options.seed, num_runs, round(1000 * spread), round(1000 * memory)])
    num_histories = options.changed if memory else options.quiet  # what is found takes all permutations
    histories = (as_series(noise(rng, options.series, num_runs, spread, memory)) for _ in range(num_histories))
    return Rate.of([bool(find_changes(history, FAMILY_ALPHA)) for history in histories])


def study_truth(options: argparse.Namespace, num_runs: int, spread: float, truth: Truth) -> Found:
    """One of the series changes as ``truth`` says. It has its share of the error budget; the others are not drawn."""
    rng = np.random.default_rng([options.seed, num_runs, round(1000 * spread), TRUTHS.index(truth), 1])
    changed = truth.logs(num_runs) + noise(rng, options.changed, num_runs, spread, 0.0)
    found = [[split.index for split in find_splits(row.tolist(), FAMILY_ALPHA / options.series)] for row in changed]
    off = [min(abs(index - num_runs // 2) for index in splits) for splits in found if splits]
    is_located = not truth.is_drift and off
    return Found(
        power=Rate.of([bool(splits) for splits in found]),
        median_off=float(np.median(off)) if is_located else np.nan,
        within_two=Rate.of([distance <= 2 for distance in off]) if is_located else None,
    )


def study_all(
    options: argparse.Namespace,
) -> tuple[dict[tuple[int, float, float], Rate], dict[tuple[int, float, Truth], Found]]:
    """By number of runs, spread, and memory or truth."""
    quiet = [(num_runs, *case) for num_runs, case in product(NUMS_OF_RUNS, QUIET)]
    changed = list(product(NUMS_OF_RUNS, SPREADS, TRUTHS))
    return _study(study_alarms, options, quiet), _study(study_truth, options, changed)


def _study(study: Callable, options: argparse.Namespace, cases: Sequence[tuple]) -> dict:
    if options.processes == 1:
        return {case: study(options, *case) for case in cases}
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        started = {case: pool.submit(study, options, *case) for case in reversed(cases)}  # the longest first
        return {case: started[case].result() for case in cases}


def alarm_table(alarms: dict[tuple[int, float, float], Rate]) -> list[str]:
    titles = [f"{100 * spread:.0f} %{f', memory {memory:g}' if memory else ''}" for spread, memory in QUIET]
    rows = [[num_runs, *(alarms[num_runs, *case].with_interval for case in QUIET)] for num_runs in NUMS_OF_RUNS]
    return table(["runs", *titles], rows)


def power_table(found: dict[tuple[int, float, Truth], Found]) -> list[str]:
    rows = [
        [truth.name, f"{100 * spread:.0f} %", *(_shown(found[num_runs, spread, truth]) for num_runs in NUMS_OF_RUNS)]
        for truth, spread in product(TRUTHS, SPREADS)
    ]
    return table(["truth", "spread", *(f"{num_runs} runs" for num_runs in NUMS_OF_RUNS)], rows)


def _shown(found: Found) -> str:
    if found.within_two is None:
        return str(found.power)
    return f"{found.power}; off by {found.median_off:g}, {found.within_two} within 2"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = OneLineParser(description="Simulate how often `grpo history` is wrong.")
    add = parser.add_argument
    add("--quiet", type=positive, default=400, help="histories without a change, per case (default 400)")
    add("--changed", type=positive, default=50, help="histories with a change or a memory, per case (default 50)")
    add("--series", type=positive, default=10, help="series judged together (default 10)")
    add("--processes", type=positive, default=2, help="cases studied at a time (default 2)")
    add("--seed", type=natural, default=0, help="seed of the simulation (default 0)")
    add_json(parser)
    add_markdown(parser)
    options = parser.parse_args(arguments)
    alarms, found = study_all(options)
    lines = [
        f"Histories of {options.series} series without a change in which one is found, by how far runs spread",
        "",
        *alarm_table(alarms),
        "",
        f"Changes found in one of {options.series} series, and how many runs off",
        "",
        *power_table(found),
    ]
    print(*lines, sep="\n")
    if options.markdown is not None:
        options.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if options.json is not None:
        write_json(options.json, _rates(alarms, found))
    return 0


def _rates(
    alarms: dict[tuple[int, float, float], Rate], found: dict[tuple[int, float, Truth], Found]
) -> dict[str, dict[str, object]]:
    of_alarms = {
        f"alarms, {num_runs} runs, spread {spread:g}, memory {memory:g}": rate.as_json()
        for (num_runs, spread, memory), rate in alarms.items()
    }
    of_power = {
        f"power, {num_runs} runs, spread {spread:g}, {truth.name}": one.power.as_json()
        for (num_runs, spread, truth), one in found.items()
    }
    return of_alarms | of_power


if __name__ == "__main__":
    sys.exit(main())

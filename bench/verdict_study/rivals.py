"""The rules of three others and the plugin's, on the same series: is this build more than 5 % slower?

- nsys-ai: one sample of each build, red above 5 %
- miles: the session's mean against the mean of the last 20 sessions, red above a band of 5 %
- prime-rl: the session's mean against a committed one, red outside of 15 % on both sides
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.verdict_study.decisions import decide
from bench.verdict_study.rate import Rate
from bench.verdict_study.series import NEIGHBOUR_SHARE, SESSION_SPREAD, Draw, Series, recorded, simulated
from pytest_grpo.baseline.files import Baseline
from pytest_grpo.baseline.fingerprint import Fingerprint, take_fingerprint
from pytest_grpo.baseline.regressions import Outcome, is_baseline_decided, judge_against
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA, Plan
from pytest_grpo.types import Row

TOLERANCE = 0.05
COMMITTED_BAND = 0.15
LOSS = 0.20
NUM_GATES = 9
NODEID = "test_speed.py::test_speed"
GREEN, UNDECIDED, RED = 1, 0, -1

Codes = NDArray[np.int8]
NOISES: dict[str, Draw] = {
    "independent, 4 %": simulated,
    "one-arm neighbour": functools.partial(simulated, neighbours=NEIGHBOUR_SHARE),
    "session spread, 5 %": functools.partial(simulated, spread=SESSION_SPREAD),
    "recorded": functools.partial(recorded, has_neighbour=False),
    "recorded beside a busy process": functools.partial(recorded, has_neighbour=True),
}


def nsys_ai(series: Series) -> Codes:
    return _codes(series.fast[:, 0] - series.fast_stored[:, 0, 0] > math.log1p(TOLERANCE))


def miles(series: Series) -> Codes:
    return _codes(_mean(series.fast) > (1 + TOLERANCE) * _mean(series.fast_stored).mean(axis=1))


def prime_rl(series: Series) -> Codes:
    return _codes(np.abs(_mean(series.fast) / _mean(series.fast_stored)[:, 0] - 1) > COMMITTED_BAND)


def threshold_gate(series: Series, *, waits_for_quiet: bool = True) -> Codes:
    """``fast.seconds <= 1.05 * slow.seconds``, as the plugin judges it within one session."""
    plan = Plan(fail_alpha=FAMILY_ALPHA / NUM_GATES)
    logs = math.log1p(TOLERANCE) - (series.fast - series.slow)
    codes = np.zeros(len(logs), dtype=np.int8)
    for trial, is_quiet in enumerate(series.is_quiet | (not waits_for_quiet)):
        kept = logs[trial, is_quiet]
        looks = tuple(look for look in plan.looks if look <= len(kept))
        if looks:
            codes[trial] = decide(kept[None], Plan(looks, plan.pass_alpha, plan.fail_alpha))[0][0]
    return codes


def compare(series: Series, *, num_stored: int) -> Codes:
    """``--grpo-compare`` with so many stored sessions of the old build, sampling on as long as pairs can decide."""
    logs, stored = series.fast - series.slow, series.fast_stored - series.slow_stored
    codes = np.zeros(len(logs), dtype=np.int8)
    for trial, is_quiet in enumerate(series.is_quiet):
        quiet = [pairs[kept] for pairs, kept in zip(stored[trial], series.is_quiet_stored[trial], strict=True)]
        sessions = [_stored(pairs) for pairs in quiet if len(pairs) >= Plan().looks[0]][:num_stored]
        if not sessions:
            continue  # no session could store this gate
        baseline, *others = sessions
        kept = logs[trial, is_quiet]
        for look in (look for look in Plan().looks if look <= len(kept)):
            change = judge_against(_row(kept[:look]), NODEID, baseline, TOLERANCE, others=others)
            assert change is not None
            codes[trial] = {Outcome.REGRESSION: RED, Outcome.NO_REGRESSION: GREEN}.get(change.outcome, UNDECIDED)
            if is_baseline_decided(change, baseline):
                break
    return codes


def _stored(logs: NDArray[np.float64]) -> Baseline:
    """A session of nine gates, of which only the first matters."""
    others = [(NODEID, replace(_row(logs[:1]), metric=f"other{number}")) for number in range(1, NUM_GATES)]
    return Baseline("stored", "", _fingerprint(), [(NODEID, _row(logs)), *others])


@functools.cache
def _fingerprint() -> Fingerprint:
    return take_fingerprint(Path(__file__).parent, {})


def _row(logs: NDArray[np.float64]) -> Row:
    ratios = np.exp(logs).tolist()
    return Row(
        *("seconds", None, "at_most", None, 1 + TOLERANCE, "", "", "", "pass", "", ratios[0], "cpu"), ratios=ratios
    )


RULES: dict[str, Callable[[Series], Codes]] = {
    "nsys-ai": nsys_ai,
    "miles": miles,
    "prime-rl": prime_rl,
    "this plugin, all pairs": functools.partial(threshold_gate, waits_for_quiet=False),
    "this plugin": threshold_gate,
    "--grpo-compare, 1 stored": functools.partial(compare, num_stored=1),
    "--grpo-compare, 10 stored": functools.partial(compare, num_stored=10),
}


@dataclass(frozen=True, slots=True)
class RuleQuality:
    """How one rule judges one kind of series."""

    false_red: Rate
    """Nothing changed."""
    false_green: Rate
    """A build that is 20 % slower."""
    power: Rate


def study_rules(rng: np.random.Generator, num_trials: int) -> dict[str, dict[str, RuleQuality]]:
    """By noise and rule."""
    found: dict[str, dict[str, RuleQuality]] = {}
    for noise, draw in NOISES.items():
        series = draw(rng, num_trials)
        lost = series.slower_by(LOSS)
        found[noise] = {}
        for name, rule in RULES.items():
            unchanged, slower = rule(series), rule(lost)
            found[noise][name] = RuleQuality(
                Rate.of(unchanged == RED), Rate.of(slower == GREEN), Rate.of(slower == RED)
            )
    return found


def table_of_rules(found: dict[str, dict[str, RuleQuality]]) -> list[str]:
    """Markdown: false red / false green / found, per noise and rule."""
    lines = [f"| noise | {' | '.join(RULES)} |", "|---" * (len(RULES) + 1) + "|"]
    for noise, rules in found.items():
        cells = (
            f"{_percent(quality.false_red)} / {_percent(quality.false_green)} / {_percent(quality.power)}"
            for quality in rules.values()
        )
        lines.append(f"| {noise} | {' | '.join(cells)} |")
    return lines


def _percent(rate: Rate) -> str:
    return f"{100 * rate.share:.{1 if 0 < rate.share < 0.1 else 0}f} %"


def _codes(is_red: NDArray[np.bool_]) -> Codes:
    return np.where(is_red, RED, GREEN).astype(np.int8)


def _mean(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(logs).mean(axis=-1)

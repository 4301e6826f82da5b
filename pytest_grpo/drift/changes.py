"""The change points of a history, each with the commits that it lies between, as losses and gains."""

from __future__ import annotations

import enum
import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pytest_grpo.drift.divisive import find_splits
from pytest_grpo.drift.series import Gate, Run, Series, differing_software
from pytest_grpo.types import REFERENCE_ARM

MIN_RUNS = 10
"""Fewer runs have so few orders that the largest change is no proof."""


class Outcome(enum.StrEnum):
    """What a change point is for its gate."""

    LOSS = "loss"
    GAIN = "gain"
    CHANGE = "change"
    """Of a band: neither direction is worse."""


@dataclass(frozen=True, slots=True)
class Change:
    """A gate's ratio changed after the run ``last_before``, at the latest with the run ``first_after``.

    ``before`` and ``after`` are the medians of the runs up to the next change point on either side.
    """

    machine: str
    gate: Gate
    before: float
    after: float
    p_value: float
    """Corrected for the number of series that were judged together (Bonferroni)."""
    last_before: Run
    first_after: Run

    @property
    def fraction(self) -> float:
        """0.05 for 5 % more."""
        return self.after / self.before - 1

    @property
    def outcome(self) -> Outcome:
        if self.gate.worse_side is None:
            return Outcome.CHANGE
        return Outcome.LOSS if self.fraction * self.gate.worse_side > 0 else Outcome.GAIN

    @property
    def bisect(self) -> str:
        """The command that looks for the commit; empty when there is no range of commits."""
        good, bad = self.last_before.commit, self.first_after.commit
        if not good or not bad or good == bad:
            return ""
        phase = [] if self.gate.phase is None else ["--phase", str(self.gate.phase)]
        return shlex.join(["grpo", "bisect", good[:12], bad[:12], *phase, *self._slower()])

    def _slower(self) -> list[str]:
        """An arm that takes longer over its reference is searched for itself: it need not fail its phase."""
        arm, is_arm, _ = self.gate.metric.rpartition(":")[2].partition(f"/{REFERENCE_ARM}")
        if not is_arm or self.outcome is not Outcome.LOSS:
            return []
        return ["--slower", f"{arm}.seconds", "--by", f"{max(1, round(100 * self.fraction / 2))}%"]

    @property
    def notes(self) -> list[str]:
        """What else changed there, and why there is nothing to bisect."""
        found = [f"software differs: {text}" for text in differing_software(self.last_before, self.first_after)]
        commit = self.last_before.commit
        if commit and commit == self.first_after.commit:
            found.append(f"commit {commit[:12]} was measured before and after: its code is not the cause")
        elif not self.bisect:
            found.append("no commit is known: these runs were stored outside of a git repository")
        return found


def judged(series: Sequence[Series]) -> list[Series]:
    """The series that are long enough to judge, without constant ones, which have no change in any order of runs."""
    return [each for each in series if len(each.values) >= MIN_RUNS and len(set(each.values)) > 1]


def find_changes(series: Sequence[Series], max_p: float) -> list[Change]:
    """All change points. If nothing changed in any series, there is one with probability ``max_p`` at most."""
    long = judged(series)
    return [change for each in long for change in _changes(each, max_p, len(long))]


def _changes(series: Series, max_p: float, num_series: int) -> list[Change]:
    splits = find_splits([math.log(value) for value in series.values], max_p / num_series)
    edges = [0, *(split.index for split in splits), len(series.values)]
    levels = [statistics.median(series.values[start:end]) for start, end in pairwise(edges)]
    return [
        Change(
            machine=series.machine,
            gate=series.gate,
            before=before,
            after=after,
            p_value=split.p_value * num_series,
            last_before=series.runs[split.index - 1],
            first_after=series.runs[split.index],
        )
        for split, (before, after) in zip(splits, pairwise(levels), strict=True)
    ]

"""One run, judged: trends of its headline quantities and of its parts, stalls, shares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from pytest_grpo.logs.findings.shares import Shares, find_shares
from pytest_grpo.logs.findings.stalls import Stalls, find_stalls
from pytest_grpo.logs.findings.trends import Trend, judge_trend
from pytest_grpo.logs.run_log import RunLog
from pytest_grpo.logs.settled import Settled, settle
from pytest_grpo.logs.vocabulary.quantities import CYCLE, STEP, Quantity
from pytest_grpo.measuring.statistics.sign_test import FAMILY_ALPHA

DEFAULT_TOLERANCE = 0.02
"""A change of less over the run is none that matters, and so is a smaller share of time lost in stalls."""
_QUESTIONS = 2
"""That are asked of each quantity: does it drift, and does it shift?"""


@dataclass(frozen=True, slots=True)
class Judged:
    """What is found of ``settled``. ``alpha`` is that of each headline's interval, ``parts_alpha`` of each part's."""

    settled: Settled
    tolerance: float
    headlines: tuple[Trend, ...]
    parts: tuple[Trend, ...]
    stalls: tuple[Stalls, ...]
    shares: Shares | None
    alpha: float
    parts_alpha: float

    @property
    def is_bad(self) -> bool:
        """Whether a headline gets worse, or stalls take more than the tolerance. A part alone is no loss."""
        return any(each.verdict.is_bad for each in self.headlines) or any(map(self.is_costly, self.stalls))

    def is_costly(self, stalls: Stalls) -> bool:
        return stalls.cost > self.tolerance and not stalls.is_cycle


def judge_run(log: RunLog, num_warm_up: int, tolerance: float, wanted: Collection[str] = ()) -> Judged:
    """Judge the headlines that are ``wanted``, or all. About 1 % of quiet runs have a false alarm.

    Raises:
        pytest.UsageError: too few steps are left without the warm-up.
    """
    settled = settle(log, num_warm_up)
    headlines = [each for each in settled.log.headlines if not wanted or each.name in wanted]
    parts = settled.log.parts if STEP in headlines else ()
    alpha, parts_alpha = (FAMILY_ALPHA / _QUESTIONS / max(len(each), 1) for each in (headlines, parts))
    return Judged(
        settled,
        tolerance,
        headlines=_trends(settled.log, headlines, alpha, tolerance),
        parts=_trends(settled.log, parts, parts_alpha, tolerance),
        stalls=tuple(find_stalls(settled.log, each) for each in (STEP, CYCLE) if each in headlines),
        shares=find_shares(settled.log, parts_alpha) if parts else None,
        alpha=alpha,
        parts_alpha=parts_alpha,
    )


def _trends(log: RunLog, quantities: Collection[Quantity], alpha: float, tolerance: float) -> tuple[Trend, ...]:
    return tuple(judge_trend(log, each, alpha, tolerance) for each in quantities)

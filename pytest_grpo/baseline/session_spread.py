"""How far a session's ratio lies from those of earlier sessions although nothing changed. Pure functions.

Pairs of one session share its memory layout, its clocks and its neighbours, so more pairs do not average these out. The
stored sessions of one commit show them: a new session lies within the prediction interval of their centers (Student's t
with one degree of freedom less than sessions). Logs of ratios throughout.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ASSUMED_SPREAD = 0.05
"""The standard deviation between sessions that is assumed until it is measured: the largest for which the error rates
are declared. A smaller one would call the luck of a session a regression."""
MIN_SESSIONS = 5
"""Fewer do not measure a spread: of three sessions the interval is five times as wide as of ten."""
_TO_SD = 1.4826  # times the median absolute deviation, for normal values
_OF_MEDIAN = math.sqrt(math.pi / 2)  # times sd / sqrt(n): the standard error of a median of normal values


@dataclass(frozen=True, slots=True)
class Prediction:
    """Where a new session lies if nothing changed: around ``center``."""

    center: float
    spread: float
    """Between sessions: a standard deviation."""
    num_sessions: int
    session_variance: float
    """Of the new session's distance from ``center``; more pairs do not reduce it."""
    pair_variance: float
    """In addition, because it has few pairs."""

    @property
    def is_measured(self) -> bool:
        """Else the spread is assumed."""
        return self.num_sessions >= MIN_SESSIONS

    def p_value(self, distance: float) -> float:
        """The probability that a session lies ``distance`` or more above ``center`` by chance."""
        deviation = math.sqrt(self.session_variance + self.pair_variance)
        if deviation == 0:
            return float(distance <= 0)
        if not self.is_measured:
            return statistics.NormalDist().cdf(-distance / deviation)
        return t_tail(distance / deviation, self.num_sessions - 1)

    def margin(self, alpha: float, *, of_pairs: bool = True) -> float:
        """The distance that a session exceeds with probability ``alpha``; with endless pairs unless ``of_pairs``."""
        scale = (
            t_quantile(alpha, self.num_sessions - 1) if self.is_measured else -statistics.NormalDist().inv_cdf(alpha)
        )
        return scale * math.sqrt(self.session_variance + (self.pair_variance if of_pairs else 0.0))

    def describe(self) -> str:
        if self.is_measured:
            return f"{self.num_sessions} stored sessions spread by {100 * self.spread:.1f} %"
        stored = "1 stored session does" if self.num_sessions == 1 else f"{self.num_sessions} stored sessions do"
        return (
            f"{stored} not show how far sessions spread: {100 * self.spread:.2g} % is assumed; "
            f"store {MIN_SESSIONS - self.num_sessions} more of that commit with --grpo-save"
        )


def predict(now: Sequence[float], sessions: Sequence[Sequence[float]]) -> Prediction:
    """Where a session with the pairs ``now`` lies, by earlier ``sessions`` of the same code."""
    centers = [statistics.median(session) for session in sessions]
    measured = statistics.stdev(centers) if len(sessions) > 1 else 0.0
    ours, theirs = _median_variance(now), statistics.mean(map(_median_variance, sessions))
    if len(sessions) >= MIN_SESSIONS:
        # The centers scatter by their own pairs, too: only what this session has more of is added.
        spread, pair_variance = measured, max(0.0, ours - theirs)
    else:
        spread, pair_variance = max(measured, ASSUMED_SPREAD), ours + theirs / len(sessions)
    return Prediction(
        center=statistics.mean(centers),
        spread=spread,
        num_sessions=len(sessions),
        session_variance=spread**2 * (1 + 1 / len(sessions)),
        pair_variance=pair_variance,
    )


def _median_variance(logs: Sequence[float]) -> float:
    """The variance of the median of ``logs``, from their median absolute deviation, which outliers hardly move."""
    middle = statistics.median(logs)
    deviation = _TO_SD * statistics.median(abs(value - middle) for value in logs)
    return (_OF_MEDIAN * deviation) ** 2 / len(logs)


def t_tail(value: float, degrees: int) -> float:
    """P(T > ``value``) of Student's t with that many degrees of freedom (finite series, Abramowitz and Stegun 26.7)."""
    if value < 0:
        return 1 - t_tail(-value, degrees)
    angle = math.atan(value / math.sqrt(degrees))
    square, is_odd = math.cos(angle) ** 2, degrees % 2
    term = math.cos(angle) if is_odd else 1.0
    total = term if degrees > 1 else 0.0
    for step in range(2 + is_odd, degrees, 2):
        term *= square * (step - 1) / step
        total += term
    inside = math.sin(angle) * total
    if is_odd:
        inside = 2 / math.pi * (angle + inside)
    return max(0.0, (1 - inside) / 2)


def t_quantile(alpha: float, degrees: int) -> float:
    """The value that T exceeds with probability ``alpha``, at most one half."""
    low, high = 0.0, 1.0
    while t_tail(high, degrees) > alpha:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, degrees) > alpha else (low, middle)
    return high

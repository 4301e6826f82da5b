"""Which span of an arm grew: the pairs of a gate say not only that it is slower, but where."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_grpo.measuring.sampling.rounds import Round
from pytest_grpo.measuring.statistics.sign_test import Estimate, interval

MIN_PART = 0.02
"""A span that takes less of its arm's seconds cannot be why it is slow."""
MIN_GROWTH = 1.02
MAX_ERROR = 0.05
"""The probability that any span is named that did not change."""
MAX_NAMED = 2


def describe_growth(rounds: Sequence[Round], names: tuple[str, str]) -> str:
    """``in step: train.backward +38 % [31, 44], the rest unchanged``: of the slower of the two arms, over the other.

    Empty where the arms entered no spans, or no span grew for sure.
    """
    if not rounds:
        return ""
    fast, slow = sorted(names, key=lambda name: statistics.median(taken[name].seconds or 0.0 for taken in rounds))
    common = _common_spans(rounds, slow, fast)
    changes = {span: _change(rounds, slow, fast, span, len(common)) for span in common}
    grown = [span for span, change in changes.items() if change.low > 1 and change.median >= MIN_GROWTH]
    grown.sort(key=lambda span: -_extra_s(rounds, slow, fast, span))
    if not grown:
        return ""
    named = [f"{span} {_percent(changes[span])}" for span in grown[:MAX_NAMED]]
    others = [span for span, change in changes.items() if span not in grown[:MAX_NAMED] and _has_changed(change)]
    rest = f"{len(others)} more changed" if others else "the rest unchanged"
    return f"in {slow}: {', '.join(named)}, {rest}"


def _common_spans(rounds: Sequence[Round], slow: str, fast: str) -> list[str]:
    """The spans that both arms entered in each round, and that are large enough to matter."""
    first = rounds[0][slow].spans
    return [
        span
        for span in first
        if all(taken[name].spans.get(span, 0.0) > 0 for taken in rounds for name in (slow, fast))
        and statistics.median(taken[slow].spans[span] / (taken[slow].seconds or 1.0) for taken in rounds) >= MIN_PART
    ]


def _change(rounds: Sequence[Round], slow: str, fast: str, span: str, num_spans: int) -> Estimate:
    """The median of the ratios, pair by pair, with its interval, which proves nothing with too few pairs."""
    found = interval([taken[slow].spans[span] / taken[fast].spans[span] for taken in rounds], 1 - MAX_ERROR / num_spans)
    if found.confidence < 1 - MAX_ERROR / num_spans:
        return Estimate(found.median, min(found.low, 1.0), max(found.high, 1.0), found.num_pairs, found.confidence)
    return found


def _has_changed(change: Estimate) -> bool:
    return change.low > 1 or change.high < 1


def _extra_s(rounds: Sequence[Round], slow: str, fast: str, span: str) -> float:
    return statistics.median(taken[slow].spans[span] - taken[fast].spans[span] for taken in rounds)


def _percent(change: Estimate) -> str:
    middle, low, high = (100 * (ratio - 1) for ratio in (change.median, change.low, change.high))
    return f"{middle:+.0f} % [{low:.0f}, {high:.0f}]"

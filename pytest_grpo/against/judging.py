"""How a quantity changed from one version to another: the verdicts of a paired comparison without a threshold.

The ratio is that of this side over the other one, pair by pair. With the tolerance of 5 %, ``same`` means that the
whole interval lies in [0.95, 1.053]: a change of that size was ruled out. ``faster`` and ``slower`` mean that the whole
interval lies on one side of 1, more than 2 % from it: processes of the same code may differ by that. Pure functions.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_grpo.measuring.deciding import STALL_PART
from pytest_grpo.measuring.question import Question
from pytest_grpo.measuring.sampling.rounds import Round
from pytest_grpo.measuring.statistics.sign_test import Estimate, Plan, check_ratios, estimate, interval
from pytest_grpo.types import RATE_SUFFIX, Outcome, is_count

BYTES_SUFFIX = "_bytes"
MIN_PART = 0.02
"""A timed part of an arm that takes less of its seconds than this is not judged: it cannot make the arm slower."""
PROCESS_MARGIN = 0.02
"""Two processes of the same code can differ by this part in all of their pairs, by where their memory lies for one."""
_UNITS_S = {"_ms": 1e-3, "_us": 1e-6, "_ns": 1e-9, "_s": 1.0, "_seconds": 1.0}


def is_time(quantity: str) -> bool:
    """Whether less of ``quantity`` is faster."""
    return quantity == "seconds" or quantity.endswith(tuple(_UNITS_S))


def is_rate(quantity: str) -> bool:
    """Whether more of ``quantity`` is faster."""
    return quantity.endswith(RATE_SUFFIX)


def quantities_of(measured: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """What is compared of an arm that has measured these quantities beside its ``seconds``; ``wanted`` by its test.

    An amount of work such as ``tokens`` says nothing by itself: its rate does, in place of the seconds.
    """
    parts = [name for name in measured if not (is_amount(name) or is_count(name))]
    rates = [f"{name}{RATE_SUFFIX}" for name in measured if is_amount(name)]
    whole = [name for name in rates if name in wanted] or rates[:1] or ["seconds"]
    return [*whole, *parts]


def is_amount(quantity: str) -> bool:
    """Whether it is work that was done, which says nothing about speed by itself."""
    return not (is_time(quantity) or is_rate(quantity) or is_count(quantity) or is_bytes(quantity))


def is_bytes(quantity: str) -> bool:
    """Whether it is memory or the size of something, which no load of the machine changes."""
    return quantity.endswith(BYTES_SUFFIX)


@dataclass(frozen=True, slots=True)
class Change:
    """What the pairs so far say. ``is_final``: more pairs are not needed."""

    outcome: Outcome
    estimate: Estimate
    is_final: bool
    reason: str = ""


def judge_change(
    ratios: Sequence[float], quantity: str, tolerance: float, plan: Plan, *, is_last: bool = False
) -> Change:
    """How ``quantity`` changed, by one look at the ``ratios`` of this side over the other.

    A change that is smaller than the tolerance, and could be none, gets all planned pairs.

    Raises:
        ValueError: there are no ratios, or one is not finite and above zero.
    """
    check_ratios(ratios)
    low, high = bounds(tolerance)
    same_rank, change_rank = plan.ranks(len(ratios), is_last=is_last)
    within = estimate(ratios, max(same_rank, 1), max(same_rank, 1))
    beyond = estimate(ratios, max(change_rank, 1), max(change_rank, 1))
    if same_rank and within.low >= low and within.high <= high:
        return Change(Outcome.SAME, within, is_final=True)
    least_low, least_high = bounds(min(PROCESS_MARGIN, tolerance))
    has_changed = change_rank > 0 and (beyond.high < least_low or beyond.low > least_high)
    if has_changed and (is_last or beyond.high < low or beyond.low > high):
        return Change(_direction(quantity, beyond.median), beyond, is_final=True)
    return Change(Outcome.INCONCLUSIVE, beyond if change_rank else within, is_final=False)


def judge_count(here: float, other: float) -> Outcome:
    """Exactly."""
    if here == other:
        return Outcome.SAME
    return Outcome.MORE if here > other else Outcome.LESS


def judge_one(here: float, other: float, quantity: str, tolerance: float) -> Change:
    """Bytes of one pair."""
    ratio, (low, high) = here / other, bounds(tolerance)
    outcome = Outcome.SAME if low <= ratio <= high else _direction(quantity, ratio)
    return Change(outcome, Estimate(ratio, ratio, ratio, 1, 0.0), True, "of one pair")


def small_part(rounds: Sequence[Round], names: tuple[str, str], quantity: str) -> Change | None:
    """Says that ``quantity`` is too small a part of its arm to matter on both sides; None when it is not."""
    unit_s = next((size for suffix, size in _UNITS_S.items() if quantity.endswith(suffix)), None)
    if unit_s is None or quantity == "seconds" or is_rate(quantity):
        return None
    parts = [
        statistics.median(taken[name].value(quantity) * unit_s / taken[name].value("seconds") for taken in rounds)
        for name in names
    ]
    if max(parts) >= MIN_PART:
        return None
    here, other = names
    found = interval([taken[here].value(quantity) / taken[other].value(quantity) for taken in rounds])
    return Change(Outcome.NOT_COMPARED, found, True, f"it is {100 * max(parts):.2g} % of the arm's seconds")


def bounds(tolerance: float) -> tuple[float, float]:
    """The band of ``same``, as ratios."""
    return 1 - tolerance, 1 / (1 - tolerance)


def _direction(quantity: str, ratio: float) -> Outcome:
    if is_time(quantity):
        return Outcome.FASTER if ratio < 1 else Outcome.SLOWER
    if is_rate(quantity):
        return Outcome.FASTER if ratio > 1 else Outcome.SLOWER
    return Outcome.MORE if ratio > 1 else Outcome.LESS


def question_of(quantity: str, names: tuple[str, str], tolerance: float) -> Question:
    """Whether ``quantity`` stays in the tolerance, from rounds whose arms are the two sides ``names``."""
    here, other = names
    value = functools.partial(_value, quantity=quantity)
    low, high = bounds(tolerance)
    return Question(names, lambda taken: (value(taken, here), value(taken, other)), low, high, is_rate(quantity))


def _value(taken: Round, name: str, quantity: str) -> float:
    return taken[name].value(quantity)


def judge_stalls(change: Change, question: Question, quantity: str, rounds: Sequence[Round], alpha: float) -> Change:
    """``change``, with what the means say where the median is the same: a median sees no stalls.

    The means may call a quantity slower, never faster.
    """
    if change.outcome is not Outcome.SAME or not (is_time(quantity) or is_rate(quantity)):
        return change
    means = question.means(rounds)
    here_is_slow = means.is_outside and means.is_top_slow != is_rate(quantity)
    if not (here_is_slow and means.is_suspicious):
        return change
    is_clear = means.p_value <= STALL_PART * alpha
    outcome = Outcome.SLOWER if is_clear else Outcome.INCONCLUSIVE
    return Change(outcome, change.estimate, is_clear, question.describe_stalls(rounds, means))

"""What paired measurements say about a threshold: exact tests on the median ratio, looked at a few planned times.

The statistic is the median of the pairs' ratios. Whether it lies beyond a threshold is a sign test: each pair lands
beyond a true median with probability one half, whatever the noise looks like. Looking several times gives chance
several tries; the ranks below are chosen so that all looks together are wrong with probability ``alpha`` at most
(alpha spending, Lan and DeMets 1983, with the exact distribution of the sign counts). Pure functions.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_grpo.types import Verdict

DEFAULT_LOOKS = (8, 12, 18, 27, 40)
PASS_ALPHA = 0.02
"""Wrong passes of a gate whose truth lies on its threshold."""
FAMILY_ALPHA = 0.01
"""False failures of all gates of a session together."""
MAX_CONTROL_BIAS = 0.01
MAX_CONTROL_SPREAD = 0.30


@dataclass(frozen=True, slots=True)
class Estimate:
    """The median of ``num_pairs`` values; ``low`` to ``high`` covers the true one with probability ``confidence``.

    That is the coverage of this one look. Looking several times is paid for by the ranks, see ``stopping_ranks``.
    """

    median: float
    low: float
    high: float
    num_pairs: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Plan:
    """When a gate looks at its pairs, and how often each of its verdicts may be wrong when the truth is on the edge."""

    looks: tuple[int, ...] = DEFAULT_LOOKS
    pass_alpha: float = PASS_ALPHA
    fail_alpha: float = FAMILY_ALPHA

    def __post_init__(self) -> None:
        assert self.looks
        assert list(self.looks) == sorted(set(self.looks))
        assert self.looks[0] >= 1

    def ranks(self, num_pairs: int) -> tuple[int, int]:
        """The order statistics that decide a look at ``num_pairs``: for a pass and for a failure. 0 cannot decide.

        A look that is not planned is the last one: the time is up.
        """
        looks = (*(look for look in self.looks if look < num_pairs), num_pairs)
        is_last = num_pairs not in self.looks or num_pairs == self.looks[-1]
        shares = [(place + 1) / len(self.looks) for place in range(len(looks))]
        if is_last:
            shares[-1] = 1.0
        pass_ranks = stopping_ranks(looks, tuple(shares), self.pass_alpha)
        fail_ranks = stopping_ranks(looks, tuple(shares), self.fail_alpha)
        return pass_ranks[-1], fail_ranks[-1]

    def min_pairs(self, verdict: Verdict) -> int:
        """The fewest pairs, all of them clear, that can give ``verdict``."""
        which = 0 if verdict is Verdict.PASS else 1
        return next((look for look in self.looks if self.ranks(look)[which]), self.looks[-1] + 1)


@functools.cache
def stopping_ranks(looks: tuple[int, ...], shares: tuple[float, ...], alpha: float) -> tuple[int, ...]:
    """Per look the rank r: a claim holds there when fewer than r of the pairs so far contradict it. 0 is never.

    With the true median on the edge the contradicting pairs are a fair coin's count. The chance that any look up to
    the i-th makes the claim is ``shares[i] * alpha`` at most, exactly computed.
    """
    alive = {0: 1.0}  # contradicting pairs -> probability, over the sequences without a claim so far
    spent, before, ranks = 0.0, 0, []
    for look, share in zip(looks, shares, strict=True):
        alive = _toss(alive, look - before)
        before, rank = look, 0
        while rank <= look and spent + alive.get(rank, 0.0) <= share * alpha:
            spent += alive.pop(rank, 0.0)
            rank += 1
        ranks.append(rank)
    return tuple(ranks)


def _toss(counts: dict[int, float], num_coins: int) -> dict[int, float]:
    """The distribution of ``counts`` after ``num_coins`` more tosses of a fair coin."""
    tossed: dict[int, float] = {}
    for count, probability in counts.items():
        for heads in range(num_coins + 1):
            share = probability * math.comb(num_coins, heads) / 2**num_coins
            tossed[count + heads] = tossed.get(count + heads, 0.0) + share
    return tossed


def judge(ratios: Sequence[float], low: float, high: float, plan: Plan) -> tuple[Verdict, Estimate]:
    """The verdict of one look at ``ratios`` on whether their true median lies in [``low``, ``high``].

    Pass: the whole interval lies inside. Fail: it lies wholly below ``low`` or wholly above ``high``. Open edges are
    -inf and inf. The estimate's interval is the one that decides.

    Raises:
        ValueError: there are no ratios, or one is not finite and above zero.
    """
    check_ratios(ratios)
    ordered = sorted(ratios)
    size = len(ordered)
    pass_rank, fail_rank = plan.ranks(size)
    if _inside(ordered, low, high, pass_rank):
        verdict = Verdict.PASS
    elif fail_rank and (ordered[size - fail_rank] < low or ordered[fail_rank - 1] > high):
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE
    lower, upper = (fail_rank, fail_rank) if verdict is Verdict.FAIL else (pass_rank, pass_rank)
    if low == -math.inf:
        lower, upper = fail_rank, pass_rank
    elif high == math.inf:
        lower, upper = pass_rank, fail_rank
    return verdict, estimate(ordered, max(lower, 1), max(upper, 1))


def _inside(ordered: Sequence[float], low: float, high: float, rank: int) -> bool:
    return rank > 0 and ordered[rank - 1] >= low and ordered[len(ordered) - rank] <= high


def estimate(values: Sequence[float], lower_rank: int, upper_rank: int) -> Estimate:
    """The median of positive ``values`` with the interval from the ``lower_rank``-th smallest to the ``upper_rank``-th
    largest. Ranks above the middle are taken as the middle."""
    ordered = sorted(values)
    middle = (len(ordered) + 1) // 2
    lower, upper = min(lower_rank, middle), min(upper_rank, middle)
    return Estimate(
        median=median_ratio(ordered),
        low=ordered[lower - 1],
        high=ordered[len(ordered) - upper],
        num_pairs=len(ordered),
        confidence=max(0.0, 1 - _tail(len(ordered), lower) - _tail(len(ordered), upper)),
    )


def interval(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """The median with the narrowest symmetric order-statistic interval that covers it with ``confidence``.

    Where no interval does, it is that of the smallest to the largest value, with its own, lower, confidence.
    """
    check_ratios(values)
    rank = 1
    while rank < (len(values) + 1) // 2 and 1 - 2 * _tail(len(values), rank + 1) >= confidence:
        rank += 1
    return estimate(values, rank, rank)


def _tail(size: int, rank: int) -> float:
    """The chance that the ``rank``-th smallest of ``size`` values lies above their true median."""
    return sum(math.comb(size, count) for count in range(rank)) / 2**size


def median_ratio(values: Sequence[float]) -> float:
    """The exponential of the median log: the middle value, or the geometric mean of the middle two."""
    ordered = sorted(values)
    below, above = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return below if below == above else min(max(math.sqrt(below) * math.sqrt(above), below), above)


def check_ratios(ratios: Sequence[float]) -> None:
    """Raises ValueError when there are no ratios, or one is not finite and above zero."""
    if not ratios:
        raise ValueError("no ratios to judge; measure at least one pair")
    for ratio in ratios:
        if not (math.isfinite(ratio) and ratio > 0):
            raise ValueError(f"ratio {ratio!r}: must be finite and above zero; check what was measured")


def holm(p_values: Sequence[float], alpha: float = FAMILY_ALPHA) -> list[bool]:
    """Which hypotheses are rejected so that any false rejection has probability ``alpha`` at most (Holm 1979)."""
    rejected = [False] * len(p_values)
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > alpha / (len(p_values) - place):
            break
        rejected[index] = True
    return rejected


@dataclass(slots=True)
class AlphaLedger:
    """Holm's correction for gates that are decided one after another, before the later ones are measured.

    Each gate is granted an equal share of what is left. A gate that fails gives its share back, as in Holm's steps: up
    to the first false failure only true ones gave back, so the shares of sound gates add up to ``alpha`` at most.
    ``num_gates`` is how many are expected. The last of them leaves a tenth, so that more can follow: each gets nine
    tenths of what is left.
    """

    num_gates: int
    alpha: float = FAMILY_ALPHA
    _left: float = field(init=False)

    def __post_init__(self) -> None:
        self._left = self.alpha

    def grant(self) -> float:
        """The share of the next gate."""
        share = self._left / self.num_gates if self.num_gates > 1 else 0.9 * self._left
        self.num_gates -= 1
        self._left -= share
        return share

    def give_back(self, share: float) -> None:
        self._left += share


def control_problem(ratios: Sequence[float]) -> str:
    """Why pairs of the *same* work forbid trusting this machine's clock; empty when they do not.

    Biased: all pairs but a chance of 1 in 1,000 lean to one side, by more than 1 %. Noisy: half of the pairs differ by
    more than 30 %.
    """
    check_ratios(ratios)
    rank = 0
    while 2 * _tail(len(ratios), rank + 1) <= 0.001:
        rank += 1
    middle = median_ratio(ratios)
    if rank:
        found = estimate(ratios, rank, rank)
        if not found.low <= 1 <= found.high and abs(math.log(middle)) > math.log1p(MAX_CONTROL_BIAS):
            return f"the same work measured against itself gave {middle:.3g} [{found.low:.3g}, {found.high:.3g}]"
    spread = statistics.median(abs(math.log(ratio)) for ratio in ratios)
    if spread > math.log1p(MAX_CONTROL_SPREAD):
        return f"pairs of the same work differ by {100 * math.expm1(spread):.0f} % (typically)"
    return ""

"""Shares with intervals, against numbers worked out by hand and by scipy."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from grpo_core.evaluation.rates import rate_of


@pytest.mark.parametrize(("num_passed", "num_asked"), [(0, 4), (3, 4), (4, 4), (17, 64), (500, 1000)])
def test_the_interval_is_wilsons(num_passed: int, num_asked: int) -> None:
    rate = rate_of(num_passed, num_asked)
    interval = binomtest(num_passed, num_asked).proportion_ci(0.95, method="wilson")
    assert rate.value == num_passed / num_asked
    assert (rate.low, rate.high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_it_is_shown_with_its_bounds() -> None:
    assert str(rate_of(3, 4)) == "0.750 [0.301, 0.954]"

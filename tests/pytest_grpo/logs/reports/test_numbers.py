from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.findings.blocks import Interval
from pytest_grpo.logs.reports.numbers import change_of, number_of, share_of, signed, value_of
from pytest_grpo.logs.vocabulary.quantities import LAG, MEMORY, REWARD, STEP, Quantity


@pytest.mark.parametrize(
    ("quantity", "interval", "shown"),
    [
        (STEP, Interval(1.9234567, 1.9, 1.95), "1.923 s [1.9, 1.95]"),
        (STEP, Interval(1.92, math.nan, math.nan), "1.92 s"),
        (STEP, Interval(2.0, 2.0, 2.0), "2 s"),
        (REWARD, Interval(0.5, 0.25, 0.75), "0.5 [0.25, 0.75]"),
        (LAG, Interval(1.0000001, 1.0, 1.5), "1 steps [1, 1.5]"),
        (MEMORY, Interval(1.5 * 2**30, 2**30, 2 * 2**30), "1.5 GiB [1, 2]"),
        (MEMORY, Interval(2**20, 2**20, 2**20), "1 MiB"),
        (MEMORY, Interval(100, 100, 100), "0.09766 KiB"),
        (STEP, None, "-"),
    ],
)
def test_a_level_has_its_unit_and_its_interval(quantity: Quantity, interval: Interval | None, shown: str) -> None:
    assert value_of(quantity, interval) == shown


def test_a_change_has_a_sign_and_is_in_percent_where_it_is_a_factor() -> None:
    assert change_of(STEP, Interval(0.0081, 0.002, 0.013)) == "+0.8 % [+0.2, +1.3]"
    assert change_of(REWARD, Interval(-0.25, -0.5, 0.0)) == "-0.25 [-0.5, +0]"
    assert change_of(STEP, None) == "-"
    assert (signed(STEP, -0.1), signed(REWARD, 0.1234)) == ("-10.0 %", "+0.123")


def test_a_number_alone_and_a_share() -> None:
    assert (number_of(STEP, 2.5), number_of(STEP, math.nan)) == ("2.5 s", "-")
    assert share_of(Interval(0.6123, 0.6, 0.6301)) == "61.2 % [60.0, 63.0]"
    assert share_of(Interval(0.6123, 0.0, math.inf)) == "61.2 %"

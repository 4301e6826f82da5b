from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_grpo.reports.scale import Scale

ANY_VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=8)
VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@given(VALUES, st.booleans())
def test_order_is_kept_and_all_values_are_shown(values: list[float], is_log: bool) -> None:
    scale = Scale.around(values, top=10, bottom=190, is_log=is_log)
    assert all(scale.shows(value) for value in values)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places, reverse=True)
    assert all(10 <= place <= 190 for place in places)


@given(ANY_VALUES, st.booleans())
def test_any_values_give_an_axis_with_few_ticks(values: list[float], is_log: bool) -> None:
    scale = Scale.around([*values, None], top=10, bottom=190, is_log=is_log)
    assert scale.low < scale.high
    assert len(scale.ticks) <= 7
    assert all(scale.shows(tick) for tick in scale.ticks)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([2.0, 3.5], [2.0, 2.5, 3.0, 3.5]),
        ([20.0, 400.0], [20.0, 50.0, 100.0, 200.0, 500.0]),
        ([0.001, 1000.0], [0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0][::2]),
    ],
)
def test_ticks_are_round(values: list[float], ticks: list[float]) -> None:
    assert Scale.around(values, top=0, bottom=1, is_log=True).ticks == pytest.approx(ticks)


def test_twice_is_as_far_as_half_on_a_logarithmic_axis() -> None:
    scale = Scale.around([0.25, 4.0], top=0, bottom=100, is_log=True)
    assert scale(1.0) == pytest.approx(50)
    assert scale(2.0) - scale(1.0) == pytest.approx(scale(1.0) - scale(0.5))
    assert scale(math.inf) == 0
    assert scale(0.0) == 100

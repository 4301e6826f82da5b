from __future__ import annotations

import math

import numpy as np
import pytest

from grpo_core.dashboard.columns import MAX_POINTS, Table, binned, newest_of_each, numbers, rounded

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None, True], [1.0, 2.5, NAN, 1.0]),
        ([1, "<script>", {"a": 1}, [2]], [1.0, NAN, NAN, NAN]),
        ([math.inf, -math.inf, NAN, 10**400], [NAN, NAN, NAN, NAN]),
        ([[1, 2], [3, 4]], [NAN, NAN]),
        ([], []),
    ],
)
def test_what_is_no_number_is_nan(values: list[object], expected: list[float]) -> None:
    np.testing.assert_array_equal(numbers(values), expected)


def test_a_table_grows_and_keeps_every_row() -> None:
    table = Table(["a", "b"])
    for first in range(0, 1000, 7):
        table.extend([{"a": number} for number in range(first, first + 7)])
    np.testing.assert_array_equal(table["a"], np.arange(1001))
    assert np.isnan(table["b"]).all()
    assert len(table) == 1001


@pytest.mark.parametrize("value", [None, "x", [1, 2], {}, 10**400, math.inf, NAN, 2.5])
def test_a_value_that_is_no_number_leaves_the_others_as_they_are(value: object) -> None:
    table = Table(["a", "b"])
    table.extend([{"a": 1, "b": 2}, {"a": value, "b": 3}, {"b": 4, "a": True}])
    np.testing.assert_array_equal(table["a"], [1.0, 2.5 if value == 2.5 else NAN, 1.0])
    np.testing.assert_array_equal(table["b"], [2.0, 3.0, 4.0])


def test_the_later_of_two_rows_of_a_step_counts() -> None:
    steps = np.array([1.0, 2.0, 3.0, 2.0, NAN, 3.0, 4.0])
    assert newest_of_each(steps).tolist() == [True, False, False, True, False, True, True]
    assert newest_of_each(np.array([])).tolist() == []


def test_a_point_of_several_events_has_their_mean_least_and_greatest() -> None:
    points = binned(np.arange(6.0), np.array([1.0, 3.0, NAN, 5.0, NAN, NAN]), max_points=3)
    assert points.as_json() == {
        "x": [1.0, 3.0, 5.0],
        "y": [2.0, 5.0, None],
        "low": [1.0, 5.0, None],
        "high": [3.0, 5.0, None],
    }


def test_few_events_are_shown_one_by_one() -> None:
    assert binned(np.arange(3.0), np.array([1.0, NAN, 3.0])).as_json() == {"x": [0, 1, 2], "y": [1, None, 3]}


@pytest.mark.parametrize("count", [0, 1, MAX_POINTS, MAX_POINTS + 1, 100_000])
def test_a_line_never_has_more_points_than_a_chart_shows(count: int) -> None:
    points = binned(np.arange(float(count)), np.ones(count))
    assert len(points.x) <= MAX_POINTS
    assert count == 0 or points.x[-1] == count - 1


def test_numbers_for_json_are_short_and_finite() -> None:
    assert rounded(np.array([1 / 3, NAN, 123456789.0])) == [0.33333, None, 123460000.0]

from __future__ import annotations

import math
from typing import Any

import pytest

from bench.checks.telling import num_wrong_fields


@pytest.mark.parametrize("value", [0, 0.0, -0.0, False, None, "", 2**53 + 1, 5e-324, {"a": [1, {"b": 0}]}, [], {}])
def test_a_value_is_right_only_as_it_was(value: Any) -> None:
    assert num_wrong_fields({"x": value}, {"x": value, "more": 1}) == 0


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (0, 0.0),
        (0.0, -0.0),
        (0, False),
        (1, True),
        (0.1 + 0.2, 0.3),
        ([1, 2], [1]),
        ({"a": 0}, {}),
        ({}, "{}"),
        (0, None),
    ],
)
def test_a_value_that_only_looks_alike_is_wrong(value: Any, found: Any) -> None:
    assert num_wrong_fields({"x": value}, {"x": found}) == 1


def test_a_missing_field_is_wrong_and_null_stands_for_what_is_not_finite() -> None:
    assert num_wrong_fields({"x": 0}, {}) == 1
    assert num_wrong_fields({"x": math.nan, "y": [math.inf]}, {"x": None, "y": [None]}) == 0
    assert num_wrong_fields({"x": math.nan}, {"x": 0.0}) == 1

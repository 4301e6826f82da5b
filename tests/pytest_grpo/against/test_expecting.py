from __future__ import annotations

import math

import pytest

from pytest_grpo.against.expecting import parse_expected


def test_bounds_of_both_signs() -> None:
    found = parse_expected(["step.tokens_per_second>=1.10", "a.b.peak_bytes <= 1"])
    first, second = found["step.tokens_per_second"], found["a.b.peak_bytes"]
    assert (first.low, first.high, first.text) == (1.1, math.inf, ">= 1.10")
    assert (second.low, second.high) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["", "step", "step>=1", "step.x>1", "step.x>=no", "step.x>=-1", "step.x>=nan"])
def test_anything_else_is_one_line(text: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"allowed is ARM\.QUANTITY>=RATIO"):
        parse_expected([text])


def test_one_metric_twice_is_one_line() -> None:
    with pytest.raises(pytest.UsageError, match=r"step\.x is given twice"):
        parse_expected(["step.x>=1", "step.x<=2"])

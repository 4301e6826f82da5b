from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pytest_grpo.reports.table import arm_quantity, describe_measured, reason_lines, table_lines
from pytest_grpo.types import Row

MakeRow = Callable[..., Row]


def test_columns_leave_one_by_one_as_the_terminal_gets_narrow(measured: MakeRow, counted: MakeRow) -> None:
    rows = [measured("compact_tokens_per_second"), counted("calls", phase=None)]
    assert table_lines(rows, 90) == [
        "phase  metric                     measured            threshold  verdict",
        "2      compact_tokens_per_second  2.5 x [2.25, 2.75]  >= 2 x     pass",
        "-      calls                      4                   == 0       fail",
    ]
    assert table_lines(rows, 65) == [
        "phase  metric                     measured  threshold  verdict",
        "2      compact_tokens_per_second  2.5 x     >= 2 x     pass",
        "-      calls                      4         == 0       fail",
    ]
    assert table_lines(rows, 55) == [
        "phase  metric                     measured  verdict",
        "2      compact_tokens_per_second  2.5 x     pass",
        "-      calls                      4         fail",
    ]
    assert table_lines(rows, 40) == [
        "phase  metric          measured  verdict",
        "2      compac...econd  2.5 x     pass",
        "-      calls           4         fail",
    ]
    assert table_lines(rows, 30) == [
        "metric       measured  verdict",
        "comp...cond  2.5 x     pass",
        "calls        4         fail",
    ]


@pytest.mark.parametrize("width", range(20, 120, 5))
def test_no_line_is_longer_than_the_terminal(measured: MakeRow, counted: MakeRow, width: int) -> None:
    rows = [measured("a" * 40, verdict="inconclusive"), counted("b" * 40, system="trl")]
    assert max(map(len, table_lines(rows, width))) <= width


def test_systems_are_a_column_when_there_are_two(measured: MakeRow) -> None:
    rows = [measured("speed"), measured("speed", system="trl", verdict="fail", reason="slow")]
    assert [line.split()[2] for line in table_lines(rows, 100)] == ["system", "-", "trl"]
    assert reason_lines(rows) == ["fail: speed (trl): slow"]


def test_text_from_outside_stays_on_its_line_and_in_ascii(measured: MakeRow) -> None:
    row = measured("h\u00f6he\x1b[31m", verdict="fail", reason="one\ntwo \u2192 three")
    assert table_lines([row], 100)[1].split()[1] == "h\\xf6he\\x1b[31m"
    assert reason_lines([row]) == ["fail: h\\xf6he\\x1b[31m: one two \\u2192 three"]


def test_nothing_measured_is_a_dash(measured: MakeRow) -> None:
    assert describe_measured(measured("speed", measured=math.nan, low=math.nan, high=math.nan)) == "-"
    assert describe_measured(measured("speed", low=0.0, high=math.inf)) == "2.5 x [0, inf]"


def test_an_arm_gives_the_compared_quantity(measured: MakeRow) -> None:
    arms = {"a": {"seconds": [0.5, 0.25], "tokens": [10.0, 10.0], "forward_ms": [3.0, 4.0]}}
    assert arm_quantity(measured("m", arms=arms), "a") == [20.0, 40.0]
    assert arm_quantity(measured("m", arms=arms, quantity="forward_ms"), "a") == [3.0, 4.0]
    assert arm_quantity(measured("m", arms=arms, quantity="seconds"), "a") == [0.5, 0.25]
    assert arm_quantity(measured("m", arms=arms, quantity=None), "a") == [0.5, 0.25]
    own_rate = {"a": {"seconds": [1.0], "tokens": [2.0], "tokens_per_second": [7.0]}}
    assert arm_quantity(measured("m", arms=own_rate), "a") == [7.0]


def test_a_value_that_was_told_says_by_whom(counted: MakeRow) -> None:
    row = counted("calls", note="as told by the system")
    assert describe_measured(row) == "4 (as told by the system)"
    assert Row.from_property(row.as_property()[1]) == row

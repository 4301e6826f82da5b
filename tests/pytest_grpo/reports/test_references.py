from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_grpo.reports.references import reference_rows, with_references

if TYPE_CHECKING:
    from tests.pytest_grpo.reports.conftest import MakeRow

ARMS = {
    "fast": {"seconds": [0.1, 0.2]},
    "slow": {"seconds": [0.3, 0.6]},
    "reference": {"seconds": [0.05, 0.1]},
}


def test_each_arm_over_the_reference_is_a_row(measured: MakeRow) -> None:
    fast, slow = reference_rows(measured("speedup", arms=ARMS))
    assert (fast.metric, slow.metric) == ("speedup:fast/reference", "speedup:slow/reference")
    assert fast.ratios == [2.0, 2.0]
    assert slow.measured == 0.6 / 0.1
    assert (fast.kind, fast.bound_low, fast.bound_high, fast.verdict) == ("at_most", None, None, "pass")
    assert fast.num_pairs == 2


def test_without_a_reference_there_is_none(measured: MakeRow, counted: MakeRow) -> None:
    assert reference_rows(measured("speedup")) == reference_rows(counted("calls")) == []
    no_pairs = {name: {"seconds": []} for name in ARMS}
    assert reference_rows(measured("speedup", arms=no_pairs)) == []


def test_they_follow_their_row(measured: MakeRow, counted: MakeRow) -> None:
    entries = with_references([("a", measured("speedup", arms=ARMS)), ("b", counted("calls"))])
    assert [(nodeid, row.metric) for nodeid, row in entries] == [
        ("a", "speedup"),
        ("a", "speedup:fast/reference"),
        ("a", "speedup:slow/reference"),
        ("b", "calls"),
    ]


def test_a_version_of_that_name_is_no_reference(measured: MakeRow) -> None:
    assert reference_rows(measured("step.seconds", arms=ARMS, outcome="same")) == []

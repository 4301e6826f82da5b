from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pytest_grpo.arms import MeasuredArm, Quantity, approx_ratio
from pytest_grpo.settings.thresholds import Threshold

BAND = Threshold("band", 3, "within", 0.9, 1.1, source="a file")
FLOOR = Threshold("floor", 3, "at_least", 2.0, float("inf"), source="a file")


@dataclass(slots=True)
class Ratio:
    """Compares by one known ratio, the left arm's quantity over the right one's, and keeps the last threshold."""

    ratio: float = 2.0
    thresholds: list[Threshold] = field(default_factory=list)
    explanation: list[str] = field(default_factory=list)

    def decide(self, left: Quantity, right: Quantity, threshold: Threshold) -> bool:
        self.thresholds.append(threshold)
        return threshold.low <= self.ratio <= threshold.high

    def count(self, left: Quantity, right: Quantity | float, threshold: Threshold, *, is_strict: bool = False) -> bool:
        raise AssertionError("no counts here")

    def report(self, quantity: Quantity) -> None:
        raise AssertionError("one version only")


@pytest.fixture
def ratio() -> Ratio:
    return Ratio()


@pytest.fixture
def arms(ratio: Ratio) -> tuple[MeasuredArm, MeasuredArm]:
    return MeasuredArm("a", ratio), MeasuredArm("b", ratio)


Arms = tuple[MeasuredArm, MeasuredArm]


def test_the_factors_of_a_band_count_on_both_sides(arms: Arms, ratio: Ratio) -> None:
    """a is twice b."""
    a, b = arms
    for within in ((0.9, 1.1), BAND):
        assert a.seconds == approx_ratio(2 * b.seconds, within=within)
        assert 0.5 * a.seconds == approx_ratio(b.seconds, within=within)
        assert a.seconds / 4 == approx_ratio(b.seconds / 2, within=within)
        assert (a.seconds == approx_ratio(b.seconds, within=within)) is False
        assert (2 * a.seconds == approx_ratio(b.seconds, within=within)) is False
        assert (2 * a.seconds == approx_ratio(2 * b.seconds, within=within)) is False
        assert approx_ratio(2 * b.seconds, within=within) == a.seconds


def test_a_verdict_names_the_bounds_that_were_held(arms: Arms, ratio: Ratio) -> None:
    a, b = arms
    assert a.seconds == approx_ratio(2 * b.seconds, within=BAND)
    assert str(ratio.thresholds[-1]) == "1.8..2.2"
    assert (ratio.thresholds[-1].name, ratio.thresholds[-1].source) == ("band", "a file")
    assert a.seconds / 2 >= FLOOR * b.seconds / 4
    assert str(ratio.thresholds[-1]) == ">= 1"
    assert 3 * a.seconds <= 9 * b.seconds
    assert str(ratio.thresholds[-1]) == "<= 3"


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        (
            "a.seconds == approx_ratio(FLOOR * b.seconds, within=BAND)",
            "threshold floor is >= 2, which cannot scale a side of approx_ratio()",
        ),
        (
            "FLOOR * a.seconds == approx_ratio(b.seconds, within=BAND)",
            "threshold floor is >= 2, which cannot scale a side of approx_ratio()",
        ),
        ("approx_ratio(3, within=BAND)", "approx_ratio(3): allowed is a quantity of an arm"),
        ("a.seconds != approx_ratio(b.seconds, within=BAND)", "a.seconds != b.seconds times "),
        ("a.seconds >= FLOOR * (FLOOR * b.seconds)", "one named threshold is enough"),
        ("FLOOR * a.seconds >= FLOOR * b.seconds", "threshold floor is >= 2; write left >= threshold * right"),
        ("a.seconds / FLOOR >= b.seconds", "allowed are numbers above zero, e.g. a.seconds / 2"),
        ("a.seconds / 0 >= b.seconds", "allowed are numbers above zero"),
        ("a.seconds <= 1.1 * a.seconds", "one and the same quantity; compare it with another"),
        ("a.seconds <= other.seconds", "not measured in pairs; pass all arms to one grpo_arms("),
        ("a.num_x == other.num_x", "not measured in pairs; pass all arms to one grpo_arms("),
        ("bool(a.seconds)", "a.seconds alone is neither true nor false"),
        ("a.seconds and b.seconds", "a.seconds alone is neither true nor false"),
    ],
)
def test_what_proves_nothing_is_a_mistake(arms: Arms, expression: str, says: str) -> None:
    names = {"a": arms[0], "b": arms[1], "other": MeasuredArm("a", Ratio()), "FLOOR": FLOOR, "BAND": BAND}
    with pytest.raises(pytest.UsageError) as caught:
        eval(expression, {**names, "approx_ratio": approx_ratio})
    assert says in str(caught.value)


def test_a_count_needs_no_report(arms: Arms) -> None:
    with pytest.raises(pytest.UsageError, match=r"a\.num_calls\.report\(\): counts have their rows anyway"):
        arms[0].num_calls.report()

from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.findings.trends import Trend, Verdict, judge_trend
from pytest_grpo.logs.vocabulary.quantities import LAG, PEAK_MEMORY, REWARD, STEP, TOKENS, Quantity
from tests.pytest_grpo.logs.made_runs import alike, run_of, times, waves

ALPHA, TOLERANCE = 0.001, 0.02


def judge(quantity: Quantity, values: list[float], tolerance: float = TOLERANCE) -> Trend:
    return judge_trend(run_of({quantity: values}), quantity, ALPHA, tolerance)


def drifting(by: float, num_steps: int = 200, spread: float = 0.02) -> list[float]:
    noise = times(num_steps, spread, memory=0.3)
    return [value * (1 + by * place / num_steps) for place, value in enumerate(noise)]


def shifting(by: float, num_steps: int = 200) -> list[float]:
    return [value * (1 + by * (place >= num_steps // 2)) for place, value in enumerate(times(num_steps, memory=0.3))]


def test_a_step_that_takes_longer_and_longer_drifts() -> None:
    found = judge(STEP, drifting(0.1))
    assert found.verdict is Verdict.DRIFTS
    assert found.verdict.is_bad
    assert found.change is not None
    assert found.change.low < 0.1 < found.change.high
    assert found.change_per_100 == pytest.approx(found.change.value / 2, rel=0.1)
    assert found.center is not None
    assert found.center.value == pytest.approx(2.1, rel=0.01)


def test_the_worse_side_is_that_of_the_quantity() -> None:
    assert judge(STEP, drifting(-0.1)).verdict is Verdict.IMPROVES
    assert judge(TOKENS, drifting(0.1)).verdict is Verdict.IMPROVES
    assert judge(TOKENS, drifting(-0.1)).verdict is Verdict.DRIFTS


def test_a_quiet_run_is_steady_when_its_interval_is_narrow_and_unclear_when_it_is_not() -> None:
    assert judge(STEP, times(400, 0.01)).verdict is Verdict.STEADY
    noisy = judge(STEP, times(60, 0.2))
    assert noisy.verdict is Verdict.UNCLEAR
    assert noisy.change is not None
    assert noisy.change.low < 0 < noisy.change.high


def test_a_drift_within_the_tolerance_is_steady_however_certain() -> None:
    assert judge(STEP, drifting(0.01, spread=0.001)).verdict is Verdict.STEADY
    assert judge(STEP, drifting(0.01, spread=0.001), tolerance=0.0).verdict is Verdict.DRIFTS


def test_a_jump_is_a_shift_with_its_step() -> None:
    found = judge(STEP, shifting(0.1))
    assert (found.verdict, found.change) == (Verdict.SHIFTS, None)
    (shift,) = found.shifts
    assert abs(shift.step - 101) <= 2
    assert shift.change == pytest.approx(0.1, abs=0.02)
    assert (shift.before, shift.after) == (pytest.approx(2.0, rel=0.02), pytest.approx(2.2, rel=0.02))
    assert shift.p_value <= ALPHA


def test_a_jump_to_the_better_improves() -> None:
    assert judge(STEP, shifting(-0.1)).verdict is Verdict.IMPROVES


def test_a_slow_stretch_that_ends_is_a_shift_too() -> None:
    values = [value * (1.3 if 60 <= place < 130 else 1.0) for place, value in enumerate(times(200))]
    found = judge_trend(run_of({STEP: values}), STEP, 0.005, TOLERANCE)
    assert found.verdict is Verdict.SHIFTS
    assert [round(shift.change, 1) for shift in found.shifts] == [0.3, -0.2]


def test_a_drift_is_not_called_shifts() -> None:
    assert judge(STEP, drifting(0.3)).shifts == ()


def test_a_few_stalls_change_nothing() -> None:
    values = times(200)
    for place in (20, 90, 91, 180):
        values[place] *= 20
    found, quiet = judge(STEP, values), judge(STEP, times(200))
    assert found.verdict is quiet.verdict
    assert found.center is not None
    assert quiet.center is not None
    assert found.center.value == pytest.approx(quiet.center.value, rel=0.01)


def test_a_leak_drifts() -> None:
    leak = [8e9 + 1e7 * place + 2e6 * value for place, value in enumerate(alike(200, 1.0))]
    assert judge(PEAK_MEMORY, leak).verdict is Verdict.DRIFTS


def test_a_reward_that_rises_improves_by_a_difference() -> None:
    rises = [0.4 * place / 200 - 0.1 + value for place, value in enumerate(alike(200, 0.05))]
    found = judge(REWARD, rises)
    assert found.verdict is Verdict.IMPROVES
    assert found.change is not None
    assert found.change.low < 0.4 < found.change.high
    assert judge(REWARD, [-value for value in rises]).verdict is Verdict.DRIFTS


@pytest.mark.parametrize(("quantity", "value"), [(LAG, 1.0), (PEAK_MEMORY, 2.0**30), (REWARD, 0.0)])
def test_what_never_changes_is_steady(quantity: Quantity, value: float) -> None:
    found = judge(quantity, [value] * 50)
    assert found.verdict is Verdict.STEADY
    assert found.center is not None
    assert found.center.value == pytest.approx(value)
    assert math.isnan(found.center.low)


def test_too_few_values_are_unclear_and_say_so() -> None:
    values = [*times(29), *[math.nan] * 40]
    found = judge(STEP, values)
    assert (found.verdict, found.reason) == (Verdict.UNCLEAR, "29 values; 30 are needed")


def test_values_that_are_too_alike_have_a_level_and_no_interval() -> None:
    found = judge(STEP, waves(60))
    assert found.verdict is Verdict.UNCLEAR
    assert "in a row are alike" in found.reason
    assert found.center is not None
    assert math.isnan(found.center.low)


def test_values_that_are_too_alike_and_all_within_the_tolerance_are_steady() -> None:
    """As the peak memory of a process, which only grows."""
    found = judge(PEAK_MEMORY, [1e9 + 1e6 * wave for wave in waves(60)])
    assert (found.verdict, found.change, found.reason) == (Verdict.STEADY, None, "")


def test_a_reward_that_levels_off_improves() -> None:
    noise = alike(300, 0.03)
    rises = [0.5 * (1 - math.exp(-step / 80)) + noise for step, noise in enumerate(noise)]
    found = judge(REWARD, rises)
    assert (found.verdict, found.shifts) == (Verdict.IMPROVES, ())

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from pytest_grpo.logs.findings.blocks import MAX_BLOCKS, MIN_BLOCKS, Blocks, level, level_residuals, too_alike, trend
from tests.pytest_grpo.logs.made_runs import alike, waves


def blocks_of(values: Sequence[float], *, is_robust: bool = True) -> Blocks:
    found = Blocks.of(range(1, len(values) + 1), values, is_robust=is_robust)
    assert found is not None
    return found


def test_independent_values_make_twenty_blocks_that_cover_all_steps() -> None:
    found = blocks_of(alike(200))
    assert len(found.centers) == MAX_BLOCKS
    assert found.are_independent
    assert found.first_steps == tuple(range(1, 201, 10))
    assert found.steps[0] == 5.5


def test_a_center_is_a_median_where_a_stall_must_not_count_and_else_a_mean() -> None:
    values = [float(place % 5) for place in range(100)]
    values[2] = 1000.0
    assert blocks_of(values).centers[0] <= 4
    assert blocks_of(values, is_robust=False).centers[0] > 100


def test_values_that_remember_make_fewer_independent_blocks() -> None:
    few = blocks_of(alike(160, memory=0.85, seed=1))
    assert (len(few.centers), few.are_independent) == (MIN_BLOCKS, False)
    assert few.num_independent < MIN_BLOCKS


def test_values_that_remember_for_long_have_no_blocks_and_the_reason_says_how_many_are_needed() -> None:
    values = waves(60)
    assert Blocks.of(range(60), values, is_robust=True) is None
    assert "60 values are too few: about " in too_alike(values)
    assert too_alike(values).endswith(" are needed")


def test_a_drift_or_a_shift_is_no_likeness() -> None:
    noise = alike(200)
    assert blocks_of([value + 0.01 * place for place, value in enumerate(noise)]).are_independent
    assert blocks_of([value + (0.5 if place >= 100 else 0.0) for place, value in enumerate(noise)]).are_independent


def test_a_series_without_noise_is_cut_too() -> None:
    found = blocks_of([0.01 * place for place in range(40)])
    assert found.are_independent
    assert trend(found, 0.01).value == pytest.approx(0.01, rel=0.01)


def test_the_slope_and_the_level_of_a_noisy_line_lie_in_their_intervals() -> None:
    found = blocks_of([0.003 * place + value for place, value in enumerate(alike(300, memory=0.5))])
    slope, center = trend(found, 0.01), level(found, (), 0.01)
    assert slope.low < 0.003 < slope.high
    assert slope.value == pytest.approx(0.003, rel=0.2)
    assert center.low < 0.003 * 149.5 < center.high
    assert center.high - center.low < 0.1  # the line itself is no error of the level


def test_less_alpha_widens_an_interval() -> None:
    found = blocks_of(alike(100))
    wide, narrow = trend(found, 0.001), trend(found, 0.1)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_blocks_that_are_alike_are_worth_less() -> None:
    dependent = blocks_of(alike(160, memory=0.85, seed=1))
    as_if = Blocks(dependent.steps, dependent.centers, dependent.first_steps, float(len(dependent.centers)))
    assert trend(dependent, 0.05).high - trend(dependent, 0.05).low > trend(as_if, 0.05).high - trend(as_if, 0.05).low


def test_levels_that_begin_at_edges_are_no_error() -> None:
    found = blocks_of([float(place >= 50) for place in range(100)])
    assert level_residuals(found, (10,)).tolist() == [0.0] * 20
    assert level(found, (10,), 0.01).high == pytest.approx(0.5)
    assert math.isclose(level(found, (10,), 0.01).low, 0.5)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_grpo.logs.findings.blocks import Blocks
from pytest_grpo.logs.findings.shifts import find_shifts
from tests.pytest_grpo.logs.made_runs import alike

ALPHA = 0.005


def blocks_of(values: Sequence[float]) -> Blocks:
    found = Blocks.of(range(1, len(values) + 1), values, is_robust=True)
    assert found is not None
    return found


def shifted(by: float) -> list[float]:
    return [value + by * (place >= 120) for place, value in enumerate(alike(200))]


def test_a_level_that_changes_at_once_is_a_shift_at_its_block() -> None:
    assert [split.index for split in find_shifts(blocks_of(shifted(0.1)), ALPHA)] == [12]


def test_a_quiet_run_and_a_trend_have_none() -> None:
    assert find_shifts(blocks_of(alike(200)), ALPHA) == []
    assert find_shifts(blocks_of([value + 0.001 * step for step, value in enumerate(alike(200))]), ALPHA) == []
    bent = [value + 0.000005 * step**2 for step, value in enumerate(alike(200))]
    assert find_shifts(blocks_of(bent), ALPHA) == []


def test_blocks_that_depend_on_each_other_have_none() -> None:
    found = replace(blocks_of(shifted(0.1)), num_independent=9.0)
    assert find_shifts(found, ALPHA) == []


def test_a_shift_without_noise_is_found() -> None:
    assert [split.index for split in find_shifts(blocks_of([float(step >= 50) for step in range(100)]), ALPHA)] == [10]

from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.findings.shares import Shares, find_shares
from pytest_grpo.logs.vocabulary.quantities import STEP, part
from tests.pytest_grpo.logs.made_runs import run_of, times, waves

GEN, SAVE = part("gen"), part("save")


def shares_of(step_s: list[float], **parts: list[float]) -> Shares:
    found = find_shares(run_of({STEP: step_s, **{part(name): column for name, column in parts.items()}}), 0.01)
    assert found is not None
    return found


def test_shares_are_of_all_the_time() -> None:
    gen, update = times(100, 0.05, level_s=6.0), times(100, 0.02, level_s=3.0, seed=1)
    step_s = [a + b + 1.0 for a, b in zip(gen, update, strict=True)]
    found = shares_of(step_s, gen=gen, update=update)
    ((_, share), _) = found.parts
    assert share.value == pytest.approx(sum(gen) / sum(step_s))
    assert share.low < 0.6 < share.high
    assert share.high - share.low < 0.05
    assert found.unaccounted.value == pytest.approx(100 / sum(step_s))
    assert found.unaccounted.low > 0.09
    assert not found.is_beyond


def test_a_part_that_a_step_does_not_log_took_no_time_in_it() -> None:
    saves = [math.nan] * 100
    saves[49] = 10.0
    step_s = [2.0 if math.isnan(save) else 12.0 for save in saves]
    ((_, share),) = shares_of(step_s, save=saves).parts
    assert share.value == pytest.approx(10 / 210)
    assert share.low == 0.0


def test_parts_that_overlap_are_beyond_the_step() -> None:
    gen = times(60, 0.01)
    assert shares_of(gen, gen=gen, wait=[value / 10 for value in gen]).is_beyond
    rounded = [round(value, 2) for value in gen]
    assert not shares_of(gen, gen=rounded).is_beyond


def test_a_log_without_parts_has_no_shares() -> None:
    assert find_shares(run_of({STEP: times(60)}), 0.01) is None
    assert find_shares(run_of({GEN: times(60)}), 0.01) is None


def test_steps_that_are_too_alike_have_shares_without_an_interval() -> None:
    ((_, share),) = shares_of(times(60, 0.0), gen=[value / 2 for value in waves(60)]).parts
    assert share.high == math.inf

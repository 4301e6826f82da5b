from __future__ import annotations

import math

import pytest

from pytest_grpo.logs.findings.trends import Verdict
from pytest_grpo.logs.judging import judge_run
from pytest_grpo.logs.vocabulary.quantities import CYCLE, REWARD, STEP, TOKENS, part
from tests.pytest_grpo.logs.made_runs import run_of, times

GEN = part("gen")


def test_headlines_and_parts_share_a_budget_of_errors_each() -> None:
    columns = {STEP: times(100), TOKENS: times(100, level_s=900.0), GEN: times(100, level_s=1.0)}
    judged = judge_run(run_of(columns), 3, 0.02)
    assert [each.quantity for each in judged.headlines] == [STEP, TOKENS]
    assert [each.quantity for each in judged.parts] == [GEN]
    assert (judged.alpha, judged.parts_alpha) == (pytest.approx(0.01 / 4), pytest.approx(0.01 / 2))
    assert judged.settled.warm_up == (1, 2, 3)
    assert judged.shares is not None


def test_a_drift_is_bad_and_a_part_alone_is_not() -> None:
    quiet = times(200, 0.01)
    slower = [value * (1 + 0.2 * place / 200) for place, value in enumerate(times(200, 0.01, level_s=0.2))]
    assert not judge_run(run_of({STEP: quiet}), 3, 0.02).is_bad
    part_alone = judge_run(run_of({STEP: quiet, GEN: slower}), 3, 0.02)
    assert part_alone.parts[0].verdict is Verdict.DRIFTS
    assert not part_alone.is_bad
    assert judge_run(run_of({STEP: slower}), 3, 0.02).is_bad


def test_stalls_are_bad_when_they_cost_more_than_is_tolerated() -> None:
    values = times(100, 0.005)
    values[50] = 22.0
    log = run_of({STEP: values, CYCLE: times(100, 0.005, level_s=3.0)})
    judged = judge_run(log, 3, 0.02)
    assert [each.quantity for each in judged.stalls] == [STEP, CYCLE]
    assert judged.is_bad
    assert judged.is_costly(judged.stalls[0])
    assert not judge_run(log, 3, 0.12).is_bad


def test_a_cycle_of_the_loop_is_no_loss() -> None:
    values = [value * (4 if place % 4 == 0 else 1) for place, value in enumerate(times(100, 0.005))]
    judged = judge_run(run_of({STEP: values}), 3, 0.02)
    assert judged.stalls[0].cost > 0.3
    assert not judged.is_costly(judged.stalls[0])


def test_only_what_is_wanted_is_judged() -> None:
    falls = [1 - place / 100 + value - 2 for place, value in enumerate(times(100))]
    log = run_of({STEP: times(100, 0.005), REWARD: falls, GEN: times(100, level_s=1.0)})
    assert judge_run(log, 3, 0.02).is_bad
    judged = judge_run(log, 3, 0.02, ["step_s"])
    assert not judged.is_bad
    assert judged.alpha == pytest.approx(0.005)
    only_reward = judge_run(log, 3, 0.02, ["reward"])
    assert (only_reward.parts, only_reward.stalls, only_reward.shares) == ((), (), None)


def test_a_log_without_step_times_has_no_stalls_and_no_shares() -> None:
    judged = judge_run(run_of({REWARD: [math.sin(step) for step in range(60)]}), 3, 0.02)
    assert (judged.stalls, judged.shares) == ((), None)

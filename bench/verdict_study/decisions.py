"""The plugin's decision rule, vectorised over many gates."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench.verdict_study.noises import Floats
from pytest_grpo.measuring.deciding import plan_of
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget
from pytest_grpo.measuring.statistics.sign_test import DEFAULT_LOOKS, Plan, judge
from pytest_grpo.types import Verdict

CODES = {Verdict.PASS: 1, Verdict.FAIL: -1, Verdict.INCONCLUSIVE: 0}


def decide(logs: Floats, plan: Plan) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """What ``judge`` says of many gates with ``at_least`` 1: 1 pass, -1 fail, 0 inconclusive, and the pairs it used.

    ``logs`` are log ratios [..., pairs]. At each look it counts the pairs at or above 1, as the ranks ask.
    """
    looks = np.array(plan.looks)
    pass_ranks, fail_ranks = np.array([plan.ranks(look) for look in plan.looks]).T
    num_above = np.cumsum(logs >= 0, axis=-1)[..., looks - 1]
    is_pass, is_fail = looks - num_above < pass_ranks, num_above < fail_ranks
    is_decided = is_pass | is_fail
    is_decided[..., -1] = True
    at = np.argmax(is_decided, axis=-1)
    codes = is_pass.astype(np.int8) - is_fail.astype(np.int8)
    return np.take_along_axis(codes, at[..., None], axis=-1)[..., 0], looks[at]


def judge_one(logs: Floats, plan: Plan) -> tuple[int, int]:
    """``decide`` for one gate, by the harness's own ``judge``."""
    for look in plan.looks:
        verdict, _ = judge(np.exp(logs[:look]).tolist(), 1.0, math.inf, plan)
        if verdict is not Verdict.INCONCLUSIVE:
            return CODES[verdict], look
    return CODES[Verdict.INCONCLUSIVE], plan.looks[-1]


def suite_failures(pairs: Floats, shifts: Floats) -> NDArray[np.bool_]:
    """Which gates fail when each suite is judged gate by gate, its shares of its own error budget.

    ``pairs`` [suites, gates, pairs]; ``shifts`` [suites, gates] are the logs of truth over threshold.
    """
    num_suites, num_gates = shifts.shape
    budgets = [ErrorBudget(num_gates) for _ in range(num_suites)]
    failed = np.zeros(shifts.shape, dtype=np.bool_)
    for gate in range(num_gates):
        shares = np.array([budget.grant() for budget in budgets])
        for share in np.unique(shares):
            rows = np.flatnonzero(shares == share)
            codes, _ = decide(pairs[rows, gate] + shifts[rows, gate, None], plan_of(DEFAULT_LOOKS, float(share)))
            failed[rows, gate] = codes == CODES[Verdict.FAIL]
        for suite in np.flatnonzero(failed[:, gate]):
            budgets[suite].give_back(shares[suite])
    return failed

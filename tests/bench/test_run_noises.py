from __future__ import annotations

import random

import pytest

from bench.verdict_study.machine import NEW, OLD, Machine, Run
from bench.verdict_study.rules import RULES
from bench.verdict_study.run_noises import RUN_NOISES
from bench.verdict_study.run_tables import RunRates, study_runs
from bench.verdict_study.suites import judge_suites
from pytest_grpo.types import Verdict


def rates_of(noise: str, rule: str, num_suites: int = 6) -> RunRates:
    return study_runs(noise, RULES[rule], num_suites, num_gates=9, seed=3)


def test_a_run_knows_what_ran_before_and_its_place() -> None:
    seen: list[Run] = []

    def record(run: Run) -> float:
        seen.append(run)
        return 1.0

    machine = Machine(random.Random(1), record, speedup=1.0)
    for arms in ((NEW, NEW, OLD), (NEW, OLD)):
        machine.start_round()
        for arm in arms:
            machine.run(arm)
    assert [run.previous for run in seen] == [None, NEW, NEW, OLD, NEW]
    assert [run.place for run in seen] == [0, 0, 1, 0, 1]
    assert machine.num_runs == 5


@pytest.mark.parametrize("noise", ["carry-over to the new arm", "carry-over to the old arm"])
def test_carry_over_deceives_bare_pairs_and_not_this_plugin(noise: str) -> None:
    bare, ours = rates_of(noise, "median of bare pairs"), rates_of(noise, "this plugin")
    assert bare.green is not None
    assert ours.green is not None
    assert min(bare.green.share, bare.red.share) < 0.2
    assert min(ours.green.share, ours.red.share) > 0.95
    assert ours.false_green.num_hits == 0


def test_a_median_passes_stalls_and_this_plugin_does_not() -> None:
    bare, ours = rates_of("stalls", "median of bare pairs"), rates_of("stalls", "this plugin")
    assert bare.false_green.share > 0.3
    assert ours.false_green.share < 0.08
    assert ours.red.share > 0.85


@pytest.mark.parametrize("noise", ["stalls of the machine", "heavy tails", "bursts", "position effect"])
def test_what_hits_both_arms_is_no_failure(noise: str) -> None:
    better = judge_suites(RUN_NOISES[noise], RULES["this plugin"], 1.1, num_suites=6, num_gates=9, seed=3)
    assert better.red_suites.num_hits == 0
    assert better.verdicts[Verdict.PASS].share > 0.75

from __future__ import annotations

import json

import numpy as np
import pytest

from bench.verdict_study import series as series_module
from bench.verdict_study.rivals import GREEN, NOISES, RED, RULES, UNDECIDED, study_rules, table_of_rules
from bench.verdict_study.series import MACHINE_SWING, NUM_PAIRS, RECORDED, Series, simulated


def flat(fast: float, num_pairs: int = NUM_PAIRS) -> Series:
    """Sessions without noise: now the fast arm takes exp(``fast``) seconds; before, both arms took one second."""
    pairs, stored = np.zeros((1, num_pairs)), np.zeros((1, 20, num_pairs))
    return Series(pairs + fast, pairs, pairs == 0, stored, stored, stored == 0)


@pytest.mark.parametrize(
    ("slower", "verdicts"),
    [
        (0.0, {"nsys-ai": GREEN, "miles": GREEN, "prime-rl": GREEN, "this plugin": GREEN}),
        (0.1, {"nsys-ai": RED, "miles": RED, "prime-rl": GREEN, "this plugin": RED}),
        (0.2, {"nsys-ai": RED, "miles": RED, "prime-rl": RED, "this plugin": RED}),
        (-0.2, {"nsys-ai": GREEN, "miles": GREEN, "prime-rl": RED, "this plugin": GREEN}),  # red on a speed-up
    ],
)
def test_each_rule_is_what_its_project_does(slower: float, verdicts: dict[str, int]) -> None:
    series = flat(np.log1p(slower))
    assert {name: int(RULES[name](series)[0]) for name in verdicts} == verdicts


def test_one_stored_session_tells_a_loss_of_a_tenth_from_nothing_only_when_more_are_stored() -> None:
    series = flat(np.log1p(0.1))
    assert RULES["--grpo-compare, 1 stored"](series)[0] == UNDECIDED
    assert RULES["--grpo-compare, 10 stored"](series)[0] == RED


def test_the_simulated_noises_are_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    spread = simulated(rng, 500, spread=0.05)
    centers = (spread.fast_stored - spread.slow_stored).mean(axis=-1)
    machine = spread.slow_stored.mean(axis=-1)
    assert centers.std() == pytest.approx(0.05, rel=0.1)  # the machine affects both arms
    assert machine.std() == pytest.approx(MACHINE_SWING, rel=0.1)
    busy = simulated(rng, 500, neighbours=0.3)
    assert (~busy.is_quiet).any(axis=1).mean() == pytest.approx(0.3, abs=0.07)
    assert simulated(rng, 10).is_quiet.all()


@pytest.mark.slow
def test_a_neighbour_of_one_arm_turns_nothing_red_and_a_loss_is_found() -> None:
    found = study_rules(np.random.default_rng(2), 30)
    assert found.keys() == NOISES.keys()
    neighbour = found["one-arm neighbour"]
    assert neighbour["this plugin"].false_red.num_hits == 0
    assert neighbour["this plugin, all pairs"].false_red.num_hits >= 3
    assert neighbour["miles"].false_red.num_hits >= 3
    for name in ("--grpo-compare, 1 stored", "--grpo-compare, 10 stored"):
        assert found["session spread, 5 %"][name].false_red.num_hits <= 1
    assert found["independent, 4 %"]["--grpo-compare, 10 stored"].power.share > 0.9
    lines = table_of_rules(found)
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {noise}" for noise in NOISES]


def test_the_recorded_sessions_name_their_machine() -> None:
    content = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert content["processor"]
    assert {session["has_neighbour"] for session in content["sessions"]} == {False, True}
    for session in content["sessions"]:
        assert len(session["one_thread_s"]) == len(session["two_threads_s"]) == len(session["cores_of_others"])
    recorded = series_module.recorded(np.random.default_rng(3), 4, has_neighbour=True)
    assert recorded.fast.shape == (4, NUM_PAIRS)
    assert np.isfinite(recorded.fast).all()

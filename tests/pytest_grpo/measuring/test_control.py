from __future__ import annotations

import random

import pytest

from pytest_grpo.measuring import control


def test_the_same_work_is_measured_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine as busy as a test's, either answer may be right; both are well formed."""
    monkeypatch.setattr(control, "NUM_PAIRS", 11)
    problem = control.find_problem(random.Random(0))
    assert problem == "" or problem.startswith("the A/A control fired: ")


def test_a_moment_of_noise_gets_a_second_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["pairs differ", "", "pairs differ", "pairs differ again"])
    monkeypatch.setattr(control, "NUM_PAIRS", 1)
    monkeypatch.setattr(control, "control_problem", lambda ratios: next(answers))
    assert control.find_problem(random.Random(0)) == ""
    assert control.find_problem(random.Random(0)) == (
        "the A/A control fired: pairs differ again; run it on a quieter machine"
    )

from __future__ import annotations

import math
import random
import sys
import threading
from types import SimpleNamespace

import pytest

from pytest_grpo.measuring import control
from pytest_grpo.measuring.machine import quiet


def run_control(max_cores: float = math.inf) -> control.Control:
    return control.run_control(random.Random(0), max_cores)


def test_the_same_work_is_measured_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine as busy as a test's, either answer may be right; both are well formed."""
    monkeypatch.setattr(control, "NUM_PAIRS", 11)
    found = run_control()
    assert found.is_final
    assert found.problem == "" or found.problem.startswith("this machine is too noisy for timings (A/A control): ")


@pytest.mark.slow
def test_a_moment_of_noise_gets_a_second_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["pairs differ", "", "pairs differ", "pairs differ again"])
    monkeypatch.setattr(control, "NUM_PAIRS", 1)
    monkeypatch.setattr(control, "control_problem", lambda ratios: next(answers))
    assert run_control() == control.Control("")
    assert (
        run_control().problem
        == "this machine is too noisy for timings (A/A control): pairs differ again; run it on a quieter machine"
    )


def test_a_busy_machine_is_asked_again_at_the_next_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BUDGET_S", 0.5)
    monkeypatch.setattr(quiet.QuietGuard, "_is_busy", lambda *_: True)
    found = run_control(0.1)
    assert not found.is_final
    assert "were left out because other processes used the cores" in found.problem


def test_the_control_uses_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(get_num_threads=lambda: 3))
    assert control.num_threads() == 3
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(control, "num_cores_for_us", lambda: 5)
    assert control.num_threads() == 5


def test_all_threads_of_the_work_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    all_there = threading.Barrier(3, timeout=60)
    with control._Work(3) as work:
        monkeypatch.setattr(work, "_hash", all_there.wait)
        work()  # a BrokenBarrierError unless all three wait together

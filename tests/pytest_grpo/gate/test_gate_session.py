from __future__ import annotations

from pytest_grpo.gate.gate_session import GateSession
from pytest_grpo.measuring.statistics.error_budget import ErrorBudget


def test_red_metrics_are_kept_by_phase_until_their_test_runs_again() -> None:
    session = GateSession(ErrorBudget(1))
    session.note_red(2, "test_a", "hits")
    session.note_red(2, "test_b", "hits")
    session.note_red(3, "test_c", "passes")
    session.note_red(3, "test_c", "passes")
    assert (session.red_metrics(2), session.red_metrics(3), session.red_metrics(4)) == (["hits"], ["passes"], [])
    session.forget("test_b")
    session.forget("test_c")
    assert (session.red_metrics(2), session.red_metrics(3)) == (["hits"], [])

"""Phase tests of one body, run by the plugin; their arms measure what they are told."""

from __future__ import annotations

import pytest

HEAD = """
import time
import pytest
from pytest_grpo.agreement import close_values, nothing_to_check, same_tokens
from pytest_grpo.arms import approx_ratio
from pytest_grpo.types import Sample

def at(speed, output=0, **more):
    return lambda: Sample(1.0, {"tokens": speed, **more}, output)

def naps():
    time.sleep(0.06)

def varying(*speeds):
    speeds = iter(speeds * 100)
    return lambda: Sample(1.0, {"tokens": next(speeds)}, output=0)
"""
BUSY = """
    import pytest
    from pytest_grpo.measuring.machine import quiet

    @pytest.fixture(autouse=True)
    def busy(monkeypatch):
        monkeypatch.setattr(quiet.QuietGuard, "_is_busy", lambda *_: True)
"""
"""A conftest: other processes use the cores all the time."""

FASTER = "a, b = grpo_arms(agree=same_tokens, a=at(30), b=at(10))"
SLOWER = "a, b = grpo_arms(agree=same_tokens, a=at(10), b=at(30))"
RED = f"{SLOWER}; assert a.tokens_per_second >= 2 * b.tokens_per_second"


def run_gate(project: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    """Run a phase test whose body is ``body``."""
    lines = "\n    ".join(body.split("; "))
    source = f"{HEAD}\n@pytest.mark.phase2\ndef test_gate(grpo_gate, grpo_arms, grpo_threshold):\n    {lines}\n"
    project.makepyfile(test_gate=source)
    return project.runpytest("-rx", "test_gate.py", *arguments)

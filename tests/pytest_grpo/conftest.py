"""For tests of the plugin: projects, and sessions inside of tests that share nothing with the one around them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

for _name in (
    "filelock",
    "hypothesis",
    "numpy",
    "psutil",
    "pytest_grpo.gate.gates",
    "pytest_grpo.baseline.compare",
):
    # pytester forgets what an inner session imports; what is here already is not imported again by each of them.
    importlib.import_module(_name)

THRESHOLDS = """
[cpu.phase2]
batched_speedup = { at_least = 2, unit = "x" }
adapter_cache_hits = { equals = 1 }
[cpu.phase3]
forward_over_backward = { within = [0.67, 1.5] }
[cpu.phase4]
overlap_cost = { at_most = 1.5 }
"""

NO_CONTROL = "grpo_control = false\ngrpo_max_cores_of_others = inf"
"""Trying the machine's clock takes a second or two in each session."""

SUITE = """
import pytest
from pytest_grpo.agreement import nothing_to_check
from pytest_grpo.arms import approx_ratio

def at(speed):
    return lambda: {"tokens": speed, "seconds": 1.0}

def test_plain():
    pass

@pytest.mark.phase2
def test_two(grpo_gate, grpo_arms, grpo_threshold):
    fast, slow = grpo_arms(agree=nothing_to_check, fast=at(300), slow=at(100))
    assert fast.tokens_per_second >= grpo_threshold("batched_speedup") * slow.tokens_per_second
    grpo_gate.check("adapter_cache_hits", 1)

@pytest.mark.phase3
def test_three(grpo_arms, grpo_threshold):
    (step,) = grpo_arms(agree=nothing_to_check, step=lambda: {"loss_forward_ms": 10, "backward_ms": 11, "seconds": 1.0})
    assert step.loss_forward_ms == approx_ratio(step.backward_ms, within=grpo_threshold("forward_over_backward"))

@pytest.mark.phase4
class TestFour:
    def test_method(self, grpo_arms, grpo_threshold):
        shared, alone = grpo_arms(agree=nothing_to_check, shared=lambda: {"seconds": 3}, alone=lambda: {"seconds": 1})
        assert shared.seconds <= grpo_threshold("overlap_cost") * alone.seconds
"""


@pytest.fixture(autouse=True)
def _outer_session_does_not_leak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sessions inside of tests must not see the settings of the session around them."""
    for name in (
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "GITHUB_STEP_SUMMARY",
        "GITHUB_ACTIONS",
        "GITHUB_WORKSPACE",
        "GRPO_THRESHOLD",
        "MODAL_TOKEN_ID",
        "MODAL_TOKEN_SECRET",
    ):
        monkeypatch.delenv(name, raising=False)
    # A file that a test changes within a second, to a text as long, would be imported as it was from its .pyc.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "no-modal.toml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("GRPO_HOME", str(tmp_path / "grpo-home"))


@pytest.fixture
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes load these plugins only: finding and importing all that are installed takes seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_grpo.plugin,pytest_benchmark.plugin,xdist.plugin")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with thresholds, one plain test, and tests of phases 2 and 3 that pass and 4 that fails."""
    (pytester.mkdir("bench") / "thresholds.toml").write_text(THRESHOLDS)
    pytester.makeini(f"[pytest]\n{NO_CONTROL}\n")
    pytester.makepyfile(test_suite=SUITE)
    return pytester

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

THRESHOLDS = """
[cpu.phase2]
batched_speedup = { at_least = 2, unit = "x" }
adapter_cache_hits = { equals = 1 }
[cpu.phase3]
forward_over_backward = { within = [0.67, 1.5] }
[cpu.phase4]
overlap_cost = { at_most = 1.5 }
"""

SUITE = """
import pytest
from pytest_grpo.measure import Sample

def test_plain():
    pass

@pytest.mark.phase2
def test_two(grpo_gate):
    grpo_gate.speedup("batched_speedup", fast=lambda: Sample(300, 0.1), slow=lambda: Sample(100, 0.1))
    grpo_gate.check("adapter_cache_hits", 1)

@pytest.mark.phase3
def test_three(grpo_gate):
    grpo_gate.estimate("forward_over_backward", [0.9, 1.0, 1.25])

@pytest.mark.phase4
class TestFour:
    def test_method(self, grpo_gate):
        grpo_gate.cost("overlap_cost", of=lambda: Sample(1, 0.3), over=lambda: Sample(1, 0.1))
"""


@pytest.fixture(autouse=True)
def _few_objects_to_collect() -> Iterator[None]:
    """Measuring collects garbage each time; here the heap is that of a whole test session."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _outer_session_does_not_leak(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sessions inside of tests must not see the settings of the session around them."""
    for name in (
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "GITHUB_STEP_SUMMARY",
        "MODAL_TOKEN_ID",
        "MODAL_TOKEN_SECRET",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODAL_CONFIG_PATH", str(tmp_path / "no-modal.toml"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def few_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes load these plugins only: finding and importing all that are installed takes seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_grpo.plugin,pytest_benchmark.plugin,xdist.plugin")


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with thresholds, one plain test, and tests of phases 2 and 3 that pass and 4 that fails."""
    (pytester.mkdir("bench") / "thresholds.toml").write_text(THRESHOLDS)
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_suite=SUITE)
    return pytester

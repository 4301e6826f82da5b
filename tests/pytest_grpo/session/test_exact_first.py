from __future__ import annotations

import pytest

MIXED = """
import pytest

@pytest.fixture(scope="module", params=["x", "y"])
def engine(request):
    return request.param

@pytest.mark.phase2
def test_timing(grpo_arms): pass

def test_plain(): pass

@pytest.mark.phase2
def test_exact(grpo_gate): pass

@pytest.mark.phase3
def test_other_timing(grpo_arms): pass

@pytest.mark.phase2
class TestOwn:
    def test_timing(self, grpo_arms): pass
    def test_exact(self): pass
    def test_exact_too(self): pass

@pytest.mark.phase3
def test_other_exact(): pass

@pytest.mark.phase4
def test_engine_timing(grpo_arms, engine): pass

@pytest.mark.phase4
def test_engine_exact(engine): pass
"""


def names(project: pytest.Pytester, *arguments: str) -> list[str]:
    result = project.runpytest("--co", "-q", "test_mixed.py", *arguments)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_tests_that_do_not_measure_run_first_within_their_phase_and_class(project: pytest.Pytester) -> None:
    project.makepyfile(test_mixed=MIXED)
    expected = [
        "test_exact",
        "test_plain",
        "test_timing",
        "test_other_exact",
        "TestOwn::test_exact",
        "TestOwn::test_exact_too",
        "TestOwn::test_timing",
        "test_other_timing",
        "test_engine_exact[x]",
        "test_engine_timing[x]",
        "test_engine_exact[y]",
        "test_engine_timing[y]",
    ]
    assert names(project, "--phase=all") == [name for name in expected if name != "test_plain"]
    assert names(project) == expected
    of_phase3 = ["test_other_exact", "test_other_timing"]
    assert names(project, "-m", "phase3") == of_phase3


def test_a_project_without_phases_keeps_its_order(project: pytest.Pytester) -> None:
    project.makepyfile(test_mixed="def test_timing(grpo_arms): pass\n\ndef test_exact(): pass")
    assert names(project) == ["test_timing", "test_exact"]

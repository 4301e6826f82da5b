from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree

import pytest

pytestmark = pytest.mark.usefixtures("few_plugins")

OUTCOMES = """
import os
import re
import pytest
import warnings
from pytest_grpo.agreement import same_tokens

pytestmark = pytest.mark.phase2

def test_pass(grpo_arms, grpo_threshold, record_property):
    print("some output")
    record_property("kept", 3)
    warnings.warn("careful", FutureWarning)
    fast, slow = grpo_arms(agree=same_tokens, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
    assert slow.seconds >= grpo_threshold("batched_speedup") * fast.seconds

def test_fail(grpo_gate):
    grpo_gate.check("adapter_cache_hits", 0)

def test_chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error

def test_group():
    raise ExceptionGroup("several", [KeyError("one"), ValueError("two")])

def test_skip():
    pytest.skip("not here")

@pytest.mark.skip(reason="marked")
def test_skip_marked():
    pass

@pytest.mark.xfail(reason="known")
def test_xfail():
    assert 1 == 2

@pytest.mark.xfail(strict=True)
def test_strict_xpass():
    pass

@pytest.fixture
def broken_setup():
    raise RuntimeError("no setup")

def test_setup_error(broken_setup):
    pass

@pytest.fixture
def broken_teardown():
    yield
    raise RuntimeError("no teardown")

def test_teardown_error(broken_teardown):
    pass

def test_subtests(subtests):
    with subtests.test("good"):
        pass
    with subtests.test("bad"):
        assert False

@pytest.mark.parametrize("text", ["a b", "c::d"])
def test_parameters(text):
    pass
"""


def report_of(pytester: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, list[object]]:
    """The result of a run and, per test of its JUnit file, what must not depend on where it ran."""
    settings = ["--phase=2", "--junitxml=junit.xml", "-ojunit_family=xunit1", "-Wdefault"]
    result = pytester.runpytest(*settings, *arguments)
    cases: list[object] = []
    for case in ElementTree.parse(pytester.path / "junit.xml").iter("testcase"):
        details = [
            (child.tag, child.get("message"), re.sub("0x[0-9a-f]+", "0x", child.text or ""))
            for child in case
            if child.tag != "properties"
        ]
        cases.append((case.get("classname"), case.get("name"), details, [p.get("name") for p in case.iter("property")]))
    return result, cases


def test_a_clean_process_reports_what_a_local_run_does(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=OUTCOMES)
    local, local_cases = report_of(project)
    remote, remote_cases = report_of(project, "--grpo-remote", "subprocess")
    assert remote_cases == local_cases
    assert remote.ret == local.ret == pytest.ExitCode.TESTS_FAILED
    assert remote.parseoutcomes() == local.parseoutcomes()
    for result in (local, remote):
        result.stdout.fnmatch_lines(["*FutureWarning: careful", "1 pass, 1 fail, 0 inconclusive on cpu *"])


def test_tests_of_a_phase_share_one_process_with_this_sessions_settings(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite="""
        import os
        import pytest
        from pytest_grpo.agreement import same_tokens

        def test_plain():
            assert "GRPO_SEEN_IN_PHASE" not in os.environ

        @pytest.mark.phase2
        def test_first(grpo_gate):
            os.environ["GRPO_SEEN_IN_PHASE"] = "1"
            grpo_gate.check("adapter_cache_hits", 7)

        @pytest.mark.phase2
        def test_second(grpo_arms):
            assert os.environ["GRPO_SEEN_IN_PHASE"] == "1"
            fast, slow = grpo_arms(agree=same_tokens, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
            assert slow.seconds >= 2 * fast.seconds
            assert len(fast.comparison.sampler.rounds) == 7
        """
    )
    project.makeini("[pytest]\ngrpo_control = false\naddopts = --grpo-remote=subprocess\n")
    settings = ["--grpo-threshold", "adapter_cache_hits=7", "--grpo-pairs", "7", "-W", "error"]
    result = project.runpytest("test_suite.py", *settings, "--benchmark-json=out.json")
    result.assert_outcomes(passed=3)
    assert "GRPO_SEEN_IN_PHASE" not in os.environ
    assert '"name": "test_second[seconds:fast]"' in project.path.joinpath("out.json").read_text()


def test_a_failure_elsewhere_stops_the_session_and_is_the_last_failed(project: pytest.Pytester) -> None:
    phases = ["--phase", "3,4"]
    stopped = project.runpytest(
        *phases, "-x", "--grpo-remote=subprocess", "--grpo-threshold=forward_over_backward=2..3"
    )
    stopped.assert_outcomes(failed=1, deselected=2)
    project.runpytest(*phases, "--lf").assert_outcomes(passed=1, deselected=1)


def test_a_test_that_takes_its_process_down_is_an_error_and_the_others_run(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite="""
        import os, pytest
        pytestmark = pytest.mark.phase2
        def test_before(): pass
        def test_dies(): print("last words"); os._exit(7)
        def test_after(): pass
        """
    )
    result = project.runpytest("--phase", "2", "--grpo-remote=subprocess", "--junitxml=junit.xml")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*test_dies has no result from where it ran: pytest ended there with exit code 7 while it ran"]
    )
    suite = next(ElementTree.parse(project.path / "junit.xml").iter("testsuite"))
    assert (suite.get("errors"), suite.get("failures")) == ("1", "0")

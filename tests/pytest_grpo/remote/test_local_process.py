from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree

import pytest

pytestmark = pytest.mark.usefixtures("few_plugins")


@pytest.mark.slow
def test_tests_of_a_phase_share_one_process_with_this_sessions_settings(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite="""
        import os
        import pytest
        from pytest_grpo.agreement import nothing_to_check

        def test_plain():
            assert "GRPO_SEEN_IN_PHASE" not in os.environ

        @pytest.mark.phase2
        def test_first(grpo_gate):
            os.environ["GRPO_SEEN_IN_PHASE"] = "1"
            grpo_gate.check("adapter_cache_hits", 7)

        @pytest.mark.phase2
        def test_second(grpo_arms):
            assert os.environ["GRPO_SEEN_IN_PHASE"] == "1"
            fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {"seconds": 1}, slow=lambda: {"seconds": 3})
            assert slow.seconds >= 2 * fast.seconds
            assert len(fast.comparison.sampler.rounds) == 7
        """
    )
    project.makeini(
        "[pytest]\ngrpo_control = false\ngrpo_max_cores_of_others = inf\naddopts = --grpo-remote=subprocess\n"
    )
    settings = ["--grpo-threshold", "adapter_cache_hits=7", "--grpo-pairs", "7", "-W", "error"]
    result = project.runpytest("test_suite.py", *settings, "--benchmark-json=out.json")
    result.assert_outcomes(passed=3)
    assert "GRPO_SEEN_IN_PHASE" not in os.environ
    assert '"name": "test_second[seconds:fast]"' in project.path.joinpath("out.json").read_text()


@pytest.mark.slow
def test_a_failure_elsewhere_stops_the_session_and_is_the_last_failed(project: pytest.Pytester) -> None:
    phases = ["--phase", "3,4"]
    stopped = project.runpytest(
        *phases, "-x", "--grpo-remote=subprocess", "--grpo-threshold=forward_over_backward=2..3"
    )
    stopped.assert_outcomes(failed=1, deselected=2)
    project.runpytest(*phases, "--lf").assert_outcomes(passed=1, deselected=1)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_session_there_ends_in_an_orderly_way(project: pytest.Pytester) -> None:
    project.makeconftest(
        """
        import pathlib, sys, time
        def pytest_sessionfinish():
            if any("report-file" in word for word in sys.argv):
                time.sleep(0.5)
                pathlib.Path("finished.txt").touch()
        """
    )
    project.runpytest("--phase", "2", "--grpo-remote=subprocess").assert_outcomes(passed=1, deselected=3)
    assert (project.path / "finished.txt").exists()

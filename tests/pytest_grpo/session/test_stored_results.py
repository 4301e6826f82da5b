from __future__ import annotations

import json
from pathlib import Path

import pytest

SUITE = """
import pytest
from pytest_grpo.agreement import same_tokens

@pytest.mark.phase2
def test_speed(grpo_arms):
    speeds = iter([{speeds}] * 100)
    fast, slow = grpo_arms(agree=same_tokens, fast=lambda: {{"tokens": next(speeds), "seconds": 1}}, slow=lambda: {{"tokens": 100, "seconds": 1}})
    assert fast.tokens_per_second >= 1.1 * slow.tokens_per_second
"""  # noqa: E501 (the suite of an inner session)
FAST, SLOWER, FASTER = "300, 301, 302, 303", "250, 251, 252, 253", "400, 401, 402, 403"


def run(project: pytest.Pytester, speeds: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(test_suite=SUITE.format(speeds=speeds))
    return project.runpytest("--phase", "2", *arguments)


def baseline_file(tmp_path: Path, name: str) -> Path:
    return tmp_path / "grpo-home" / "data" / "baselines" / f"{name}.json"


def test_a_loss_against_a_baseline_is_red_though_the_threshold_is_met(project: pytest.Pytester, tmp_path: Path) -> None:
    saved = run(project, FAST, "--grpo-save", "before")
    saved.assert_outcomes(passed=1)
    saved.stdout.fnmatch_lines([f"grpo: stored as before in {baseline_file(tmp_path, 'before')}"])
    same = run(project, FAST, "--grpo-compare", "before")
    same.assert_outcomes(passed=1)
    same.stdout.fnmatch_lines(["*test_speed*no regression*"])
    lost = run(project, SLOWER, "--grpo-compare", "before")
    lost.assert_outcomes(failed=1)
    lost.stdout.fnmatch_lines(["fail: tokens_per_second: against before: *regression*-16*"])
    run(project, SLOWER, "--grpo-compare", "before", "--grpo-tolerance", "0.3").assert_outcomes(passed=1)
    run(project, FASTER, "--grpo-compare", "before").assert_outcomes(passed=1)


def test_a_name_that_exists_is_refused_before_anything_runs(project: pytest.Pytester, tmp_path: Path) -> None:
    run(project, FAST, "--grpo-save", "before")
    kept = baseline_file(tmp_path, "before").read_bytes()
    again = run(project, FASTER, "--grpo-save", "before")
    assert again.ret == pytest.ExitCode.USAGE_ERROR
    again.stderr.fnmatch_lines(["ERROR: baseline 'before': *exists and is never overwritten; choose another name"])
    assert baseline_file(tmp_path, "before").read_bytes() == kept


def test_a_damaged_baseline_is_one_line(project: pytest.Pytester, tmp_path: Path) -> None:
    run(project, FAST, "--grpo-save", "before")
    path = baseline_file(tmp_path, "before")
    path.write_text(path.read_text().replace("300", "900", 1))
    result = run(project, FAST, "--grpo-compare", "before")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: baseline *damaged: its checksum does not match; *"])


def test_another_threshold_makes_results_incomparable_unless_allowed(project: pytest.Pytester) -> None:
    run(project, FAST, "--grpo-save", "before")
    changed = ["--grpo-compare", "before", "--grpo-threshold", "batched_speedup=1.5"]
    refused = run(project, FAST, *changed)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(
        ["ERROR: baseline 'before': not comparable: threshold batched_speedup: *>= 2 x / >= 1.5*"]
    )
    run(project, FAST, *changed, "--grpo-any-machine").assert_outcomes(passed=1)


@pytest.mark.parametrize("how", ["--co", "-knothing"])
def test_a_session_without_verdicts_stores_nothing(project: pytest.Pytester, tmp_path: Path, how: str) -> None:
    run(project, FAST, "--grpo-save", "before", how)
    assert not baseline_file(tmp_path, "before").exists()


@pytest.mark.usefixtures("few_plugins")
def test_an_interrupted_session_stores_nothing(project: pytest.Pytester, tmp_path: Path) -> None:
    project.makepyfile(test_stop="import pytest\n@pytest.mark.phase2\ndef test_stop(): raise KeyboardInterrupt")
    project.makepyfile(test_suite=SUITE.format(speeds=FAST))
    result = project.runpytest_subprocess("--phase", "2", "--grpo-save", "before", "test_suite.py", "test_stop.py")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert not baseline_file(tmp_path, "before").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_workers_compare_and_the_controller_stores(project: pytest.Pytester, tmp_path: Path) -> None:
    run(project, FAST, "--grpo-save", "before")
    run(project, SLOWER, "--grpo-compare", "before", "-n1").assert_outcomes(failed=1)
    run(project, FAST, "--grpo-save", "after", "-n1").assert_outcomes(passed=1)
    (result,) = json.loads(baseline_file(tmp_path, "after").read_text())["results"]
    assert result[0] == "test_suite.py::test_speed"


@pytest.mark.slow
def test_a_clean_process_compares_too(project: pytest.Pytester) -> None:
    run(project, FAST, "--grpo-save", "before")
    run(project, SLOWER, "--grpo-compare", "before", "--grpo-remote", "subprocess").assert_outcomes(failed=1)


def test_the_page_shows_the_machine_and_earlier_runs(project: pytest.Pytester) -> None:
    run(project, FAST, "--grpo-save", "first-of-all")
    run(project, FASTER, "--grpo-html", "report.html")
    page = (project.path / "report.html").read_text()
    assert "first-of-all" in page
    assert "num_cores" in page or "num cores" in page


REFERENCED = """
import pytest
from pytest_grpo.agreement import same_tokens
from pytest_grpo.types import Sample

def at(seconds):
    noise = iter([1.0, 1.001, 1.002, 1.003] * 100)
    return lambda: Sample(seconds * next(noise), {{"tokens": 1}}, output=1)

@pytest.mark.phase2
def test_speed(grpo_arms):
    fast, slow, _ = grpo_arms(agree=same_tokens, fast=at({step}), slow=at(2 * {step}), reference=at(0.5))
    assert fast.tokens_per_second >= 1.1 * slow.tokens_per_second
"""


def test_a_loss_that_both_arms_share_is_red_by_the_reference(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=REFERENCED.format(step=1.0))
    project.runpytest("--phase", "2", "--grpo-save", "before").assert_outcomes(passed=1)
    project.runpytest("--phase", "2", "--grpo-compare", "before").assert_outcomes(passed=1)
    project.makepyfile(test_suite=REFERENCED.format(step=1.3))
    lost = project.runpytest("--phase", "2", "--grpo-compare", "before")
    lost.assert_outcomes(failed=1)
    lost.stdout.fnmatch_lines(["fail: tokens_per_second: against before: *fast/reference: regression*+30*"])

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path

import pytest

SUITE = """
import pytest
from pytest_grpo.agreement import nothing_to_check

@pytest.mark.phase2
def test_speed(grpo_arms):
    speeds = iter([{speeds}] * 100)
    fast, slow = grpo_arms(agree=nothing_to_check, fast=lambda: {{"tokens": next(speeds), "seconds": 1}}, slow=lambda: {{"tokens": 100, "seconds": 1}})
    assert fast.tokens_per_second >= 1.1 * slow.tokens_per_second
"""  # noqa: E501 (the suite of an inner session)
FAST, SLOWER, FASTER = "300, 301, 302, 303", "250, 251, 252, 253", "400, 401, 402, 403"
MUCH_SLOWER = "200, 201, 202, 203"


def run(project: pytest.Pytester, speeds: str, *arguments: str) -> pytest.RunResult:
    project.makepyfile(test_suite=SUITE.format(speeds=speeds))
    return project.runpytest("--phase", "2", *arguments)


def baseline_file(tmp_path: Path, name: str) -> Path:
    return tmp_path / "grpo-home" / "data" / "baselines" / f"{name}.json"


def commit_all(project: pytest.Pytester) -> None:
    """The results of a commit are known to be of the same code."""
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "Begin"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=project.path, check=True)


def save_sessions(project: pytest.Pytester) -> None:
    """Five of one commit, which differ by a percent."""
    commit_all(project)
    for number, speed in enumerate((299, 300, 302, 301, 298)):
        run(project, f"{speed}, {speed + 1}", "--grpo-save", f"before{number}").assert_outcomes(passed=1)


def test_a_loss_against_a_baseline_is_red_though_the_threshold_is_met(project: pytest.Pytester, tmp_path: Path) -> None:
    saved = run(project, FAST, "--grpo-save", "before")
    saved.assert_outcomes(passed=1)
    saved.stdout.fnmatch_lines([f"grpo: stored as before in {baseline_file(tmp_path, 'before')}"])
    same = run(project, FAST, "--grpo-compare", "before")
    same.assert_outcomes(passed=1)
    same.stdout.fnmatch_lines(["1 stored session does not show *: 5 % is assumed; *", "1 undecided"])
    lost = run(project, MUCH_SLOWER, "--grpo-compare", "before")
    lost.assert_outcomes(failed=1)
    lost.stdout.fnmatch_lines(["fail: tokens_per_second: against before: *regression*-33*"])
    run(project, MUCH_SLOWER, "--grpo-compare", "before", "--grpo-tolerance", "0.5").assert_outcomes(passed=1)
    run(project, FASTER, "--grpo-compare", "before").assert_outcomes(passed=1)


@pytest.mark.slow
def test_several_stored_sessions_of_a_commit_tell_smaller_losses(project: pytest.Pytester) -> None:
    save_sessions(project)
    same = run(project, FAST, "--grpo-compare", "before0")
    same.stdout.fnmatch_lines(["*test_speed*no regression*"])
    lost = run(project, SLOWER, "--grpo-compare", "before0")
    lost.assert_outcomes(failed=1)
    lost.stdout.fnmatch_lines(["fail: *against before0: *regression*-16*5 stored sessions spread by 0.5 %"])


@pytest.mark.slow
def test_a_clean_process_knows_all_stored_sessions(project: pytest.Pytester) -> None:
    save_sessions(project)
    run(project, SLOWER, "--grpo-compare", "before0", "--grpo-remote", "subprocess").assert_outcomes(failed=1)


def num_pairs(tmp_path: Path, name: str) -> int:
    ((_, row),) = json.loads(baseline_file(tmp_path, name).read_text())["results"]
    return len(row["ratios"])


@pytest.mark.slow
def test_a_gate_samples_on_until_the_baseline_is_decided(project: pytest.Pytester, tmp_path: Path) -> None:
    """Eight pairs pass the threshold; whether 285 is a loss from 300 takes more of these noisy ones."""
    # Each value twice: the first pairs run each arm twice.
    noisy = ", ".join(f"{speed}, {speed}" for speed in (285, 250, 320, 270, 300))
    run(project, noisy, "--grpo-save", "alone").assert_outcomes(passed=1)  # of no commit: no session of "before0"
    save_sessions(project)
    compared = ["--grpo-compare", "before0", "--grpo-pairs", "8,12", "--grpo-budget", "600"]
    run(project, noisy, "--grpo-save", "compared", *compared).assert_outcomes(passed=1)
    assert [num_pairs(tmp_path, name) for name in ("alone", "compared")] == [8, 12]


def test_a_fired_control_silences_the_comparison(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    run(project, FAST, "--grpo-save", "before")
    gate_session = importlib.import_module("pytest_grpo.gate.gate_session")
    control = importlib.import_module("pytest_grpo.measuring.control")
    monkeypatch.setattr(
        gate_session,
        "run_control",
        lambda rng, limit: control.Control("this machine is too noisy for timings (A/A control): a story"),
    )
    lost = run(project, MUCH_SLOWER, "--grpo-compare", "before", "-o", "grpo_control=true")
    lost.assert_outcomes(xfailed=1)
    lost.stdout.fnmatch_lines(["1 not trusted"])


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
    run(project, MUCH_SLOWER, "--grpo-compare", "before", "-n1").assert_outcomes(failed=1)
    run(project, FAST, "--grpo-save", "after", "-n1").assert_outcomes(passed=1)
    (result,) = json.loads(baseline_file(tmp_path, "after").read_text())["results"]
    assert result[0] == "test_suite.py::test_speed"


@pytest.mark.slow
def test_a_clean_process_compares_too(project: pytest.Pytester) -> None:
    run(project, FAST, "--grpo-save", "before")
    run(project, MUCH_SLOWER, "--grpo-compare", "before", "--grpo-remote", "subprocess").assert_outcomes(failed=1)


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


SIZES = """
from pytest_grpo.agreement import nothing_to_check

def at(speed):
    return lambda: {{"tokens": speed, "seconds": 1}}

def test_sizes(grpo_arms):
    for fast in ({speeds}):
        a, b = grpo_arms(agree=nothing_to_check, a=at(fast), b=at(100))
        assert a.tokens_per_second >= 1.1 * b.tokens_per_second
"""


@pytest.mark.slow
def test_gates_of_one_name_in_a_test_have_a_baseline_each(project: pytest.Pytester) -> None:
    def run_sizes(speeds: str, *arguments: str) -> pytest.RunResult:
        project.makepyfile(test_suite=SIZES.format(speeds=speeds))
        return project.runpytest(*arguments)

    run_sizes("900, 300", "--grpo-save", "before").assert_outcomes(passed=1)
    run_sizes("900, 300", "--grpo-compare", "before").assert_outcomes(passed=1)
    lost = run_sizes("500, 300", "--grpo-compare", "before")
    lost.assert_outcomes(failed=1)
    lost.stdout.fnmatch_lines(["fail: tokens_per_second: against before: *regression: 9 before, 5 now*"])

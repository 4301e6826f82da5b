from __future__ import annotations

import sys

import pytest

NO_CONTROL = "grpo_control = false\ngrpo_max_cores_of_others = inf"
BROKEN_TOML = ["-o", "grpo_thresholds=broken.toml"]


def usage_error(pytester: pytest.Pytester, *arguments: str) -> str:
    """The one line of the usage error that ``pytest ARGUMENTS`` ends with."""
    result = pytester.runpytest("-q", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.errlines if line.strip()]
    return line.removeprefix("ERROR: ")


@pytest.mark.parametrize(
    ("arguments", "starts", "says"),
    [
        (["--phase", "9"], "--phase '9':", "allowed are 0-6, comma-separated, or all"),
        (["--phase", "two"], "--phase 'two':", "try --phase 2,5"),
        (["--phase="], "--phase '':", "allowed are 0-6"),
        (["--co", "--phase", "9"], "--phase '9':", "allowed are 0-6"),
        (["-o", "grpo_phase=9"], "--phase '9':", "allowed are 0-6"),
        (["--phase", "2", "-m", "phase5"], "--phase '2' and -m 'phase5':", "drop one"),
        (["--grpo-threshold", "speed=1"], "--grpo-threshold 'speed=1':", "allowed are adapter_cache_hits, batched_"),
        (["--grpo-threshold", "batched_speedup=fast"], "--grpo-threshold 'batched_speedup=fast'", "is not a number"),
        (["-o", "grpo_thresholds=missing.toml"], "thresholds ", "no such file"),
        (BROKEN_TOML, "thresholds ", "not a readable TOML file"),
        (["--phase", "2", "--grpo-device-profile", "gpu"], "thresholds ", "no device profile 'gpu'"),
        (["--grpo-device-profile", "tpu"], "--grpo-device-profile 'tpu':", "allowed are cpu, gpu, auto"),
        (["--grpo-pairs", "0"], "--grpo-pairs '0':", "from 1 to 1000"),
        (["--grpo-pairs", "1.5"], "--grpo-pairs '1.5':", "whole numbers"),
        (["--grpo-pairs", "12,8"], "--grpo-pairs '12,8':", "increasing"),
        (["--grpo-budget", "0"], "--grpo-budget '0':", "seconds above 0"),
        (["--grpo-budget", "soon"], "--grpo-budget 'soon':", "try 45"),
        (["--grpo-num-gates", "0"], "--grpo-num-gates '0':", "from 1 to 10000"),
        (["--grpo-versus", "grpo_core"], "--grpo-versus 'grpo_core':", "name another"),
        (["--grpo-tolerance", "5"], "tolerance '5'", "from 0 to below 1"),
        (["--grpo-html", "."], "--grpo-html '.':", "not a file"),
        (["--grpo-html="], "--grpo-html '':", "not a file"),
        (["--grpo-save", "a/b"], "baseline 'a/b'", "letters, digits"),
        (["--grpo-save="], "baseline ''", "letters, digits"),
        (["--grpo-compare", "gone"], "baseline 'gone':", "store one with --grpo-save"),
        (["--grpo-remote", "mars"], "--grpo-remote 'mars':", "allowed are modal, subprocess, local"),
        (["-o", "grpo_remote=mars"], "ini grpo_remote 'mars':", "allowed are"),
        (["-o", "grpo_inconclusive=skip"], "ini grpo_inconclusive 'skip':", "allowed are fail, xfail"),
        (["--modal", "--grpo-remote", "subprocess"], "--modal and --grpo-remote subprocess:", "drop one"),
        (["--grpo-remote", "subprocess", "-n2"], "--grpo-remote subprocess", "drop -n"),
        (["--modal-gpu", "H900"], "--modal-gpu 'H900':", "allowed are T4, "),
        (["--modal-gpu", "h100"], "--modal-gpu 'h100':", "H100:2, and none"),
        (["--modal-gpu", "H100:9"], "--modal-gpu 'H100:9':", "1 to 8 of H100; try H100:2"),
        (["--modal-gpu", "A10:5"], "--modal-gpu 'A10:5':", "1 to 4 of A10"),
        (["--modal-gpu", "L4:"], "--modal-gpu 'L4:':", "1 to 8 of L4"),
        (["--modal-gpu", "none:2"], "--modal-gpu 'none:2':", "allowed are T4"),
        (["-o", "grpo_modal_gpu=L5"], "ini grpo_modal_gpu 'L5':", "allowed are T4"),
        (["--modal-timeout", "soon"], "--modal-timeout 'soon':", "try 3600"),
        (["-o", "grpo_modal_timeout=0"], "ini grpo_modal_timeout '0':", "seconds from 1 to 86400"),
        (["--modal-retries=-1"], "--modal-retries '-1':", "from 0 to 10"),
        (["--modal-max-containers", "0"], "--modal-max-containers '0':", "from 1 to 100"),
        (["--modal-region", "US east"], "--modal-region 'US east':", "try us-east,eu"),
        (["--modal-env", "my env"], "--modal-env 'my env':", "letters, digits"),
        (["--modal-app", "an app"], "--modal-app 'an app':", "the name of a deployed app, or a Python file"),
        (["--modal-app", "gone.py"], "--modal-app 'gone.py':", "no such file"),
        (["--modal-detach", "--modal-attach", "r"], "--modal-detach and --modal-attach r:", "drop one"),
        (["--modal-attach", "gone"], "--modal-attach 'gone':", "no such run"),
        (["--modal-attach", "../x"], "--modal-attach '../x':", "no such run"),
    ],
)
def test_bad_input_is_one_line(project: pytest.Pytester, arguments: list[str], starts: str, says: str) -> None:
    project.path.joinpath("broken.toml").write_text("[cpu")
    line = usage_error(project, *arguments)
    assert line.startswith(starts)
    assert says in line


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('[modal.phase2]\ngpu = "H900"', "[modal.phase2] gpu = 'H900': allowed are T4"),
        ("[modal.phase2]\ngpu = 2", "[modal.phase2] gpu = 2: allowed are T4"),
        ('[modal.phase2]\nmemory = "L4"', "[modal.phase2]: allowed are tables phase0 to phase6, each with a gpu"),
        ('[modal]\ngpu = "L4"', "[modal.gpu]: allowed are tables phase0 to phase6, each with a gpu"),
    ],
)
def test_a_bad_gpu_of_a_phase_is_one_line(project: pytest.Pytester, table: str, says: str) -> None:
    with project.path.joinpath("bench", "thresholds.toml").open("a") as file:
        file.write(table)
    assert says in usage_error(project)


def test_a_named_threshold_needs_the_file(project: pytest.Pytester) -> None:
    project.path.joinpath("bench", "thresholds.toml").unlink()
    result = project.runpytest("--phase", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["*.py:*: grpo: no threshold 'batched_speedup' in *bench/thresholds.toml; add *"])


def test_a_project_without_phases_needs_no_thresholds_file(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    pytester.runpytest("-W", "error").assert_outcomes(passed=1)


@pytest.mark.parametrize("marker", ["phase2(1)", "phase2(reason='slow')"])
def test_markers_take_no_arguments(project: pytest.Pytester, marker: str) -> None:
    project.makepyfile(test_marked=f"import pytest\n@pytest.mark.{marker}\ndef test_marked(): pass")
    assert usage_error(project) == (
        "test_marked.py::test_marked: marker phase2 takes no arguments; write @pytest.mark.phase2"
    )


@pytest.mark.usefixtures("few_plugins")
def test_an_xdist_worker_reports_a_bad_marker_as_an_error(project: pytest.Pytester) -> None:
    project.makepyfile(test_marked="import pytest\n@pytest.mark.phase2(1)\ndef test_marked(): pass")
    result = project.runpytest("-n1", "--phase", "2", "test_marked.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*marker phase2 takes no arguments*"])


def test_markers_are_registered_and_warnings_clean(project: pytest.Pytester) -> None:
    project.runpytest("--strict-markers", "-W", "error", "--phase", "2,3").assert_outcomes(passed=2, deselected=2)
    project.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.phase5: prompt and engine tuning: *"])


def test_options_and_ini_values_are_listed(project: pytest.Pytester) -> None:
    project.runpytest("--help").stdout.fnmatch_lines(["*--phase*, --grpo-phase=PHASES", "*grpo_thresholds (string):*"])


def test_threshold_overrides_decide(project: pytest.Pytester) -> None:
    project.runpytest("--phase", "2", "--grpo-threshold", "batched_speedup=4").assert_outcomes(failed=1, deselected=3)
    project.runpytest("--phase", "4", "--grpo-threshold", "overlap_cost=4").assert_outcomes(passed=1, deselected=3)
    project.makeini(f"[pytest]\n{NO_CONTROL}\ngrpo_threshold =\n  overlap_cost=4\ngrpo_pairs = 6\n")
    project.runpytest("--phase", "4").assert_outcomes(passed=1, deselected=3)


def test_stopping_at_the_first_failure_and_running_the_last_failed(project: pytest.Pytester) -> None:
    both = ["--phase", "3,4"]
    project.runpytest(*both, "-x", "--grpo-threshold", "forward_over_backward=2..3").assert_outcomes(
        failed=1, deselected=2
    )
    project.runpytest(*both).assert_outcomes(passed=1, failed=1, deselected=2)
    project.runpytest(*both, "--lf").assert_outcomes(failed=1, deselected=3)


def test_without_the_plugin_nothing_is_selected_or_gated(project: pytest.Pytester) -> None:
    result = project.runpytest("-p", "no:grpo", "-W", "ignore")
    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["*fixture 'grpo_*' not found"])


def test_header_is_shown_when_phases_are_asked_for(project: pytest.Pytester) -> None:
    header = "grpo: device profile cpu, mode local, thresholds bench/thresholds.toml"
    project.runpytest("--co", "-m", "phase2").stdout.fnmatch_lines([header])
    project.runpytest("--co").stdout.no_fnmatch_line("grpo: *")


@pytest.mark.usefixtures("few_plugins")
def test_collecting_phases_for_modal_contacts_nothing_and_needs_no_credentials(project: pytest.Pytester) -> None:
    script = (
        "import sys, pytest; code = pytest.main(['--co', '-q', '--modal', '--phase', 'all']);"
        "print(code, [name for name in ('torch', 'modal', 'numpy', 'grpo_core') if name in sys.modules])"
    )
    result = project.run(sys.executable, "-c", script)
    result.stdout.fnmatch_lines(["test_suite.py::test_two", "0 []"])


def test_loading_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    heavy = "'torch', 'numpy', 'modal', 'grpo_core', 'pynvml', 'pytest_benchmark', 'transformers', 'pydantic'"
    script = f"import sys, pytest_grpo.plugin; print([name for name in ({heavy},) if name in sys.modules])"
    assert pytester.run(sys.executable, "-c", script).stdout.str() == "[]"

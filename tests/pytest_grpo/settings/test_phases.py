from __future__ import annotations

import pytest

from pytest_grpo.settings.phases import FIXTURES, parse_phases, phases_in_expression


@pytest.mark.parametrize(
    ("text", "phases"), [("2", {2}), ("2,5", {2, 5}), (" 0 , 6 ", {0, 6}), ("all", set(range(7))), ("3,3", {3})]
)
def test_phases_are_numbers_or_all(text: str, phases: set[int]) -> None:
    assert parse_phases(text) == phases


@pytest.mark.parametrize("text", ["9", "two", "", "2,", "phase2", "2 5", "-1", "all,2", "²"])
def test_other_phases_are_named_in_one_line(text: str) -> None:
    with pytest.raises(pytest.UsageError, match="allowed are 0-6, comma-separated, or all") as caught:
        parse_phases(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("expression", "phases"),
    [
        ("", set()),
        ("phase2", {2}),
        ("phase2 or phase5", {2, 5}),
        ("phase2 and not slow", {2}),
        ("not phase2", set()),
        ("not (phase2 or phase5)", set()),
        ("not not phase2", {2}),
        ("slow or not phase2", set()),
        ("phase2 and not phase5", {2}),
        ("slow", set()),
        ("phase7", set()),
        ("phase2 or", set()),
        ("phase2 and not 3d", {2}),
        ("phase2 and not a-b and not x.y[1] and not c::d", {2}),
        ("phase2(x=1) or other(name='phase5')", {2}),
        ("slow(why='phase2 or phase3')", set()),
        ("phase5 and level(n=1) and not level(n=2)", {5}),
        ("slow or phase2", {2}),
        ("(slow or phase2) and (3d or phase5)", {2, 5}),
        ("phase2 and not phase2", set()),
        ("phase2 or not phase2", set()),
        ("phase2 and None or phase3", {2, 3}),
        ("my_phase2", set()),
        (" phase2 ", {2}),
        ("phase2 and 'slow'", set()),
        ("not (not phase2 or 3d)", {2}),
    ],
)
def test_an_expression_asks_for_the_phases_whose_marker_selects(expression: str, phases: set[int]) -> None:
    assert phases_in_expression(expression) == phases


@pytest.mark.parametrize(
    ("arguments", "tests"),
    [
        ([], {"test_plain"}),
        (["."], {"test_plain"}),
        (["--phase", "2"], {"test_two"}),
        (["--grpo-phase=2,3"], {"test_two", "test_three"}),
        (["--phase", "all"], {"test_two", "test_three", "test_method"}),
        (["-m", "phase2"], {"test_two"}),
        (["-m", "phase2 or phase4"], {"test_two", "test_method"}),
        (["-m", "not phase2"], {"test_plain"}),
        (["-m", "phase3 or not phase2"], {"test_plain", "test_three"}),
        (["-m", "phase2 and not 3d"], {"test_two"}),
        (["-m", "not 3d"], {"test_plain"}),
        (["--phase", "2,3", "-m", "phase2"], {"test_two"}),
        (["--phase", "all", "-m", "not phase2"], {"test_three", "test_method"}),
        (["test_suite.py"], {"test_plain", "test_two", "test_three", "test_method"}),
        (["test_suite.py", "--phase", "3"], {"test_three"}),
        (["test_suite.py::test_two"], {"test_two"}),
        (["test_suite.py::TestFour"], {"test_method"}),
        (["test_suite.py::TestFour::test_method"], {"test_method"}),
        (["-k", "two"], set()),
        (["-k", "two", "-m", "phase2 or phase3"], {"test_two"}),
        (["-o", "grpo_phase=3"], {"test_three"}),
        (["-o", "grpo_phase=3", "-m", "phase2"], {"test_two"}),
        (["-o", "grpo_phase=3", "--phase", "2"], {"test_two"}),
    ],
)
def test_phase_tests_run_only_when_asked_for(project: pytest.Pytester, arguments: list[str], tests: set[str]) -> None:
    result = project.runpytest("--co", "-q", "--no-header", *arguments)
    listed = {line.rpartition("::")[2] for line in result.outlines if line.startswith("test_suite.py::")}
    assert listed == tests


def test_what_is_not_asked_for_counts_as_deselected(project: pytest.Pytester) -> None:
    project.runpytest().assert_outcomes(passed=1, deselected=3)


def test_a_session_without_a_test_says_how_to_ask(project: pytest.Pytester) -> None:
    result = project.runpytest("-k", "two or three")
    result.stdout.fnmatch_lines(["grpo: 2 phase tests not selected; try --phase all or -m phase2"])


def test_a_phase_without_a_test_says_what_there_is(project: pytest.Pytester) -> None:
    result = project.runpytest("--phase", "5,6")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(
        [
            "grpo: --phase: none of the 4 collected tests can run (3 with a phase, 0 that need --grpo-versus); "
            "mark one phase5 or phase6, or name its folder; grpo bench runs the phases that come with pytest-grpo"
        ]
    )


OWN_MARKERS = """
import pytest

@pytest.mark.phase1
def test_one(): pass

@pytest.mark.phase1(3)
@pytest.mark.phase2(reason="mine")
def test_with_arguments(): pass

def test_plain(): pass
"""
USES_A_FIXTURE = """
import pytest

@pytest.mark.phase1
def test_gate(grpo_gate): pass
"""
OWN_TEXT = "[pytest]\nmarkers =\n    phase1: the first part of the project\n    phase2(reason): the second\n"
STRICT = ("--strict-markers", "-W", "error")


@pytest.fixture
def foreign(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project that knows nothing of this plugin and has markers of the same names."""
    pytester.makepyfile(test_own=OWN_MARKERS)
    return pytester


@pytest.mark.parametrize("ini", ["", OWN_TEXT], ids=["unregistered", "registered"])
@pytest.mark.parametrize("arguments", [(), ("-m", "phase1 or not phase1"), ("-k", "one or arguments or plain")])
def test_a_projects_own_markers_select_nothing_here(
    foreign: pytest.Pytester, ini: str, arguments: tuple[str, ...]
) -> None:
    foreign.makeini(ini)
    result = foreign.runpytest(*arguments, *(STRICT if ini else ()))
    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("grpo: *")


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_a_projects_own_markers_select_nothing_in_xdist_workers(foreign: pytest.Pytester) -> None:
    foreign.runpytest("-n2").assert_outcomes(passed=3)


def test_a_projects_own_markers_are_selected_by_pytest_alone(foreign: pytest.Pytester) -> None:
    result = foreign.runpytest("-m", "phase1 and not phase2")
    result.assert_outcomes(passed=1, deselected=2)
    result.stdout.no_fnmatch_line("grpo: *")


def test_a_projects_own_text_of_a_marker_is_the_only_one(foreign: pytest.Pytester) -> None:
    foreign.makeini(OWN_TEXT)
    listed = [line for line in foreign.runpytest("--markers").outlines if line.startswith("@pytest.mark.phase")]
    assert listed[0] == "@pytest.mark.phase1: the first part of the project"
    assert listed[1] == "@pytest.mark.phase2(reason): the second"
    assert len(listed) == 7


def test_a_test_that_measures_claims_its_marker_alone(foreign: pytest.Pytester) -> None:
    foreign.makepyfile(test_gate=USES_A_FIXTURE)
    foreign.runpytest().assert_outcomes(passed=3, deselected=1)
    foreign.runpytest("-m", "phase1").assert_outcomes(passed=3, deselected=1)


@pytest.mark.parametrize(
    "arguments",
    [("--phase=1",), ("-o", "grpo_phase=1"), ("-o", "grpo_thresholds=limits.toml"), ("--grpo-remote=subprocess",)],
)
def test_a_project_opts_in(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    pytester.makepyfile(test_own="import pytest\n@pytest.mark.phase2\ndef test_two(): pass")
    (pytester.path / "limits.toml").write_text("[cpu.phase2]\nspeed = { at_least = 1 }\n")
    pytester.runpytest("--co", *arguments).assert_outcomes(deselected=1)


def test_a_thresholds_file_opts_in(project: pytest.Pytester) -> None:
    project.makepyfile(test_own="import pytest\n@pytest.mark.phase2\ndef test_two(): pass")
    project.runpytest("-k", "test_own").assert_outcomes(deselected=5)


def test_phases_claim_what_uses_a_fixture_of_the_plugin() -> None:
    from pytest_grpo.session import fixtures

    assert [name for name in vars(fixtures) if name.startswith("grpo_")] == list(FIXTURES)


def test_an_exported_threshold_stops_no_foreign_session(
    foreign: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPO_THRESHOLD", "batched_speedup=1.5")
    foreign.runpytest().assert_outcomes(passed=3)
    foreign.makepyfile(test_gate=USES_A_FIXTURE)
    result = foreign.runpytest()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: environment GRPO_THRESHOLD 'batched_speedup=1.5': no threshold *"])


def outcomes_again(project: pytest.Pytester, *arguments: str) -> list[str]:
    """The tests that ``pytest ARGUMENTS`` runs, in order, as ``name outcome``."""
    result = project.runpytest("-v", "--color=no", *arguments)
    lines = [line.split() for line in result.outlines if line.startswith("test_suite.py::")]
    return [f"{name.rpartition('::')[2]} {outcome}" for name, outcome, *_ in lines]


@pytest.mark.slow
def test_last_failed_repeats_a_red_phase(project: pytest.Pytester) -> None:
    project.runpytest("--phase", "all").assert_outcomes(passed=2, failed=1, deselected=1)
    assert outcomes_again(project, "--lf") == ["test_method FAILED"]
    assert outcomes_again(project, "--ff") == ["test_method FAILED", "test_plain PASSED"]
    assert outcomes_again(project) == ["test_plain PASSED"]
    assert outcomes_again(project, "--lf", "--phase=2") == ["test_two PASSED"]
    assert outcomes_again(project, "--lf", "--grpo-threshold=overlap_cost=4") == ["test_method PASSED"]
    assert outcomes_again(project, "--lf") == ["test_plain PASSED"]


@pytest.mark.slow
def test_stepwise_repeats_a_red_phase(project: pytest.Pytester) -> None:
    project.runpytest("--phase", "all", "--sw").assert_outcomes(passed=2, failed=1, deselected=1)
    assert outcomes_again(project, "--sw") == ["test_method FAILED"]
    assert outcomes_again(project, "--sw", "--grpo-threshold=overlap_cost=4") == ["test_method PASSED"]
    assert outcomes_again(project, "--sw") == ["test_plain PASSED"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_plugins")
def test_last_failed_of_xdist_workers_repeats_a_red_phase(project: pytest.Pytester) -> None:
    project.runpytest("-n1", "--phase", "4").assert_outcomes(failed=1)
    project.runpytest("-n1", "--lf").assert_outcomes(failed=1)


def test_nothing_is_remembered_without_a_cache(project: pytest.Pytester) -> None:
    project.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1, deselected=3)

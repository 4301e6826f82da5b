from __future__ import annotations

import pytest

from pytest_grpo.settings.phases import parse_phases, phases_in_expression


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
    ],
)
def test_an_expression_asks_for_what_it_names_outside_of_a_not(expression: str, phases: set[int]) -> None:
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

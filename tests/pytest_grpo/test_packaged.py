"""The phases that come with the package: run from any folder, with the package's thresholds and stable node ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpo_core.extras import MODULES_OF_EXTRAS
from pytest_grpo.packaged import PACKAGE, THRESHOLDS, file_arguments, is_package_argument, is_packaged

LATENCY = f"pytest_grpo/bench/test_phase6_observability.py::{'test_events_reach_the_live_panels'}"


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_node_ids_do_not_depend_on_where_the_package_is(pytester: pytest.Pytester, mode: str) -> None:
    result = pytester.runpytest("--pyargs", PACKAGE, "--phase=6", "--co", "-q", f"--import-mode={mode}")
    assert collected(result) == [LATENCY]
    assert is_packaged(LATENCY)
    assert not is_packaged("bench/test_phase6_observability.py::test_events_reach_the_live_panels")


def test_they_wait_until_they_are_asked_for_or_named(pytester: pytest.Pytester) -> None:
    waiting = pytester.runpytest("--pyargs", PACKAGE)
    waiting.stdout.fnmatch_lines(["grpo: * phase tests not selected; try --phase all or -m phase2"])
    module = f"{PACKAGE}.test_phase6_observability"
    for named in (module, f"{module}::test_events_reach_the_live_panels"):
        assert collected(pytester.runpytest("--pyargs", named, "--co", "-q")) == [LATENCY]


def test_where_phases_are_asked_for_and_there_are_none_the_command_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest("--phase=all")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.stdout.fnmatch_lines(
        [
            "grpo: --phase: none of the 0 collected tests can run *; "
            "grpo bench runs the phases that come with pytest-grpo"
        ]
    )


CONFTEST = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    from pytest_grpo.settings.thresholds import thresholds_of
    for item in items:
        for name in ("live_panels", "panel_latency_s"):
            found = thresholds_of(config, item).get(name)
            print("threshold", item.name, name, found and f"{found} {found.source}")
    items.clear()
"""
OWN = "import pytest\n\n@pytest.mark.phase6\ndef test_own(grpo_gate): ...\n"


def thresholds(pytester: pytest.Pytester, *arguments: str) -> dict[str, str]:
    """Those of the package's test of phase 6, and of the project's own, by name."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=OWN)
    result = pytester.runpytest(
        "-s", "--pyargs", PACKAGE, "test_it.py", "--phase=6", "--grpo-device-profile=cpu", *arguments
    )
    lines = [line.partition("threshold ")[2] for line in result.outlines if "threshold test_" in line]
    return dict(
        line.removeprefix("test_events_reach_the_live_panels ").split(" ", 1) for line in lines if "_own" not in line
    ) | {f"own {line.split()[1]}": line.split()[2] for line in lines if "_own" in line}


def test_a_project_without_thresholds_has_those_of_the_package(pytester: pytest.Pytester) -> None:
    assert thresholds(pytester) == {
        "live_panels": "== 3 pytest_grpo.bench [cpu.phase6]",
        "panel_latency_s": "<= 2 s pytest_grpo.bench [cpu.phase6]",
        "own live_panels": "None",
        "own panel_latency_s": "None",
    }


def test_what_the_project_sets_is_stronger_and_the_rest_stays(pytester: pytest.Pytester) -> None:
    (pytester.mkdir("bench") / "thresholds.toml").write_text("[cpu.phase6]\npanel_latency_s = { at_most = 5 }\n")
    found = thresholds(pytester)
    assert found["live_panels"] == "== 3 pytest_grpo.bench [cpu.phase6]"
    assert found["panel_latency_s"] == "<= 5 thresholds.toml [cpu.phase6]"
    assert found["own live_panels"] == "None"


def test_options_replace_one_of_the_package(pytester: pytest.Pytester) -> None:
    assert thresholds(pytester, "--grpo-threshold=live_panels=2")["live_panels"] == "== 2 --grpo-threshold"


def test_phases_without_their_packages_are_one_line(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES_OF_EXTRAS, "train", ("pytest", "grpo_not_there"))
    result = pytester.runpytest("--pyargs", PACKAGE, "--phase=6")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line.strip()] == [
        "ERROR: the phases need packages that are not installed: grpo_not_there; run: pip install 'pytest-grpo[bench]'"
    ]
    assert pytester.runpytest("--pyargs", PACKAGE, "--phase=6", "--co").ret == 0


def test_a_package_that_a_test_finds_missing_is_one_line(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys
        sys.modules["duckdb"] = None

        def test_panels(tmp_path):
            from grpo_core.telemetry.panels.query import query_panels
            from grpo_core.telemetry.panels.panels import PANELS
            query_panels(PANELS, tmp_path)

        def test_own_import():
            import duckdb
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "test_a_package_that_a_test_finds_missing_is_one_line.py:7: grpo: panels need the package duckdb, which is "
            "not installed; run: pip install 'pytest-grpo[[]dashboard]'",
            "E       ModuleNotFoundError: *duckdb*",
        ]
    )
    result.stdout.no_fnmatch_line("E *MissingPackageError*")


@pytest.mark.slow
def test_a_system_beside_the_tests_needs_no_python_path(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        my_stack="from pytest_grpo import GrpoSystem\n\nclass MyStack(GrpoSystem):\n    name = 'my_stack'\n"
        "    def __init__(self, settings): ...",
    )
    pytester.syspathinsert("/nowhere")
    result = pytester.runpytest_subprocess(
        "--pyargs", PACKAGE, "--phase=3", "--grpo-system=my_stack:MyStack", "--co", "-q"
    )
    assert len(collected(result)) == 7
    wrong = pytester.runpytest_subprocess("--phase=3", "--grpo-system=my_stuck:MyStack")
    wrong.stderr.fnmatch_lines(["ERROR: system 'my_stuck:MyStack': cannot import *"])


def test_a_worker_is_told_the_modules(tmp_path: Path) -> None:
    files = ["tests/test_a.py", "pytest_grpo/bench/test_phase3_trainer.py", "tests/test_a.py"]
    assert file_arguments(files) == ["--pyargs", "tests/test_a.py", "pytest_grpo.bench.test_phase3_trainer"]
    assert file_arguments(files[:1]) == ["tests/test_a.py"]


@pytest.mark.parametrize(
    ("argument", "is_one"),
    [
        ("pytest_grpo.bench", True),
        ("pytest_grpo.bench::", True),
        ("pytest_grpo.bench.test_phase3_trainer::test_x", True),
        ("pytest_grpo.benches", False),
        ("bench", False),
    ],
)
def test_arguments_of_the_package_are_told_from_others(argument: str, is_one: bool) -> None:
    assert is_package_argument(argument) is is_one


def test_the_thresholds_are_beside_the_tests() -> None:
    assert THRESHOLDS.is_file()

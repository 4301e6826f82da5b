from __future__ import annotations

import json
import sys

import pytest

MEASURED = """
import pytest
from pytest_grpo.measure import Sample

@pytest.mark.phase2
def test_two(grpo_gate):
    fast = iter([Sample(200, 0.5), Sample(300, 0.1), Sample(100, 0.1)])  # the first one is warm-up
    grpo_gate.speedup("batched_speedup", fast=lambda: next(fast), slow=lambda: Sample(10, 0.1), pairs=2)
"""


@pytest.fixture
def measured(project: pytest.Pytester) -> pytest.Pytester:
    """A project with one measured test, and without pytest-benchmark's slow look at the machine."""
    project.makepyfile(test_measured=MEASURED)
    project.makeconftest("def pytest_benchmark_generate_machine_info(): return {'node': 'here', 'cpu': {}}")
    return project


def test_json_holds_each_arm_with_its_tokens_per_second(measured: pytest.Pytester) -> None:
    measured.runpytest("test_measured.py", "--benchmark-json=out.json").assert_outcomes(passed=1)
    document = json.loads(measured.path.joinpath("out.json").read_text())
    fast, slow = document["benchmarks"]
    assert fast["name"] == "test_two[batched_speedup:fast]"
    assert fast["fullname"] == "test_measured.py::test_two[batched_speedup:fast]"
    assert fast["group"] == slow["group"] == "batched_speedup"
    assert fast["stats"]["iterations"] == 200
    assert fast["stats"]["data"] == pytest.approx([0.1 / 300, 0.1 / 100])
    assert fast["stats"]["ops"] == pytest.approx(2 / (0.1 / 300 + 0.1 / 100))
    assert slow["stats"]["ops"] == pytest.approx(100)
    info = slow["extra_info"]
    assert info["verdict"] == "pass"
    assert info["threshold"] == ">= 2 x"
    assert info["interval"] == pytest.approx([10, 30])
    assert info["pairs"] == 2
    assert info["device"].startswith("cpu ")
    assert info["commit"] == document["commit_info"]["id"]


@pytest.mark.parametrize("arguments", [["--benchmark-disable"], ["--benchmark-skip"]])
def test_a_disabled_pytest_benchmark_gets_nothing(measured: pytest.Pytester, arguments: list[str]) -> None:
    result = measured.runpytest("test_measured.py", "-W", "ignore", "--benchmark-json=out.json", *arguments)
    result.assert_outcomes(passed=1)
    assert not measured.path.joinpath("out.json").exists()


def test_counts_alone_make_no_entries(project: pytest.Pytester) -> None:
    result = project.runpytest("--phase", "3", "-W", "ignore", "--benchmark-json=out.json")
    result.assert_outcomes(passed=1, deselected=3)
    assert not project.path.joinpath("out.json").exists()


def test_saved_runs_can_be_compared(measured: pytest.Pytester) -> None:
    measured.runpytest("test_measured.py", "--benchmark-save=before")
    result = measured.runpytest("test_measured.py", "--benchmark-save=after", "--benchmark-compare=0001")
    result.stdout.fnmatch_lines(["test_two?batched_speedup:slow? (0001_before) *", "*slow? (NOW) *"])
    command = "import sys; from pytest_benchmark.cli import main; sys.exit(main())"
    compared = measured.run(sys.executable, "-c", command, "compare", "--sort=name", "--columns=ops,rounds")
    assert compared.ret == 0
    compared.stdout.re_match_lines(
        [
            rf"test_two\[batched_speedup:{arm}\] \({run}\) .* 2 *$"
            for arm, run in [("fast", "0001_before"), ("fast", "0002_after"), ("slow", "0001_before")]
        ]
    )

"""A test that pytest-rerunfailures runs again counts as it ended."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

SUITE = """
import pathlib, pytest
from pytest_grpo.agreement import nothing_to_check
from pytest_grpo.types import Sample

attempts = pathlib.Path(__file__).with_name("attempts.txt")

def attempt():
    with attempts.open("a") as file:
        file.write("x")
    return len(attempts.read_text())

@pytest.mark.phase2
def test_gate(grpo_gate, grpo_arms, grpo_threshold):
    speed = {speeds}[attempt() - 1]
    grpo_gate.check("adapter_cache_hits", 1)
    a, b = grpo_arms(
        agree=nothing_to_check,
        a=lambda: Sample(1.0, {{"tokens": speed}}),
        b=lambda: Sample(1.0, {{"tokens": 1}}),
    )
    assert a.tokens_per_second >= grpo_threshold("batched_speedup") * b.tokens_per_second
"""
HOOK = """
def pytest_grpo_verdict(row):
    with open("seen.txt", "a") as file:
        file.write(f"{row.metric} {row.verdict} {row.measured:g}\\n")
"""
METRICS = ["adapter_cache_hits", "batched_speedup"]


@pytest.fixture
def reruns(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = "pytest_grpo.plugin,pytest_benchmark.plugin,xdist.plugin,pytest_rerunfailures"
    monkeypatch.setenv("PYTEST_PLUGINS", plugins)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    project.makeconftest(HOOK)
    return project


@pytest.mark.parametrize(
    ("speeds", "where"), [([1, 1.5, 3], ()), ([1, 3], ("-n1",)), ([1, 1.5], ("-n1",))], ids=["third", "second", "never"]
)
def test_only_the_last_attempt_counts(
    reruns: pytest.Pytester, tmp_path: Path, speeds: list[float], where: tuple[str, ...]
) -> None:
    reruns.makepyfile(test_suite=SUITE.format(speeds=speeds))
    num_reruns = len(speeds) - 1
    options = (f"--reruns={num_reruns}", "--phase=2", "--junitxml=junit.xml", "--grpo-save=now", "--color=no")
    result = reruns.runpytest_subprocess(*options, *where)
    is_green = speeds[-1] >= 2
    result.stdout.fnmatch_lines([f"*{num_reruns} rerun*"])
    assert result.ret == (pytest.ExitCode.OK if is_green else pytest.ExitCode.TESTS_FAILED)
    result.stdout.fnmatch_lines(["2 pass, 0 fail, 0 inc*" if is_green else "1 pass, 1 fail, 0 inc*"])

    entries = ElementTree.parse(reruns.path / "junit.xml").iter("property")
    properties = [(entry.get("name"), json.loads(entry.get("value") or "")) for entry in entries]
    assert [name for name, _ in properties] == [f"grpo.{metric}" for metric in METRICS]
    assert properties[1][1]["measured"] == pytest.approx(speeds[-1])

    seen = (reruns.path / "seen.txt").read_text().splitlines()
    assert seen == ["adapter_cache_hits pass 1", f"batched_speedup {'pass' if is_green else 'fail'} {speeds[-1]:g}"]

    annotations = [line for line in result.outlines if line.startswith(("::error", "::warning"))]
    assert len(annotations) == (0 if is_green else 1)
    assert (reruns.path / "summary.md").read_text().count("| batched\\_speedup |") == 1
    stored = json.loads((tmp_path / "grpo-home/data/baselines/now.json").read_text())
    assert json.dumps(stored).count('"metric": "batched_speedup"') == 1


def test_a_mistake_that_is_gone_in_the_last_attempt_does_not_count(reruns: pytest.Pytester) -> None:
    source = SUITE.format(speeds=[1, 3]).replace(
        "grpo_gate.check(", "speed > 1 or grpo_gate.threshold('nonsense'); grpo_gate.check("
    )
    reruns.makepyfile(test_suite=source)
    result = reruns.runpytest_subprocess("--reruns=1", "--phase=2")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["2 pass, 0 fail, 0 inc*", "*1 passed, 1 rerun*"])

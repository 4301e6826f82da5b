from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAD = """
import pytest
from pytest_grpo.measure import Sample

def at(speed):
    return lambda: Sample(quantity=speed, seconds=1.0)
"""


def run_gate(project: pytest.Pytester, body: str, *arguments: str) -> pytest.RunResult:
    """Run a phase test whose body is ``body``."""
    source = f"{HEAD}\n@pytest.mark.phase2\ndef test_gate(grpo_gate):\n    {body}\n"
    project.makepyfile(test_gate=source)
    return project.runpytest("--grpo-pairs", "2", "-rx", "test_gate.py", *arguments)


@pytest.mark.parametrize(
    "body",
    [
        "assert grpo_gate.speedup('batched_speedup', fast=at(30), slow=at(10)).median == 3",
        "assert grpo_gate.cost('overlap_cost', of=at(10), over=at(12)).median == 1.2",
        "assert grpo_gate.estimate('forward_over_backward', [0.5, 1.0, 9.0]).median == 1",
        "assert grpo_gate.check('adapter_cache_hits', 1) is None",
        "assert grpo_gate.speedup('batched_speedup', fast=at(30), slow=at(10), pairs=3).num_pairs == 3",
    ],
)
def test_what_is_good_enough_passes(project: pytest.Pytester, body: str) -> None:
    run_gate(project, body).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("grpo_gate.speedup('batched_speedup', fast=at(10), slow=at(30))", "measured 0.3333 x [[]0.3333, 0.3333]"),
        ("grpo_gate.speedup('batched_speedup', fast=at(10), slow=at(30))", "fast over slow (fast 10/s, slow 30/s)"),
        (
            "grpo_gate.speedup('batched_speedup', fast=at(10), slow=at(30))",
            "median of 2 pairs with its 50.0 % interval",
        ),
        ("grpo_gate.speedup('batched_speedup', fast=at(10), slow=at(30))", "threshold >= 2 x; device cpu *"),
        ("grpo_gate.cost('overlap_cost', of=at(10), over=at(20))", "overlap_cost: fail: measured 2 [[]2, 2]"),
        ("grpo_gate.estimate('forward_over_backward', [2.0, 2.0])", "of 2 values; *threshold 0.67..1.5"),
        ("grpo_gate.check('adapter_cache_hits', 2)", "measured 2; threshold == 1; device cpu"),
    ],
)
def test_what_falls_short_fails_and_says_all(project: pytest.Pytester, body: str, says: str) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *AssertionError: *{says}*"])
    result.stdout.no_fnmatch_line("*gates.py*")


def test_too_few_pairs_are_inconclusive(project: pytest.Pytester) -> None:
    body = "grpo_gate.speedup('batched_speedup', fast=at(30), slow=at(10), pairs=1)"
    result = run_gate(project, body)
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["0 pass, 0 fail, 1 inconclusive on cpu*", "XFAIL *batched_speedup: inconclusive*"])
    run_gate(project, body, "-o", "grpo_inconclusive=fail").assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("grpo_gate.check('nonsense', 2)", "UsageError: no threshold 'nonsense' in *; add it there, or use one of *"),
        ("grpo_gate.check('adapter_cache_hits', float('nan'))", "ValueError: adapter_cache_hits: measured nan*"),
        ("grpo_gate.estimate('forward_over_backward', [])", "ValueError: no ratios*"),
        ("grpo_gate.speedup('batched_speedup', fast=at(0), slow=at(1))", "ValueError: arm 'fast': quantity 0 *"),
        ("grpo_gate.cost('overlap_cost', of=at(1), over=lambda: 1 / 0)", "*while measuring arm 'over'"),
    ],
)
def test_a_broken_measurement_is_no_verdict(project: pytest.Pytester, body: str, says: str) -> None:
    result = run_gate(project, body)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E *{says}"])
    result.stdout.no_fnmatch_line("*grpo verdicts*")


@pytest.mark.usefixtures("few_plugins")
def test_progress_is_shown_on_a_terminal_and_taken_back(project: pytest.Pytester) -> None:
    controller, terminal = os.openpty()
    command = [sys.executable, "-m", "pytest", "--phase=2", "--grpo-pairs=3", "--color=no", "--benchmark-disable"]
    subprocess.run(command, cwd=project.path, stdin=subprocess.DEVNULL, stdout=terminal, check=True)
    output = os.read(controller, 100_000).decode()
    back = "\b" * 13
    assert f"test_suite.py [pair 1 of 3]{back}[pair 2 of 3]{back}{' ' * 13}{back}." in output
    for descriptor in (controller, terminal):
        os.close(descriptor)

"""``--grpo-ablate``: the run against itself under another setting."""

from __future__ import annotations

import pytest

RUN = "[rollout]\ngroup_size = 4\n"
SUITE = """
import pytest
from pytest_grpo import Sample, nothing_to_check
from pytest_grpo.settings.config import PLUGIN_CONFIG

@pytest.mark.phase3
def test_step(grpo_arms, grpo_run):
    seconds = 1.0 if grpo_run.training.packing == "shared_prefix" else 2.0
    step, twice = grpo_arms(
        agree=nothing_to_check,
        step=lambda: Sample(seconds, {"tokens": 64 * grpo_run.rollout.group_size}),
        twice=lambda: Sample(2 * seconds),
    )
    assert twice.seconds >= 1.5 * step.seconds
"""
QUIET = ("-o", "grpo_control=false", "-o", "grpo_max_cores_of_others=inf")


@pytest.fixture
def suite(pytester: pytest.Pytester, few_plugins: None) -> pytest.Pytester:
    pytester.makeini("[pytest]\n")
    pytester.makefile(".toml", run=RUN)
    pytester.makepyfile(test_own=SUITE)
    return pytester


@pytest.mark.slow
def test_a_setting_that_pays_is_faster(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess(
        "--phase=3", "--grpo-config=run.toml", "--grpo-ablate=training.packing=padded", *QUIET
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*grpo: here over training.packing=padded*", "*step.tokens_per_second * 2 ** faster"])


@pytest.mark.slow
def test_a_setting_that_costs_is_red(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess(
        "--phase=3",
        "--grpo-config=run.toml",
        "--grpo-set=training.packing=padded",
        "--grpo-ablate=training.packing=shared_prefix",
        *QUIET,
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*step.tokens_per_second * 0.5 ** slower"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--grpo-ablate=training.packing=padded"], "*it changes a setting of a run, and none is named*"),
        (["--grpo-model=tiny", "--grpo-ablate=packing"], "*--grpo-ablate 'packing': give SECTION.KEY=VALUE*"),
        (["--grpo-model=tiny", "--grpo-ablate=training.packing=best"], "*training.packing: 'best' is not allowed*"),
        (["--grpo-model=tiny", "--grpo-ablate=model.name=tiny"], "*the run has that already; give another value*"),
    ],
)
def test_a_setting_that_cannot_be_changed_is_one_line(suite: pytest.Pytester, arguments: list[str], line: str) -> None:
    result = suite.runpytest("--phase=3", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])

"""A stack of one's own: it samples what it says, with log-probabilities that another stack agrees to."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from grpo_core.home import cache_folder
from pytest_grpo.systems.grpo_core import GrpoCoreSystem
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, Rollout, SystemSettings, TrainBatch

CACHE = cache_folder()  # before an inner session changes the home folder: the model is built once
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_stack"
ANY_MACHINE = ("-o", "grpo_control=false", "-o", "grpo_max_cores_of_others=inf")
PROMPT = "Q: 1 + 2 =\nA: "


@pytest.fixture
def plain_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrpoSystem:
    monkeypatch.syspath_prepend(EXAMPLE)
    return load_system("plain_stack:PlainStack", SystemSettings(home=tmp_path, device="cpu"))


@pytest.mark.slow
def test_its_tests_pass_and_what_it_lacks_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("GRPO_HOME", str(pytester.path / "home"))
    monkeypatch.setenv("GRPO_CACHE", str(CACHE))
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True)
    result = pytester.runpytest_subprocess("--phase", "2,3", "-rs", "--grpo-budget=2", *ANY_MACHINE)
    outcomes = result.parseoutcomes()  # time decides whether the gate passes or is undecided
    assert outcomes["passed"] + outcomes.get("xfailed", 0) == 3
    assert (outcomes["skipped"], outcomes.get("failed", 0)) == (1, 0)
    result.stdout.fnmatch_lines(["2 *tokens_per_second *>= 1.3 *"])
    result.stdout.no_fnmatch_line("grpo: device profile *thresholds*")
    result.stdout.fnmatch_lines(["*SKIPPED*system plain_stack: has no train_step; leave out the tests that need it*"])


def test_it_samples_as_another_stack_does(plain_stack: GrpoSystem, tmp_path: Path) -> None:
    core = GrpoCoreSystem(SystemSettings(home=tmp_path / "core", device="cpu"))
    answers = [
        system.rollout([system.encode(PROMPT)], 1, 12, seed=0, greedy=True).completions[0][0]
        for system in (plain_stack, core)
    ]
    assert answers[0].completion_ids.tolist() == answers[1].completion_ids.tolist()


def test_its_logprobs_are_those_of_the_tokens_it_drew(plain_stack: GrpoSystem, tmp_path: Path) -> None:
    core = GrpoCoreSystem(SystemSettings(home=tmp_path / "core", device="cpu"))
    prompt = plain_stack.encode(PROMPT)
    (answers,) = plain_stack.rollout([prompt], 3, 6, seed=1).completions
    batch = TrainBatch.from_rollout([prompt], Rollout((answers,), 1.0), [[1.0, 0.0, 0.0]])
    trained = core.train_step(batch)
    for answer, logprobs in zip(answers, trained.logprobs, strict=True):
        np.testing.assert_allclose(answer.sampling_logprobs, logprobs, atol=1e-4)

"""A stranger's stack over transformers and peft: its first rows, and the whole one against grpo_core."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from grpo_core.home import cache_folder
from pytest_grpo.systems.grpo_core import GrpoCoreSystem
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, Rollout, SystemSettings, TrainBatch, UnsupportedError
from pytest_grpo.systems.run_plan import RunPlan

CACHE = cache_folder()  # before an inner session changes the home folder: the model is built once
PROJECT_FOLDER = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT_FOLDER / "examples" / "plain_system"
FIRST = ("first_system.py", "test_first_rows.py")
PROMPTS = ("Q: 1 + 2 =\nA: ", "A PAR")
KL = 0.05
WITHOUT_CACHE = """\
        num_prompt_tokens, logprobs = rows.shape[1], []
        for _ in range(max_tokens):
            scores = self.model(input_ids=rows).logits[:, -1].log_softmax(dim=-1)  # [rows, V], nats
"""
WITH_CACHE = """\
        num_prompt_tokens, logprobs, cache = rows.shape[1], [], None
        for _ in range(max_tokens):
            output = self.model(input_ids=rows if cache is None else rows[:, -1:], past_key_values=cache)
            scores, cache = output.logits[:, -1].log_softmax(dim=-1), output.past_key_values
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with the first system and its test, and nothing else."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("GRPO_HOME", str(pytester.path / "home"))
    monkeypatch.setenv("GRPO_CACHE", str(CACHE))
    for file in FIRST:
        shutil.copy(EXAMPLE / file, pytester.path)
    return pytester


def first_rows(project: pytest.Pytester) -> pytest.RunResult:
    """As the page types it."""
    options = ("--phase", "2", "--grpo-system", "first_system:FirstSystem", "test_first_rows.py")
    return project.run(sys.executable, "-m", "pytest", "-o", "grpo_control=false", *options)


def test_the_first_rows_take_sixty_lines() -> None:
    assert sum(len((EXAMPLE / file).read_text(encoding="utf-8").splitlines()) for file in FIRST) <= 60


@pytest.mark.slow
def test_the_first_rows_are_a_green_and_a_red_one(project: pytest.Pytester) -> None:
    result = first_rows(project)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["2 *num_tokenizer_calls *0 *== 0 *pass", "2 *num_computed*fail"])


@pytest.mark.slow
def test_with_the_cache_both_are_green(project: pytest.Pytester) -> None:
    file = project.path / "first_system.py"
    source = file.read_text(encoding="utf-8")
    assert WITHOUT_CACHE in source
    file.write_text(source.replace(WITHOUT_CACHE, WITH_CACHE), encoding="utf-8")
    result = first_rows(project)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["2 *num_tokenizer_calls *pass", "2 *num_computed*pass"])


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> SystemSettings:
    return SystemSettings(home=tmp_path_factory.mktemp("home"), device="cpu", kl_coefficient=KL, micro_batch_tokens=40)


@pytest.fixture(scope="module")
def plain(settings: SystemSettings) -> GrpoSystem:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE.parent)
        return load_system("plain_system.system:PlainSystem", settings)


@pytest.fixture(scope="module")
def core(settings: SystemSettings, tmp_path_factory: pytest.TempPathFactory) -> GrpoSystem:
    return GrpoCoreSystem(
        SystemSettings(home=tmp_path_factory.mktemp("core"), device="cpu", kl_coefficient=KL, micro_batch_tokens=40)
    )


@pytest.fixture
def prompts(plain: GrpoSystem) -> list[np.ndarray]:
    return [plain.encode(prompt) for prompt in PROMPTS]


def put_same_weights(systems: Sequence[GrpoSystem], seed: int) -> None:
    """Random ones, published and sampled from."""
    draw = np.random.default_rng(seed)
    weights = systems[0].weights()
    changed = {
        name: (values + draw.normal(0, 0.05, values.shape)).astype(np.float32) for name, values in weights.items()
    }
    for system in systems:
        system.load_weights(changed)
        system.swap_adapter(system.publish_adapter())


def ids_of(rollout: Rollout) -> list[list[int]]:
    return [answer.completion_ids.tolist() for group in rollout.completions for answer in group]


def test_it_samples_what_grpo_core_does(plain: GrpoSystem, core: GrpoSystem, prompts: list[np.ndarray]) -> None:
    put_same_weights([plain, core], seed=0)
    answers = [system.rollout(prompts, 2, 8, seed=0, greedy=True) for system in (plain, core)]
    assert ids_of(answers[0]) == ids_of(answers[1])
    for size in (1, 2):
        assert ids_of(plain.rollout(prompts, 2, 8, seed=0, batch_size=size, greedy=True)) == ids_of(answers[0])


def test_it_trains_as_grpo_core_does(plain: GrpoSystem, core: GrpoSystem, prompts: list[np.ndarray]) -> None:
    """In some micro-batches, with a KL term, and the update is the same."""
    put_same_weights([plain, core], seed=1)
    sampled = plain.rollout(prompts, 3, 8, seed=1)
    batch = TrainBatch.from_rollout(prompts, sampled, [[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]])
    left, right = (system.train_step(batch, learning_rate=1e-3) for system in (plain, core))
    assert (left.loss, left.grad_norm) == pytest.approx((right.loss, right.grad_norm), rel=1e-3, abs=1e-6)
    assert left.num_micro_batches > 1
    for scored, other, answer in zip(left.logprobs, right.logprobs, batch.completions, strict=True):
        np.testing.assert_allclose(scored, answer.sampling_logprobs, atol=1e-4)
        np.testing.assert_allclose(scored, other, atol=1e-4)
    expected, found = core.gradients(), plain.gradients()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-3)
    updated = core.weights()
    for name, values in plain.weights().items():
        np.testing.assert_allclose(values, updated[name], atol=2e-3)


def test_a_version_stays_as_it_was_published(plain: GrpoSystem, prompts: list[np.ndarray]) -> None:
    """Held by log-probabilities: two versions may well choose the same tokens."""

    def answers() -> list[float]:
        rollout = plain.rollout(prompts, 2, 8, seed=0, greedy=True)
        return [value for group in rollout.completions for each in group for value in each.sampling_logprobs.tolist()]

    put_same_weights([plain], seed=2)
    first = plain.publish_adapter()
    plain.swap_adapter(first)
    before = answers()
    put_same_weights([plain], seed=3)
    assert answers() != pytest.approx(before, abs=1e-4)
    swaps = [plain.swap_adapter(first, cached=cached) for cached in (True, True, False)]
    assert [swap.cache_hit for swap in swaps] == [True, True, False]
    assert answers() == pytest.approx(before, abs=1e-4)


def test_it_says_what_it_cannot_do(settings: SystemSettings, plain: GrpoSystem) -> None:
    with pytest.raises(UnsupportedError, match=r"^system plain_system: has no packing 'shared_prefix'"):
        type(plain)(SystemSettings(home=settings.home, packing="shared_prefix"))  # pyright: ignore[reportCallIssue]
    with pytest.raises(UnsupportedError, match="samples and trains in turns"):
        plain.run(1, RunPlan(PROMPTS, lambda prompt, answers: 0.0, max_policy_lag_steps=1))


@pytest.mark.slow
def test_the_gates_that_need_a_run_are_green(tmp_path: Path) -> None:
    """Those that count. The rows of what it cannot do say why they do not apply."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "bench/foreign", "-p", "no:cacheprovider", "-n", "0"),
            *("--phase", "0,1,4,5,6", "--grpo-system", "plain_system.system:PlainSystem"),
            *("-k", "not cost and not overlap and not whole", "-o", "grpo_control=false"),
        ],
        cwd=PROJECT_FOLDER,
        env=_environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for metric in (
        *("trace_spans_present", "trace_span_count_errors", "events_lost", "event_values_wrong"),
        *("snapshot_persisted", "snapshot_fields_wrong", "identical_siblings", "episodes_missing", "lengths_wrong"),
        *("policy_lag_steps_over_budget", "steps_missing", "sampler_ratio_error", "live_panels"),
    ):
        assert any(line.split()[1:2] == [metric] and line.endswith("pass") for line in done.stdout.splitlines()), metric
    assert (
        "not applicable: phase 4 lag_and_depth_of_the_system_stay_where_they_were_set: system plain_system"
        in done.stdout
    )


def _environment(home: Path) -> dict[str, str]:
    import os

    paths = [str(EXAMPLE.parent), os.environ.get("PYTHONPATH", "")]
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "GRPO_HOME": str(home), "GRPO_CACHE": str(CACHE)}

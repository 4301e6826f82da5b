"""TRL does the same mathematics as grpo_core, on the same tensors: each is the other's oracle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_grpo.systems.counting.call_counter import CallCounter
from pytest_grpo.systems.counting.count import Count
from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import (
    STEP_ANNOTATIONS,
    GrpoSystem,
    Rollout,
    SystemSettings,
    TrainBatch,
    UnsupportedError,
)
from pytest_grpo.systems.run_plan import RunPlan
from pytest_grpo.systems.step_record import StepRecord

if TYPE_CHECKING:
    from tests.pytest_grpo.systems.conftest import MakeBatch, MakeSettings

pytest.importorskip("trl", reason="the extra trl is not installed")

Randomize = Callable[[GrpoSystem], None]


@pytest.fixture(scope="module")
def settings(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> SystemSettings:
    return SystemSettings(home=tmp_path_factory.mktemp("home"), model=str(model_folder), device="cpu")


@pytest.fixture(scope="module")
def built(settings: SystemSettings) -> tuple[GrpoSystem, dict[str, Any]]:
    system = load_system("trl", settings)
    return system, dict(system.weights())


@pytest.fixture
def trl(built: tuple[GrpoSystem, dict[str, Any]]) -> GrpoSystem:
    """One for all tests, with the weights that it began with."""
    system, weights = built
    system.load_weights(weights)
    return system


@pytest.fixture
def core(make_settings: MakeSettings) -> GrpoSystem:
    return load_system("grpo_core", make_settings())


def tokens(rollout: Rollout) -> list[list[int]]:
    return [completion.completion_ids.tolist() for group in rollout.completions for completion in group]


def assert_same_step(trl: GrpoSystem, core: GrpoSystem, batch: TrainBatch, learning_rate: float = 0.0) -> None:
    left, right = (system.train_step(batch, learning_rate=learning_rate) for system in (trl, core))
    assert left.loss == pytest.approx(right.loss, rel=1e-4, abs=1e-6)
    assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-4)
    assert left.num_loss_tokens == right.num_loss_tokens
    for scored, expected in zip(left.logprobs, right.logprobs, strict=True):
        np.testing.assert_allclose(scored, expected, atol=1e-4)


@pytest.mark.parametrize("forced", [False, True])
def test_a_step_is_that_of_the_core(
    trl: GrpoSystem, core: GrpoSystem, make_batch: MakeBatch, randomize: Randomize, forced: bool
) -> None:
    randomize(trl)
    core.load_weights(trl.weights())
    assert_same_step(trl, core, make_batch(core, forced=forced))


def test_updates_are_those_of_the_core(
    make_settings: MakeSettings, core: GrpoSystem, make_batch: MakeBatch, randomize: Randomize
) -> None:
    trl = load_system("trl", make_settings())
    randomize(trl)
    core.load_weights(trl.weights())
    for seed in range(3):
        assert_same_step(trl, core, make_batch(core, seed=seed), learning_rate=1e-3)
    theirs = trl.weights()
    for name, values in core.weights().items():
        np.testing.assert_allclose(theirs[name], values, atol=1e-4)


def test_kl_and_micro_batches_are_those_of_the_core(
    make_settings: MakeSettings, make_batch: MakeBatch, randomize: Randomize
) -> None:
    settings = make_settings(kl_coefficient=0.3, micro_batch_tokens=100)
    trl, core = (load_system(name, settings) for name in ("trl", "grpo_core"))
    randomize(trl)
    core.load_weights(trl.weights())
    batch = make_batch(core, forced=True, reference=True)
    assert_same_step(trl, core, batch)
    step = trl.train_step(batch)
    assert step.num_forward_passes == step.num_micro_batches > 1
    with pytest.raises(ValueError, match="batch without ref_logprobs"):
        trl.train_step(make_batch(core))
    rollout = trl.rollout([trl.encode("3 + 4 = ")], 2, 4, seed=0)
    for completion in rollout.completions[0]:
        assert completion.ref_logprobs is not None
        assert np.abs(completion.ref_logprobs - completion.sampling_logprobs).max() > 1e-2


def test_counts_are_real(trl: GrpoSystem, make_batch: MakeBatch) -> None:
    """One forward pass and no tokenizer call, and more of either are seen."""
    batch = make_batch(trl)
    step = trl.train_step(batch)
    assert (step.num_forward_passes, step.num_micro_batches, step.num_tokenizer_calls) == (1, 1, 0)
    trainer = trl._trainer  # pyright: ignore[reportAttributeAccessIssue]
    compute_loss = trainer.compute_loss

    def wasteful(model: Any, inputs: dict[str, Any]) -> Any:
        trainer.processing_class("text")
        trainer.processing_class.batch_decode([[5, 6]])
        return compute_loss(model, inputs) * 0 + compute_loss(model, inputs)

    trainer.compute_loss = wasteful
    try:
        wasted = trl.train_step(batch)
    finally:
        trainer.compute_loss = compute_loss
    assert (wasted.num_forward_passes, wasted.num_micro_batches) == (2, 1)
    assert wasted.num_tokenizer_calls > 1
    np.testing.assert_allclose(np.concatenate(wasted.logprobs), np.concatenate(step.logprobs), atol=1e-6)


def test_greedy_answers_are_those_of_the_core(trl: GrpoSystem, core: GrpoSystem, randomize: Randomize) -> None:
    randomize(trl)
    core.load_weights(trl.weights())
    for system in (trl, core):
        system.swap_adapter(system.publish_adapter())
    prompts = [core.encode("3 + 4 = "), core.encode("Germany, Spring 1901. ")]
    np.testing.assert_array_equal(trl.encode("3 + 4 = "), prompts[0])
    answers = tokens(core.rollout(prompts, 2, 8, seed=0, greedy=True))
    for size in (None, 1, 3):
        assert tokens(trl.rollout(prompts, 2, 8, seed=0, batch_size=size, greedy=True)) == answers


def test_a_step_scores_what_was_sampled(trl: GrpoSystem) -> None:
    trl.swap_adapter(trl.publish_adapter())
    prompts = [trl.encode("3 + 4 = "), trl.encode("12 + ")]
    before = trl.counters
    rollout = trl.rollout(prompts, 3, 6, seed=1)
    assert tokens(trl.rollout(prompts, 3, 6, seed=1)) == tokens(rollout)
    assert tokens(trl.rollout(prompts, 3, 6, seed=2)) != tokens(rollout)
    assert trl.counters["num_prefill_tokens"] - before["num_prefill_tokens"] == 3 * 3 * sum(map(len, prompts))
    step = trl.train_step(TrainBatch.from_rollout(prompts, rollout, [[0, 1, 2], [1, 0, 0]]))
    for scored, completion in zip(step.logprobs, [c for g in rollout.completions for c in g], strict=True):
        np.testing.assert_allclose(scored, completion.sampling_logprobs, atol=1e-4)


def test_the_sampler_keeps_what_was_published(trl: GrpoSystem, make_batch: MakeBatch, randomize: Randomize) -> None:
    """Also while another adapter is in training, and when it has left memory in between."""
    prompts = [trl.encode("3 + 4 = ")]
    versions = [trl.publish_adapter()]
    randomize(trl)
    versions += [trl.publish_adapter() for _ in range(6)]
    before = trl.counters
    answers = []
    for version in versions[:2]:
        assert not trl.swap_adapter(version).cache_hit
        assert trl.swap_adapter(version).cache_hit
        trl.train_step(make_batch(trl), learning_rate=1e-2)
        answers.append(tokens(trl.rollout(prompts, 2, 6, seed=0, greedy=True)))
        assert not trl.swap_adapter(version, cached=False).cache_hit
        assert tokens(trl.rollout(prompts, 2, 6, seed=0, greedy=True)) == answers[-1]
    assert answers[0] != answers[1]
    assert trl.counters["adapter_cache_hits"] - before["adapter_cache_hits"] == 2
    assert trl.counters["adapter_cache_misses"] - before["adapter_cache_misses"] == 4
    for version in versions[2:]:
        trl.swap_adapter(version)
    assert not trl.swap_adapter(versions[0]).cache_hit, "only the last ones stay in memory"
    assert tokens(trl.rollout(prompts, 2, 6, seed=0, greedy=True)) == answers[0]
    with pytest.raises(ValueError, match="not published by this system"):
        trl.swap_adapter(999)


def plan(**changes: Any) -> RunPlan:
    """Rewards that differ between siblings."""

    def reward(prompt: str, answers: Sequence[str]) -> float:
        return float(sum(answers[0].encode()) % 11)

    return replace(RunPlan(("3 + 4 = ", "12 + "), reward, group_size=3, max_tokens=6, learning_rate=1e-2), **changes)


VALUES = ("step", "reward_mean", "loss", "grad_norm", "num_prompt_tokens", "num_completion_tokens")


def values_of(records: Sequence[StepRecord]) -> list[list[float]]:
    return [[getattr(record, name) for name in VALUES] for record in records]


@pytest.mark.slow
def test_a_run_is_train_itself(make_settings: MakeSettings, tmp_path: Path) -> None:
    system = load_system("trl", make_settings())
    given, earned = plan(), []

    def watched(prompt: str, answers: Sequence[str]) -> float:
        earned.append(given.reward(prompt, answers))
        return earned[-1]

    before = system.weights()
    with system.events(tmp_path / "events.jsonl"):
        records = system.run(2, replace(given, reward=watched))
    assert any(np.any(system.weights()[name] != values) for name, values in before.items())
    assert len(earned) == 2 * 6
    for place, record in enumerate(records):
        assert record.step == place + 1
        assert record.reward_mean == pytest.approx(np.mean(earned[6 * place : 6 * place + 6]))
        assert (record.policy_lag_steps, record.buffer_depth) == (0, 1)
        assert record.num_prompt_tokens == 3 * sum(len(system.encode(prompt)) for prompt in given.prompts)
        assert 6 <= record.num_completion_tokens <= 36
        assert min(record.rollout_s, record.train_s, record.grad_norm) > 0
        assert min(record.trainer_wait_s, record.sampler_wait_s) >= 0
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["kind"] for event in events] == ["rollout", "train_step"] * 2
    assert [event["reward_mean"] for event in events[1::2]] == [record.reward_mean for record in records]


@pytest.mark.slow
def test_a_state_is_all_that_a_run_goes_on_from(make_settings: MakeSettings, tmp_path: Path) -> None:
    first, second = (
        load_system("trl", make_settings(home=tmp_path / name, seed=seed))
        for seed, name in enumerate(("first", "second"))
    )
    first.run(2, plan())
    (tmp_path / "state").mkdir()
    first.save_state(tmp_path / "state")
    went_on = first.run(2, plan())
    second.load_state(tmp_path / "state")
    found = second.run(2, plan())
    np.testing.assert_allclose(values_of(found), values_of(went_on), rtol=1e-5)


def test_it_refuses_what_it_cannot_do(trl: GrpoSystem) -> None:
    with pytest.raises(UnsupportedError, match=r"^system trl: samples and trains in turns"):
        trl.run(1, plan(max_policy_lag_steps=1))
    with pytest.raises(UnsupportedError, match=r"^system trl: an episode has one answer"):
        trl.run(1, plan(reply=lambda prompt, answers: None))


def test_a_step_leaves_a_trace(trl: GrpoSystem, make_batch: MakeBatch, tmp_path: Path) -> None:
    from grpo_core.telemetry.traces.profiler import read_trace

    batch = make_batch(trl)
    with trl.trace(tmp_path):
        trl.train_step(batch)
        trl.publish_adapter()
    found = read_trace(tmp_path).annotations
    assert [found[name].count for name in STEP_ANNOTATIONS] == [1, 1, 1, 1]


def test_its_passes_are_seen_at_its_modules(trl: GrpoSystem, make_batch: MakeBatch) -> None:
    batch = make_batch(trl)
    with CallCounter(trl) as counter:
        step = trl.train_step(batch)
    assert counter.forward_passes(told=0) == Count(step.num_forward_passes) == Count(1)
    assert counter.tokenizer_calls(told=0) == Count(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("packing", "shared_prefix"),
        ("method", "full"),
        ("engine", "vllm"),
        ("dtype", "bfloat16"),
        ("precision", "bfloat16"),
    ],
)
def test_what_is_beyond_it_is_said(make_settings: MakeSettings, name: str, value: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^system trl: has no {name} '{value}'; what it has is "):
        load_system("trl", make_settings(**{name: value}))


def test_building_one_leaves_the_seeds_of_the_process_alone(settings: SystemSettings) -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_system("trl", settings)
    assert torch.rand(1) == expected

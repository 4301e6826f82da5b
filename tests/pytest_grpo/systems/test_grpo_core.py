from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_grpo.systems.load import load_system
from pytest_grpo.systems.protocol import GrpoSystem, Rollout, TrainBatch

if TYPE_CHECKING:
    from tests.pytest_grpo.systems.conftest import MakeBatch, MakeSettings


@pytest.fixture
def system(make_settings: MakeSettings) -> GrpoSystem:
    return load_system("grpo_core", make_settings())


def tokens(rollout: Rollout) -> list[list[int]]:
    return [completion.completion_ids.tolist() for group in rollout.completions for completion in group]


@pytest.mark.parametrize("greedy", [True, False])
def test_who_decodes_together_changes_nothing(system: GrpoSystem, greedy: bool) -> None:
    prompts = [system.encode("3 + 4 = "), system.encode("12 + ")]
    rollouts = [system.rollout(prompts, 3, 6, seed=5, batch_size=size, greedy=greedy) for size in (None, 1, 4)]
    assert tokens(rollouts[0]) == tokens(rollouts[1]) == tokens(rollouts[2])
    assert len(rollouts[0].completions) == 2
    assert len({tuple(ids) for ids in tokens(rollouts[0])}) == (2 if greedy else 6), "siblings differ unless greedy"
    assert system.counters["num_completion_tokens"] == sum(rollout.num_completion_tokens for rollout in rollouts)
    assert system.rollout(prompts, 3, 6, seed=6).seconds > 0
    assert greedy or tokens(system.rollout(prompts, 3, 6, seed=6)) != tokens(rollouts[0])


def test_a_step_scores_what_was_sampled(system: GrpoSystem) -> None:
    prompts = [system.encode("3 + 4 = "), system.encode("12 + ")]
    rollout = system.rollout(prompts, 3, 6, seed=1)
    batch = TrainBatch.from_rollout(prompts, rollout, [[0, 1, 2], [1, 0, 0]])
    step = system.train_step(batch)
    for scored, completion in zip(step.logprobs, batch.completions, strict=True):
        np.testing.assert_allclose(scored, completion.sampling_logprobs, atol=1e-4)
    assert (step.num_forward_passes, step.num_micro_batches, step.num_tokenizer_calls) == (1, 1, 0)
    assert step.num_loss_tokens == rollout.num_completion_tokens
    assert min(step.loss_forward_ms, step.backward_ms, step.grad_norm) > 0


@pytest.mark.parametrize("forced", [False, True])
def test_packings_agree(make_settings: MakeSettings, make_batch: MakeBatch, forced: bool) -> None:
    shared, padded = (
        load_system("grpo_core", make_settings(packing=packing, kl_coefficient=0.1))
        for packing in ("shared_prefix", "padded")
    )
    batch = make_batch(shared, forced=forced, reference=True)
    left, right = shared.train_step(batch), padded.train_step(batch)
    assert (left.loss, left.grad_norm) == pytest.approx((right.loss, right.grad_norm), rel=1e-4)
    np.testing.assert_allclose(np.concatenate(left.logprobs), np.concatenate(right.logprobs), atol=1e-5)
    assert all(
        not scored[~completion.completion_mask].any()
        for scored, completion in zip(left.logprobs, batch.completions, strict=True)
    )


def test_a_step_without_learning_can_be_repeated(system: GrpoSystem, make_batch: MakeBatch) -> None:
    batch = make_batch(system)
    first, second = system.train_step(batch), system.train_step(batch)
    assert (first.loss, first.grad_norm) == (second.loss, second.grad_norm)
    system.train_step(batch, learning_rate=1e-2)
    assert system.train_step(batch).loss < first.loss


def test_the_sampler_gets_what_was_published(
    system: GrpoSystem, make_batch: MakeBatch, randomize: Callable[[GrpoSystem], None]
) -> None:
    prompts = [system.encode("3 + 4 = ")]
    before = system.rollout(prompts, 2, 6, seed=0)
    randomize(system)
    version = system.publish_adapter()
    swaps = [system.swap_adapter(version), system.swap_adapter(version), system.swap_adapter(version, cached=False)]
    assert [swap.cache_hit for swap in swaps] == [False, True, False]
    assert system.counters["adapter_cache_hits"] == 1
    assert system.counters["adapter_cache_misses"] == 2
    after = system.rollout(prompts, 2, 6, seed=0)
    assert tokens(after) != tokens(before)
    step = system.train_step(TrainBatch.from_rollout(prompts, after, [[0, 1]]))
    for scored, completion in zip(step.logprobs, after.completions[0], strict=True):
        np.testing.assert_allclose(scored, completion.sampling_logprobs, atol=1e-4)
    assert system.publish_adapter() == version + 1


def test_reference_logprobs_come_with_the_rollout(make_settings: MakeSettings) -> None:
    system = load_system("grpo_core", make_settings(kl_coefficient=0.1))
    prompts = [system.encode("3 + 4 = ")]
    rollout = system.rollout(prompts, 2, 4, seed=0)
    for completion in rollout.completions[0]:
        assert completion.ref_logprobs is not None
        np.testing.assert_allclose(completion.ref_logprobs, completion.sampling_logprobs, atol=1e-5)
    assert system.train_step(TrainBatch.from_rollout(prompts, rollout, [[0, 1]])).grad_norm > 0

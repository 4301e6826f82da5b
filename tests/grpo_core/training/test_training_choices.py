"""The objective's choices in real steps: on a model, its sampler, and the trainer's passes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from grpo_core.config import TrainingConfig
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.advantages import Scale
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch, Completion, Group, RaggedIds, RolloutStats, StepMetrics, Trajectory
from tests.grpo_core.training.steps import EXACT, gradients_of

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
MakeAdapter = Callable[..., Adapter]
InFloat64 = Callable[[nn.Module], None]

RECOMPUTED = {"old_logprobs": "recomputed"}


def largest_difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def without_reference(batch: Batch, *, every: int = 1) -> Batch:
    """``batch`` without the reference's log-probabilities in every so many-th trajectory of a group."""
    return replace(
        batch,
        groups=tuple(
            replace(
                group,
                trajectories=tuple(
                    replace(trajectory, turns=tuple(replace(turn, ref_logprobs=None) for turn in trajectory.turns))
                    if index % every == 0
                    else trajectory
                    for index, trajectory in enumerate(group.trajectories)
                ),
            )
            for group in batch.groups
        ),
    )


def with_rewards(batch: Batch, *rewards: float) -> Batch:
    """``batch`` with ``rewards`` for all siblings, one per group."""
    return replace(
        batch,
        groups=tuple(
            replace(group, trajectories=tuple(replace(item, reward=reward) for item in group.trajectories))
            for group, reward in zip(batch.groups, rewards, strict=True)
        ),
    )


@pytest.mark.parametrize(
    "choice",
    [
        {"loss": "grpo"},
        {"loss": "dr_grpo", "loss_length_tokens": 12},
        {"loss": "dapo", "clip_dual": 1.5},
        {"loss": "bnpo"},
        {"loss": "gspo"},
        {"loss": "cispo"},
        {"loss": "sapo"},
        {"kl_bias_correction": True},
        {"kl_in": "reward", "kl_estimator": "k1", "advantages": "leave_one_out"},
        {"mask_overlong": True, "entropy_coefficient": 0.1},
        {"top_entropy_share": 0.4, "mismatch_correction": "sequence_mask", "entropy_coefficient": 0.1, **RECOMPUTED},
    ],
    ids=str,
)
def test_the_gradient_does_not_depend_on_the_split_or_on_the_packing(
    choice: dict[str, Any],
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
    in_float64: InFloat64,
) -> None:
    batch = sample_batch(make_engine(), 2)
    adapter = make_adapter(policy, std=0.08)

    def step(**packing: object) -> tuple[list[Tensor], StepMetrics]:
        trainer = make_trainer(**{"kl_coefficient": 0.1, **EXACT, **choice, **packing})
        trainer.load_weights(adapter)
        in_float64(trainer._policy.model)
        metrics = trainer.step(batch)
        return gradients_of(trainer), metrics

    whole, one = step(micro_batch_tokens=100_000)
    assert max(float(gradient.abs().max()) for gradient in whole) > 1e-4
    for packing in ({"micro_batch_tokens": 1}, {"packing": "padded", "micro_batch_tokens": 100}):
        split, metrics = step(**packing)
        assert metrics.num_micro_batches > one.num_micro_batches
        assert largest_difference(whole, split) < 1e-9
        for name in ("loss", "kl", "entropy", "mismatch_kl", "ratio_min", "ratio_max", "clip_fraction_low"):
            assert getattr(metrics, name) == pytest.approx(getattr(one, name), abs=1e-9), name


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_at_learning_rate_0_every_metric_keeps_its_on_policy_value_for_20_steps(
    method: str, make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, tmp_path: Path
) -> None:
    """Through the store and the sampler, as in a run. The updates must not even round."""
    trainer, engine = make_trainer(method=method, learning_rate=0.0, kl_coefficient=0.1), make_engine()
    before = trainer.weights().tensors
    for seed in range(20):
        metrics = trainer.step(sample_batch(engine, seed))
        for name in ("ratio_min", "ratio_max", "mismatch_ratio_min", "mismatch_ratio_max"):
            assert getattr(metrics, name) == pytest.approx(1, abs=1e-4), name
        for name in ("kl", "mismatch_kl"):
            assert abs(getattr(metrics, name)) < 1e-6, name
        for name in ("clip_fraction", "clip_fraction_low", "clip_fraction_high", "num_masked_tokens"):
            assert getattr(metrics, name) == 0, name
        assert metrics.num_effective_tokens == metrics.num_loss_tokens
        assert metrics.num_scoring_passes == metrics.num_dropped_groups == 0
        assert metrics.grad_norm > 1e-3
        AdapterStore(tmp_path / "adapters").publish(trainer.weights())
        engine.use_version(trainer.version)

    assert trainer.version == 20
    after = trainer.weights().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("every", [1, 2])
def test_a_missing_reference_is_computed_once_with_the_adapter_off_and_counted(
    every: int,
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
) -> None:
    batch = sample_batch(make_engine(), 3)
    steps = []
    for item in (batch, without_reference(batch, every=every)):
        trainer = make_trainer(kl_coefficient=0.5, **EXACT)
        trainer.load_weights(make_adapter(policy))
        steps.append((trainer.step(item), gradients_of(trainer)))
    (with_values, expected), (without, found) = steps

    assert with_values.num_scoring_passes == 0
    assert without.num_scoring_passes > 0
    assert without.scoring_ms > with_values.scoring_ms
    assert without.num_forward_passes == with_values.num_forward_passes == without.num_micro_batches
    assert without.kl == pytest.approx(with_values.kl, abs=1e-5)
    assert without.kl > 0.01
    assert largest_difference(expected, found) < 1e-5


def test_no_reference_is_computed_without_a_kl_term(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    metrics = make_trainer(kl_coefficient=0.0).step(without_reference(sample_batch(make_engine(), 3)))

    assert (metrics.num_scoring_passes, metrics.kl) == (0, 0)


def test_recomputed_old_logprobs_leave_the_mismatch_to_the_correction(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
) -> None:
    """The trainer's policy is not the sampler's: the ratio of the loss is exactly 1, the rest is in the mismatch."""
    batch = sample_batch(make_engine(), 3)

    def step(**choice: object) -> StepMetrics:
        trainer = make_trainer(kl_coefficient=0.0, **choice)
        trainer.load_weights(make_adapter(policy))
        return trainer.step(batch)

    plain, recomputed = step(), step(**RECOMPUTED)
    assert (recomputed.ratio_min, recomputed.ratio_max, recomputed.clip_fraction) == (1, 1, 0)
    assert recomputed.num_scoring_passes == recomputed.num_forward_passes == plain.num_forward_passes
    assert plain.num_scoring_passes == 0
    assert plain.clip_fraction == plain.clip_fraction_low + plain.clip_fraction_high > 0
    for name in ("mismatch_kl", "mismatch_ratio_min", "mismatch_ratio_max"):
        assert getattr(recomputed, name) == pytest.approx(getattr(plain, name), rel=1e-5), name
    assert plain.mismatch_ratio_max == pytest.approx(plain.ratio_max)
    assert plain.mismatch_kl > 0.01

    masked = step(mismatch_correction="token_mask", mismatch_low=0.9, mismatch_high=1.1, **RECOMPUTED)
    assert 0 < masked.num_masked_tokens < masked.num_loss_tokens == plain.num_loss_tokens
    assert masked.num_effective_tokens == masked.num_loss_tokens - masked.num_masked_tokens
    assert masked.entropy == pytest.approx(plain.entropy)


def test_groups_without_a_winner_cost_nothing_when_they_are_dropped(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    batch = sample_batch(make_engine(), 5)
    even = replace(batch, groups=(*batch.groups[:2], *with_rewards(batch, 0, 0, 1, 1).groups[2:]))
    dropping, alone = (make_trainer(drop_zero_variance_groups=drop, **EXACT) for drop in (True, False))

    dropped, expected = dropping.step(even), alone.step(replace(batch, groups=batch.groups[:2]))

    assert (dropped.num_dropped_groups, expected.num_dropped_groups) == (2, 0)
    assert largest_difference(gradients_of(dropping), gradients_of(alone)) == 0
    assert dropped.num_model_tokens == expected.num_model_tokens
    assert dropped.num_loss_tokens == expected.num_loss_tokens
    rewards = [item.reward for group in even.groups for item in group.trajectories]
    assert dropped.reward_mean == pytest.approx(np.mean(rewards))

    kept = make_trainer(**EXACT).step(even)
    assert kept.num_dropped_groups == 0
    assert kept.num_loss_tokens > dropped.num_loss_tokens
    assert kept.advantage_abs_mean == pytest.approx(dropped.advantage_abs_mean)


def test_an_overlong_penalty_is_trained_on_and_measured_and_no_part_of_the_reward(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    """Rewards that are equal, and would be dropped, but for it."""
    batch = with_rewards(sample_batch(make_engine(), 5), 1, 0, 0.5, -2)
    late = replace(
        batch,
        groups=tuple(
            replace(
                group,
                trajectories=tuple(
                    replace(item, overlong_penalty=-place / 4) for place, item in enumerate(group.trajectories)
                ),
            )
            for group in batch.groups
        ),
    )
    trainer, plain, dropping = (
        make_trainer(kl_coefficient=0.0, drop_zero_variance_groups=drop, **EXACT) for drop in (False, False, True)
    )

    metrics, without = trainer.step(late), plain.step(batch)

    assert metrics.overlong_penalty_mean == pytest.approx(-0.25)  # of 0, -1/4 and -2/4
    assert metrics.reward_mean == without.reward_mean == pytest.approx(-0.125)
    assert (metrics.grad_norm > 0, without.grad_norm, without.overlong_penalty_mean) == (True, 0, 0)
    assert dropping.step(late).num_dropped_groups == 4  # it goes by the environment's rewards


LOSSES = get_args(TrainingConfig.model_fields["loss"].annotation)


@pytest.mark.parametrize(
    "choices",
    [
        *({"advantages": scale} for scale in get_args(Scale)),
        *({"loss": loss, "loss_length_tokens": 8 if loss == "dr_grpo" else None} for loss in LOSSES),
        {"kl_in": "reward", "kl_estimator": "k1"},
        {"top_entropy_share": 0.2},
        {"mismatch_correction": "token_truncate", "mismatch_high": 2.0},
    ],
    ids=str,
)
def test_a_step_whose_groups_are_all_dropped_changes_nothing(
    choices: dict[str, Any], make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    trainer = make_trainer(
        drop_zero_variance_groups=True, learning_rate=0.01, kl_coefficient=0.1, **RECOMPUTED, **choices
    )
    batch = sample_batch(make_engine(), 5)
    trainer.step(batch)  # so that the optimizer has momentum
    before = trainer.weights().tensors

    metrics = trainer.step(with_rewards(batch, 1, 0, 0.5, -2))

    assert (metrics.num_dropped_groups, metrics.num_loss_tokens, metrics.num_forward_passes) == (4, 0, 0)
    assert (metrics.loss, metrics.grad_norm, metrics.ratio_max, metrics.step) == (0, 0, 1, 2)
    after = trainer.weights().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)


LINES = (((5, 9), (5, 8, 9), (6, 7, 9), (6, 8, 9)), ((3, 9), (4, 9)))
"""Two lines in a row: of four, then of two. Tokens such as the second of (5, 9) are chosen, those of (6, 8, 9) after
the second are forced."""


def constrained_answers(prompt_ids: Any) -> list[Completion]:
    """All answers that LINES allow, with the tokens allowed at each place, by enumeration of the prefixes."""
    answers = [sum(parts, ()) for parts in itertools.product(*LINES)]
    completions = []
    for ids in answers:
        supports = [
            sorted({other[place] for other in answers if other[:place] == ids[:place]}) for place in range(len(ids))
        ]
        offsets = np.cumsum([0, *map(len, supports)]).astype(np.int32)
        completions.append(
            Completion(
                prompt_ids=prompt_ids,
                completion_ids=np.array(ids, dtype=np.int32),
                completion_mask=np.array([len(support) > 1 for support in supports]),
                sampling_logprobs=np.zeros(len(ids), dtype=np.float32),
                policy_version=0,
                temperature=1.0,
                finish_reason="stop",
                allowed_ids=RaggedIds(np.concatenate(supports).astype(np.int32), offsets),
            )
        )
    return completions


def answer_probability(model: Any, completion: Completion) -> Tensor:
    """Of a whole answer, from the full softmax over the vocabulary, one prefix at a time."""
    allowed = completion.allowed_ids
    assert allowed is not None
    probability = torch.ones((), dtype=torch.float64)
    for place, token in enumerate(completion.completion_ids):
        prefix = np.concatenate([completion.prompt_ids, completion.completion_ids[:place]]).astype(np.int64)
        everything = model(input_ids=torch.from_numpy(prefix)[None]).logits[0, -1].softmax(-1)
        probability = probability * everything[int(token)] / everything[allowed[place].astype(np.int64)].sum()
    return probability


def test_the_constrained_gradient_is_that_of_the_expected_reward_over_all_answers(
    make_trainer: MakeTrainer,
    make_adapter: MakeAdapter,
    policy: Policy,
    plain_model: Any,
    in_float64: InFloat64,
    tmp_path: Path,
) -> None:
    """A policy whose answers can be enumerated. With advantages p(y) (R(y) - J), J the expected reward, the sum of
    A log p over all answers y has the gradient of J (policy gradient theorem), which PEFT computes from p itself."""
    adapter = make_adapter(policy, std=0.08)
    folder = AdapterStore(tmp_path / "other").publish(adapter)
    peft = PeftModel.from_pretrained(plain_model, folder, is_trainable=True).eval()
    in_float64(peft)
    answers = constrained_answers(np.array([30, 31, 32], dtype=np.int32))
    rewards = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.25, 3.0, -1.0, 0.5], dtype=torch.float64)
    probabilities = torch.stack([answer_probability(peft, answer) for answer in answers])
    expected_reward = (probabilities * rewards).sum()
    expected_reward.backward()
    expected = [parameter.grad for parameter in peft.parameters() if parameter.requires_grad]
    probabilities, expected_reward = probabilities.detach(), expected_reward.detach()
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-12)
    assert float(probabilities.max()) < 0.9

    trainer = make_trainer(advantages="mean_only", kl_coefficient=0.0, loss="cispo", **RECOMPUTED, **EXACT)
    trainer.load_weights(adapter)
    in_float64(trainer._policy.model)
    advantages = (probabilities * (rewards - expected_reward)).tolist()  # of mean 0
    trajectories = tuple(Trajectory("0", "solver", (a,), r) for a, r in zip(answers, advantages, strict=True))
    batch = Batch(0, 0, (Group("0", trajectories),), RolloutStats(1.0, 0, 0, 0, 0))
    metrics = trainer.step(batch)

    assert metrics.num_loss_tokens == sum(int(answer.completion_mask.sum()) for answer in answers) < 36
    found = [-metrics.num_loss_tokens * gradient for gradient in gradients_of(trainer)]
    assert len(found) == len(expected) == 16
    size = max(float(gradient.abs().max()) for gradient in found)
    assert largest_difference(found, [value for value in expected if value is not None]) < 1e-6 * size

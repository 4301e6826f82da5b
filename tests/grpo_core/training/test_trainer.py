from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.distributed.ranks import SingleProcess
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch, Completion, Group, RaggedIds, Trajectory
from tests.grpo_core.training.steps import EXACT, gradients_of, parameters_of, turns_of

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
MakeAdapter = Callable[..., Adapter]
PlainLogprobs = Callable[[Any, Completion], Tensor]


def test_a_step_is_the_mean_loss_over_chosen_tokens_of_a_plain_forward(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
    plain_model: Any,
    plain_logprobs: PlainLogprobs,
    tmp_path: Path,
) -> None:
    """Loss, KL, ratio, clipping and gradients, all of them again, sequence by sequence, by PEFT and the formulas."""
    batch = sample_batch(make_engine(), 0)
    adapter = make_adapter(policy, std=0.08)
    trainer = make_trainer(kl_coefficient=0.1, **EXACT)
    trainer.load_weights(adapter)
    folder = AdapterStore(tmp_path / "other").publish(adapter)
    peft = PeftModel.from_pretrained(plain_model, folder, is_trainable=True).eval()

    losses, kls, ratios, clipped = [], [], [], 0
    for turn, advantage in turns_of(batch):
        mask = turn.completion_mask
        logprobs = plain_logprobs(peft, turn)[torch.from_numpy(mask)]
        assert turn.ref_logprobs is not None
        ratio = (logprobs - torch.from_numpy(turn.sampling_logprobs[mask])).exp()
        difference = torch.from_numpy(turn.ref_logprobs[mask]) - logprobs
        kl = difference.exp() - difference - 1
        losses.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) + 0.1 * kl)
        kls.append(kl.detach())
        ratios.append(ratio.detach())
        clipped += int((((ratio < 0.8) & (advantage < 0)) | ((ratio > 1.2) & (advantage > 0))).sum())
    loss = torch.cat(losses).mean()
    loss.backward()
    metrics = trainer.step(batch)

    num = sum(map(len, losses))
    assert metrics.num_loss_tokens == num == sum(int(turn.completion_mask.sum()) for turn, _ in turns_of(batch))
    assert metrics.loss == pytest.approx(loss.item(), abs=1e-5)
    assert metrics.kl == pytest.approx(torch.cat(kls).mean().item(), abs=1e-5)
    assert metrics.ratio_max == pytest.approx(torch.cat(ratios).max().item(), rel=1e-4)
    assert metrics.clip_fraction == pytest.approx(clipped / num)
    assert 0 < clipped < num
    expected = {
        name.replace(".default", ""): value.grad for name, value in peft.named_parameters() if value.requires_grad
    }
    found = dict(zip(expected, gradients_of(trainer), strict=True))  # PEFT has them in this order
    assert len(found) == len(expected) == 16
    for name, gradient in found.items():
        other = expected[name]
        assert other is not None
        assert torch.allclose(gradient, other, atol=2e-5), name
        assert float(other.abs().max()) > 1e-4, name
    assert metrics.grad_norm == pytest.approx(
        float(torch.stack([gradient.norm() for gradient in gradients_of(trainer)]).norm()), rel=1e-5
    )


def test_entropy_is_the_mean_over_chosen_tokens(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    """Of a group with two choices per completion, by the binary formula."""
    batch = sample_batch(make_engine(), 0, num_groups=1)
    (group,) = batch.groups
    turn = group.trajectories[0].turns[0]
    ids = np.array([11], dtype=np.int32)
    allowed = RaggedIds(np.array([11, 14], dtype=np.int32), np.array([0, 2], dtype=np.int32))
    trajectories = []
    trainer = make_trainer(**EXACT)
    for reward in (0.0, 1.0):
        forced = replace(
            turn,
            completion_ids=ids,
            completion_mask=np.array([True]),
            sampling_logprobs=np.array([-0.7], dtype=np.float32),
            ref_logprobs=np.array([-0.7], dtype=np.float32),
            allowed_ids=allowed,
        )
        trajectories.append(Trajectory("0", "solver", (forced,), reward))

    metrics = trainer.step(replace(batch, groups=(Group("0", tuple(trajectories)),)))

    probability = metrics.ratio_max * np.exp(-0.7)
    expected = -probability * np.log(probability) - (1 - probability) * np.log(1 - probability)
    assert metrics.entropy == pytest.approx(expected, abs=1e-5)


def test_counts_and_rewards_are_exact(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, tokenizer: Tokenizer
) -> None:
    batch = sample_batch(make_engine(), 1)
    turns = [turn for turn, _ in turns_of(batch)]
    tokenizer.encode("calls before the step are not counted")

    for packing, micro_batch_tokens in [("shared_prefix", 10_000), ("shared_prefix", 64), ("padded", 10_000)]:
        trainer = make_trainer(packing=packing, micro_batch_tokens=micro_batch_tokens)
        metrics = trainer.step(batch)
        assert metrics.num_forward_passes == metrics.num_micro_batches == trainer.num_forward_passes
        assert (metrics.num_micro_batches == 1) == (micro_batch_tokens == 10_000)
        assert metrics.num_tokenizer_calls == 0
        assert metrics.step == trainer.version == 1
        assert metrics.num_sequences == len(turns) == 4 // 2 * 3 * (1 + 2)
        assert metrics.num_padded_tokens == sum(turn.num_tokens for turn in turns)
        rewards = [trajectory.reward for group in batch.groups for trajectory in group.trajectories]
        assert metrics.reward_mean == pytest.approx(np.mean(rewards))
        assert metrics.reward_std == pytest.approx(np.std(rewards))
        assert metrics.advantage_abs_mean == pytest.approx(np.mean([abs(value) for _, value in turns_of(batch)]))
        assert min(metrics.loss_forward_ms, metrics.backward_ms, metrics.optimizer_ms) > 0
        assert metrics.peak_memory_bytes > 10_000_000


def test_a_step_that_broke_off_leaves_nothing_to_the_next(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = sample_batch(make_engine(), 7)
    trainer, untouched = (make_trainer(micro_batch_tokens=1, learning_rate=0.01) for _ in range(2))
    forward = trainer._policy.decoder.forward
    calls = 0

    def fail_at_the_third(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._policy.decoder, "forward", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            trainer.step(batch)

    assert trainer.version == 0
    assert trainer.step(batch).grad_norm == untouched.step(batch).grad_norm


@pytest.mark.parametrize("drops", [True, False])
def test_a_step_without_a_gradient_changes_nothing(
    drops: bool, make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    """Not even by the momentum of the step before, and not where several processes have added up zeros."""
    trainer = make_trainer(drop_zero_variance_groups=drops, kl_coefficient=0.0, learning_rate=0.01)
    good = sample_batch(make_engine(), 3, num_groups=2)
    trainer.step(good)
    before = [parameter.detach().clone() for parameter in parameters_of(trainer)]
    equal = tuple(
        replace(group, trajectories=tuple(replace(each, reward=1.0) for each in group.trajectories))
        for group in good.groups
    )
    trainer.ranks = AddsUpZeros()

    metrics = trainer.step(replace(good, groups=equal))

    assert metrics.grad_norm == 0.0
    assert not metrics.is_skipped
    assert all(map(torch.equal, before, parameters_of(trainer)))


class AddsUpZeros(SingleProcess):
    """As a process group does: a parameter without a gradient gets zeros."""

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

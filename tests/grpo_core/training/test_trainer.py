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

from grpo_core.errors import AdapterError
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy
from grpo_core.model.tokenizer import Tokenizer
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.advantages import group_advantages
from grpo_core.training.distributed.ranks import SingleProcess
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch, Completion, Group, RaggedIds, StepMetrics, Trajectory

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
MakeAdapter = Callable[..., Adapter]
PlainLogprobs = Callable[[Any, Completion], Tensor]

EXACT = {"max_grad_norm": 1e9, "learning_rate": 0.0}  # gradients as they are


def turns_of(batch: Batch) -> list[tuple[Completion, float]]:
    """All turns, with the advantage of their trajectory."""
    advantages = group_advantages(batch.groups, "group_std")
    return [
        (turn, float(value))
        for group, values in zip(batch.groups, advantages, strict=True)
        for trajectory, value in zip(group.trajectories, values, strict=True)
        for turn in trajectory.turns
    ]


def parameters_of(trainer: Trainer) -> list[nn.Parameter]:
    return trainer.optimizer.param_groups[0]["params"]


def gradients_of(trainer: Trainer) -> list[Tensor]:
    """Of the last step."""
    gradients = [parameter.grad for parameter in parameters_of(trainer)]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def published(trainer: Trainer, folder: Path) -> int:
    AdapterStore(folder / "adapters").publish(trainer.weights())
    return trainer.version


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


def test_shared_prefixes_save_tokens(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    batch = sample_batch(make_engine(), 1, group_size=6)
    shared, padded = (
        make_trainer(packing=packing, micro_batch_tokens=1).step(batch) for packing in ("shared_prefix", "padded")
    )

    assert padded.num_model_tokens == padded.num_padded_tokens
    assert shared.num_model_tokens < 0.6 * padded.num_model_tokens
    assert shared.num_micro_batches == 6
    assert padded.num_micro_batches == 36


def exact_gradients(
    make_trainer: MakeTrainer, adapter: Adapter, in_float64: Callable[[nn.Module], None], batch: Batch, **config: Any
) -> tuple[list[Tensor], StepMetrics]:
    trainer = make_trainer(kl_coefficient=0.1, **EXACT, **config)
    trainer.load_weights(adapter)
    in_float64(trainer._policy.model)
    assert {parameter.dtype for parameter in parameters_of(trainer)} == {torch.float64}
    metrics = trainer.step(batch)
    return gradients_of(trainer), metrics


def test_the_gradient_does_not_depend_on_the_split_or_on_the_packing(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
    in_float64: Callable[[nn.Module], None],
) -> None:
    batch = sample_batch(make_engine(), 2, num_groups=6)
    adapter = make_adapter(policy, std=0.08)

    whole, one = exact_gradients(make_trainer, adapter, in_float64, batch, micro_batch_tokens=100_000)
    assert float(torch.cat([gradient.flatten() for gradient in whole]).abs().max()) > 1e-3
    for config in (
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 120},
        {"packing": "padded", "micro_batch_tokens": 1},
        {"packing": "padded", "micro_batch_tokens": 100_000},
    ):
        split, metrics = exact_gradients(make_trainer, adapter, in_float64, batch, **config)
        assert max(float((a - b).abs().max()) for a, b in zip(whole, split, strict=True)) < 1e-9
        assert metrics.loss == pytest.approx(one.loss, abs=1e-9)
        assert metrics.kl == pytest.approx(one.kl, abs=1e-9)
        assert metrics.entropy == pytest.approx(one.entropy, abs=1e-9)
        assert metrics.num_micro_batches != one.num_micro_batches or config["micro_batch_tokens"] == 100_000


def test_the_order_of_groups_and_siblings_does_not_matter(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_adapter: MakeAdapter,
    policy: Policy,
    in_float64: Callable[[nn.Module], None],
) -> None:
    batch = sample_batch(make_engine(), 3)
    turned = replace(
        batch, groups=tuple(replace(group, trajectories=group.trajectories[::-1]) for group in batch.groups[::-1])
    )
    adapter = make_adapter(policy, std=0.08)
    one, other = (exact_gradients(make_trainer, adapter, in_float64, item)[0] for item in (batch, turned))

    assert max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True)) < 1e-9


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
def test_at_learning_rate_0_everything_stays_on_policy(
    method: str,
    packing: str,
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    tmp_path: Path,
) -> None:
    settings = {"method": method, "packing": packing, "learning_rate": 0.0, "kl_coefficient": 0.1}
    trainer, engine = make_trainer(**settings), make_engine()
    before = trainer.weights().tensors
    for seed in range(3):
        metrics = trainer.step(sample_batch(engine, seed))
        assert metrics.ratio_max == pytest.approx(1, abs=1e-4)
        assert metrics.clip_fraction == 0
        assert abs(metrics.kl) < 1e-6
        assert metrics.grad_norm > 1e-3
        engine.use_version(published(trainer, tmp_path))

    after = trainer.weights().tensors
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert trainer.version == 3


@pytest.mark.parametrize(("method", "learning_rate"), [("lora", 0.02), ("full", 0.004)])
def test_sampler_and_trainer_agree_after_every_update(
    method: str,
    learning_rate: float,
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    plain_model: nn.Module,
    plain_logprobs: PlainLogprobs,
    tmp_path: Path,
) -> None:
    """The numerics contract, measured: ratios of fresh samples are 1, and the reference is still the base model."""
    trainer = make_trainer(method=method, learning_rate=learning_rate, kl_coefficient=0.01)
    engine = make_engine()
    kls = []
    for seed in range(5):
        batch = sample_batch(engine, seed)
        for turn, _ in turns_of(batch):
            with torch.no_grad():
                scored = plain_logprobs(plain_model, turn).numpy()
            assert turn.ref_logprobs is not None
            assert np.abs(scored - turn.ref_logprobs).max() < 1e-4
        metrics = trainer.step(batch)
        assert batch.policy_version == seed
        assert metrics.ratio_max == pytest.approx(1, abs=1e-4)
        assert metrics.clip_fraction == 0
        kls.append(metrics.kl)
        engine.use_version(published(trainer, tmp_path))

    assert abs(kls[0]) < 1e-6
    assert kls[-1] > 1e-3  # the policy did move


def test_an_update_makes_the_better_siblings_likelier(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    trainer = make_trainer(learning_rate=5e-3)
    batch = sample_batch(make_engine(), 4)
    losses = [trainer.step(batch).loss for _ in range(5)]

    assert losses[-1] < losses[0] - 0.02


def test_an_all_forced_micro_batch_costs_no_forward_pass(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    make_completion: Callable[..., Completion],
) -> None:
    batch = sample_batch(make_engine(), 5)
    rng = np.random.default_rng(0)
    forced = [make_completion(rng, np.array([9, 8, 7], np.int32), 4, all_forced=True) for _ in range(2)]
    group = Group("forced", tuple(Trajectory("forced", "solver", (turn,), float(i)) for i, turn in enumerate(forced)))
    config = {"micro_batch_tokens": 1, "max_grad_norm": 1e9, "kl_coefficient": 0.0}
    plain, padded = make_trainer(**config), make_trainer(**config)

    metrics = plain.step(batch)
    with_forced = padded.step(replace(batch, groups=(*batch.groups, group)))

    assert with_forced.num_forward_passes == with_forced.num_micro_batches == metrics.num_micro_batches
    assert with_forced.num_model_tokens == metrics.num_model_tokens
    assert with_forced.num_sequences == metrics.num_sequences + 2
    assert with_forced.loss == pytest.approx(metrics.loss, abs=1e-6)


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


def test_an_adapter_round_trips_and_is_a_copy(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    trainer, other = make_trainer(learning_rate=0.01), make_trainer()
    batch = sample_batch(make_engine(), 8)
    trainer.step(batch)
    adapter = trainer.weights()
    kept = {name: value.clone() for name, value in adapter.tensors.items()}
    other.load_weights(adapter)
    trainer.step(batch)

    assert adapter.version.name == "run-v000001"
    assert other.version == 1
    assert all(torch.equal(kept[name], value) for name, value in adapter.tensors.items())
    assert all(torch.equal(kept[name], value) for name, value in other.weights().tensors.items())
    assert not all(torch.equal(kept[name], value) for name, value in trainer.weights().tensors.items())
    assert sorted(name for name in kept if "layers.0" in name) == [
        f"model.layers.0.{module}.lora_{part}.weight"
        for module in ("mlp.down_proj", "mlp.up_proj", "self_attn.q_proj", "self_attn.v_proj")
        for part in "AB"
    ]


@pytest.mark.parametrize("kind", ["rank", "base", "targets"])
def test_an_adapter_that_does_not_fit_is_refused(
    kind: str, make_trainer: MakeTrainer, policy: Policy, make_adapter: MakeAdapter
) -> None:
    trainer = make_trainer()
    before = trainer.weights()
    adapter = {
        "rank": make_adapter(policy, rank=8),
        "base": replace(make_adapter(policy), base_fingerprint="other"),
        "targets": make_adapter(policy, targets=("q_proj",)),
    }[kind]

    with pytest.raises(AdapterError, match=r"run-v000001 .* does not fit"):
        trainer.load_weights(adapter)

    assert trainer.version == 0
    assert all(torch.equal(before.tensors[name], value) for name, value in trainer.weights().tensors.items())


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

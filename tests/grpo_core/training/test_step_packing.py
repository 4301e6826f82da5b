"""A step does not depend on its packing, its split into micro-batches, or the order of its groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo_core.model.policy import Policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch, Completion, Group, StepMetrics, Trajectory
from tests.grpo_core.training.steps import EXACT, gradients_of, parameters_of

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
MakeAdapter = Callable[..., Adapter]


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

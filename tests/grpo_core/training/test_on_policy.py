"""On fresh samples the trainer has the sampler's log-probabilities: ratios are 1 until an update."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grpo_core.lora.store import AdapterStore
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch, Completion
from tests.grpo_core.training.steps import turns_of

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
PlainLogprobs = Callable[[Any, Completion], Tensor]


def published(trainer: Trainer, folder: Path) -> int:
    AdapterStore(folder / "adapters").publish(trainer.weights())
    return trainer.version


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

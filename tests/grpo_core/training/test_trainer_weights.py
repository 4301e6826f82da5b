"""The weights that a trainer gives away and takes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from grpo_core.errors import AdapterError
from grpo_core.model.policy import Policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
MakeAdapter = Callable[..., Adapter]


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

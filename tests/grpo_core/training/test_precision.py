"""bfloat16 products, recomputed activations, and the fused optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.trainer import Trainer
from grpo_core.types import Batch
from tests.grpo_core.training.steps import gradients_of

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]

EXACT = {"max_grad_norm": 1e9, "learning_rate": 0.0, "micro_batch_tokens": 120}


@pytest.fixture
def batch(make_engine: MakeEngine, sample_batch: SampleBatch) -> Batch:
    return sample_batch(make_engine(), 11)


def outputs_of(trainer: Trainer, name: str) -> list[Tensor]:
    """Filled, while the trainer works, with what its modules of that name compute."""
    outputs: list[Tensor] = []
    for module_name, module in trainer._policy.model.named_modules():
        if module_name.rpartition(".")[2] == name:
            module.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    flat = [torch.cat([item.flatten() for item in items]) for items in (one, other)]
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))


def test_bfloat16_products_leave_adapter_gradient_and_optimizer_in_float32(
    make_trainer: MakeTrainer, batch: Batch
) -> None:
    plain, half = make_trainer(**EXACT), make_trainer(precision="bfloat16", **EXACT)
    outputs, plain_outputs = outputs_of(half, "o_proj"), outputs_of(plain, "o_proj")
    expected, found = plain.step(batch), half.step(batch)

    assert {output.dtype for output in outputs} == {torch.bfloat16}
    assert {output.dtype for output in plain_outputs} == {torch.float32}
    assert {gradient.dtype for gradient in gradients_of(half)} == {torch.float32}
    assert {tensor.dtype for tensor in half.weights().tensors.values()} == {torch.float32}
    states = half.optimizer.state_dict()["state"].values()
    assert {value.dtype for state in states for value in state.values()} == {torch.float32}
    assert found.loss == pytest.approx(expected.loss, abs=0.02)
    assert found.loss != expected.loss
    assert cosine(gradients_of(half), gradients_of(plain)) > 0.99


def test_an_adapter_smaller_than_bfloat16_can_tell_apart_still_moves(make_trainer: MakeTrainer, batch: Batch) -> None:
    """Steps of 1e-5 on weights near 0.1: bfloat16 has 3 digits."""
    trainer = make_trainer(precision="bfloat16", learning_rate=1e-5)
    trainer.step(batch)
    before = trainer.weights().tensors
    trainer.step(batch)
    after = trainer.weights().tensors

    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == len(before)
    for name in moved:
        assert 0 < float((after[name] - before[name]).abs().max()) <= 1.1e-5


def test_checkpointing_runs_each_layer_once_more_in_the_backward_pass(
    make_trainer: MakeTrainer, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in the spans: the loss's forward pass is as it was, and the backward pass holds another one."""
    counts: dict[bool, tuple[int, int]] = {}
    gradients = {}
    for checkpointing in (False, True):
        trainer = make_trainer(gradient_checkpointing=checkpointing, **EXACT)
        layers = outputs_of(trainer, "o_proj")  # not the last module, which nothing behind it needs again
        forward, in_forward = trainer._forward, 0

        def counted(*arguments: Any, forward: Any = forward, layers: list[Tensor] = layers) -> Any:
            nonlocal in_forward
            before = len(layers)
            terms = forward(*arguments)
            in_forward += len(layers) - before
            return terms

        monkeypatch.setattr(trainer, "_forward", counted)
        metrics = trainer.step(batch)
        counts[checkpointing] = (in_forward, len(layers) - in_forward)
        gradients[checkpointing] = gradients_of(trainer)
        assert metrics.num_forward_passes == metrics.num_micro_batches > 1

    num_layers = counts[False][0]
    assert counts == {False: (num_layers, 0), True: (num_layers, num_layers)}
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(gradients[False], gradients[True], strict=True))


def test_checkpointing_keeps_fewer_activations(make_trainer: MakeTrainer, batch: Batch) -> None:
    kept = {}
    for checkpointing in (False, True):
        trainer = make_trainer(gradient_checkpointing=checkpointing, **EXACT)
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            trainer.step(batch)
        kept[checkpointing] = sum(sizes)

    assert kept[True] < 0.7 * kept[False]


def test_dropout_stays_off_while_activations_are_recomputed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(gradient_checkpointing=True)

    assert trainer._policy.decoder.training
    assert not any(module.training for module in trainer._policy.decoder.modules() if isinstance(module, nn.Dropout))


def test_the_fused_optimizer_is_the_plain_one(make_trainer: MakeTrainer, batch: Batch) -> None:
    fused, plain = make_trainer(learning_rate=0.01), make_trainer(learning_rate=0.01)
    assert fused.optimizer.param_groups[0]["fused"] is True
    plain.optimizer = torch.optim.AdamW(
        plain.optimizer.param_groups[0]["params"], lr=0.01, weight_decay=0.0, fused=False, foreach=False
    )
    for _ in range(3):
        fused.step(batch)
        plain.step(batch)

    one, other = fused.weights().tensors, plain.weights().tensors
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)

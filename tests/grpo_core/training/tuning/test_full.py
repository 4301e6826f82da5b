"""Full fine-tuning: every weight has the gradient of a plain forward, and the base model stays the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.errors import AdapterError, ModelError
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.rollout.torch_engine.engine import TorchEngine
from grpo_core.training.advantages import group_advantages
from grpo_core.training.checkpoint.checkpoint import load_checkpoint, restore_trainer, save_checkpoint
from grpo_core.training.trainer import Trainer
from grpo_core.types import Adapter, Batch, Completion

MakeTrainer = Callable[..., Trainer]
MakeEngine = Callable[..., TorchEngine]
SampleBatch = Callable[..., Batch]
PlainLogprobs = Callable[[Any, Completion], Tensor]

EXACT = {"max_grad_norm": 1e9, "learning_rate": 0.0, "kl_coefficient": 0.1}  # gradients as they are


def shift(model: nn.Module) -> None:
    """Move every weight off the base, so that ratios are not 1 and the KL term has a gradient."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def plain_loss(model: Any, batch: Batch, plain_logprobs: PlainLogprobs) -> Tensor:
    """The mean over the chosen tokens, completion by completion, by the formula."""
    losses = []
    for group, values in zip(batch.groups, group_advantages(batch.groups, "group_std"), strict=True):
        for trajectory, advantage in zip(group.trajectories, values, strict=True):
            for turn in trajectory.turns:
                mask = turn.completion_mask
                logprobs = plain_logprobs(model, turn)[torch.from_numpy(mask)]
                assert turn.ref_logprobs is not None
                ratio = (logprobs - torch.from_numpy(turn.sampling_logprobs[mask])).exp()
                difference = torch.from_numpy(turn.ref_logprobs[mask]) - logprobs
                kl = difference.exp() - difference - 1
                gain = torch.minimum(ratio * float(advantage), ratio.clamp(0.8, 1.2) * float(advantage))
                losses.append(0.1 * kl - gain)
    return torch.cat(losses).mean()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("packing", ["shared_prefix", "padded"])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])  # the first two with a tied head
def test_the_loss_and_every_gradient_are_those_of_a_plain_forward(
    architecture: str,
    packing: str,
    dtype: torch.dtype,
    tolerance: float,
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    model_folders: dict[str, Path],
    load_plain: Callable[[Path], Any],
    plain_logprobs: PlainLogprobs,
    in_float64: Callable[[nn.Module], None],
) -> None:
    """Free tokens, and constrained ones, whose rows of the head alone have a gradient."""
    folder = model_folders[architecture]
    batch = sample_batch(make_engine(folder), 0)
    plain, trainer = load_plain(folder), make_trainer(folder, method="full", packing=packing, **EXACT)
    for model in (plain, trainer._policy.model):
        shift(model)
        if dtype == torch.float64:
            in_float64(model)
    loss = plain_loss(plain, batch, plain_logprobs)
    loss.backward()

    metrics = trainer.step(batch)

    assert metrics.loss == pytest.approx(loss.item(), abs=tolerance)
    assert metrics.packing == packing
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    found = {name: parameter.grad for name, parameter in trainer._policy.model.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        other = expected[name]
        assert gradient is not None
        assert other is not None
        assert float((gradient - other).abs().max()) < tolerance, name
        assert float(other.abs().max()) > 1e-3 or name.endswith("k_proj.bias"), name  # a constant in every score


def test_of_constrained_tokens_only_the_rows_of_the_allowed_ids_have_a_gradient(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, model_folders: dict[str, Path]
) -> None:
    folder = model_folders["llama"]  # its head is not the embedding
    batch = sample_batch(make_engine(folder), 1, num_groups=2)
    batch = replace(batch, groups=batch.groups[1:])
    trainer = make_trainer(folder, method="full", **EXACT)
    trainer.step(batch)

    gradient = trainer._policy.head.weight.grad
    assert isinstance(gradient, Tensor)
    allowed = {
        int(token)
        for trajectory in batch.groups[0].trajectories
        for turn in trajectory.turns
        for position in np.flatnonzero(turn.completion_mask)
        if turn.allowed_ids is not None
        for token in turn.allowed_ids[int(position)]
    }
    assert set(torch.nonzero(gradient.abs().sum(dim=1))[:, 0].tolist()) == allowed
    assert len(allowed) < 10


def test_missing_reference_values_are_those_of_the_base_model(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    """Loaded once more, put in the place of the trained weights, and taken out again."""
    batch = sample_batch(make_engine(), 2)
    without = replace(
        batch,
        groups=tuple(
            replace(
                group,
                trajectories=tuple(
                    replace(item, turns=tuple(replace(turn, ref_logprobs=None) for turn in item.turns))
                    for item in group.trajectories
                ),
            )
            for group in batch.groups
        ),
    )
    one, other = (make_trainer(method="full", **EXACT) for _ in range(2))
    for trainer in (one, other):
        shift(trainer._policy.model)
    before = other.weights().tensors

    with_them, computed = one.step(batch), other.step(without)

    assert with_them.num_scoring_passes == 0
    assert computed.num_scoring_passes > 0
    assert with_them.kl > 1e-3
    assert computed.kl == pytest.approx(with_them.kl, abs=1e-5)
    assert computed.loss == pytest.approx(with_them.loss, abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in other.weights().tensors.items())


def test_a_base_model_whose_files_have_changed_is_no_reference(
    sample_batch: SampleBatch, make_engine: MakeEngine, plain_model: Any, model_folder: Path, tmp_path: Path
) -> None:
    plain_model.save_pretrained(tmp_path / "model")
    model = ModelConfig(name=str(tmp_path / "model"), device="cpu")
    trainer = Trainer(load_policy(model), model, TrainingConfig(method="full"), run="run")
    shift(plain_model)
    plain_model.save_pretrained(tmp_path / "model")
    batch = sample_batch(make_engine(), 2, want_ref=False)

    with pytest.raises(ModelError, match=r"its weights are \w+ now and were \w+ when training began") as error:
        trainer.step(batch)
    assert "\n" not in str(error.value)
    assert trainer.version == 0


def test_published_weights_are_a_folder_that_transformers_loads(
    make_trainer: MakeTrainer,
    make_engine: MakeEngine,
    sample_batch: SampleBatch,
    model_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    for architecture in ("qwen2", "llama"):  # a tied head, and one of its own
        folder = model_folders[architecture]
        trainer = make_trainer(folder, method="full", run=architecture, learning_rate=1e-3)
        trainer.step(sample_batch(make_engine(folder), 3))
        store = AdapterStore(tmp_path / "adapters")
        path = store.publish(trainer.weights())

        assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
        found: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
        loaded, report = found
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        mine = trainer._policy.model.state_dict()
        assert all(torch.equal(value, mine[name]) for name, value in loaded.state_dict().items())
        assert loaded.config._attn_implementation == "sdpa"
        again = store.load(trainer.weights().version)
        assert all(torch.equal(value, mine[name]) for name, value in again.tensors.items())


def test_a_restored_trainer_goes_on_bit_for_bit(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch, tmp_path: Path
) -> None:
    engine = make_engine()
    batches = [sample_batch(engine, seed) for seed in range(4)]
    settings = {"method": "full", "learning_rate": 1e-3, "kl_coefficient": 0.05}
    uninterrupted, trainer = make_trainer(**settings), make_trainer(**settings)
    expected = [uninterrupted.step(batch) for batch in batches]
    for batch in batches[:2]:
        trainer.step(batch)
    save_checkpoint(tmp_path, trainer, {})
    resumed = make_trainer(**settings)
    restore_trainer(resumed, load_checkpoint(tmp_path))

    for batch, wanted in zip(batches[2:], expected[2:], strict=True):
        metrics = resumed.step(batch)
        assert (metrics.step, metrics.loss, metrics.grad_norm) == (wanted.step, wanted.loss, wanted.grad_norm)
    one, other = resumed.weights().tensors, uninterrupted.weights().tensors
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_step_that_is_no_number_changes_no_weight(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    batch = sample_batch(make_engine(), 4)
    group = batch.groups[0]
    first = group.trajectories[0]
    far = tuple(
        replace(turn, sampling_logprobs=np.where(turn.completion_mask, -1e4, 0).astype(np.float32))
        for turn in first.turns
    )
    broken = replace(group, trajectories=(replace(first, turns=far), *group.trajectories[1:]))
    trainer = make_trainer(method="full", learning_rate=0.01)
    before = trainer.weights().tensors

    metrics = trainer.step(replace(batch, groups=(broken, *batch.groups[1:])))

    assert metrics.is_skipped
    assert metrics.nonfinite_trajectories == "0[0]"
    assert all(torch.equal(value, before[name]) for name, value in trainer.weights().tensors.items())


def test_recomputed_activations_give_the_same_gradients(
    make_trainer: MakeTrainer, make_engine: MakeEngine, sample_batch: SampleBatch
) -> None:
    batch = sample_batch(make_engine(), 6)
    kept, recomputed = (make_trainer(method="full", gradient_checkpointing=on, **EXACT) for on in (False, True))
    for trainer in (kept, recomputed):
        trainer.step(batch)

    for one, other in zip(kept.trained.parameters, recomputed.trained.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_of_a_bfloat16_model_float32_weights_are_trained(
    precision: str, make_engine: MakeEngine, sample_batch: SampleBatch, model_folder: Path
) -> None:
    """An update far below bfloat16's steps is not lost. The gradient in bfloat16 products is near the exact one."""
    batch = sample_batch(make_engine(), 5)
    gradients, weights = [], []
    for dtype, products in (("float32", "float32"), ("bfloat16", precision)):
        model = ModelConfig.model_validate({"name": str(model_folder), "device": "cpu", "dtype": dtype})
        training = TrainingConfig.model_validate({"method": "full", "precision": products, "learning_rate": 1e-6})
        trainer = Trainer(load_policy(model), model, training, run="run")
        before = trainer.weights().tensors
        assert trainer.step(batch).num_scoring_passes == 0
        after = trainer.weights().tensors
        assert {value.dtype for value in after.values()} == {torch.float32}
        assert all(not torch.equal(value, before[name]) for name, value in after.items() if "k_proj.bias" not in name)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.trained.parameters if p.grad is not None]))
        weights.append(after)
    assert float(torch.cosine_similarity(gradients[0], gradients[1], dim=0)) > 0.98
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("adapter", "is an adapter, this trainer has full weights; set training.method to 'lora'"),
        ("base", r"were trained from base model other, this one is \w+"),
        ("shape", r"model.norm.weight has shape \(3,\) there and shape \(64,\) in the model"),
        ("missing", r"model.norm.weight has no place there and shape \(64,\) in the model"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    kind: str, match: str, make_trainer: MakeTrainer, policy: Policy, make_adapter: Callable[..., Adapter]
) -> None:
    trainer = make_trainer(method="full")
    mine = trainer.weights()
    others = {name: value + 1 for name, value in mine.tensors.items()}
    weights = {
        "adapter": make_adapter(policy),
        "base": replace(mine, base_fingerprint="other", tensors=others),
        "shape": replace(mine, tensors={**others, "model.norm.weight": torch.zeros(3)}),
        "missing": replace(mine, tensors={key: val for key, val in others.items() if key != "model.norm.weight"}),
    }[kind]

    with pytest.raises(AdapterError, match=match) as error:
        trainer.load_weights(weights)

    assert "\n" not in str(error.value)
    assert trainer.version == 0
    assert all(torch.equal(value, mine.tensors[name]) for name, value in trainer.weights().tensors.items())


def test_a_trainer_of_an_adapter_refuses_full_weights(make_trainer: MakeTrainer) -> None:
    with pytest.raises(AdapterError, match=r"has full weights, this trainer an adapter; set training.method to 'full'"):
        make_trainer().load_weights(make_trainer(method="full").weights())

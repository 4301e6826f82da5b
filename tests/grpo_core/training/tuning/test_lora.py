from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from grpo_core.config import ModelConfig
from grpo_core.errors import ModelError
from grpo_core.model.policy import Policy, load_policy
from grpo_core.training.tuning.lora import attach_lora
from tests.grpo_core.model.broken_models import one_line
from tests.grpo_core.small_models import save_small_model


def test_bfloat16_weights_carry_a_float32_adapter(model_folder: Path) -> None:
    policy = load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16"))
    model = attach_lora(policy, ModelConfig(lora_rank=2), seed=0)

    assert policy.head.weight.dtype == torch.bfloat16
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed_only(model_folder: Path) -> None:
    def attached(seed: int) -> tuple[Policy, dict[str, torch.Tensor]]:
        policy = load_policy(ModelConfig(name=str(model_folder), device="cpu"))
        model = attach_lora(policy, ModelConfig(lora_rank=4), seed)
        return policy, {name: value.data for name, value in model.named_parameters() if value.requires_grad}

    ids = torch.tensor([[4, 5, 6]])
    base = load_policy(ModelConfig(name=str(model_folder), device="cpu"))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    policy, first = attached(7)
    _, again = attached(7)
    _, other = attached(8)

    assert torch.equal(state, torch.get_rng_state())
    assert torch.allclose(
        policy.model(input_ids=ids).logits, base.model(input_ids=ids).logits, atol=1e-5
    )  # other kernels
    assert len(first) == 2 * 2 * 4
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("targets", [("q_proj", "w_proj"), ("lm_head",), ()])
def test_lora_targets_must_be_linear_layers_of_the_decoder(policy: Policy, targets: tuple[str, ...]) -> None:
    """Not the head: it is applied on its own, and shares its weight with the embeddings."""
    with pytest.raises(
        ModelError, match=r"lora_targets.* allowed: down_proj, gate_proj, k_proj, o_proj, q_proj"
    ) as error:
        attach_lora(policy, ModelConfig(lora_targets=targets), seed=0)
    assert "lm_head" not in one_line(error).partition("allowed")[2]


@pytest.mark.parametrize("targets", [("gate_proj",), ("up_proj", "down_proj"), ("gate_proj", "up_proj", "down_proj")])
def test_names_that_peft_takes_for_experts_are_one_line(targets: tuple[str, ...], tmp_path: Path) -> None:
    """The first layer has modules of these names; PEFT would adapt the experts' fused weights instead."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    save_small_model("glm4_moe", tmp_path, first_k_dense_replace=1, **experts)
    policy = load_policy(ModelConfig(name=str(tmp_path), device="cpu"), any_architecture=True)

    with pytest.raises(ModelError, match="'glm4_moe': PEFT") as error:
        attach_lora(policy, ModelConfig(lora_targets=targets), seed=0)
    one_line(error)


def test_a_name_that_transformers_renames_is_not_told_to_the_user(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in transformers 5.23, where PEFT 0.21 still reads the old one."""

    def renamed(model: PreTrainedModel) -> bool:
        warnings.warn("`is_gradient_checkpointing` is deprecated", FutureWarning, stacklevel=2)
        return False

    monkeypatch.setattr(PreTrainedModel, "is_gradient_checkpointing", property(renamed))
    config = ModelConfig(name=str(model_folder), device="cpu")
    assert attach_lora(load_policy(config), config, seed=0) is not None

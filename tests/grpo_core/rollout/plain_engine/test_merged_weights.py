from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.errors import AdapterError
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.rollout.plain_engine.merged_weights import MergedWeights
from grpo_core.types import Adapter

MakeAdapter = Callable[..., Adapter]
NAME = "model.layers.1.self_attn.v_proj"


def weights_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in policy.model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], policy: Policy) -> set[str]:
    return {name for name, value in policy.model.state_dict().items() if not torch.equal(value, before[name])}


def test_exactly_the_targets_change_by_alpha_over_rank_b_a(policy: Policy, make_adapter: MakeAdapter) -> None:
    before = weights_of(policy)
    adapter = make_adapter(policy, targets=("v_proj", "down_proj"), rank=3)
    assert adapter.alpha / adapter.rank == 2.0

    MergedWeights(policy.model, policy.fingerprint).merge(adapter)

    assert changed(before, policy) == {
        f"model.layers.{layer}.{name}.weight" for layer in range(2) for name in ("self_attn.v_proj", "mlp.down_proj")
    }
    update = adapter.tensors[f"{NAME}.lora_B.weight"] @ adapter.tensors[f"{NAME}.lora_A.weight"] * 2.0
    assert torch.allclose(policy.model.state_dict()[f"{NAME}.weight"], before[f"{NAME}.weight"] + update, atol=1e-6)


def test_a_second_adapter_replaces_the_first(policy: Policy, make_adapter: MakeAdapter) -> None:
    before = weights_of(policy)
    weights = MergedWeights(policy.model, policy.fingerprint)
    weights.merge(make_adapter(policy, targets=("q_proj", "v_proj")))
    weights.merge(make_adapter(policy, targets=("v_proj",), seed=1))
    after_both = weights_of(policy)
    weights.unmerge()
    assert changed(before, policy) == set()
    MergedWeights(policy.model, policy.fingerprint).merge(make_adapter(policy, targets=("v_proj",), seed=1))

    assert changed(after_both, policy) == set()


def test_the_base_is_there_inside_the_block_only(policy: Policy, make_adapter: MakeAdapter) -> None:
    before = weights_of(policy)
    weights = MergedWeights(policy.model, policy.fingerprint)
    with weights.base_weights():
        pass
    assert changed(before, policy) == set()
    weights.merge(make_adapter(policy))
    merged = weights_of(policy)

    def interrupted() -> None:
        with weights.base_weights():
            assert changed(before, policy) == set()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert changed(merged, policy) == set()
    assert len(changed(before, policy)) == 2 * 4


def test_a_refused_adapter_changes_nothing(policy: Policy, make_adapter: MakeAdapter) -> None:
    weights = MergedWeights(policy.model, policy.fingerprint)
    adapter = make_adapter(policy)
    weights.merge(adapter)
    before = weights_of(policy)
    other = make_adapter(policy, seed=1)

    with pytest.raises(AdapterError, match="was trained on base model other"):
        weights.merge(replace(other, base_fingerprint="other"))
    with pytest.raises(AdapterError, match=r"has shape \(32, 63\), the model \(32, 64\)"):
        weights.merge(replace(other, tensors={**other.tensors, f"{NAME}.lora_A.weight": torch.zeros(4, 63)}))

    assert changed(before, policy) == set()


def test_in_bfloat16_an_adapter_is_what_it_is_to_peft(
    model_folder: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """Merged, most of an update of 3e-4 times the weight would be lost, and the sampler would not be the trainer."""
    from peft import PeftModel

    policy, other = (load_policy(ModelConfig(name=str(model_folder), device="cpu", dtype="bfloat16")) for _ in range(2))
    adapter = make_adapter(policy, targets=("q_proj", "v_proj", "down_proj"), std=0.02)
    store = AdapterStore(tmp_path)
    store.publish(adapter)
    peft: Any = PeftModel.from_pretrained(policy.model, store.folder_of(adapter.version)).eval()
    ids = torch.randint(3, policy.vocab_size, (2, 24), generator=torch.Generator().manual_seed(0))
    before = weights_of(other)
    weights = MergedWeights(other.model, other.fingerprint)
    with torch.inference_mode():
        expected = peft(input_ids=ids).logits
        base = other.model(input_ids=ids).logits  # pyright: ignore[reportCallIssue]
        weights.merge(adapter)
        found = other.model(input_ids=ids).logits  # pyright: ignore[reportCallIssue]
        with weights.base_weights():
            assert torch.equal(other.model(input_ids=ids).logits, base)  # pyright: ignore[reportCallIssue]
        assert torch.equal(other.model(input_ids=ids).logits, found)  # pyright: ignore[reportCallIssue]
    assert changed(before, other) == set()
    assert torch.equal(found, expected)
    assert not torch.equal(found, base)
    weights.unmerge()
    with torch.inference_mode():
        assert torch.equal(other.model(input_ids=ids).logits, base)  # pyright: ignore[reportCallIssue]

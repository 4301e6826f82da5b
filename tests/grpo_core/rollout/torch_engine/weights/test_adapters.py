from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grpo_core.config import ModelConfig
from grpo_core.model.policy import Policy, load_policy
from grpo_core.rollout.torch_engine.weights.adapters import FusedAdapter, RowUpdates, apply_linear, read_updates
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, fuse_weights
from grpo_core.rollout.torch_engine.weights.products import open_products
from grpo_core.types import Adapter

MakeAdapter = Callable[..., Adapter]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LINEARS = ("qkv", "output", "gate_up", "down")
NUM_ROWS = 16


def all_weights(weights: DecoderWeights) -> list[torch.Tensor]:
    return [layer.linear(name).weight for layer in weights.layers for name in LINEARS]


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama"])
def test_the_modules_of_the_model_are_views_of_the_fused_weights(
    architecture: str, model_folders: dict[str, Path]
) -> None:
    policy = load_policy(ModelConfig(name=str(model_folders[architecture]), device="cpu"))
    original = {name: parameter.clone() for name, parameter in policy.model.named_parameters()}
    weights = fuse_weights(policy)

    for name, place in weights.places.items():
        fused = weights.layers[place.layer].linear(place.linear).weight[place.start : place.stop]
        module_weight = policy.model.get_parameter(f"{name}.weight")
        assert torch.equal(fused, original[f"{name}.weight"])
        assert module_weight.data_ptr() == fused.data_ptr()
    assert len(weights.places) == policy.num_layers * len(TARGETS)
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(parameter, original[name])


def test_merging_adds_what_the_low_rank_path_adds(policy: Policy, make_adapter: MakeAdapter) -> None:
    base = fuse_weights(policy)
    updates = read_updates(make_adapter(policy, targets=TARGETS, std=0.2), base, policy.fingerprint)
    merged = FusedAdapter(base).merge(updates)

    for index, layer in enumerate(base.layers):
        for name in LINEARS:
            x = torch.randn(NUM_ROWS + 4, layer.linear(name).weight.shape[1])
            rows = [RowUpdates(2, NUM_ROWS, updates)]
            plain = apply_linear(x, layer.linear(name), (index, name), [])
            mixed = apply_linear(x, layer.linear(name), (index, name), rows)
            expected = apply_linear(x, merged.layers[index].linear(name), (index, name), [])
            torch.testing.assert_close(mixed[2:NUM_ROWS], expected[2:NUM_ROWS], atol=1e-4, rtol=0)
            assert torch.equal(mixed[:2], plain[:2])
            assert torch.equal(mixed[NUM_ROWS:], plain[NUM_ROWS:])
            assert not torch.allclose(mixed[2:NUM_ROWS], plain[2:NUM_ROWS], atol=1e-3)


@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
def test_a_packed_copy_holds_what_the_plain_one_does(policy: Policy, make_adapter: MakeAdapter) -> None:
    base = fuse_weights(policy)
    products = open_products()
    assert products is not None
    merger = FusedAdapter(base, products)
    adapters = [
        make_adapter(policy, number=1, targets=TARGETS),
        make_adapter(policy, number=2, targets=("k_proj",), seed=2),
    ]

    for updates in ({}, *(read_updates(each, base, policy.fingerprint) for each in adapters), {}):
        packed = merger.merge(updates)

        assert packed.is_packed
        plain = all_weights(FusedAdapter(base).merge(updates))
        for one, other in zip(all_weights(packed), plain, strict=True):
            assert torch.equal(one.transpose(1, 2).reshape(other.shape), other)


def test_an_adapter_with_fewer_modules_leaves_nothing_of_the_one_before(
    policy: Policy, make_adapter: MakeAdapter
) -> None:
    base = fuse_weights(policy)
    before = [weight.clone() for weight in all_weights(base)]
    merger = FusedAdapter(base)
    all_of_them = make_adapter(policy, number=1, targets=TARGETS)
    one = make_adapter(policy, number=2, targets=("k_proj",), seed=2)
    expected = FusedAdapter(base).merge(read_updates(one, base, policy.fingerprint))
    expected_weights = [weight.clone() for weight in all_weights(expected)]

    merger.merge(read_updates(all_of_them, base, policy.fingerprint))
    merged = merger.merge(read_updates(one, base, policy.fingerprint))

    assert all(torch.equal(*pair) for pair in zip(all_weights(merged), expected_weights, strict=True))
    assert all(torch.equal(*pair) for pair in zip(all_weights(base), before, strict=True))

"""Small random weights of a version, and whether two are equal."""

from __future__ import annotations

import dataclasses

import torch

from grpo_core.types import Adapter, FullWeights, PolicyVersion, PolicyWeights

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")


def make_adapter(number: int, run: str = "run", seed: int | None = None, rank: int = 2) -> Adapter:
    generator = torch.Generator().manual_seed(number if seed is None else seed)
    tensors = {}
    for module in MODULES:
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, 8, generator=generator)
        tensors[f"{module}.lora_B.weight"] = torch.randn(8, rank, generator=generator)
    return Adapter(PolicyVersion(run, number), "base-1", rank, 4.0, ("q_proj", "down_proj"), tensors)


def assert_equal(left: PolicyWeights, right: PolicyWeights) -> None:
    assert dataclasses.replace(left, tensors={}) == dataclasses.replace(right, tensors={})
    assert left.tensors.keys() == right.tensors.keys()
    for name in left.tensors:
        assert left.tensors[name].dtype == right.tensors[name].dtype
        assert torch.equal(left.tensors[name], right.tensors[name])


def make_full(number: int, run: str = "run") -> FullWeights:
    generator = torch.Generator().manual_seed(number)
    tensors = {f"model.layers.{layer}.weight": torch.randn(8, 8, generator=generator) for layer in range(2)}
    return FullWeights(PolicyVersion(run, number), "base-1", {"model_type": "llama", "vocab_size": 8}, tensors)

"""The LoRA adapter of all arms: random, so that a sampler without it gives other outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from grpo_core.config import ModelConfig
from grpo_core.lora.store import AdapterStore
from grpo_core.model.policy import Policy, load_policy
from grpo_core.types import Adapter, PolicyVersion

RUN = "speed"
B_STD = 0.1


class AdapterPublisher:
    """Publishes the same adapter for ``model`` under new versions, as a trainer publishes one per step."""

    def __init__(self, folder: Path, model: ModelConfig) -> None:
        policy = load_policy(model)
        self.store = AdapterStore(folder)
        self.vocab_size = policy.vocab_size
        self._adapter = random_adapter(policy, model)

    @property
    def num_weights(self) -> int:
        return sum(tensor.numel() for tensor in self._adapter.tensors.values())

    def publish(self, number: int) -> Path:
        """The folder of version ``number``, in PEFT's layout."""
        return self.store.publish(replace(self._adapter, version=PolicyVersion(RUN, number)))


def random_adapter(policy: Policy, config: ModelConfig) -> Adapter:
    """Random A and B for every target of ``config``."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, torch.Tensor] = {}
    for name, module in policy.model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.rpartition(".")[2] in config.lora_targets:
            num_out, num_in = module.weight.shape
            tensors[f"{name}.lora_A.weight"] = torch.randn(config.lora_rank, num_in, generator=generator) * num_in**-0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(num_out, config.lora_rank, generator=generator) * B_STD
    return Adapter(
        PolicyVersion(RUN, 1), policy.fingerprint, config.lora_rank, config.lora_alpha, config.lora_targets, tensors
    )

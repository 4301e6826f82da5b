"""The trained weights, as a trainer sees them: the interface of the two methods, LoRA and full fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from torch import nn

from grpo_core.config import ModelConfig, TrainingConfig
from grpo_core.model.policy import Policy
from grpo_core.training.tuning.full import TrainedModel
from grpo_core.training.tuning.lora import TrainedAdapter
from grpo_core.types import PolicyVersion, PolicyWeights


class TrainedWeights(Protocol):
    """The trained parameters of a policy, float32. They are part of its model, where gradients reach them."""

    @property
    def parameters(self) -> Sequence[nn.Parameter]: ...

    def read(self, version: PolicyVersion) -> PolicyWeights:
        """A copy of the current weights, float32, on the CPU."""
        ...

    def write(self, weights: PolicyWeights) -> None:
        """Continue from ``weights``.

        Raises:
            AdapterError: they are of the other method, for another base model, or of another shape. Nothing has
                changed then.
        """
        ...

    def base_model(self) -> AbstractContextManager[None]:
        """Inside the block the policy is the base model, the reference of the KL term."""
        ...


def open_trained_weights(policy: Policy, model: ModelConfig, training: TrainingConfig, seed: int) -> TrainedWeights:
    """The trained weights for ``training.method``, ready for an optimizer. The policy's outputs do not change yet.

    Raises:
        ModelError: ``lora_targets`` is empty or names what is no linear module of the decoder.
    """
    if training.method == "full":
        return TrainedModel(policy, model)
    return TrainedAdapter(policy, model, seed)

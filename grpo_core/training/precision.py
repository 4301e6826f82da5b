"""The precision of a step, and the activations that it keeps for the backward pass."""

from __future__ import annotations

from typing import Literal

import torch

from grpo_core.model.policy import Policy

Precision = Literal["float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Compute matrix products in ``precision`` inside the block. Trained parameters stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def recompute_activations(policy: Policy) -> None:
    """Gradient checkpointing: keep each layer's input only, and run the layer again in the backward pass
    (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost")."""
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    policy.decoder.train()  # transformers recomputes in training mode only, which also turns dropout on
    for module in policy.decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

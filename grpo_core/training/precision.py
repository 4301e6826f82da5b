"""What a step computes in, and what it keeps for the backward pass."""

from __future__ import annotations

from typing import Literal

import torch

from grpo_core.model.policy import Policy

Precision = Literal["float32", "bfloat16"]

FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Where torch's AdamW has one kernel for all parameters."""


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Matrix products in ``precision`` inside the block. What they change, the trained parameters, stays float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def recompute_activations(policy: Policy) -> None:
    """Gradient checkpointing: keep each layer's input only, and run the layer again in the backward pass
    (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost")."""
    policy.model.gradient_checkpointing_enable({"use_reentrant": False})  # pyright: ignore[reportCallIssue]
    policy.decoder.train()  # transformers recomputes in no other mode; dropout is the only other thing it turns on
    for module in policy.decoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()

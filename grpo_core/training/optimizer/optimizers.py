"""The optimizers: torch's own AdamW and Muon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from grpo_core.config import TrainingConfig
from grpo_core.model.policy import Policy

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Devices with a fused AdamW in torch."""


def open_optimizer(
    policy: Policy, parameters: Sequence[nn.Parameter], config: TrainingConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of ``config`` for ``parameters``, which are all or some of ``policy``'s."""
    if config.optimizer == "adamw":
        return _adamw(policy, parameters, config, learning_rate)
    outer = {id(part.weight) for part in policy.model.modules() if isinstance(part, nn.Embedding)}
    outer |= {id(parameter) for parameter in policy.head.parameters()}
    matrices = [item for item in parameters if item.ndim == 2 and id(item) not in outer]
    chosen = {id(item) for item in matrices}
    others = [item for item in parameters if id(item) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return MuonAndAdamW([muon, _adamw(policy, others, config, learning_rate)] if others else [muon])


def _adamw(
    policy: Policy, parameters: Sequence[nn.Parameter], config: TrainingConfig, learning_rate: float
) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=policy.device.type in _FUSED_DEVICES,
    )


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon for the matrices of the layers, AdamW for all else (Jordan et al. 2024, "Muon: An optimizer for hidden
    layers in neural networks"); Muon's steps have the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM
    training", section 2.2).

    ``parts`` share this optimizer's groups and state, so that it is saved, restored and given a rate as one.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for part in self._parts:
            part.state = self.state
            part.param_groups = [next(groups) for _ in part.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of each part."""
        assert closure is None, "the gradients are there already"
        for part in self._parts:
            part.step()

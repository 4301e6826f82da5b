"""Merges one version into a copy of the weights that it changes: no cost per token, and the base stays exact.

In bfloat16 a weight has 8 bits, and the update of a few steps of training is less than the last of them: merged, it
would be lost (94 % of one of 3e-4 times the weight). There adapters are kept apart, as PEFT has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from grpo_core.lora.check import check_adapter, check_full_weights
from grpo_core.model.policy import distinct_tensors
from grpo_core.types import Adapter, FullWeights, PolicyWeights


class MergedWeights:
    """Switches the weights of one model between the base's and those of a version."""

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        self._tensors = distinct_tensors(model)
        self._linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._fingerprint = fingerprint
        self._base: dict[Tensor, Tensor] = {}  # the base values of each weight that was ever changed
        self._merged: dict[Tensor, Tensor] = {}
        self._active: tuple[Tensor, ...] = ()
        self._apart: dict[nn.Linear, _Update] = {}
        self._hooks: list[RemovableHandle] = []

    @torch.no_grad()
    def merge(self, version: PolicyWeights) -> None:
        """Switch to ``version``: to full weights as they are, or to W + alpha/rank * B A for every target of an adapter
        (Hu et al. 2021, eq. 3) and the base weights elsewhere.

        Raises:
            AdapterError: it was trained on another base model, or has modules or shapes that this one does not have.
                The weights in use stay as they were.
        """
        values, updates = (self._full(version), {}) if isinstance(version, FullWeights) else self._adapted(version)
        self.unmerge()
        self._apart = updates
        self._keep_apart()
        for weight, value in values.items():
            if weight not in self._base:
                self._base[weight] = weight.data
                self._merged[weight] = torch.empty_like(weight.data)
            self._merged[weight].copy_(value)
            weight.data = self._merged[weight]
        self._active = tuple(values)

    def unmerge(self) -> None:
        """Use the base weights everywhere."""
        for weight, base in self._base.items():
            weight.data = base
        self._active = ()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _keep_apart(self) -> None:
        self._hooks = [linear.register_forward_hook(update) for linear, update in self._apart.items()]

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """The base model inside the ``with`` block, the merged one after it."""
        active = self._active
        self.unmerge()
        try:
            yield
        finally:
            for weight in active:
                weight.data = self._merged[weight]
            self._active = active
            self._keep_apart()

    def _full(self, full: FullWeights) -> dict[Tensor, Tensor]:
        """The new values of every weight, checked against the model before anything changes."""
        check_full_weights(full, self._fingerprint, self._tensors)
        return {self._tensors[name]: value for name, value in full.tensors.items()}

    def _adapted(self, adapter: Adapter) -> tuple[dict[Tensor, Tensor], dict[nn.Linear, _Update]]:
        """W + alpha/rank * B A per target, or in low precision the update alone, checked against the model before
        anything changes."""
        shapes = {name: (each.weight.shape[0], each.weight.shape[1]) for name, each in self._linears.items()}
        values: dict[Tensor, Tensor] = {}
        updates: dict[nn.Linear, _Update] = {}
        for name in check_adapter(adapter, self._fingerprint, shapes):
            linear = self._linears[name]
            weight = linear.weight
            down = adapter.tensors[f"{name}.lora_A.weight"].to(weight.device, torch.float32)
            up = adapter.tensors[f"{name}.lora_B.weight"].to(weight.device, torch.float32)
            if weight.dtype == torch.float32:
                base = self._base.get(weight, weight.data)
                values[weight] = base + (up @ down) * (adapter.alpha / adapter.rank)
            else:
                updates[linear] = _Update(down, up * (adapter.alpha / adapter.rank))
        return values, updates


class _Update:
    """A hook that adds ``up @ down`` to a linear map, in float32, and rounds the sum as PEFT does."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        self._down, self._up = down, up

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return (output + (inputs[0].float() @ self._down.T) @ self._up.T).to(output.dtype)

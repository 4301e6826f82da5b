"""Merges one version into a copy of the weights that it changes: no cost per token, and the base stays exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo_core.lora.check import check_adapter, check_full_weights
from grpo_core.model.policy import distinct_tensors
from grpo_core.types import Adapter, FullWeights, PolicyWeights


class MergedWeights:
    """Switches the weights of one model between the base's and those of a version."""

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        self._tensors = distinct_tensors(model)
        self._linears = {name: module.weight for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._fingerprint = fingerprint
        self._base: dict[Tensor, Tensor] = {}  # the base values of each weight that was ever changed
        self._merged: dict[Tensor, Tensor] = {}
        self._active: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def merge(self, version: PolicyWeights) -> None:
        """Switch to ``version``: to full weights as they are, or to W + alpha/rank * B A for every target of an adapter
        (Hu et al. 2021, eq. 3) and the base weights elsewhere.

        Raises:
            AdapterError: it was trained on another base model, or has modules or shapes that this one does not have.
                The weights in use stay as they were.
        """
        values = self._full(version) if isinstance(version, FullWeights) else self._adapted(version)
        self.unmerge()
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

    def _full(self, full: FullWeights) -> dict[Tensor, Tensor]:
        """The new values of every weight, checked against the model before anything changes."""
        check_full_weights(full, self._fingerprint, self._tensors)
        return {self._tensors[name]: value for name, value in full.tensors.items()}

    def _adapted(self, adapter: Adapter) -> dict[Tensor, Tensor]:
        """W + alpha/rank * B A per target, checked against the model before anything changes."""
        shapes = {name: (weight.shape[0], weight.shape[1]) for name, weight in self._linears.items()}
        values: dict[Tensor, Tensor] = {}
        for name in check_adapter(adapter, self._fingerprint, shapes):
            weight = self._linears[name]
            down = adapter.tensors[f"{name}.lora_A.weight"].to(weight.device, torch.float32)
            up = adapter.tensors[f"{name}.lora_B.weight"].to(weight.device, torch.float32)
            base = self._base.get(weight, weight.data)
            values[weight] = base.float() + (up @ down) * (adapter.alpha / adapter.rank)
        return values

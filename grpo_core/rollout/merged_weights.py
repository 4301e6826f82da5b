"""One active adapter, merged into a second copy of its target weights: no cost per token, and the base stays exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from grpo_core.errors import AdapterError
from grpo_core.types import Adapter


class MergedWeights:
    """Switches the target modules of one model between base and merged weights."""

    def __init__(self, model: nn.Module, fingerprint: str) -> None:
        self._linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        self._fingerprint = fingerprint
        self._base: dict[str, Tensor] = {}
        self._merged: dict[str, Tensor] = {}
        self._active: tuple[str, ...] = ()

    @torch.no_grad()
    def merge(self, adapter: Adapter) -> None:
        """Use W + alpha/rank * B A for every target of ``adapter`` (Hu et al. 2021, eq. 3), and base elsewhere.

        Raises:
            AdapterError: it was trained on another base model, or names modules that this one does not have. The
                weights in use stay as they were.
        """
        updates = self._updates(adapter)
        self.unmerge()
        for name, update in updates.items():
            weight = self._linears[name].weight
            if name not in self._base:
                self._base[name] = weight.data
                self._merged[name] = torch.empty_like(weight.data)
            self._merged[name].copy_(self._base[name].float() + update)
            weight.data = self._merged[name]
        self._active = tuple(updates)

    def unmerge(self) -> None:
        """Use the base weights everywhere."""
        for name, weight in self._base.items():
            self._linears[name].weight.data = weight
        self._active = ()

    @contextmanager
    def base_weights(self) -> Iterator[None]:
        """The base model inside the block, the merged one again after it."""
        active = self._active
        self.unmerge()
        try:
            yield
        finally:
            for name in active:
                self._linears[name].weight.data = self._merged[name]
            self._active = active

    def _updates(self, adapter: Adapter) -> dict[str, Tensor]:
        """alpha/rank * B A per module name, checked against the model before anything changes."""
        if adapter.base_fingerprint != self._fingerprint:
            raise AdapterError(
                f"adapter {adapter.version.name} was trained on base model {adapter.base_fingerprint}, this one is "
                f"{self._fingerprint}; use the adapter's own model, or publish under another run name"
            )
        names = sorted(key.removesuffix(".lora_A.weight") for key in adapter.tensors if key.endswith(".lora_A.weight"))
        updates: dict[str, Tensor] = {}
        for name in names:
            if name not in self._linears:
                raise AdapterError(
                    f"adapter {adapter.version.name}: the model has no linear module {name!r}; retrain it"
                )
            weight = self._linears[name].weight
            down = adapter.tensors[f"{name}.lora_A.weight"].to(weight.device, torch.float32)
            up = adapter.tensors[f"{name}.lora_B.weight"].to(weight.device, torch.float32)
            if (up.shape[0], down.shape[1]) != tuple(weight.shape):
                raise AdapterError(
                    f"adapter {adapter.version.name}: {name} has shape {(up.shape[0], down.shape[1])}, the model "
                    f"{tuple(weight.shape)}; use the adapter's own model"
                )
            updates[name] = (up @ down) * (adapter.alpha / adapter.rank)
        return updates

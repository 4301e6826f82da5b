"""LoRA at sampling time: the active adapter is fused into a copy of the weights, others run as low-rank updates.

Fused weights cost nothing per token. Low-rank updates serve rows of several versions in one pass over the base
weights: requests from before a swap, and requests that name a version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grpo_core.kernels.linear import linear as fast_linear
from grpo_core.lora.check import check_adapter
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, LayerWeights, Linear, Place
from grpo_core.rollout.torch_engine.weights.products import NativeProducts
from grpo_core.types import Adapter

LINEARS = ("qkv", "output", "gate_up", "down")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update of one module: ``up @ down``, with alpha/rank in ``up`` (Hu et al. 2021, eq. 3)."""

    place: Place
    down: Tensor  # [rank, in] float32
    up: Tensor  # [out, rank] float32


Updates = Mapping[tuple[int, str], Sequence[LowRank]]  # by layer and linear


@dataclass(frozen=True, slots=True)
class RowUpdates:
    """``updates`` apply to rows ``start:stop`` of the tokens of a pass."""

    start: int
    stop: int
    updates: Updates


def read_updates(adapter: Adapter, weights: DecoderWeights, fingerprint: str) -> Updates:
    """The updates of ``adapter`` on the device of ``weights``.

    Raises:
        AdapterError: as ``check_adapter``.
    """
    updates: dict[tuple[int, str], list[LowRank]] = {}
    device = weights.embedding.device
    for name in check_adapter(adapter, fingerprint, weights.linear_shapes):
        place = weights.places[name]
        down = adapter.tensors[f"{name}.lora_A.weight"].to(device, torch.float32)
        up = adapter.tensors[f"{name}.lora_B.weight"].to(device, torch.float32) * (adapter.alpha / adapter.rank)
        updates.setdefault((place.layer, place.linear), []).append(LowRank(place, down, up))
    return updates


class FusedAdapter:
    """A copy of the linear maps that adapters change; all else is shared with the base. With ``products`` the copy has
    all of them, packed."""

    def __init__(self, base: DecoderWeights, products: NativeProducts | None = None) -> None:
        self._base = base
        self._products = products
        self._copies: dict[tuple[int, str], Tensor] = {}
        self._changed: dict[tuple[int, str], set[Place]] = {}

    @torch.inference_mode()
    def merge(self, updates: Updates) -> DecoderWeights:
        """The base with ``updates`` added. Valid until the next call, which writes into the same copy."""
        if self._products is not None and not self._copies:
            self._copies = {
                (index, name): self._products.pack(layer.linear(name).weight)
                for index, layer in enumerate(self._base.layers)
                for name in LINEARS
            }
        for key in {*updates, *self._changed}:
            self._write(key, updates.get(key, ()))
        layers = tuple(self._layer(index, layer) for index, layer in enumerate(self._base.layers))
        return replace(self._base, layers=layers)

    def _write(self, key: tuple[int, str], updates: Sequence[LowRank]) -> None:
        base = self._base.layers[key[0]].linear(key[1]).weight
        if key not in self._copies:
            self._copies[key] = base.clone()
        copy = self._copies[key]
        places = {update.place for update in updates}
        for place in self._changed.get(key, set()) - places:  # the previous adapter changed it, this one does not
            self._put(copy, place, base[place.start : place.stop])
        for update in updates:
            rows = slice(update.place.start, update.place.stop)
            if base.dtype == torch.float32 and self._products is None:
                torch.addmm(base[rows], update.up, update.down, out=copy[rows])
            else:
                self._put(copy, update.place, torch.addmm(base[rows].float(), update.up, update.down))
        self._changed[key] = places

    def _put(self, copy: Tensor, place: Place, weight: Tensor) -> None:
        if self._products is not None:
            self._products.write(copy, weight, place.start)
        else:
            copy[place.start : place.stop] = weight

    def _layer(self, index: int, layer: LayerWeights) -> LayerWeights:
        changed = {
            name: Linear(self._copies[index, name], layer.linear(name).bias)
            for name in LINEARS
            if (index, name) in self._copies
        }
        return replace(layer, **changed)


def apply_linear(x: Tensor, linear: Linear, key: tuple[int, str], rows: Sequence[RowUpdates]) -> Tensor:
    """``linear`` of ``x`` [T, in] plus the low-rank updates of its rows: [T, out]."""
    y = fast_linear(x, linear.weight, linear.bias)
    for each in rows:
        part = slice(each.start, each.stop)
        for update in each.updates.get(key, ()):
            change = (x[part].float() @ update.down.T) @ update.up.T
            y[part, update.place.start : update.place.stop] += change  # in float32, rounded once
    return y

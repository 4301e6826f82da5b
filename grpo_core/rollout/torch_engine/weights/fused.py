"""The weights of a ``transformers`` decoder, laid out for sampling: matrices with the same input are one matrix.

Legend: H query heads, K key heads, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from grpo_core.errors import ModelError
from grpo_core.model.policy import Policy

STATIC_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies that do not depend on the length


@dataclass(slots=True)
class Linear:
    """``y = x W^T + b``."""

    weight: Tensor  # [out, in]; packed for compiled code [out / 16, in, 16]
    bias: Tensor | None  # [out]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Fusing an adapter replaces whole linear maps."""

    attention_norm: Tensor
    qkv: Linear  # [(H + 2K) * D, hidden]
    query_norm: Tensor | None  # [D], Qwen3
    key_norm: Tensor | None
    output: Linear  # [hidden, H * D]
    mlp_norm: Tensor
    gate_up: Linear  # [2 * intermediate, hidden]
    down: Linear  # [hidden, intermediate]

    def linear(self, name: str) -> Linear:
        return {"qkv": self.qkv, "output": self.output, "gate_up": self.gate_up, "down": self.down}[name]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module's weight is: rows ``start:stop`` of the ``linear`` of ``layer``."""

    layer: int
    linear: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    """A whole decoder. ``places`` has every linear module by its name in the model, for adapters."""

    embedding: Tensor  # [V, hidden]
    layers: tuple[LayerWeights, ...]
    final_norm: Tensor
    head: Linear  # [V, hidden]
    inverse_frequencies: Tensor  # [D / 2], of the rotary embedding
    rotary_scaling: float
    epsilon: float
    num_heads: int
    num_key_heads: int
    head_size: int
    places: dict[str, Place]
    name: str  # of the decoder in the model
    head_name: str

    @property
    def is_tied(self) -> bool:
        """Whether the head's weight is the embedding."""
        return self.head.weight.data_ptr() == self.embedding.data_ptr()

    @property
    def is_packed(self) -> bool:
        """Whether the layers' linear maps have the layout that only compiled code reads."""
        return self.layers[0].qkv.weight.dim() == 3

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of every linear module, by its name in the model."""
        return {
            name: (place.stop - place.start, self.layers[place.layer].linear(place.linear).weight.shape[1])
            for name, place in self.places.items()
        }

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * len(self.layers) * self.num_key_heads * self.head_size * self.embedding.element_size()


def fuse_weights(policy: Policy) -> DecoderWeights:
    """The weights of ``policy``, a Qwen2, Qwen3 or Llama. Its modules become views of the fused tensors.

    Raises:
        ModelError: this decoder does not compute the model's positions or activations.
    """
    config: Any = policy.model.config
    rotary: Any = policy.decoder.rotary_emb
    if rotary.rope_type not in STATIC_ROPE:
        raise ModelError(
            f"model with rotary positions {rotary.rope_type!r}: the fast engine computes {', '.join(STATIC_ROPE)}; "
            "use the plain engine"
        )
    if config.hidden_act != "silu":
        raise ModelError(
            f"model with activation {config.hidden_act!r}: the fast engine computes 'silu'; use the plain engine"
        )
    reader = _Reader(policy)
    layers = tuple(_fuse_layer(reader, index) for index in range(policy.num_layers))
    return DecoderWeights(
        embedding=reader.tensor("embed_tokens.weight"),
        layers=layers,
        final_norm=reader.tensor("norm.weight"),
        head=reader.head(),
        inverse_frequencies=rotary.inv_freq.float(),
        rotary_scaling=float(rotary.attention_scaling),
        epsilon=config.rms_norm_eps,
        num_heads=config.num_attention_heads,
        num_key_heads=config.num_key_value_heads,
        head_size=len(layers[0].qkv.weight) // (config.num_attention_heads + 2 * config.num_key_value_heads),
        places=reader.places,
        name=reader.name_of(policy.decoder),
        head_name=reader.name_of(policy.head),
    )


def _fuse_layer(reader: _Reader, index: int) -> LayerWeights:
    layer = f"layers.{index}"
    attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
    return LayerWeights(
        attention_norm=reader.tensor(f"{layer}.input_layernorm.weight"),
        qkv=reader.fuse(index, "qkv", [f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj")]),
        query_norm=reader.optional(f"{attention}.q_norm.weight"),
        key_norm=reader.optional(f"{attention}.k_norm.weight"),
        output=reader.fuse(index, "output", [f"{attention}.o_proj"]),
        mlp_norm=reader.tensor(f"{layer}.post_attention_layernorm.weight"),
        gate_up=reader.fuse(index, "gate_up", [f"{mlp}.gate_proj", f"{mlp}.up_proj"]),
        down=reader.fuse(index, "down", [f"{mlp}.down_proj"]),
    )


class _Reader:
    """Reads the decoder of ``policy`` by parameter name, and records the ``Place`` of each linear module."""

    def __init__(self, policy: Policy) -> None:
        self._names = {module: name for name, module in policy.model.named_modules()}
        self._prefix = self._names[policy.decoder]
        self._linears = {
            name: module for name, module in policy.decoder.named_modules() if isinstance(module, nn.Linear)
        }
        for parameter in policy.model.parameters():
            # A loaded tensor may be memory-mapped: it would keep the whole checkpoint file in memory.
            parameter.data = parameter.data.clone()
        self._tensors = {name: parameter.data for name, parameter in policy.decoder.named_parameters()}
        assert isinstance(policy.head, nn.Linear)
        self._head = policy.head
        self.places: dict[str, Place] = {}

    def name_of(self, module: nn.Module) -> str:
        return self._names[module]

    def tensor(self, name: str) -> Tensor:
        return self._tensors[name]

    def optional(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def head(self) -> Linear:
        return Linear(self._head.weight.data, None if self._head.bias is None else self._head.bias.data)

    def fuse(self, layer: int, linear: str, names: Sequence[str]) -> Linear:
        """One linear map that computes what the modules of ``names`` do."""
        modules = [self._linears[name] for name in names]
        weight = torch.cat([module.weight.data for module in modules])
        biases = [module.bias.data for module in modules if module.bias is not None]
        start = 0
        for name, module in zip(names, modules, strict=True):
            stop = start + len(module.weight)
            module.weight.data = weight[start:stop]
            self.places[f"{self._prefix}.{name}"] = Place(layer, linear, start, stop)
            start = stop
        return Linear(weight, torch.cat(biases) if biases else None)

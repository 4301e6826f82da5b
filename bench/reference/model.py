"""A Qwen2 decoder with a LoRA adapter, written out (Qwen Team 2024, "Qwen2 Technical Report"; Hu et al. 2021, LoRA).

Legend: B rows, T tokens of a row, H query heads, K key heads, D head size, E hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Sizes:
    num_layers: int
    num_heads: int
    num_key_heads: int
    rope_theta: float
    norm_epsilon: float


@dataclass
class KeyValueCache:
    """The keys and values [B, K, T, D] of each layer so far."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], dim=2), torch.cat([old_values, values], dim=2)
        self.layers[layer] = keys, values
        return keys, values

    @property
    def num_tokens(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0


@dataclass(frozen=True)
class Model:
    """``weights`` by their names in the model's file, tied to the head; ``adapter`` by module, ``.lora_A.weight`` and
    ``.lora_B.weight``. Without ``adapter`` it is the base model."""

    sizes: Sizes
    weights: Mapping[str, Tensor]
    adapter: Mapping[str, Tensor]
    scaling: float

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., V] of hidden states [.., E]."""
        return hidden @ self.weights["model.embed_tokens.weight"].T

    def hidden(self, ids: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Hidden states [B, T, E] of ``ids`` [B, T], each of which sees those before it, and those in ``cache``."""
        first = cache.num_tokens if cache is not None else 0
        x = F.embedding(ids, self.weights["model.embed_tokens.weight"])
        for layer in range(self.sizes.num_layers):
            name = f"model.layers.{layer}"
            x = x + self._attention(f"{name}.self_attn", layer, self._norm(f"{name}.input_layernorm", x), first, cache)
            x = x + self._mlp(f"{name}.mlp", self._norm(f"{name}.post_attention_layernorm", x))
        return self._norm("model.norm", x)

    def _attention(self, name: str, layer: int, x: Tensor, first: int, cache: KeyValueCache | None) -> Tensor:
        queries = self._heads(f"{name}.q_proj", x, self.sizes.num_heads)
        keys = self._heads(f"{name}.k_proj", x, self.sizes.num_key_heads)
        values = self._heads(f"{name}.v_proj", x, self.sizes.num_key_heads)
        queries, keys = self._rotated(queries, first), self._rotated(keys, first)
        if cache is not None:
            keys, values = cache.extend(layer, keys, values)
        repeats = self.sizes.num_heads // self.sizes.num_key_heads
        keys, values = keys.repeat_interleave(repeats, dim=1), values.repeat_interleave(repeats, dim=1)
        scores = queries @ keys.transpose(2, 3) / queries.shape[-1] ** 0.5
        rows, columns = scores.shape[-2:]
        is_later = torch.ones(rows, columns, dtype=torch.bool, device=x.device).triu(1 + columns - rows)
        attended = scores.masked_fill(is_later, float("-inf")).softmax(dim=-1) @ values
        return self._linear(f"{name}.o_proj", attended.transpose(1, 2).flatten(2))

    def _heads(self, name: str, x: Tensor, num_heads: int) -> Tensor:
        return self._linear(name, x).unflatten(-1, (num_heads, -1)).transpose(1, 2)

    def _rotated(self, x: Tensor, first: int) -> Tensor:
        """Rotary positions of paired halves (Su et al. 2021), counted from ``first``."""
        half = x.shape[-1] // 2
        frequencies = self.sizes.rope_theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        positions = torch.arange(first, first + x.shape[2], device=x.device, dtype=torch.float32)
        angles = positions[:, None] * frequencies
        cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        left, right = x[..., :half], x[..., half:]
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        gates = F.silu(self._linear(f"{name}.gate_proj", x))
        return self._linear(f"{name}.down_proj", gates * self._linear(f"{name}.up_proj", x))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        squares = x.square().mean(dim=-1, keepdim=True)
        return self.weights[f"{name}.weight"] * x * (squares + self.sizes.norm_epsilon).rsqrt()

    def _linear(self, name: str, x: Tensor) -> Tensor:
        output = F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))
        if f"{name}.lora_A.weight" in self.adapter:
            low = x @ self.adapter[f"{name}.lora_A.weight"].T
            output = output + self.scaling * (low @ self.adapter[f"{name}.lora_B.weight"].T)
        return output

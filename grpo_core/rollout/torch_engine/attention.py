"""The two attention layouts of sampling: prompts as they are read, and one new token per sequence.

Legend: N groups, G sequences per group, B = N * G, P prompt tokens, S suffix tokens so far, H query heads, K key heads,
D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grpo_core.attention import causal_attention
from grpo_core.rollout.torch_engine.kv_cache import CohortCache, PromptCache


class PrefillPlan:
    """Causal attention over right-padded prompts, keeping their keys and values."""

    def __init__(self) -> None:
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        assert layer == len(self._keys)
        self._keys.append(keys)
        self._values.append(values)
        return causal_attention(queries, keys, values, scaling)

    def finish(self, lengths: Tensor) -> PromptCache:
        return PromptCache(lengths=lengths, keys=self._keys, values=self._values)


class DecodePlan:
    """One new token per sequence: a group's prompt is read once for all its sequences, the suffixes one by one."""

    def __init__(self, cache: CohortCache) -> None:
        self._cache = cache
        self.step = 0
        self.refresh()

    def refresh(self) -> None:
        """Follow the cache after ``keep_groups``."""
        size = self._cache.prefix_keys[0].shape[2]
        lengths = self._cache.prompt_lengths
        padding = torch.arange(size, device=lengths.device)[None] >= lengths[:, None]
        self._padding = padding[:, None, None, :] if bool(padding.any()) else None  # [N, 1, 1, P]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        cache = self._cache
        cache.suffix_keys[layer][:, :, self.step] = keys[:, :, 0]
        cache.suffix_values[layer][:, :, self.step] = values[:, :, 0]
        suffix_keys = cache.suffix_keys[layer][:, :, : self.step + 1]
        suffix_values = cache.suffix_values[layer][:, :, : self.step + 1]
        prefix_keys, prefix_values = cache.prefix_keys[layer], cache.prefix_values[layer]

        rows, heads, _, dim = queries.shape
        num, key_heads, prompt_size, _ = prefix_keys.shape
        asked = queries.reshape(rows, key_heads, heads // key_heads, dim) * scaling
        by_group = asked.reshape(num, -1, key_heads, heads // key_heads, dim).transpose(1, 2)
        by_group = by_group.reshape(num, key_heads, -1, dim)  # [N, K, G * H/K, D]
        to_prompt = by_group @ prefix_keys.transpose(-1, -2)
        if self._padding is not None:
            to_prompt = to_prompt.masked_fill(self._padding, float("-inf"))
        to_prompt = _by_sequence(to_prompt, cache.group_size, heads // key_heads)
        to_suffix = asked @ suffix_keys.transpose(-1, -2)  # [B, K, H/K, S]
        weights = torch.cat([to_prompt, to_suffix], dim=-1).softmax(dim=-1)

        on_prompt = weights[..., :prompt_size].reshape(num, -1, key_heads, heads // key_heads, prompt_size)
        on_prompt = on_prompt.transpose(1, 2).reshape(num, key_heads, -1, prompt_size)
        output = _by_sequence(on_prompt @ prefix_values, cache.group_size, heads // key_heads)
        output = output + weights[..., prompt_size:] @ suffix_values
        return output.reshape(rows, 1, heads, dim)


def _by_sequence(grouped: Tensor, group_size: int, heads_per_key: int) -> Tensor:
    """[N, K, G * H/K, x] -> [B, K, H/K, x]."""
    num, key_heads, _, width = grouped.shape
    split = grouped.reshape(num, key_heads, group_size, heads_per_key, width)
    return split.transpose(1, 2).reshape(num * group_size, key_heads, heads_per_key, width)

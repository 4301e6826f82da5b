"""Keys and values of one cohort: each prompt once, and a preallocated suffix per sequence.

Legend: N groups, G sequences per group, P prompt tokens (padded), R completion tokens, K key heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class CohortCache:
    """``prefix_keys[layer]`` is [N, K, P, D]; ``suffix_keys[layer]`` is [N * G, K, R, D]; values alike."""

    prompt_lengths: Tensor  # [N]
    group_size: int
    prefix_keys: list[Tensor]
    prefix_values: list[Tensor]
    suffix_keys: list[Tensor]
    suffix_values: list[Tensor]

    @classmethod
    def allocate(cls, prompts: list[PromptCache], group_size: int, max_completion_tokens: int) -> CohortCache:
        """The cache of a cohort whose prompts were prefilled one batch after another."""
        num_layers = len(prompts[0].keys)
        size = max(prompt.keys[0].shape[2] for prompt in prompts)
        prefix_keys = [_stack([prompt.keys[layer] for prompt in prompts], size) for layer in range(num_layers)]
        prefix_values = [_stack([prompt.values[layer] for prompt in prompts], size) for layer in range(num_layers)]
        num, heads, _, dim = prefix_keys[0].shape
        shape = (num * group_size, heads, max_completion_tokens, dim)
        return cls(
            prompt_lengths=torch.cat([prompt.lengths for prompt in prompts]),
            group_size=group_size,
            prefix_keys=prefix_keys,
            prefix_values=prefix_values,
            suffix_keys=[prefix_keys[0].new_zeros(shape) for _ in range(num_layers)],
            suffix_values=[prefix_keys[0].new_zeros(shape) for _ in range(num_layers)],
        )

    def keep_groups(self, groups: Tensor) -> None:
        """Drop all but ``groups`` [n] (indices, in order)."""
        size = self.group_size
        rows = (groups[:, None] * size + torch.arange(size, device=groups.device)).flatten()
        self.prompt_lengths = self.prompt_lengths[groups]
        for layer in range(len(self.prefix_keys)):
            self.prefix_keys[layer] = self.prefix_keys[layer][groups]
            self.prefix_values[layer] = self.prefix_values[layer][groups]
            self.suffix_keys[layer] = self.suffix_keys[layer][rows]
            self.suffix_values[layer] = self.suffix_values[layer][rows]


@dataclass(frozen=True, slots=True)
class PromptCache:
    """Keys and values of prefilled prompts, right-padded: [n, K, P, D] per layer."""

    lengths: Tensor  # [n]
    keys: list[Tensor]
    values: list[Tensor]


def _stack(parts: list[Tensor], size: int) -> Tensor:
    padded = [torch.nn.functional.pad(part, (0, 0, 0, size - part.shape[2])) for part in parts]
    return torch.cat(padded)

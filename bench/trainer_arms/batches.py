"""Training batches: groups of random tokens, with the policy's log-probabilities of them.

Legend: N groups, G completions of each, P prompt tokens, R completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from grpo_core.types import Float32
from pytest_grpo.systems.protocol import Completion, TrainBatch, TrainGroup


@dataclass(frozen=True, slots=True)
class BatchShape:
    num_groups: int
    group_size: int
    num_prompt_tokens: int
    num_tokens: int  # of each completion

    @property
    def num_padded_tokens(self) -> int:
        """N G (P + R): one padded row per completion."""
        return self.num_groups * self.group_size * (self.num_prompt_tokens + self.num_tokens)

    @property
    def num_needed_tokens(self) -> int:
        """N (P + G R): each prompt once."""
        return self.num_groups * (self.num_prompt_tokens + self.group_size * self.num_tokens)


def random_batch(rng: np.random.Generator, shape: BatchShape, vocab_size: int) -> TrainBatch:
    """Each prompt has a different first token; rewards differ within a group."""
    firsts = rng.choice(vocab_size, shape.num_groups, replace=False)
    groups = []
    for first in firsts:
        prompt = rng.integers(0, vocab_size, shape.num_prompt_tokens, dtype=np.int32)
        prompt[0] = first
        completions = tuple(_completion(rng, shape.num_tokens, vocab_size) for _ in range(shape.group_size))
        groups.append(TrainGroup(prompt, completions, tuple(rng.permutation(shape.group_size).astype(float).tolist())))
    return TrainBatch(tuple(groups))


def _completion(rng: np.random.Generator, num_tokens: int, vocab_size: int) -> Completion:
    return Completion(
        completion_ids=rng.integers(0, vocab_size, num_tokens, dtype=np.int32),
        completion_mask=np.ones(num_tokens, dtype=np.bool_),
        sampling_logprobs=np.zeros(num_tokens, dtype=np.float32),
    )


def on_policy(batch: TrainBatch, logprobs: tuple[Float32, ...]) -> TrainBatch:
    """``batch`` with these log-probabilities as those of its sampler."""
    values = iter(logprobs)
    return TrainBatch(
        tuple(
            replace(group, completions=tuple(replace(one, sampling_logprobs=next(values)) for one in group.completions))
            for group in batch.groups
        )
    )

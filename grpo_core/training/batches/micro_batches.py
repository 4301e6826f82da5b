"""One process's share of a step: whole groups, in micro-batches, and idle passes while others have more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from grpo_core.config import TrainingConfig
from grpo_core.model.policy import Policy
from grpo_core.training.distributed.ranks import Ranks
from grpo_core.training.forward.packing import (
    PackedBatch,
    build_packed_batch,
    pack_completions,
    score_chosen,
    split_packs,
    usable_packing,
)
from grpo_core.training.objective.selected_groups import SelectedGroups
from grpo_core.types import Completion

_IDLE = Completion(
    prompt_ids=np.zeros(1, dtype=np.int32),
    completion_ids=np.zeros(1, dtype=np.int32),
    completion_mask=np.ones(1, dtype=np.bool_),
    sampling_logprobs=np.zeros(1, dtype=np.float32),
    policy_version=0,
    temperature=1.0,
    finish_reason="length",
)


def own_sequences(part: SelectedGroups, ranks: Ranks) -> list[int]:
    """Indices of ``part``'s completions that this process trains on. A group is never split."""
    turns = [[turn for trajectory in group.trajectories for turn in trajectory.turns] for group in part.groups]
    own = set(ranks.share([sum(turn.num_tokens for turn in group) for group in turns]))
    bounds = np.concatenate([[0], np.cumsum([len(group) for group in turns])])
    return [index for group in sorted(own) for index in range(bounds[group], bounds[group + 1])]


def own_micro_batches(
    policy: Policy, completions: Sequence[Completion], own: Sequence[int], config: TrainingConfig, ranks: Ranks
) -> Iterator[PackedBatch]:
    """The micro-batches of the ``completions`` at the indices ``own``. Completions without a chosen token are left out.

    With sharded base weights every pass needs the shards of all processes. So a process with fewer micro-batches than
    others appends idle passes; their number is agreed before the first micro-batch.
    """
    packing = usable_packing(policy.decoder, config.packing)
    packs = pack_completions([completions[index] for index in own], packing)
    micro_batches = split_packs(packs, config.micro_batch_tokens, packing)
    num_idle = 0
    if config.shard_base_weights:
        num_idle = round(float(-ranks.lowest(np.array([-float(len(micro_batches))]))[0])) - len(micro_batches)
    for micro_batch in micro_batches:
        chosen = [replace(pack, members=tuple(own[member] for member in pack.members)) for pack in micro_batch]
        yield build_packed_batch(chosen, completions, packing, policy.device)
    for _ in range(num_idle):
        _idle_pass(policy)


def _idle_pass(policy: Policy) -> None:
    """A forward pass over one token that changes nothing; with a backward pass unless gradients are off."""
    batch = build_packed_batch(pack_completions([_IDLE], "padded"), [_IDLE], "padded", policy.device)
    nothing = score_chosen(policy.decoder, policy.head, batch).logprobs.sum() * 0.0
    if torch.is_grad_enabled():
        nothing.backward()

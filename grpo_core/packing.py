"""Shared-prefix packing: ``[P | R1 | R2 ... RG]``, a prompt once and its G completions behind it.

Each completion attends to the prompt and to itself, never to a sibling, so the log-probabilities are those of G
separate sequences, for P + G*R tokens of work instead of G*(P + R). Rollouts use it to score finished groups with the
base model, training for its one forward pass.

Legend: N packs, G completions per pack, P prompt tokens (padded), R completion tokens (padded), T = P + G*R,
H query heads, K key heads, D head size, C chosen tokens (those with a loss), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grpo_core.attention import causal_attention, forward_hidden
from grpo_core.types import Bool, Completion, Int32

HEAD_CHUNK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Pack:
    """Completions of one prompt. ``members`` index the list that was packed."""

    prompt_ids: Int32
    members: tuple[int, ...]
    max_completion_tokens: int

    @property
    def num_model_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.members) * self.max_completion_tokens


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward pass: N packs of equal G, padded to common P and R, and where the chosen tokens are."""

    input_ids: Tensor  # [N, T] int64
    position_ids: Tensor  # [N, T] int64
    prompt_lengths: Tensor  # [N] int64
    prompt_size: int  # P
    num_completions: int  # G
    completion_size: int  # R
    predictors: Tensor  # [C] int64, index into N*T of the hidden state that predicts the chosen token
    targets: Tensor  # [C] int64, the chosen token
    temperatures: Tensor  # [C] float32
    support: Tensor | None  # [C, V] bool, the ids that the sampler could choose; None for the whole vocabulary
    members: Tensor  # [C] int64, which of the packed completions the token is of
    order: tuple[int, ...]  # the packed completions in the order of their tokens in C


def pack_completions(completions: Sequence[Completion], *, share_prompts: bool) -> list[Pack]:
    """Group ``completions`` by equal prompts; without ``share_prompts``, one pack each (the plain, padded path)."""
    by_prompt: dict[object, list[int]] = {}
    for index, completion in enumerate(completions):
        key = completion.prompt_ids.tobytes() if share_prompts else index
        by_prompt.setdefault(key, []).append(index)
    return [
        Pack(
            prompt_ids=completions[members[0]].prompt_ids,
            members=tuple(members),
            max_completion_tokens=max(len(completions[index].completion_ids) for index in members),
        )
        for members in by_prompt.values()
    ]


def split_packs(packs: Sequence[Pack], max_tokens: int) -> list[list[Pack]]:
    """Micro-batches of packs with equal G and similar length, each of at most ``max_tokens`` padded tokens.

    A pack is never split: one that is larger than the budget is a micro-batch of its own.
    """
    ordered = sorted(packs, key=lambda pack: (len(pack.members), len(pack.prompt_ids), pack.max_completion_tokens))
    batches: list[list[Pack]] = []
    for pack in ordered:
        if batches and len(batches[-1][0].members) == len(pack.members):
            candidate = [*batches[-1], pack]
            if padded_tokens(candidate) <= max_tokens:
                batches[-1] = candidate
                continue
        batches.append([pack])
    return batches


def padded_tokens(packs: Sequence[Pack]) -> int:
    """N * (P + G*R) of ``packs`` in one forward pass."""
    prompt_size = max(len(pack.prompt_ids) for pack in packs)
    completion_size = max(pack.max_completion_tokens for pack in packs)
    return len(packs) * (prompt_size + len(packs[0].members) * completion_size)


def build_packed_batch(
    packs: Sequence[Pack], completions: Sequence[Completion], vocab_size: int, device: torch.device
) -> PackedBatch:
    """Lay ``packs``, all of the same G, out for one forward pass."""
    num, size = len(packs), len(packs[0].members)
    assert all(len(pack.members) == size for pack in packs)
    prompt_size = max(len(pack.prompt_ids) for pack in packs)
    completion_size = max(pack.max_completion_tokens for pack in packs)
    total = prompt_size + size * completion_size
    input_ids = np.zeros((num, total), dtype=np.int64)
    position_ids = np.zeros((num, total), dtype=np.int64)
    predictors: list[NDArray[np.int64]] = []
    order = [member for pack in packs for member in pack.members]
    for row, pack in enumerate(packs):
        prompt = len(pack.prompt_ids)
        input_ids[row, :prompt] = pack.prompt_ids
        position_ids[row, :prompt_size] = np.arange(prompt_size)
        for slot, member in enumerate(pack.members):
            completion = completions[member]
            start = prompt_size + slot * completion_size
            input_ids[row, start : start + len(completion.completion_ids)] = completion.completion_ids
            position_ids[row, start : start + completion_size] = prompt + np.arange(completion_size)
            positions = np.flatnonzero(completion.completion_mask)
            # The hidden state before a token predicts it; the prompt's last one predicts the first.
            predictors.append(row * total + np.where(positions == 0, prompt - 1, start + positions - 1))

    packed = [completions[member] for member in order]
    masks = [completion.completion_mask for completion in packed]
    num_chosen = [int(mask.sum()) for mask in masks]
    targets = chosen_values((completion.completion_ids for completion in packed), masks)
    temperatures = np.repeat(np.array([completion.temperature for completion in packed], dtype=np.float32), num_chosen)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return PackedBatch(
        input_ids=tensor(input_ids),
        position_ids=tensor(position_ids),
        prompt_lengths=tensor(np.array([len(pack.prompt_ids) for pack in packs], dtype=np.int64)),
        prompt_size=prompt_size,
        num_completions=size,
        completion_size=completion_size,
        predictors=tensor(np.concatenate(predictors).astype(np.int64)),
        targets=tensor(targets.astype(np.int64)),
        temperatures=tensor(temperatures),
        support=_support(packed, vocab_size, device),
        members=tensor(np.repeat(np.array(order, dtype=np.int64), num_chosen)),
        order=tuple(order),
    )


def chosen_values(arrays: Iterable[NDArray[Any]], masks: Iterable[Bool]) -> NDArray[Any]:
    """Per-token ``arrays`` of several completions at their chosen positions, end to end: [C]."""
    return np.concatenate([array[mask] for array, mask in zip(arrays, masks, strict=True)])


def _support(packed: Sequence[Completion], vocab_size: int, device: torch.device) -> Tensor | None:
    if all(completion.allowed_ids is None for completion in packed):
        return None
    rows: list[Bool] = []
    for completion in packed:
        positions = np.flatnonzero(completion.completion_mask)
        mask = np.full((len(positions), vocab_size), completion.allowed_ids is None, dtype=np.bool_)
        if completion.allowed_ids is not None:
            for row, position in enumerate(positions):
                mask[row, completion.allowed_ids[int(position)]] = True
        rows.append(mask)
    return torch.from_numpy(np.concatenate(rows)).to(device)


class PackedPlan:
    """Attention of a ``PackedBatch``: prompts causal, completions over their prompt and themselves."""

    def __init__(self, batch: PackedBatch) -> None:
        device = batch.input_ids.device
        self._shape = (batch.prompt_size, batch.num_completions, batch.completion_size)
        columns = torch.arange(batch.prompt_size, device=device)
        padding = columns[None] >= batch.prompt_lengths[:, None]
        self._padding = padding[:, None, None, None, :] if bool(padding.any()) else None  # [N, 1, 1, 1, P]
        self._future = torch.ones(batch.completion_size, batch.completion_size, dtype=torch.bool, device=device).triu(
            1
        )  # [R, R]

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        size, num, length = self._shape
        prompt = causal_attention(queries[:, :, :size], keys[:, :, :size], values[:, :, :size], scaling)
        rows, heads, _, dim = queries.shape
        key_heads = keys.shape[1]
        shape = (rows, key_heads, heads // key_heads, num, length, dim)
        asked = queries[:, :, size:].reshape(shape) * scaling  # [N, K, H/K, G, R, D]
        own_keys = keys[:, :, size:].reshape(rows, key_heads, 1, num, length, dim)
        own_values = values[:, :, size:].reshape(rows, key_heads, 1, num, length, dim)
        flat = asked.reshape(rows, key_heads, -1, dim)
        to_prompt = (flat @ keys[:, :, :size].transpose(-1, -2)).reshape(rows, key_heads, -1, num * length, size)
        if self._padding is not None:
            to_prompt = to_prompt.masked_fill(self._padding, float("-inf"))
        to_prompt = to_prompt.reshape(*shape[:-1], size)
        to_self = (asked @ own_keys.transpose(-1, -2)).masked_fill(self._future, float("-inf"))
        weights = torch.cat([to_prompt, to_self], dim=-1).softmax(dim=-1)
        from_prompt = weights[..., :size].reshape(rows, key_heads, -1, size) @ values[:, :, :size]
        output = from_prompt.reshape(shape) + weights[..., size:] @ own_values
        completion = output.reshape(rows, heads, num * length, dim).transpose(1, 2)
        return torch.cat([prompt, completion], dim=1)


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probability and entropy, in nats, of the distribution that each chosen token was drawn from. [C] each."""

    logprobs: Tensor
    entropy: Tensor


def score_chosen(
    decoder: nn.Module, head: nn.Module, batch: PackedBatch, *, entropy_gradient: bool = False
) -> TokenScores:
    """Scores of the chosen tokens under ``decoder`` and ``head``, in one forward pass.

    The distribution is the one that was sampled from: logits over temperature, renormalised over the support.
    """
    hidden = forward_hidden(decoder, batch.input_ids, batch.position_ids, PackedPlan(batch))
    states = hidden.flatten(0, 1)[batch.predictors]
    logprobs: list[Tensor] = []
    entropies: list[Tensor] = []
    for start in range(0, max(len(states), 1), HEAD_CHUNK_TOKENS):
        part = slice(start, start + HEAD_CHUNK_TOKENS)
        logits = head(states[part])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / batch.temperatures[part, None]
        if batch.support is not None:
            logits = logits.masked_fill(~batch.support[part], torch.finfo(logits.dtype).min)
        distribution = logits.log_softmax(dim=-1)
        logprobs.append(distribution.gather(-1, batch.targets[part, None])[:, 0])
        kept = distribution if entropy_gradient else distribution.detach()
        entropies.append(-(kept.exp() * kept).sum(dim=-1))
    return TokenScores(logprobs=torch.cat(logprobs), entropy=torch.cat(entropies))

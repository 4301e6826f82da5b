"""Lay completions out for one forward pass, so that each token is computed once.

``shared_prefix`` lays them out as a prefix tree: the prompt once, its completions after it, a later turn after the
earlier ones (see ``prefix_tree``). The log-probabilities equal those of separate sequences, for P + G*R tokens of work
instead of G*(P + R). ``packed`` lays them end to end and shares nothing; ``padded`` is one row per completion.

Legend: B rows, T tokens of a row, P prompt tokens, G completions of a prompt, R completion tokens, C chosen tokens
(those with a loss), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig

from grpo_core.errors import ModelError
from grpo_core.model.attention import exact_packing, forward_hidden, takes_plan
from grpo_core.training.forward.head.chosen import ChosenTokens, Support, TokenScores
from grpo_core.training.forward.head.scores import TimeGradient, score_tokens
from grpo_core.training.forward.prefix_tree import PrefixTree, build_rows, build_tree, related
from grpo_core.training.forward.tree_attention import TreePlan
from grpo_core.types import Bool, Completion, Int32, PackedIds, Packing, RaggedIds

PACKINGS: tuple[Packing, ...] = ("shared_prefix", "packed", "padded")  # each falls back to the next
_LOGIT_SETTINGS = (
    "final_logit_softcapping",
    "logits_soft_cap",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
)


@dataclass(frozen=True, slots=True)
class Pack:
    """Completions that share tokens. ``members`` index the list that was packed."""

    members: tuple[int, ...]
    num_model_tokens: int  # tokens that go through the model


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward pass, and where in it the chosen tokens are predicted."""

    tree: PrefixTree | None  # of the one row; None: a row per completion, padded on the right
    input_ids: Tensor  # [B, T] int64
    position_ids: Tensor | None  # [B, T] int64; None: every row counts from 0
    predictors: Tensor  # [C] int64, index into B*T of the hidden state that predicts each chosen token
    targets: Tensor  # [C] int64, the chosen token
    temperatures: Tensor  # [C] float32
    support: Support | None  # the ids that the sampler could choose from; None: always the whole vocabulary
    members: Tensor  # [C] int64, the index of each token's completion
    order: tuple[int, ...]  # indices of the packed completions, in the order of their tokens in C


def usable_packing(decoder: nn.Module, wanted: Packing) -> Packing:
    """``wanted``, or the next layout of the fallback order that is exact for the model of ``decoder``.

    Raises:
        ModelError: it changes its logits after the head, e.g. by soft-capping.
    """
    config = decoder.config
    assert isinstance(config, PreTrainedConfig)
    if changed := [name for name in _LOGIT_SETTINGS if config.to_dict().get(name) not in (None, 1, 1.0)]:
        raise ModelError(
            f"model of architecture {config.model_type!r}: {changed[0]} changes its logits, which training does not "
            "follow; use a model without it"
        )
    return PACKINGS[max(PACKINGS.index(wanted), PACKINGS.index(exact_packing(config)))]


def pack_completions(completions: Sequence[Completion], packing: Packing) -> list[Pack]:
    """Group ``completions`` that share tokens in ``shared_prefix``; in other layouts each is a pack of its own.

    Completions without a chosen token are left out: there is nothing to compute for them.
    """
    chosen = [index for index, completion in enumerate(completions) if completion.completion_mask.any()]
    sequences = [_needed_ids(completions[index], packing) for index in chosen]
    if packing != "shared_prefix":
        return [Pack((index,), len(ids)) for index, ids in zip(chosen, sequences, strict=True)]
    return [Pack(tuple(chosen[place] for place in places), num_tokens) for places, num_tokens in related(sequences)]


def split_packs(packs: Sequence[Pack], max_tokens: int, packing: Packing) -> list[list[Pack]]:
    """Micro-batches of at most ``max_tokens`` tokens, padding included, by first-fit decreasing.

    A pack is never split: one that exceeds the budget is a micro-batch of its own.
    """
    batches: list[list[Pack]] = []
    for pack in sorted(packs, key=lambda pack: -pack.num_model_tokens):
        for batch in batches:
            if batch_tokens([*batch, pack], packing) <= max_tokens:
                batch.append(pack)
                break
        else:
            batches.append([pack])
    return batches


def batch_tokens(packs: Sequence[Pack], packing: Packing) -> int:
    """B * T of one forward pass over ``packs``."""
    sizes = [pack.num_model_tokens for pack in packs]
    return len(sizes) * max(sizes) if packing == "padded" else sum(sizes)


def build_packed_batch(
    packs: Sequence[Pack], completions: Sequence[Completion], packing: Packing, device: torch.device
) -> PackedBatch:
    """Lay ``packs`` out for one forward pass."""
    order = [member for pack in packs for member in pack.members]
    packed = [completions[member] for member in order]
    sequences = [_needed_ids(completion, packing) for completion in packed]
    tree: PrefixTree | None = None
    if packing == "padded":
        width = max(map(len, sequences))
        input_ids = np.zeros((len(sequences), width), dtype=np.int64)
        for row, ids in enumerate(sequences):
            input_ids[row, : len(ids)] = ids
        places = [np.arange(row * width, row * width + len(ids)) for row, ids in enumerate(sequences)]
    else:
        tree = build_tree(sequences) if packing == "shared_prefix" else build_rows(sequences)
        input_ids = tree.token_ids[None].astype(np.int64)
        places = [tree.places(index) for index in range(len(sequences))]

    masks = [completion.completion_mask for completion in packed]
    num_chosen = [int(mask.sum()) for mask in masks]
    # The hidden state of the token before predicts a token; the prompt's last token predicts the first one.
    predictors = [
        place[len(completion.prompt_ids) - 1 + np.flatnonzero(completion.completion_mask)]
        for place, completion in zip(places, packed, strict=True)
    ]
    targets = chosen_values((completion.completion_ids for completion in packed), masks)
    temperatures = np.repeat(np.array([completion.temperature for completion in packed], dtype=np.float32), num_chosen)

    def tensor(values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(device)

    return PackedBatch(
        tree=tree,
        input_ids=tensor(input_ids),
        position_ids=tensor(tree.positions[None]) if tree is not None else None,
        predictors=tensor(np.concatenate(predictors).astype(np.int64)),
        targets=tensor(targets.astype(np.int64)),
        temperatures=tensor(temperatures),
        support=_support(packed, device),
        members=tensor(np.repeat(np.array(order, dtype=np.int64), num_chosen)),
        order=tuple(order),
    )


def _needed_ids(completion: Completion, packing: Packing) -> Int32:
    """The ids up to the one that predicts the last chosen token; all ids in ``padded``."""
    if packing == "padded":
        return np.concatenate([completion.prompt_ids, completion.completion_ids])
    last = int(np.flatnonzero(completion.completion_mask)[-1])
    return np.concatenate([completion.prompt_ids, completion.completion_ids[:last]])


def chosen_values(arrays: Iterable[NDArray[Any]], masks: Iterable[Bool]) -> NDArray[Any]:
    """Per-token ``arrays`` of several completions at their chosen positions, end to end: [C]."""
    return np.concatenate([array[mask] for array, mask in zip(arrays, masks, strict=True)])


def _support(packed: Sequence[Completion], device: torch.device) -> Support | None:
    """The ids that each chosen token could be drawn from. None if none was constrained."""
    tokens: list[NDArray[np.int64]] = []
    sets: list[PackedIds] = []
    first = 0
    for completion in packed:
        positions = np.flatnonzero(completion.completion_mask)
        if completion.allowed_ids is not None:
            tokens.append(np.arange(first, first + len(positions)))
            sets.extend(completion.allowed_ids.packed(int(position)) for position in positions)
        first += len(positions)
    if not tokens:
        return None
    return Support(torch.from_numpy(np.concatenate(tokens).astype(np.int64)).to(device), RaggedIds.of(sets))


def score_chosen(
    decoder: nn.Module,
    head: nn.Module,
    batch: PackedBatch,
    *,
    entropy_gradient: bool = False,
    time_gradient: TimeGradient = nullcontext,
) -> TokenScores:
    """Scores of the chosen tokens under ``decoder`` and ``head``, in one forward pass. The options are those of
    ``score_tokens``.

    The distribution is the sampler's: logits over temperature, renormalised over the support.
    """
    needed, places = torch.unique(batch.predictors, return_inverse=True)
    plan = None
    if batch.tree is not None and takes_plan(decoder):
        plan = TreePlan(batch.tree, batch.input_ids.device, needed.cpu().numpy())
    hidden = forward_hidden(decoder, batch.input_ids, batch.position_ids, plan).flatten(0, 1)
    is_narrowed = len(hidden) == len(needed) < batch.input_ids.numel()  # the last layer computed no other rows
    states = hidden[places if is_narrowed else batch.predictors]
    chosen = ChosenTokens(batch.targets, batch.temperatures, batch.support)
    return score_tokens(states, head, chosen, entropy_gradient=entropy_gradient, time_gradient=time_gradient)

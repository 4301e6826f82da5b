"""The next tokens of every sequence: sampled where there is a choice, appended where a constraint forces them.

Legend: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from grpo_core.errors import GrpoError, SamplingError
from grpo_core.rollout.sampling import Draw, draw_tokens
from grpo_core.rollout.sequence import SequenceState, own_error
from grpo_core.rollout.torch_engine.capacity import out_of_memory
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights
from grpo_core.types import Int32

NARROW_HEAD = 4  # the head computes only the allowed ids when they are fewer than V over this


def sample_tokens(
    passes: Passes, weights: DecoderWeights, sequences: Sequence[SequenceState], hidden: Tensor, *, jump_forward: bool
) -> dict[SequenceState, GrpoError]:
    """Append to each sequence its next token after ``hidden`` [B, hidden], and the forced run that follows.

    The head runs only for sequences with a choice. Returns the error of each sequence that has no next token.
    """
    choosing: list[int] = []
    allowed: list[Sequence[int] | Int32 | None] = []
    errors: dict[SequenceState, GrpoError] = {}
    for index, sequence in enumerate(sequences):
        try:
            sequence.take_forced(whole_run=jump_forward)
            if sequence.pending:
                continue
            ids = sequence.cursor.allowed() if sequence.cursor is not None else None
        except Exception as error:  # whatever it is: the other sequences go on
            errors[sequence] = own_error(error, "its constraint")
            continue
        choosing.append(index)
        allowed.append(ids)
    if not choosing:
        return errors
    states = hidden if len(choosing) == len(hidden) else hidden[torch.tensor(choosing, device=hidden.device)]
    chosen = [sequences[index] for index in choosing]
    try:
        draws = _draw_for_sequences(passes, weights, chosen, states, allowed)
    except torch.OutOfMemoryError as cause:
        return errors | {sequence: out_of_memory(sequence, "drawing a token", cause) for sequence in chosen}
    for sequence, draw in zip(chosen, draws, strict=True):
        if isinstance(draw, SamplingError):
            errors[sequence] = draw
            continue
        try:
            sequence.take(draw)
            if jump_forward:
                sequence.take_forced(whole_run=True)
        except Exception as error:  # as above
            errors[sequence] = own_error(error, "taking a token")
    return errors


def _draw_for_sequences(
    passes: Passes,
    weights: DecoderWeights,
    sequences: Sequence[SequenceState],
    states: Tensor,
    allowed: Sequence[Sequence[int] | Int32 | None],
) -> list[Draw | SamplingError]:
    params, uniforms = (
        [sequence.request.sampling for sequence in sequences],
        [sequence.uniform for sequence in sequences],
    )
    bound = [np.asarray(ids) for ids in allowed if ids is not None]
    num_all = len(weights.head.weight)
    if len(bound) == len(sequences) and max(map(len, bound)) * NARROW_HEAD < num_all:
        union = np.unique(np.concatenate(bound))
        if len(union) * NARROW_HEAD < num_all:
            logits = passes.over_head(weights, states, torch.from_numpy(union.astype(np.int64)).to(states.device))
            columns = [np.searchsorted(union, ids) for ids in bound]
            draws = draw_tokens(logits, params, uniforms, columns, passes.compiled_draw)
            return [_of_union(draw, union) for draw in draws]
    return draw_tokens(passes.over_head(weights, states), params, uniforms, allowed, passes.compiled_draw)


def _of_union(draw: Draw | SamplingError, ids: np.ndarray) -> Draw | SamplingError:
    if isinstance(draw, SamplingError):
        return draw
    assert draw.support is not None
    return replace(draw, token=int(ids[draw.token]), support=ids[draw.support].astype(np.int32))

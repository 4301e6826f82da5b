"""Draw one token per row, and say exactly which distribution it was drawn from.

Legend: B rows, V vocabulary, C candidates (the vocabulary, or the ids that a constraint allows).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from grpo_core.errors import SamplingError
from grpo_core.rollout.protocol import SamplingParams
from grpo_core.types import MAX_TEMPERATURE, MIN_TEMPERATURE, Int32

BLOCK_COLUMNS = 64
WIDE_SHARE = 4  # rows that allow more than V over this are no measure for the padding of the others
ROW_BY_ROW = 4096  # candidates from which on one index for each row is cheaper than one for all of them


CompiledDraw = Callable[[Tensor, Sequence[float], Sequence[float]], tuple[list[int], list[float]]]
"""Draws from rows of logits at their temperatures and uniforms: columns, and their probabilities.

``torch_engine/draws.py`` has one, ``NativeDraws``."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's token, its log-probability (nats) in the distribution that it was drawn from, and its support.

    ``support`` holds the ids that could have been drawn, in ascending order; None for the whole vocabulary.
    """

    token: int
    logprob: float
    support: Int32 | None


def check_sampling(params: SamplingParams) -> None:
    """
    Raises:
        SamplingError: a parameter is out of its range.
    """
    if not MIN_TEMPERATURE <= params.temperature <= MAX_TEMPERATURE:
        raise SamplingError(
            f"temperature {params.temperature}: allowed is {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}; for greedy "
            "decoding use top_k=1"
        )
    if not 0 < params.top_p <= 1:
        raise SamplingError(f"top_p {params.top_p}: allowed is above 0 and at most 1; use 1 for no limit")
    if params.top_k < 0:
        raise SamplingError(f"top_k {params.top_k}: allowed are whole numbers from 0; use 0 for no limit")
    if not 0 <= params.min_p < 1:
        raise SamplingError(f"min_p {params.min_p}: allowed is from 0 and below 1; use 0 for no limit")
    if params.seed < 0:
        raise SamplingError(f"seed {params.seed}: allowed are whole numbers from 0")


def draw_tokens(
    logits: Tensor,
    params: Sequence[SamplingParams],
    uniforms: Sequence[float],
    allowed: Sequence[Sequence[int] | NDArray[np.integer] | None],
    compiled_draw: CompiledDraw | None = None,
) -> list[Draw | SamplingError]:
    """Sample every row of ``logits`` [B, V] by the inverse of its cumulative distribution at its ``uniform``.

    One uniform per row, so that a row's token depends on nothing else in the batch: on a CPU equal logits give the same
    bits whatever the other rows are. A row with non-finite logits gives the error in its place. ``compiled_draw``
    does the same faster, with the same bits, for rows that keep all their candidates.
    """
    results: list[Draw | SamplingError | None] = [None] * len(params)
    free = [row for row, ids in enumerate(allowed) if ids is None]
    bound = [(row, _ascending(ids)) for row, ids in enumerate(allowed) if ids is not None]
    if free:
        chosen = logits if len(free) == len(params) else logits[torch.tensor(free, device=logits.device)]
        draws = _draw(chosen.float(), [params[row] for row in free], [uniforms[row] for row in free], compiled_draw)
        for row, draw in zip(free, draws, strict=True):
            results[row] = draw
    for is_wide in (False, True):
        group = [(row, ids) for row, ids in bound if (len(ids) * WIDE_SHARE >= logits.shape[-1]) == is_wide]
        if group:
            candidates = _candidate_logits(logits, group)
            rows = [row for row, _ in group]
            draws = _draw(candidates, [params[row] for row in rows], [uniforms[row] for row in rows], compiled_draw)
            for (row, ids), draw in zip(group, draws, strict=True):
                results[row] = _of_ids(draw, ids) if isinstance(draw, Draw) else draw
    return [result for result in results if result is not None]


def _ascending(ids: Sequence[int] | NDArray[np.integer]) -> Int32:
    array = np.asarray(ids, dtype=np.int32)
    return array if (array[1:] > array[:-1]).all() else np.sort(array)


def _candidate_logits(logits: Tensor, bound: Sequence[tuple[int, Int32]]) -> Tensor:
    """The logits of every row's ids [B, C], padded with -inf to whole blocks: all rows sum in the same order."""
    size = max(len(ids) for _, ids in bound)
    size += -size % BLOCK_COLUMNS
    return (_gather_row_by_row if size >= ROW_BY_ROW else _gather_at_once)(logits, bound, size)


def _gather_row_by_row(logits: Tensor, bound: Sequence[tuple[int, Int32]], size: int) -> Tensor:
    device = logits.device
    values = torch.empty((len(bound), size), device=device)
    for index, (row, ids) in enumerate(bound):
        values[index, len(ids) :] = float("-inf")
        torch.index_select(logits[row].float(), 0, torch.tensor(ids, device=device), out=values[index, : len(ids)])
    return values


def _gather_at_once(logits: Tensor, bound: Sequence[tuple[int, Int32]], size: int) -> Tensor:
    columns = np.zeros((len(bound), size), dtype=np.int64)
    padding = np.ones((len(bound), size), dtype=np.bool_)
    for index, (_, ids) in enumerate(bound):
        columns[index, : len(ids)] = ids
        padding[index, : len(ids)] = False
    device = logits.device
    rows = torch.tensor([row for row, _ in bound], device=device)
    values = logits[rows[:, None], torch.from_numpy(columns).to(device)].float()
    return values.masked_fill(torch.from_numpy(padding).to(device), float("-inf"))


def _of_ids(draw: Draw, ids: Int32) -> Draw:
    return Draw(int(ids[draw.token]), draw.logprob, ids if draw.support is None else ids[draw.support])


def _draw(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], compiled_draw: CompiledDraw | None
) -> list[Draw | SamplingError]:
    """Draw from ``logits`` [B, C] float32; tokens and supports are columns."""
    narrow = [row for row, each in enumerate(params) if each.top_p < 1 or each.top_k or each.min_p > 0]
    if compiled_draw is None:
        return _draw_in_torch(logits, params, uniforms, narrow)
    whole = sorted(set(range(len(params))) - set(narrow))  # never with the others: the last bits would tell
    draws: dict[int, Draw | SamplingError] = {}
    if whole:
        chosen = logits if not narrow else logits[torch.tensor(whole, device=logits.device)]
        drawn = compiled_draw(chosen, [params[row].temperature for row in whole], [uniforms[row] for row in whole])
        draws |= {row: _found(token, each, None) for row, token, each in zip(whole, *drawn, strict=True)}
    if narrow:
        chosen = logits[torch.tensor(narrow, device=logits.device)]
        own = [params[row] for row in narrow]
        drawn = _draw_in_torch(chosen, own, [uniforms[row] for row in narrow], range(len(narrow)))
        draws |= dict(zip(narrow, drawn, strict=True))
    return [draws[row] for row in range(len(params))]


def _draw_in_torch(
    logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float], narrow: Sequence[int]
) -> list[Draw | SamplingError]:
    device = logits.device
    if any(each.temperature != 1.0 for each in params):
        logits = logits / torch.tensor([[each.temperature] for each in params], device=device)
    probabilities = logits.softmax(dim=-1)
    if narrow:
        rows = torch.tensor(narrow, device=device)
        narrowed = _narrowed(logits[rows].log_softmax(dim=-1), [params[row] for row in narrow])
        probabilities = probabilities.index_copy(0, rows, narrowed.exp())
    tokens = _invert(probabilities, torch.tensor(uniforms, dtype=torch.float64, device=device))
    of_tokens = probabilities.gather(-1, tokens[:, None])[:, 0].tolist()
    supports = {row: torch.nonzero(probabilities[row])[:, 0].cpu().numpy().astype(np.int32) for row in narrow}
    return [
        _found(token, probability, supports.get(row))
        for row, (token, probability) in enumerate(zip(tokens.tolist(), of_tokens, strict=True))
    ]


def _found(token: int, probability: float, support: Int32 | None) -> Draw | SamplingError:
    """``probability`` is NaN where a logit was NaN or +inf, or all of them -inf."""
    if math.isnan(probability):
        return SamplingError("logits are non-finite (NaN or infinity): nothing can be drawn; check the weights in use")
    return Draw(token, _log(probability), support)


def _log(probability: float) -> float:
    """A scalar log: a vectorised one may round the last elements of a vector differently from the first."""
    return math.log(probability) if probability != 0 else -math.inf


def _invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Columns [B] at which the cumulative sums of ``probabilities`` [B, C] pass ``uniforms`` [B] of their totals.

    First the block of columns, then the column in it: a cumulative sum in double precision over a large vocabulary
    would cost more than the rest of the draw.
    """
    num_columns = probabilities.shape[-1]
    blocks = F.pad(probabilities, (0, -num_columns % BLOCK_COLUMNS)).unflatten(-1, (-1, BLOCK_COLUMNS))
    sums = blocks.sum(dim=-1).double()
    ends = sums.cumsum(dim=-1)
    points = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, points, right=True)  # [B, 1]
    block = torch.minimum(block, torch.searchsorted(ends, ends[:, -1:].contiguous()))  # the last one that holds any
    block = block.clamp_max(blocks.shape[1] - 1)
    inside = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].double().cumsum(dim=-1)
    # The block's sum was taken in single precision: the scaling makes both agree on where the block ends.
    inside = inside * (sums.gather(-1, block) / inside[:, -1:]) + (ends - sums).gather(-1, block)
    column = torch.searchsorted(inside, points, right=True)
    column = torch.minimum(column, torch.searchsorted(inside, inside[:, -1:].contiguous()))  # the last possible one
    return (block * blocks.shape[-1] + column)[:, 0].clamp_max(num_columns - 1)


def _narrowed(logprobs: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """``logprobs`` [B, C], renormalised over what top-k, min-p and then top-p keep; -inf elsewhere.

    Top-p keeps the most probable tokens until their mass reaches ``top_p`` (Holtzman et al. 2019), min-p those of at
    least ``min_p`` times the most probable one (Nguyen et al. 2024). At least one is kept; of equal ones the first.
    """
    device = logprobs.device
    ordered, order = logprobs.sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(logprobs.shape[-1], device=device)
    num_kept = torch.tensor([[each.top_k or logprobs.shape[-1]] for each in params], device=device)
    floor = torch.tensor([[each.min_p] for each in params], device=device).log()  # -inf without one
    dropped = (ranks >= num_kept) | (ordered < ordered[:, :1] + floor)
    kept = ordered.masked_fill(dropped, float("-inf")).log_softmax(dim=-1)
    probabilities = kept.exp().double()
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    top_ps = torch.tensor([[each.top_p] for each in params], dtype=torch.float64, device=device)
    beyond = (mass_before >= top_ps) & (top_ps < 1.0)
    beyond[:, 0] = False
    kept = kept.masked_fill(beyond, float("-inf")).log_softmax(dim=-1)
    return torch.empty_like(kept).scatter_(-1, order, kept)

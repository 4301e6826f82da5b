"""Attention over a part of the keys, by the fastest of several exact ways on each device.

Legend: N batches, H query heads, K key heads, M = H / K, Q queries, S keys, D head size, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from grpo_core.kernels.linear import has_fast_linear, linear
from grpo_core.kernels.private_ops import cpu_flash_attention

MIN_DENSE_QUERIES = 256
"""Per key head: from here on two dense products beat torch's flash attention on a CPU, even when a kernel has to be
compiled for a new number of keys."""
CAUSAL_BLOCK_TOKENS = 256  # queries of one product, which also computes scores that the causal mask drops
KEY_STEP_TOKENS = 128  # keys are padded to a multiple of this, so that few kernels are compiled


def attend_part(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention over a part of the keys: the output over these alone, and the log-sum-exp of their scores.

    ``queries`` [N, K, Q, D], ``keys`` and ``values`` [N, K, S, D], ``bias`` [N, 1, Q, S] or None; gives [N, K, Q, D]
    and [N, K, Q] float32.
    """
    if queries.device.type != "cpu":
        return _attend_by_products(queries, keys, values, bias)
    if len(queries) == 1 and bias is None and queries.shape[2] >= MIN_DENSE_QUERIES and has_fast_linear(queries):
        parts = [_attend_densely(*head) for head in zip(queries[0], keys[0], values[0], strict=True)]
        output, weight = (torch.stack(each)[None] for each in zip(*parts, strict=True))
        return output, weight
    if len(queries) > 1 and queries.dtype == torch.float32:
        return _attend_by_products(queries, keys, values, bias)
    output, weight = cpu_flash_attention(queries, keys, values, attn_mask=bias)
    return output, weight


def _attend_by_products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    exact = torch.promote_types(queries.dtype, torch.float32)  # in bfloat16 the scores would lose three digits
    scores = (queries.to(exact) @ keys.to(exact).transpose(-1, -2)).float().mul_(queries.shape[-1] ** -0.5)
    if bias is not None:
        scores.add_(bias)
    top = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(top).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    output = (weights.to(values.dtype) @ values).div_(total)
    return output, total.log_().add_(top)[..., 0]


def _attend_densely(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """``attend_part`` of one head: [Q, D], [S, D], [S, D]."""
    scores = linear(queries * queries.shape[-1] ** -0.5, keys)
    weight = scores.logsumexp(dim=-1)
    return linear(scores.sub_(weight[:, None]).exp_(), values.T), weight


def attend_causally(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the last T of S tokens.

    ``queries`` [T, H, D], ``keys`` and ``values`` [K, S, D]; gives [T, H * D].
    """
    num, heads, size = queries.shape
    num_before = keys.shape[1] - num
    if num > 1 and has_fast_linear(queries):
        by_head = queries.view(num, len(keys), -1, size).transpose(0, 1) * size**-0.5  # [K, T, M, D]
        filling = (0, 0, 0, -keys.shape[1] % KEY_STEP_TOKENS)
        heads_of_all = zip(by_head, F.pad(keys, filling), F.pad(values, filling), strict=True)
        outputs = [_attend_in_blocks(*each, num_before) for each in heads_of_all]
        return torch.stack(outputs, dim=1).view(num, heads * size)
    mask = None
    if num_before and num > 1:
        mask = torch.ones(num, keys.shape[1], dtype=torch.bool, device=queries.device).tril(num_before)
    output = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=mask is None and num > 1,
        enable_gqa=heads != len(keys),
    )
    return output[0].transpose(0, 1).reshape(num, heads * size)


def _attend_in_blocks(queries: Tensor, keys: Tensor, values: Tensor, num_before: int) -> Tensor:
    """``attend_causally`` of one key head, with scaled queries and padded keys: [T, M, D], [S, D], [S, D]."""
    num, group, size = queries.shape
    output = torch.empty(num, group, size, dtype=queries.dtype)
    for start in range(0, num, CAUSAL_BLOCK_TOKENS):
        stop = min(start + CAUSAL_BLOCK_TOKENS, num)
        first = num_before + start  # keys that all queries of the block see
        last = num_before + stop + -(num_before + stop) % KEY_STEP_TOKENS
        scores = linear(queries[start:stop].reshape(-1, size), keys[:last]).view(-1, group, last)
        hidden = torch.ones(stop - start, last - first, dtype=torch.bool).triu_(1)
        scores[:, :, first:].masked_fill_(hidden[:, None], float("-inf"))
        weights = scores.softmax(dim=-1).view(-1, last)
        output[start:stop] = linear(weights, values[:last].T).view(-1, group, size)
    return output

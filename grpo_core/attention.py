"""The one attention function that every model here runs with, and the seam through which callers choose its layout.

A caller passes a plan to the model's forward call (``plan=...``); transformers hands it down to every layer. The plan
decides which keys each query sees. Without a plan the model attends as transformers' own SDPA path does.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION_NAME = "grpo"


class AttentionPlan(Protocol):
    """Which keys each query sees, for one forward pass.

    Legend: B rows, H query heads, K key heads, T tokens, D head size.
    """

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """``queries`` [B, H, T, D], ``keys`` and ``values`` [B, K, T, D], rotated; returns [B, T, H, D]."""
        ...


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if plan is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    layer = module.layer_idx
    assert isinstance(layer, int)
    return plan.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def forward_hidden(decoder: nn.Module, input_ids: Tensor, position_ids: Tensor, plan: AttentionPlan) -> Tensor:
    """Hidden states [B, T, hidden] of ``input_ids`` [B, T] under ``plan``; the head is the caller's to apply."""
    # A four-dimensional mask is passed through by transformers, so that it builds none of its own.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    output = decoder(input_ids=input_ids, position_ids=position_ids, attention_mask=no_mask, use_cache=False, plan=plan)
    return output.last_hidden_state


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
    """Plain causal attention; arguments and result as ``AttentionPlan.attend``."""
    output = F.scaled_dot_product_attention(
        queries, keys, values, is_causal=True, scale=scaling, enable_gqa=queries.shape[1] != keys.shape[1]
    )
    return output.transpose(1, 2)

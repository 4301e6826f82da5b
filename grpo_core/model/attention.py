"""The attention function that every model here runs with. A caller's plan decides what it computes.

A caller passes a plan to the model's forward call (``plan=...``); transformers passes it on to every layer. The plan
decides which keys each query sees. Without a plan the model runs transformers' own SDPA attention.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from grpo_core.types import Packing

ATTENTION_NAME = "grpo"

_ATTENTION_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
_OTHER_ATTENTION = ("attn_logit_softcapping", "kv_lora_rank", "attention_chunk_size")
"""Settings of attention that a plan does not support: capped scores, two head sizes, chunked windows."""
_WITHOUT_EFFECT = {
    *("dropout", "is_causal", "position_ids", "position_embeddings", "cache_position", "use_cache", "past_key_values"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "logits_to_keep"),
}
"""What models hand to their attention that changes nothing under a plan, in evaluation mode and without a cache."""


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
    if others := sorted(name for name in kwargs.keys() - _WITHOUT_EFFECT if kwargs[name] is not None):
        raise NotImplementedError(f"attention with {', '.join(others)}, which a plan does not follow")
    layer = module.layer_idx
    assert isinstance(layer, int)
    return plan.attend(layer, query, key, value, scaling), None


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


def exact_packing(config: PreTrainedConfig) -> Packing:
    """The layout with the most sharing in which a model of ``config`` computes what it does on separate sequences.

    A plan replaces full attention over rotated keys only. For models with windows or capped scores, transformers' own
    SDPA attention runs on packed sequences, and learns from the positions where each begins. The rest get a padded row
    per sequence: models without SDPA attention (attention sinks), with recurrent layers, or without rotary positions.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return "padded"  # remote code
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    settings = config.to_dict()
    layers = set(settings.get("layer_types") or ())
    is_rotary = any(settings.get(name) for name in ("rope_parameters", "rope_theta", "rope_scaling"))
    has_interface = model._supports_attention_backend and model._supports_sdpa
    if model._is_stateful or not has_interface or not is_rotary or not layers <= _ATTENTION_LAYERS:
        return "padded"
    is_full = layers == {"full_attention"} if layers else settings.get("sliding_window") is None
    is_plain = not any(settings.get(name) for name in _OTHER_ATTENTION)
    return "shared_prefix" if is_full and is_plain else "packed"


def takes_plan(decoder: nn.Module) -> bool:
    """Whether the model passes a plan on to its layers."""
    config = decoder.config
    assert isinstance(config, PreTrainedConfig)
    return config._attn_implementation == ATTENTION_NAME


def forward_hidden(
    decoder: nn.Module, input_ids: Tensor, position_ids: Tensor | None, plan: AttentionPlan | None
) -> Tensor:
    """Hidden states [B, T, hidden] of ``input_ids`` [B, T] under ``plan``; the caller applies the head.

    Without a plan attention is causal; where ``position_ids`` [1, T] begin again, transformers begins a new sequence.
    """
    if plan is None:
        return decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    # transformers passes a four-dimensional mask through, and so does not build one.
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=input_ids.device)
    output = decoder(input_ids=input_ids, position_ids=position_ids, attention_mask=no_mask, use_cache=False, plan=plan)
    return output.last_hidden_state

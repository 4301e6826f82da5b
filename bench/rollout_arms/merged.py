"""The model of an arm that takes no adapter: the adapter is added into its weights, in float32.

This is the best case of such an arm: it does less work than one that keeps the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from grpo_core.model.source import locate_model


def merged_model(name: str, lora: Path) -> Any:
    """transformers' model ``name`` with the adapter of folder ``lora`` in its weights."""
    base = AutoModelForCausalLM.from_pretrained(
        locate_model(name), dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
    )
    merged: Any = PeftModel.from_pretrained(base, str(lora))
    return merged.merge_and_unload().eval().requires_grad_(False)


def merged_weights(model: Any) -> Mapping[str, Tensor]:
    """By transformers' names; a head that is the embeddings is not among them."""
    weights: dict[str, Tensor] = dict(model.state_dict())
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    return weights

"""Small random models of any architecture of transformers, in real folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_small_model(architecture: str, folder: Path, **settings: Any) -> None:
    """A model of two layers whose weights are spread out, so that its distributions are far from uniform."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        **{
            "vocab_size": 384, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
            "initializer_range": 0.1, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0, **settings,
        },
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)

"""Random decoders, and passes over prompts and rows of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from grpo_core.config import ModelConfig
from grpo_core.model.policy import load_policy
from grpo_core.rollout.protocol import GenerationRequest, SamplingParams
from grpo_core.rollout.sequence import SequenceState
from grpo_core.rollout.torch_engine.cache.prefix_cache import PrefixCache, PrefixNode
from grpo_core.rollout.torch_engine.cache.rows import RowBatch, plan_rows
from grpo_core.rollout.torch_engine.forward.passes import Passes
from grpo_core.rollout.torch_engine.prefill import next_chunks, read_chunks
from grpo_core.rollout.torch_engine.weights.fused import DecoderWeights, fuse_weights
from grpo_core.rollout.torch_engine.weights.versions import VersionWeights
from grpo_core.types import Int32

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
VOCAB = 320
SHAPES: list[tuple[str, dict[str, int]]] = [
    ("qwen2", {}),
    ("qwen3", {"head_dim": 32}),
    ("llama", {"num_key_value_heads": 4}),
    ("qwen2", {"hidden_size": 192, "intermediate_size": 208, "num_attention_heads": 3, "num_key_value_heads": 1}),
    ("qwen3", {"num_attention_heads": 14, "num_key_value_heads": 2, "head_dim": 80}),
]
QUICK_FIRST = [
    pytest.param(*each, marks=() if index in {0, len(SHAPES) - 1} else pytest.mark.slow)
    for index, each in enumerate(SHAPES)
]
"""The plainest shape and the least even one; the others are slow tests."""
Build = Callable[..., DecoderWeights]


def build_decoder(folder: Path, tokenizer_folder: Path, architecture: str, shape: dict[str, int]) -> DecoderWeights:
    """Random weights of a shape, of some scale, biases and norms included."""
    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCAB,
        num_hidden_layers=2,
        initializer_range=0.1,
        max_position_embeddings=2048,
        **{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2} | shape,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer_folder / name, folder / name)
    return fuse_weights(load_policy(ModelConfig(name=str(folder), device="cpu")))


def prompt(seed: int, length: int) -> Int32:
    return np.random.default_rng(seed).integers(1, VOCAB, length, dtype=np.int32)


def read(passes: Passes, weights: DecoderWeights, prompts: list[Int32], max_tokens: int) -> list[PrefixNode]:
    """The ends of ``prompts``, all of which are computed, ``max_tokens`` in a pass."""
    cache = PrefixCache(weights)
    leaves = [cache.acquire(1, ids) for ids in prompts]
    while chunks := next_chunks(leaves, max_tokens):
        read_chunks(chunks, VersionWeights(weights, None), cache, passes)
    return leaves


def rows_of(weights: DecoderWeights, leaves: list[PrefixNode], prompts: list[Int32], group: int) -> RowBatch:
    """``group`` sequences after each prompt, and a free slot."""
    sequences = [
        SequenceState(0, GenerationRequest(ids, SamplingParams(0, max_tokens=40)), 1, frozenset(), 1 << 20)
        for ids in prompts
        for _ in range(group)
    ]
    rows = plan_rows(list(zip(sequences, [leaf for leaf in leaves for _ in range(group)], strict=True)))
    batch = RowBatch(weights)
    batch.add(rows)
    batch.remove(rows[1])
    return batch


def advance(
    passes: Passes, weights: DecoderWeights, batch: RowBatch, seed: int, most: int, *, only_last: bool = False
) -> Tensor:
    """The states of one pass over 1 to ``most`` tokens of every row, without those of free slots."""
    rng = np.random.default_rng(seed)
    tokens = [rng.integers(1, VOCAB, rng.integers(1, most + 1) if row else 1).tolist() for row in batch.rows]
    states = passes.over_rows(weights, tokens, batch, only_last=only_last)
    is_used: list[bool] = []
    for row, each in zip(batch.rows, tokens, strict=True):
        is_used += [row is not None] * (1 if only_last else len(each))
        if row is not None:
            row.num_own += len(each)
    return states[torch.tensor(is_used)]

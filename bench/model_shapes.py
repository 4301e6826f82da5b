"""Models of a published shape with random weights: how fast they are depends on the shape alone.

They have the tokenizer of the preset ``tiny``; most of their ids stand for no text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from grpo_core.model.presets import PRESETS
from grpo_core.model.source import locate_model

QWEN_VOCAB_SIZE = 151_936
WEIGHT_STD = 0.02


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A Qwen2 with tied embeddings and biases of queries, keys and values."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    rope_theta: float = 1e6
    max_context_tokens: int = 32_768


def _of_preset(name: str, vocab_size: int) -> ModelShape:
    sizes = PRESETS[name]
    return ModelShape(
        sizes.hidden_size,
        sizes.num_layers,
        sizes.num_heads,
        sizes.num_key_value_heads,
        sizes.intermediate_size,
        vocab_size,
        rope_theta=1e4,
        max_context_tokens=sizes.max_context_tokens,
    )


BUILT = {
    "qwen2.5-0.5b": ModelShape(896, 24, 14, 2, 4864, QWEN_VOCAB_SIZE),
    "tiny-wide": _of_preset("tiny", QWEN_VOCAB_SIZE),
}
"""Those that are built here: Qwen2.5-0.5B, and ``tiny`` with the vocabulary of it."""
SHAPES = BUILT | {name: _of_preset(name, sizes.vocab_size) for name, sizes in PRESETS.items()}
"""All that have a name."""


def built_model(name: str, folder: Path) -> str:
    """``name``, or where it is one of ``BUILT`` its files below ``folder``, written if they are not there yet."""
    if name not in BUILT:
        return name
    where = folder / name
    if not where.is_dir():
        model = _random_model(BUILT[name])
        AutoTokenizer.from_pretrained(locate_model("tiny")).save_pretrained(where)
        model.save_pretrained(where)
    return str(where)


def _random_model(shape: ModelShape) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_context_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        initializer_range=WEIGHT_STD,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config)
        for name, weight in model.named_parameters():
            if name.endswith(".bias"):  # zero would hide an arm that leaves them out
                torch.nn.init.normal_(weight, std=WEIGHT_STD)
    return model

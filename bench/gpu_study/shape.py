"""Models with the shapes of real ones and random weights, made on the device that measures them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

STOP_TEXT = "<stop>"


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a Qwen3 with tied embeddings."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_context_tokens: int


SHAPES = {
    "qwen3-4b": Shape(2560, 9728, 36, 32, 8, 128, 151_936, 131_072),
    "qwen3-0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151_936, 131_072),
    "toy": Shape(64, 96, 2, 2, 1, 32, 512, 2048),
}
"""By name. The first two are those of the published configurations; ``toy`` is for a CPU."""


def write_shape(shape: Shape, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """Write a model of ``shape`` with a byte-level tokenizer, which fewer ids suffice for, to ``folder``."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["Q: 1 + 2 =\nA: 3"], vocab_size=300, special_tokens=[STOP_TEXT], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token=STOP_TEXT).save_pretrained(folder)
    config = Qwen3Config(
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_size,
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.max_context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        dtype=dtype,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)

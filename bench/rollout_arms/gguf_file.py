"""Writes a model as GGUF, the format of llama.cpp.

It has no vocabulary (``none``), only the number of ids: ids go in and come out as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.rollout_arms.merged import merged_weights
from grpo_core.errors import ModelError

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""The parts of a layer, as transformers and as llama.cpp call them."""


def write_gguf(model: Any, file: Path, *, half: bool) -> None:
    """Write ``model`` to ``file``; with ``half`` its matrices are in half precision.

    Raises:
        ModelError: llama.cpp would compute something else.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType  # pyright: ignore[reportMissingImports]

    check_writable(model.config)
    writer = GGUFWriter(file, ARCHITECTURES[model.config.model_type])
    _write_sizes(writer, model.config)
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if half else LlamaFileType.ALL_F32)
    for name, values in gguf_tensors(merged_weights(model), model.config, half=half):
        kind = GGMLQuantizationType.F16 if values.dtype == np.float16 else GGMLQuantizationType.F32
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_writable(config: Any) -> None:
    """Raises ModelError when a GGUF file of this kind would not be the same model."""
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"model type {config.model_type!r}: the arms llama_cpp allow {', '.join(ARCHITECTURES)}; leave them out"
        )
    if config.rope_parameters["rope_type"] != "default":
        raise ModelError(
            f"rope_type {config.rope_parameters['rope_type']!r}: the arms llama_cpp allow 'default'; leave them out"
        )


def gguf_tensors(weights: Mapping[str, Tensor], config: Any, *, half: bool) -> Iterator[tuple[str, np.ndarray]]:
    """llama.cpp's name and values of each weight. Norms and biases stay in float32, as llama.cpp wants them."""
    for name, weight in weights.items():
        values = weight.detach().to(torch.float32)
        if config.model_type == "llama" and ".self_attn." in name:
            values = _interleaved(name, values, config)
        is_half = half and values.ndim == 2
        yield gguf_name(name), values.to(torch.float16 if is_half else torch.float32).contiguous().numpy()


def gguf_name(name: str) -> str:
    """llama.cpp's name of a weight, from transformers'.

    Raises:
        ModelError: it has none.
    """
    if name in WHOLE:
        return WHOLE[name]
    before, _, rest = name.partition("layers.")
    number, _, part = rest.partition(".")
    part, _, kind = part.rpartition(".")
    if before != "model." or part not in PARTS or kind not in {"weight", "bias"}:
        raise ModelError(f"weight {name!r}: llama.cpp has no name for it; leave the arms llama_cpp out")
    return f"blk.{number}.{PARTS[part]}.{kind}"


def _interleaved(name: str, values: Tensor, config: Any) -> Tensor:
    """Llama's queries and keys as llama.cpp rotates them: pairs side by side, where transformers pairs two halves."""
    part = name.split(".")[-2]
    if part not in {"q_proj", "k_proj"}:
        return values
    num_heads = config.num_attention_heads if part == "q_proj" else config.num_key_value_heads
    halves = values.reshape(num_heads, 2, values.shape[0] // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _write_sizes(writer: Any, config: Any) -> None:
    head_size = config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")

"""Small configurations of any architecture."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

SMALL = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embedding_size", "embed_dim", "d_embed"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("encoder_ffn_dim", "intermediate_size_mlp", "shared_intermediate_size"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "moe_ffn_hidden_size"), 32),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "resid_pdrop"), 0.0),
    **dict.fromkeys(("embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    **dict.fromkeys(("initializer_range", "init_std"), 0.1),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("state_size", "mamba_d_state", "mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 32),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("linear_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    "mamba_d_ssm": 128, "vocab_size_per_layer_input": 384, "hidden_size_per_layer_input": 16,
    "vocab_size": 384, "head_dim": 16, "rotary_dim": 8, "sliding_window": 6,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


# What some architectures need besides.
MORE: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [3, 3, 2]}
            for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"expert_ffn_hidden_size": 32, "zero_expert_num": 2, "num_layers": 1},
    "ministral": {"head_dim": 16},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "mamba2": {"num_heads": 8},  # twice the hidden size is heads times their size
    "reformer": {"is_decoder": True, "axial_pos_shape": [16, 16], "axial_pos_embds_dim": [32, 32]},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["hybrid", "mamba", "hybrid"]},
    "zamba2": {"num_hidden_layers": 3, "layers_block_type": ["hybrid", "mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A configuration of ``kind`` with small sizes, wherever it calls them by a name that is known."""
    settings = kind().to_dict()
    changed: dict[str, Any] = {
        name: value
        for name, value in SMALL.items()
        if name in settings and (settings[name] is not None or name == "num_key_value_heads")
    } | {"max_position_embeddings": 256}
    changed |= {name: SMALL[name] for name in ("vocab_size", "hidden_size") if name in settings}
    for name, part in settings.items():
        if name.endswith("_config") and isinstance(part, dict):
            changed[name] = {key: value for key, value in SMALL.items() if part.get(key) is not None}
    if "kv_lora_rank" in settings:  # its heads share no keys
        changed["num_key_value_heads"] = changed["num_attention_heads"]
    if "head_dim" not in settings:
        changed.pop("head_dim", None)
    return kind(**changed | MORE.get(kind.model_type, {}))

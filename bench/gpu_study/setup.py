"""The run configuration that the parts build their policies, trainers and engines from."""

from __future__ import annotations

from bench.gpu_study.row import Work
from grpo_core.config import GrpoConfig, build_config

LORA_RANK = 16
LORA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def config_of(work: Work, *, recompute: bool = False) -> GrpoConfig:
    """LoRA on all linear maps, everything in ``work.dtype``. ``recompute``: activations are not kept."""
    return build_config(
        {
            "run": "gpu",
            "model": {
                "name": work.model,
                "device": work.device,
                "dtype": work.dtype,
                "lora_rank": LORA_RANK,
                "lora_alpha": 2.0 * LORA_RANK,
                "lora_targets": LORA_TARGETS,
            },
            "training": {
                "precision": work.dtype,
                "micro_batch_tokens": max(work.train_tokens) + 1,
                "gradient_checkpointing": recompute,
                "learning_rate": 0.0,
            },
        }
    )

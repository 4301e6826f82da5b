"""The configuration of grpo_core that a system's settings mean."""

from __future__ import annotations

from typing import Any

from pytest_grpo.systems.protocol import CLIP, MAX_GRAD_NORM, SystemSettings

RUN = "system"


def run_values(settings: SystemSettings) -> dict[str, dict[str, Any] | str]:
    """The configuration of a run with these settings."""
    adapter = {
        "lora_rank": settings.lora_rank,
        "lora_alpha": settings.lora_alpha,
        "lora_targets": settings.lora_targets,
    }
    return {
        "run": RUN,
        "model": {
            "name": settings.model,
            "device": settings.device,
            "dtype": settings.dtype,
            **(adapter if settings.method == "lora" else {}),
        },
        "rollout": {"engine": settings.engine, "max_kv_bytes": settings.max_kv_bytes},
        "training": {
            "method": settings.method,
            "precision": settings.precision,
            "learning_rate": 1.0,  # each step scales it
            "clip_low": CLIP,
            "clip_high": CLIP,
            "max_grad_norm": MAX_GRAD_NORM,
            "kl_coefficient": settings.kl_coefficient,
            "packing": settings.packing or "shared_prefix",
            "micro_batch_tokens": settings.micro_batch_tokens,
        },
    }

"""What the flags of ``train_grpo`` and ``run_rollout`` say of a configuration."""

from __future__ import annotations

from typing import Any


def rollout_values(
    preset: str,
    environment: str,
    horizon: int,
    compact_prompts: bool,
    use_state_cache: bool,
    groups: int,
    samples: int,
) -> dict[str, Any]:
    """The flags that both have."""
    return {
        "model": {"name": preset},
        "environment": {
            "name": environment,
            "horizon": horizon,
            "compact_prompts": compact_prompts,
            "use_state_cache": use_state_cache,
        },
        "rollout": {"num_groups": groups, "group_size": samples},
    }


def schedule_values(steps: int, buffer_depth: int, policy_lag: int, checkpoint_every: int) -> dict[str, Any]:
    """The flags that only training has."""
    return {
        "schedule": {
            "num_steps": steps,
            "buffer_depth": buffer_depth,
            "max_policy_lag_steps": policy_lag,
            "checkpoint_every_steps": checkpoint_every,
        }
    }

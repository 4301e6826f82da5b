"""The kinds of events and the fields of each. The panels read these columns and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_type_hints

from grpo_core.types import StepMetrics

_SCHEDULE: Mapping[str, type] = {
    "policy_version": int,
    "policy_lag_steps": int,  # trainer version minus the version that sampled, when the batch is consumed
    "policy_lag_updates": int,  # the same in optimizer steps, at the last one on the batch
    "max_policy_lag_steps": int,
    "buffer_depth": int,  # finished batches that wait
    "configured_buffer_depth": int,
}

FIELDS: Mapping[str, Mapping[str, type]] = {
    "run_started": {
        "preset": str,
        "environment": str,
        "num_steps": int,
        "max_policy_lag_steps": int,
        "configured_buffer_depth": int,
    },
    "run_finished": {"num_steps": int, "duration_s": float},
    "train_step": {**get_type_hints(StepMetrics), **_SCHEDULE, "step_s": float, "publish_ms": float},
    "step_skipped": {
        "step": int,
        "batch_index": int,
        "nonfinite_trajectories": str,  # "<group id>[<index>]", joined by "|"
        "num_skipped_steps": int,  # in the run so far
    },
    "rollout": {
        "batch_index": int,
        "policy_version": int,
        "duration_s": float,
        "tokens_per_second": float,  # completion tokens, environment time included
        "num_prompt_tokens": int,
        "num_prefill_tokens": int,  # prompt tokens that were computed; a shared prefix counts once
        "num_completion_tokens": int,
        "num_completions": int,
        "num_failed_episodes": int,
        "num_sampled_groups": int,  # starting states, including those that were replaced
        "num_replaced_groups": int,
        "num_refilled_groups": int,
        "num_zero_variance_groups": int,
        "num_trajectories": int,
        "sampled_reward_mean": float,  # over all trajectories, including replaced ones
        "reward_mean": float,  # over the trajectories of the batch
        "buffer_depth": int,
    },
    "episode_failed": {
        "batch_index": int,
        "environment": str,
        "environment_seed": str,  # an unsigned 64-bit number, too large for a database integer
        "group_number": int,
        "refill_number": int,
        "sample_number": int,
        "attempt": int,
        "error": str,
    },
    "adapter_load": {"version": int, "cache_hit": bool, "load_ms": float, "swap_ms": float},
    "adapter_publish": {"version": int, "publish_ms": float, "num_bytes": int},
    "gpu_stats": {
        "source": str,  # nvml, or host where there is no GPU
        "device_index": int,
        "device_name": str,
        "utilization_percent": float,  # of the GPU; of all CPU cores on a host
        "memory_used_bytes": int,  # of the GPU; of this process on a host
        "memory_total_bytes": int,
        "power_watts": float,
        "temperature_celsius": float,
        "sm_clock_mhz": int,
        "throttle_reasons": str,  # names joined by "|", empty when the clocks are free
    },
    "snapshot": {"profile_name": str, "path": str},
}

COLUMNS: Mapping[str, type] = {
    "id": str,  # no other event has it: what a service got twice can be told
    "kind": str,
    "run": str,
    "time": float,  # seconds since 1970, UTC
    **{name: type_ for fields in FIELDS.values() for name, type_ in fields.items()},
}

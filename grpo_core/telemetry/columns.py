"""The kinds of events and the fields of each. The panels read these columns and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_type_hints

from grpo_core.ledger.spans import SPANS
from grpo_core.types import StepMetrics

_SCHEDULE: Mapping[str, type] = {
    "policy_version": int,
    "policy_lag_steps": int,  # trainer version minus the version that sampled, when the batch is consumed
    "policy_lag_updates": int,  # the same in optimizer steps, at the last one on the batch
    "max_policy_lag_steps": int,
    "buffer_depth": int,  # finished batches that wait
    "configured_buffer_depth": int,
}

FIGURES = (
    "steps_per_hour",
    "eta_s",
    "sampled_tokens_per_second",
    "trained_tokens_per_second",
    "mfu",
    "mfu_conventional",
    "mfu_data_sheet",
    "sampler_idle_share",
    "trainer_idle_share",
    "completion_tokens_p50",
    "completion_tokens_p95",
    "completion_tokens_max",
    "truncated_share",
    "tail_ratio",
    "prefix_hit_share",
    "kv_used_share",
    "batch_occupancy",
    "decode_bandwidth_share",
    "num_compilations",
    "publish_to_use_s",
    "joules_per_1k_tokens",
    "dollars_per_1k_tokens",
)
"""Null where there is none yet, or the machine cannot say. docs/metrics.md defines each."""

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
        "num_sampled_tokens": int,  # completion tokens, whatever became of them
        "num_preempted_tokens": int,
        "num_unused_tokens": int,  # of failed attempts and of openings
        "num_replaced_tokens": int,
        "num_cached_tokens": int,  # prompt tokens that were read from the prefix cache
        "num_decode_steps": int,
        "num_decode_rows": int,  # requests that took part in a decode step, summed over the steps
        "num_preemptions": int,
        "kv_share_steps": float,  # share of the KV cache in use, summed over the decode steps
        "num_read_bytes": int,  # of weights, from disk, after the version was loaded
        "peak_memory_bytes": int,
        "sampled_reward_mean": float,  # over all trajectories, including replaced ones
        "reward_mean": float,  # over the trajectories of the batch
        "buffer_depth": int,
    },
    "reward": {  # one event for each reward function of a batch
        "batch_index": int,
        "function": str,
        "score_mean": float,  # over the answers of the batch that it gave a score, before its weight
        "score_std": float,
        "num_scored": int,
        "num_failed": int,  # answers for which it raised, hung, or gave no number; replaced ones count
        "reward_s": float,  # wall time of its calls
    },
    "samples": {"step": int, "batch_index": int, "file": str},  # what was said is in this file of the run's samples
    "evaluation": {
        "step": int,
        "num_questions": int,
        "num_samples": int,  # the k of pass@k
        "greedy_reward_mean": float,
        "greedy_passed": float,  # share of the questions, with its 95 % interval
        "greedy_passed_low": float,
        "greedy_passed_high": float,
        "pass_at_k": float,
        "pass_at_k_low": float,
        "pass_at_k_high": float,
        "evaluation_s": float,
    },
    "figures": {
        "step": int,
        "num_devices": int,
        **dict.fromkeys(FIGURES, float),
    },
    "token_ledger": {
        "step": int,
        "num_sampled_tokens": int,  # all below together
        "num_trained_tokens": int,
        "num_forced_tokens": int,
        "num_masked_tokens": int,
        "num_dropped_tokens": int,
        "num_stale_tokens": int,
        "num_replaced_tokens": int,
        "num_preempted_tokens": int,
    },
    "ledger": {
        "step": int,
        "process": str,  # trainer-0, its followers trainer-1 and on, worker-0 and on
        "thread": str,  # train, rollout, environments
        "started_s": float,  # since 1970, UTC
        "wall_s": float,  # all columns below together
        "lane": str,  # JSON: [name, start_s after started_s, seconds] of each interval
        "other_s": float,
        **{span.column: float for span in SPANS},
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

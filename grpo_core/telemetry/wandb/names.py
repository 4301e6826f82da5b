"""The names, axes and summaries of what W&B shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grpo_core.telemetry.events import Record

STEP = "schedule/step"
BATCH = "rollout/batch_index"
SECONDS = "time/run_s"
"""Since the first event of the process: the axis of what a machine does."""

NAMES: Mapping[str, Mapping[str, str]] = {
    "train_step": {
        "step": STEP,
        "learning_rate": "schedule/learning_rate",
        "loss": "loss/policy",
        "kl": "loss/kl",
        "entropy": "loss/entropy",
        "mismatch_kl": "loss/mismatch_kl",
        "mismatch_ratio_min": "loss/mismatch_ratio_min",
        "mismatch_ratio_max": "loss/mismatch_ratio_max",
        "ratio_min": "loss/ratio_min",
        "ratio_max": "loss/ratio_max",
        "clip_fraction": "loss/clip_fraction",
        "clip_fraction_low": "loss/clip_fraction_low",
        "clip_fraction_high": "loss/clip_fraction_high",
        "grad_norm": "loss/grad_norm",
        "num_updates": "loss/num_updates",
        "num_skipped_updates": "loss/num_skipped_updates",
        "is_skipped": "loss/is_skipped",
        "reward_mean": "reward/mean",
        "reward_std": "reward/std",
        "overlong_penalty_mean": "reward/overlong_penalty_mean",
        "advantage_abs_mean": "reward/advantage_abs_mean",
        "num_dropped_groups": "reward/num_dropped_groups",
        "layout_ms": "timing/layout_ms",
        "scoring_ms": "timing/scoring_ms",
        "loss_forward_ms": "timing/loss_forward_ms",
        "backward_ms": "timing/backward_ms",
        "gradient_sum_ms": "timing/gradient_sum_ms",
        "optimizer_ms": "timing/optimizer_ms",
        "sums_ms": "timing/sums_ms",
        "publish_ms": "timing/publish_ms",
        "step_s": "timing/step_s",
        "num_sequences": "tokens/num_sequences",
        "num_loss_tokens": "tokens/num_loss_tokens",
        "num_effective_tokens": "tokens/num_effective_tokens",
        "num_masked_tokens": "tokens/num_masked_tokens",
        "num_model_tokens": "tokens/num_model_tokens",
        "num_padded_tokens": "tokens/num_padded_tokens",
        "num_forward_passes": "compute/num_forward_passes",
        "num_scoring_passes": "compute/num_scoring_passes",
        "num_micro_batches": "compute/num_micro_batches",
        "num_tokenizer_calls": "compute/num_tokenizer_calls",
        "peak_memory_bytes": "compute/peak_memory_bytes",
        "policy_version": "schedule/policy_version",
        "policy_lag_steps": "schedule/policy_lag_steps",
        "policy_lag_updates": "schedule/policy_lag_updates",
        "max_policy_lag_steps": "schedule/max_policy_lag_steps",
        "buffer_depth": "schedule/buffer_depth",
        "configured_buffer_depth": "schedule/configured_buffer_depth",
    },
    "rollout": {
        "tokens_per_second": "timing/tokens_per_second",
        "duration_s": "timing/rollout_s",
        "reward_mean": "rollout/reward_mean",
        "batch_index": BATCH,
        "policy_version": "rollout/policy_version",
        "num_prompt_tokens": "rollout/num_prompt_tokens",
        "num_prefill_tokens": "rollout/num_prefill_tokens",
        "num_completion_tokens": "rollout/num_completion_tokens",
        "num_completions": "rollout/num_completions",
        "num_failed_episodes": "rollout/num_failed_episodes",
        "num_sampled_groups": "rollout/num_sampled_groups",
        "num_replaced_groups": "rollout/num_replaced_groups",
        "num_refilled_groups": "rollout/num_refilled_groups",
        "num_zero_variance_groups": "rollout/num_zero_variance_groups",
        "num_trajectories": "rollout/num_trajectories",
        "sampled_reward_mean": "rollout/sampled_reward_mean",
    },
    "reward": {
        "score_mean": "rollout/reward/{function}/mean",
        "score_std": "rollout/reward/{function}/std",
        "num_failed": "rollout/reward/{function}/num_failed",
        "reward_s": "rollout/reward/{function}/seconds",
    },
    "evaluation": {
        "greedy_reward_mean": "evaluation/greedy_reward_mean",
        "greedy_passed": "evaluation/greedy_passed",
        "pass_at_k": "evaluation/pass_at_k",
        "evaluation_s": "evaluation/seconds",
    },
    "gpu_stats": {
        "utilization_percent": "{device}/utilization_percent",
        "memory_used_bytes": "{device}/memory_used_bytes",
        "power_watts": "{device}/power_watts",
        "temperature_celsius": "{device}/temperature_celsius",
        "sm_clock_mhz": "{device}/sm_clock_mhz",
    },
}
"""Field -> name, for each kind of event. ``{device}`` is ``gpu/<index>``, or ``host`` where there is no GPU;
``{function}`` is a reward function."""

AXES: Mapping[str, str] = {"*": STEP, "rollout/*": BATCH, "gpu/*": SECONDS, "host/*": SECONDS}
"""The horizontal axis of the metrics of each pattern."""

_OWN_AXIS: Mapping[str, Mapping[str, str]] = {"reward": {"batch_index": BATCH}, "evaluation": {"step": STEP}}
"""The value on the axis of events that come beside those with most of it."""

SUMMARIES: Mapping[str, str] = {
    "reward/mean": "max,last",
    "rollout/sampled_reward_mean": "max,last",
    "loss/policy": "min,last",
    "loss/kl": "max,last",
    "loss/grad_norm": "max,last",
    "timing/step_s": "min,mean,max",
    "timing/rollout_s": "min,mean,max",
    "timing/tokens_per_second": "mean,max",
    "schedule/policy_lag_steps": "mean,max",
    "compute/peak_memory_bytes": "max",
}
"""What the table of runs shows of a metric: a run is judged by its best reward, and by its usual and its worst step."""


def named_metrics(record: Record) -> dict[str, Any]:
    """The numbers of an event under the names that W&B shows. Empty for the kinds that are not logged there."""
    kind = record["kind"]
    if not isinstance(kind, str) or kind not in NAMES:
        return {}
    device = "host" if record.get("source") == "host" else f"gpu/{record.get('device_index')}"
    places = {"device": device, "function": record.get("function")}
    found = {
        name.format(**places) if "{" in name else name: record[field]
        for field, name in NAMES[kind].items()
        if record.get(field) is not None
    }
    return found and {axis: record[field] for field, axis in _OWN_AXIS.get(kind, {}).items()} | found

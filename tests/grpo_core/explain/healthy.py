"""What a training step of a sound run reports."""

from __future__ import annotations

HEALTHY = {
    "is_skipped": False,
    "advantage_abs_mean": 0.5,
    "mismatch_kl": 1e-8,
    "policy_lag_steps": 0,
    "max_policy_lag_steps": 0,
    "num_forward_passes": 2,
    "num_micro_batches": 2,
}

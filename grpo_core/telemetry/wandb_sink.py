"""W&B: training steps, rollouts and device statistics under readable names, online or offline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from grpo_core.config import GrpoConfig, TelemetryConfig
from grpo_core.errors import ConfigError, CredentialsError
from grpo_core.home import Home, make_folder
from grpo_core.telemetry.delivery import DeliveryError
from grpo_core.telemetry.events import Record

Mode = Literal["online", "offline"]

_TIMEOUT_S = 15.0  # less than a sink waits in close; by itself W&B waits for minutes
_STEP = "schedule/step"

_NAMES: Mapping[str, Mapping[str, str]] = {
    "train_step": {
        "step": _STEP,
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
        "optimizer_ms": "timing/optimizer_ms",
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
        "batch_index": "rollout/batch_index",
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
    "gpu_stats": {
        "utilization_percent": "gpu/{device_index}/utilization_percent",
        "memory_used_bytes": "gpu/{device_index}/memory_used_bytes",
        "power_watts": "gpu/{device_index}/power_watts",
        "temperature_celsius": "gpu/{device_index}/temperature_celsius",
        "sm_clock_mhz": "gpu/{device_index}/sm_clock_mhz",
    },
}


def open_wandb(config: GrpoConfig, home: Home, environment: Mapping[str, str] = os.environ) -> WandbConnection | None:
    """The connection to W&B that the configuration and ``WANDB_*`` ask for, or None.

    Raises:
        ConfigError: ``WANDB_MODE`` is not ``online``, ``offline`` or ``disabled``.
        CredentialsError: ``WANDB_MODE`` is ``online`` without ``WANDB_API_KEY``.
        HomeError: the folder of offline runs cannot be written.
    """
    mode = choose_mode(config.telemetry, environment)
    if mode is None:
        return None
    project = environment.get("WANDB_PROJECT") or "pytest-grpo"
    return WandbConnection(config, make_folder(home.data), mode, project)


def choose_mode(config: TelemetryConfig, environment: Mapping[str, str]) -> Mode | None:
    """``offline`` and ``off`` in the configuration win, then ``WANDB_MODE``, then whether ``WANDB_API_KEY`` is set."""
    if config.wandb == "off":
        return None
    if config.wandb == "offline":
        return "offline"
    has_key = bool(environment.get("WANDB_API_KEY"))
    mode = environment.get("WANDB_MODE") or ("online" if has_key else "disabled")
    if mode not in {"online", "offline", "disabled"}:
        raise ConfigError(f"WANDB_MODE {mode!r}: only 'online', 'offline' and 'disabled' are allowed; set one of these")
    if mode == "online" and not has_key:
        raise CredentialsError("WANDB_MODE is 'online' without WANDB_API_KEY: set the key, or WANDB_MODE to 'offline'")
    return None if mode == "disabled" else mode  # type: ignore[return-value]


def wandb_metrics(record: Record) -> dict[str, Any]:
    """The numbers of an event under the names that W&B shows. Empty for the kinds that are not logged there."""
    names = _NAMES.get(record["kind"], {})
    return {name.format_map(record): record[field] for field, name in names.items() if record.get(field) is not None}


class WandbConnection:
    """One W&B run. Offline it is a folder below ``<folder>/wandb``, for ``wandb sync``.

    What it was given is in its own file, and W&B's service sends it from there, through outages as well.
    """

    name = "wandb"

    def __init__(self, config: GrpoConfig, folder: os.PathLike[str], mode: Mode, project: str) -> None:
        self._config = config
        self._folder = folder
        self._mode: Mode = mode
        self._project = project
        self._run: Any | None = None  # while it is not started, and after its service has died

    def open(self) -> None:
        """Raises ``DeliveryError`` when the run cannot be started: no network, or a key that is refused."""
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            init_timeout=_TIMEOUT_S,
            finish_timeout=_TIMEOUT_S,
            finish_timeout_raises=True,
            x_disable_stats=True,  # gpu_stats has them
        )
        try:
            self._run = wandb.init(
                project=self._project,
                name=self._config.run,
                dir=self._folder,
                mode=self._mode,
                config=self._config.model_dump(mode="json"),
                settings=settings,
                reinit="create_new",
            )
        except (wandb.Error, OSError) as error:
            raise self._failure(error) from error
        self._run.define_metric("*", step_metric=_STEP)

    def send(self, records: Sequence[Record]) -> int:
        """Raises ``DeliveryError`` when the W&B service has died."""
        import wandb

        if self._run is None:
            self.open()
        assert self._run is not None
        for metrics in filter(None, map(wandb_metrics, records)):
            try:
                self._run.log(metrics)
            except (wandb.Error, OSError) as error:
                self._run = None  # the next try opens another one
                raise self._failure(error) from error
        return 0

    def close(self) -> None:
        """Raises ``DeliveryError`` when the run cannot be finished in time."""
        import wandb

        if self._run is None:
            return
        folder = Path(self._run.dir).parent
        try:
            self._run.finish()
        except (wandb.Error, OSError) as error:
            raise DeliveryError(f"{self._failure(error)}; send the rest with: wandb sync {folder}") from error

    def _failure(self, error: Exception) -> DeliveryError:
        reason = str(error).partition("\n")[0] or type(error).__name__  # what follows is advice about W&B's settings
        return DeliveryError(f"project {self._project!r}: {reason}")

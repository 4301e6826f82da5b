"""One configuration tree: ``GrpoConfig``, its sections, and how it is read."""

from grpo_core.config.run import GrpoConfig, build_config, read_config, settings_from_json, variant_of
from grpo_core.config.sections import (
    BenchConfig,
    EnvironmentConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    TelemetryConfig,
)
from grpo_core.config.training import TrainingConfig

__all__ = [
    "BenchConfig",
    "EnvironmentConfig",
    "GrpoConfig",
    "ModelConfig",
    "RolloutConfig",
    "ScheduleConfig",
    "TelemetryConfig",
    "TrainingConfig",
    "build_config",
    "read_config",
    "settings_from_json",
    "variant_of",
]

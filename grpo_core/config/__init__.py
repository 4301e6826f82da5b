"""One configuration tree: ``GrpoConfig``, its sections, and how it is read."""

from grpo_core.config.data import DataConfig
from grpo_core.config.evaluation import EvaluationConfig
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
    "DataConfig",
    "EnvironmentConfig",
    "EvaluationConfig",
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

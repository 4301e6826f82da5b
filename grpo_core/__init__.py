"""A GRPO training stack: rollout engine, LoRA cache, trainer and the schedule that keeps both busy.

    from grpo_core import Home, build_config, build_stack, open_telemetry, train

    config, home = build_config({"run": "first", "schedule": {"num_steps": 2}}), Home.from_environment()
    with build_stack(config, home) as stack, open_telemetry(config, home) as telemetry:
        result = train(stack, telemetry)

The names in ``__all__`` are public, and so are the errors that their docstrings name (``grpo_core.errors``). Everything
else is private and may change in any version. Importing this package loads no torch: a name's module is imported when
the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_core.config import (
        BenchConfig,
        DataConfig,
        EnvironmentConfig,
        EvaluationConfig,
        GrpoConfig,
        ModelConfig,
        RolloutConfig,
        ScheduleConfig,
        TelemetryConfig,
        TrainingConfig,
        build_config,
        read_config,
    )
    from grpo_core.environments.agents.own import Agent
    from grpo_core.environments.protocol import Environment
    from grpo_core.errors import GrpoError
    from grpo_core.home import Home
    from grpo_core.lora.cache import CacheCounters, CacheResult, LoRACache
    from grpo_core.lora.store import AdapterStore
    from grpo_core.model.policy import Policy, load_policy
    from grpo_core.model.tokenizer import Tokenizer, load_tokenizer
    from grpo_core.rollout.constraints.lines import Constraint, ConstraintCursor, LineConstraint
    from grpo_core.rollout.constraints.regex import RegexConstraint, compile_regex
    from grpo_core.rollout.engines import open_engine
    from grpo_core.rollout.plain_engine.engine import PlainEngine
    from grpo_core.rollout.protocol import (
        AdapterSwap,
        EngineCounters,
        GenerationRequest,
        LocalEngine,
        Outcome,
        RolloutEngine,
        SamplingParams,
    )
    from grpo_core.rollout.torch_engine.engine import TorchEngine
    from grpo_core.rollout.vllm_engine.engine import VllmEngine
    from grpo_core.schedule.launch import launch_training
    from grpo_core.schedule.loop import train
    from grpo_core.schedule.reports import StepReport, TrainResult
    from grpo_core.schedule.stack import LocalStack, Stack, build_stack
    from grpo_core.telemetry.events import Telemetry
    from grpo_core.telemetry.sinks import open_telemetry
    from grpo_core.types import (
        Adapter,
        Batch,
        Completion,
        FullWeights,
        Group,
        Observation,
        PolicyVersion,
        RaggedIds,
        RolloutStats,
        StepMetrics,
        Trajectory,
    )

    __version__: str

__all__ = [
    "Adapter",
    "AdapterStore",
    "AdapterSwap",
    "Agent",
    "Batch",
    "BenchConfig",
    "CacheCounters",
    "CacheResult",
    "Completion",
    "Constraint",
    "ConstraintCursor",
    "DataConfig",
    "EngineCounters",
    "Environment",
    "EnvironmentConfig",
    "EvaluationConfig",
    "FullWeights",
    "GenerationRequest",
    "Group",
    "GrpoConfig",
    "GrpoError",
    "Home",
    "LineConstraint",
    "LoRACache",
    "LocalEngine",
    "LocalStack",
    "ModelConfig",
    "Observation",
    "Outcome",
    "PlainEngine",
    "Policy",
    "PolicyVersion",
    "RaggedIds",
    "RegexConstraint",
    "RolloutConfig",
    "RolloutEngine",
    "RolloutStats",
    "SamplingParams",
    "ScheduleConfig",
    "Stack",
    "StepMetrics",
    "StepReport",
    "Telemetry",
    "TelemetryConfig",
    "Tokenizer",
    "TorchEngine",
    "TrainResult",
    "TrainingConfig",
    "Trajectory",
    "VllmEngine",
    "__version__",
    "build_config",
    "build_stack",
    "compile_regex",
    "launch_training",
    "load_policy",
    "load_tokenizer",
    "open_engine",
    "open_telemetry",
    "read_config",
    "train",
]

_MODULES = {
    "grpo_core.config": "BenchConfig DataConfig EnvironmentConfig EvaluationConfig GrpoConfig ModelConfig "
    "RolloutConfig ScheduleConfig TelemetryConfig TrainingConfig build_config read_config",
    "grpo_core.environments.agents.own": "Agent",
    "grpo_core.environments.protocol": "Environment",
    "grpo_core.errors": "GrpoError",
    "grpo_core.home": "Home",
    "grpo_core.lora.cache": "CacheCounters CacheResult LoRACache",
    "grpo_core.lora.store": "AdapterStore",
    "grpo_core.model.policy": "Policy load_policy",
    "grpo_core.model.tokenizer": "Tokenizer load_tokenizer",
    "grpo_core.rollout.constraints.lines": "Constraint ConstraintCursor LineConstraint",
    "grpo_core.rollout.constraints.regex": "RegexConstraint compile_regex",
    "grpo_core.rollout.engines": "open_engine",
    "grpo_core.rollout.plain_engine.engine": "PlainEngine",
    "grpo_core.rollout.protocol": "AdapterSwap EngineCounters GenerationRequest LocalEngine Outcome "
    "RolloutEngine SamplingParams",
    "grpo_core.rollout.torch_engine.engine": "TorchEngine",
    "grpo_core.rollout.vllm_engine.engine": "VllmEngine",
    "grpo_core.schedule.launch": "launch_training",
    "grpo_core.schedule.loop": "train",
    "grpo_core.schedule.reports": "StepReport TrainResult",
    "grpo_core.schedule.stack": "LocalStack Stack build_stack",
    "grpo_core.telemetry.events": "Telemetry",
    "grpo_core.telemetry.sinks": "open_telemetry",
    "grpo_core.types": "Adapter Batch Completion FullWeights Group Observation PolicyVersion RaggedIds RolloutStats "
    "StepMetrics Trajectory",
}
"""Where each public name is defined. The imports above say the same to type checkers, which cannot read this."""


if not TYPE_CHECKING:  # else every name would be right to a type checker, misspelled ones too

    def __getattr__(name: str) -> Any:
        from grpo_core.extras import naming_extras

        if name == "__version__":
            from importlib.metadata import version

            return version("pytest-grpo")
        for module, names in _MODULES.items():
            if name in names.split():
                with naming_extras():
                    value = getattr(import_module(module), name)
                globals()[name] = value  # the next access is a plain one
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

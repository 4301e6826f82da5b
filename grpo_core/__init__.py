"""A GRPO training stack: rollout engine, LoRA cache, trainer and the schedule that keeps both busy.

    from grpo_core import Home, build_config, build_stack, open_telemetry, train

    config, home = build_config({"run": "first", "schedule": {"num_steps": 2}}), Home.from_environment()
    with build_stack(config, home) as stack, open_telemetry(config, home) as telemetry:
        result = train(stack, telemetry)

The names in ``__all__`` are public. Everything else is private and may change in any version. Importing this package
loads no torch: a name's module is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_core.config import GrpoConfig as GrpoConfig
    from grpo_core.config import build_config as build_config
    from grpo_core.config import read_config as read_config
    from grpo_core.environments.protocol import Environment as Environment
    from grpo_core.errors import GrpoError as GrpoError
    from grpo_core.home import Home as Home
    from grpo_core.lora.cache import LoRACache as LoRACache
    from grpo_core.lora.store import AdapterStore as AdapterStore
    from grpo_core.model.policy import Policy as Policy
    from grpo_core.model.policy import load_policy as load_policy
    from grpo_core.model.tokenizer import Tokenizer as Tokenizer
    from grpo_core.model.tokenizer import load_tokenizer as load_tokenizer
    from grpo_core.rollout.constraints.lines import LineConstraint as LineConstraint
    from grpo_core.rollout.constraints.regex import compile_regex as compile_regex
    from grpo_core.rollout.engines import open_engine as open_engine
    from grpo_core.rollout.plain_engine.engine import PlainEngine as PlainEngine
    from grpo_core.rollout.protocol import GenerationRequest as GenerationRequest
    from grpo_core.rollout.protocol import RolloutEngine as RolloutEngine
    from grpo_core.rollout.protocol import SamplingParams as SamplingParams
    from grpo_core.rollout.torch_engine.engine import TorchEngine as TorchEngine
    from grpo_core.rollout.vllm_engine.engine import VllmEngine as VllmEngine
    from grpo_core.schedule.loop import StepReport as StepReport
    from grpo_core.schedule.loop import TrainResult as TrainResult
    from grpo_core.schedule.loop import train as train
    from grpo_core.schedule.stack import Stack as Stack
    from grpo_core.schedule.stack import build_stack as build_stack
    from grpo_core.telemetry.events import Telemetry as Telemetry
    from grpo_core.telemetry.sinks import open_telemetry as open_telemetry
    from grpo_core.types import Adapter as Adapter
    from grpo_core.types import Batch as Batch
    from grpo_core.types import Completion as Completion
    from grpo_core.types import Group as Group
    from grpo_core.types import Observation as Observation
    from grpo_core.types import PolicyVersion as PolicyVersion
    from grpo_core.types import StepMetrics as StepMetrics
    from grpo_core.types import Trajectory as Trajectory

    __version__: str

__all__ = [
    "Adapter",
    "AdapterStore",
    "Batch",
    "Completion",
    "Environment",
    "GenerationRequest",
    "Group",
    "GrpoConfig",
    "GrpoError",
    "Home",
    "LineConstraint",
    "LoRACache",
    "Observation",
    "PlainEngine",
    "Policy",
    "PolicyVersion",
    "RolloutEngine",
    "SamplingParams",
    "Stack",
    "StepMetrics",
    "StepReport",
    "Telemetry",
    "Tokenizer",
    "TorchEngine",
    "TrainResult",
    "Trajectory",
    "VllmEngine",
    "__version__",
    "build_config",
    "build_stack",
    "compile_regex",
    "load_policy",
    "load_tokenizer",
    "open_engine",
    "open_telemetry",
    "read_config",
    "train",
]

_MODULES = {
    "grpo_core.config": "GrpoConfig build_config read_config",
    "grpo_core.environments.protocol": "Environment",
    "grpo_core.errors": "GrpoError",
    "grpo_core.home": "Home",
    "grpo_core.lora.cache": "LoRACache",
    "grpo_core.lora.store": "AdapterStore",
    "grpo_core.model.policy": "Policy load_policy",
    "grpo_core.model.tokenizer": "Tokenizer load_tokenizer",
    "grpo_core.rollout.constraints.lines": "LineConstraint",
    "grpo_core.rollout.constraints.regex": "compile_regex",
    "grpo_core.rollout.engines": "open_engine",
    "grpo_core.rollout.plain_engine.engine": "PlainEngine",
    "grpo_core.rollout.protocol": "GenerationRequest RolloutEngine SamplingParams",
    "grpo_core.rollout.torch_engine.engine": "TorchEngine",
    "grpo_core.rollout.vllm_engine.engine": "VllmEngine",
    "grpo_core.schedule.loop": "StepReport TrainResult train",
    "grpo_core.schedule.stack": "Stack build_stack",
    "grpo_core.telemetry.events": "Telemetry",
    "grpo_core.telemetry.sinks": "open_telemetry",
    "grpo_core.types": "Adapter Batch Completion Group Observation PolicyVersion StepMetrics Trajectory",
}
"""Where each public name is defined: its module is imported when the name is first asked for."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-grpo")
    for module, names in _MODULES.items():
        if name in names.split():
            value = getattr(import_module(module), name)
            globals()[name] = value  # the next access is a plain one
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Fixtures of the phases: stacks of the tiny preset in an empty home, and prompts of real games."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.settings.config import PLUGIN_CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_core.home import Home
    from grpo_core.schedule.stack import LocalStack
    from pytest_grpo.arms import MeasuredArm
    from pytest_grpo.settings.thresholds import Threshold

BuildStack = Callable[..., "LocalStack"]
GrpoArms = Callable[..., "tuple[MeasuredArm, ...]"]
GrpoThreshold = Callable[[str], "Threshold"]
ReferenceArm = Callable[[], None]


@pytest.fixture
def bench_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An empty GRPO_HOME."""
    from grpo_core.home import Home

    root = tmp_path_factory.mktemp("grpo")
    return Home(data=root / "data", traces=root / "traces")


@pytest.fixture
def build_stack_for(bench_home: Home, request: pytest.FixtureRequest) -> BuildStack:
    """Builds a stack from a run name and settings per section, e.g. ``rollout={"group_size": 4}``."""
    system = request.config.stash[PLUGIN_CONFIG].system
    if system != "grpo_core":
        pytest.skip(f"measures the schedule, the environments or the telemetry of grpo_core, not of {system}")

    def build(run: str, **sections: dict[str, Any]) -> LocalStack:
        from grpo_core.config import build_config
        from grpo_core.schedule.stack import build_stack

        return build_stack(build_config({"run": run, **sections}), bench_home)

    return build


@pytest.fixture
def sampling_reference(tmp_path: Path) -> ReferenceArm:
    """The arm ``reference`` of gates that sample: pinned decoding of a real prompt in plain torch."""
    from grpo_core.model.tokenizer import load_tokenizer
    from pytest_grpo.systems.protocol import SystemSettings

    from .plain import reference_rollout

    settings = SystemSettings(home=tmp_path)
    return reference_rollout(settings, load_tokenizer(settings.model).encode(movement_prompts(compact=True)[0]))


def movement_prompts(*, compact: bool) -> list[str]:
    """The prompts of the seven powers in the first movement phase of a Diplomacy game."""
    from grpo_core.config import EnvironmentConfig
    from grpo_core.environments import make_environment_factory

    environment = make_environment_factory(EnvironmentConfig(name="diplomacy", compact_prompts=compact))()
    environment.reset(0)
    return [observation.prompt for observation in environment.observe()]

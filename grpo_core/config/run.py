"""One configuration tree, checked as a whole before anything starts.

Unknown keys are errors. A value that contradicts another is an error that names both.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError, model_validator

from grpo_core.config.evaluation import EvaluationConfig
from grpo_core.config.section import Section
from grpo_core.config.sections import (
    BenchConfig,
    EnvironmentConfig,
    ModelConfig,
    RolloutConfig,
    ScheduleConfig,
    TelemetryConfig,
)
from grpo_core.config.training import TrainingConfig
from grpo_core.config.values import merged, parse_toml
from grpo_core.errors import ConfigError, shown
from grpo_core.home import check_name, parse_json

_MAX_ERRORS = 8
_MAX_KEY_LENGTH = 100
_EXAMPLE = '{"training": {"loss": "gspo"}}'


class GrpoConfig(Section):
    """The whole run."""

    run: str = "run"
    """Names the adapters, events and checkpoints of this run."""
    model: ModelConfig = ModelConfig()
    environment: EnvironmentConfig = EnvironmentConfig()
    rollout: RolloutConfig = RolloutConfig()
    training: TrainingConfig = TrainingConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    bench: BenchConfig = BenchConfig()

    def settings(self) -> dict[str, Any]:
        """What is trained, and how, as nested values: all but the section ``bench``."""
        return self.model_dump(exclude={"bench"})

    @model_validator(mode="after")
    def _full_weights_have_no_adapter(self) -> GrpoConfig:
        if self.training.method != "full":
            return self
        if self.rollout.engine == "vllm":
            raise ValueError(
                "rollout.engine 'vllm' does not go with training.method 'full': it samples from adapters only; use "
                "'torch' or 'plain'"
            )
        defaults, model = ModelConfig().model_dump(), self.model.model_dump()
        for key in ("lora_rank", "lora_alpha", "lora_targets"):
            if model[key] != defaults[key]:
                raise ValueError(
                    f"model.{key} {model[key]} does not go with training.method 'full', which has no adapter; leave it "
                    "out, or set training.method to 'lora'"
                )
        return self

    @model_validator(mode="after")
    def _steps_are_enough(self) -> GrpoConfig:
        if self.training.warmup_steps > self.schedule.num_steps:
            raise ValueError(
                f"training.warmup_steps {self.training.warmup_steps} is more than schedule.num_steps "
                f"{self.schedule.num_steps}: the learning rate would never be reached; lower the one or raise the other"
            )
        if self.training.mini_batches > self.rollout.num_groups:
            raise ValueError(
                f"training.mini_batches {self.training.mini_batches} is more than rollout.num_groups "
                f"{self.rollout.num_groups}, which it splits; lower the one or raise the other"
            )
        return self

    @model_validator(mode="after")
    def _groups_have_siblings(self) -> GrpoConfig:
        if self.rollout.group_size == 1 and self.training.advantages != "mean_only":
            raise ValueError(
                "rollout.group_size 1 has no siblings to compare with "
                f"(training.advantages {self.training.advantages!r}); use a group_size of at least "
                "2, or training.advantages 'mean_only'"
            )
        return self


def build_config(values: Mapping[str, Any], typed: Mapping[str, str] | None = None) -> GrpoConfig:
    """The checked configuration for nested ``values``. ``typed`` has, per dotted key, the flag that gave its value.

    Raises:
        ConfigError: one line that names every bad key with what is allowed there.
    """
    try:
        config = GrpoConfig.model_validate(values)
    except ValidationError as error:
        listed: set[tuple[str, ...]] = set()
        lines = [_explain(detail, typed or {}, listed) for detail in error.errors()[:_MAX_ERRORS]]
        more = [f"and {error.error_count() - _MAX_ERRORS} more"] if error.error_count() > _MAX_ERRORS else []
        raise ConfigError("; ".join(lines + more)) from None
    check_name(config.run, "run")
    for name in config.bench.variants:
        variant_of(config, name)
    return config


def variant_of(config: GrpoConfig, name: str) -> GrpoConfig:
    """``config`` with the settings of its variant ``name``, and without variants.

    Raises:
        ConfigError: there is none of this name, or its settings are not allowed.
    """
    if name not in config.bench.variants:
        names = ", ".join(config.bench.variants) or "none"
        raise ConfigError(f"bench.variants: no variant {name!r}; there are: {names}")
    changes = config.bench.variants[name]
    if "bench" in changes:
        raise ConfigError(f"bench.variants.{name}: a variant has no variants of its own; take bench out of it")
    values = merged(config.settings(), changes)
    try:
        return build_config(values)
    except ConfigError as error:
        raise ConfigError(f"bench.variants.{name}: {error}") from None


def read_config(path: Path) -> dict[str, Any]:
    """The nested values of a TOML file, unchecked.

    Raises:
        ConfigError: the file is missing or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"config {path}: {reason}; give the path of a readable TOML file") from error
    try:
        return parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"config {path}: not TOML ({error}); fix that line") from error


def settings_from_json(text: str) -> dict[str, Any]:
    """The nested values that one process sends to another, unchecked.

    Raises:
        ConfigError: they are no JSON object.
    """
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"settings: not JSON ({error}); give an object such as {_EXAMPLE}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"settings: {shown(values)} is not an object; give one such as {_EXAMPLE}")
    return values


def _explain(detail: Any, typed: Mapping[str, str], listed: set[tuple[str, ...]]) -> str:
    """``listed``: the sections whose keys the message has already."""
    key = ".".join(str(part) for part in detail["loc"])
    where = typed.get(key, key[:_MAX_KEY_LENGTH].replace("\n", " "))
    if detail["type"] == "extra_forbidden":
        section: Any = GrpoConfig
        for part in detail["loc"][:-1]:
            section = section.model_fields[part].annotation
        allowed = list(section.model_fields)
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), allowed, n=1)
        meant = f"; did you mean {nearest[0]}?" if nearest else ""
        if detail["loc"][:-1] in listed:
            return f"{where}: unknown key{meant}"
        listed.add(detail["loc"][:-1])
        return f"{where}: unknown key{meant or ';'} allowed here: {', '.join(allowed)}"
    if detail["type"] == "model_type":
        section: Any = GrpoConfig
        for part in detail["loc"]:
            section = section.model_fields[part].annotation
        names = ", ".join(section.model_fields)
        return f"{where}: {shown(detail['input'])} is not allowed: it is a section; set one of its keys: {names}"
    if detail["type"] == "tuple_type":
        return f'{where}: {shown(detail["input"])} is not allowed: give a list, such as [1, 2] or ["a", "b"]'
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {shown(detail['input'])} is not allowed: {message}"

"""Attributes of spans, of metrics and of the run itself, as OTLP has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from grpo_core.config import GrpoConfig
from grpo_core.telemetry.addresses import pairs

Value = str | int | float | bool

NANOSECONDS = 1_000_000_000
MAX_VALUE = 1e15
"""A greater number is in no event of this project."""
MAX_COUNT = (1 << 63) - 1
"""The largest integer of OTLP."""
SYSTEM = "pytest-grpo"


def attributes(values: Mapping[str, Value]) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in values.items()]


def nanoseconds(time_s: float) -> int:
    """Since 1970, as OTLP counts."""
    return round(time_s * NANOSECONDS)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether an event's value is one that OTLP can hold: events may come from any program."""
    return isinstance(value, int | float) and abs(value) < MAX_VALUE


def encodable(text: str) -> str:
    """``text`` with a question mark for what UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()


def scope(version: str) -> InstrumentationScope:
    return InstrumentationScope(name=SYSTEM, version=version)


def resource(config: GrpoConfig, version: str, environment: Mapping[str, str]) -> Resource:
    """What is said once for all spans and metrics of a run. ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME`` add
    to it, and win."""
    own: dict[str, Value] = {
        "service.name": SYSTEM,
        "service.version": version,
        "rl.system": SYSTEM,
        "rl.system.version": version,
        "rl.run.id": config.run,
        "rl.algorithm": config.training.loss,
        "rl.model.name": config.model.name,
        "rl.environment.name": config.environment.name,
    }
    given = pairs(environment.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if name := environment.get("OTEL_SERVICE_NAME"):
        given["service.name"] = name
    return Resource(attributes=attributes({**own, **given}))


def _any_value(value: Value) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=encodable(value))

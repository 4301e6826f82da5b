"""Finds a system by name and builds it."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest

from pytest_grpo.settings.config import PluginConfig
from pytest_grpo.settings.run import RunSettings
from pytest_grpo.systems.protocol import ClosableSystem, GrpoSystem, SystemSettings

MAX_LOGPROB_TOLERANCE = 0.1
"""Nats. Two policies that differ by more are not the same to within rounding, whatever the precision."""
ENTRY_POINT_GROUP = "pytest_grpo.systems"
BUILT_IN = {
    "grpo_core": "pytest_grpo.systems.grpo_core:GrpoCoreSystem",
    "trl": "pytest_grpo.systems.trl.system:TrlSystem",
}

SystemFactory = Callable[[SystemSettings], object]
"""``load_system`` checks what it returns."""


def system_names() -> list[str]:
    """Built-in systems and those of installed packages."""
    return sorted({*BUILT_IN, *entry_points(group=ENTRY_POINT_GROUP).names})


def find_system(name: str) -> SystemFactory:
    """The factory of system ``name``: one of ``system_names``, or ``module:factory``. Builds nothing.

    Raises:
        pytest.UsageError: no such system, or it cannot be imported.
    """
    from grpo_core.errors import MissingPackageError
    from grpo_core.extras import naming_extras

    if name == "trl" and find_spec("trl") is None:
        raise pytest.UsageError(
            "system 'trl': the package trl is not installed; run: pip install 'pytest-grpo[trl]' "
            "(in a clone: uv run --extra trl pytest ...)"
        )
    installed = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    target = (installed | BUILT_IN).get(name, name)
    if target == name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as with `python -m pytest`: a module beside the tests needs no PYTHONPATH
    if ":" not in target:
        raise pytest.UsageError(
            f"system {name!r}: no such system; choose one of {', '.join(system_names())}, or give 'module:factory'"
        )
    try:
        with naming_extras():
            factory = pkgutil.resolve_name(target)
    except MissingPackageError as error:
        raise pytest.UsageError(f"system {name!r}: {error}") from None
    except (ImportError, AttributeError, ValueError) as error:
        raise pytest.UsageError(f"system {name!r}: cannot import {target} ({error}); correct the name") from error
    if not callable(factory):
        raise pytest.UsageError(f"system {name!r}: {target} is not callable; name a function or class of one argument")
    return factory


def check_systems(settings: PluginConfig) -> None:
    """Raises pytest.UsageError when a selected system does not exist or its packages are missing."""
    for name in (settings.system, settings.versus):
        if name not in (None, "grpo_core") and settings.remote is None:
            find_system(name)


def load_system(name: str, settings: SystemSettings) -> GrpoSystem:
    """Build system ``name`` (see ``find_system``).

    Raises:
        pytest.UsageError: it does not exist, its factory returns no GrpoSystem, or it rejects the settings.
        UnsupportedError: the system lacks a feature that the settings need.
    """
    from grpo_core.errors import GrpoError
    from grpo_core.extras import naming_extras

    factory = find_system(name)
    try:
        with naming_extras():
            system = factory(settings)
    except GrpoError as error:
        raise pytest.UsageError(f"system {name!r}: {error}") from None
    if not isinstance(system, GrpoSystem):
        raise pytest.UsageError(
            f"system {name!r}: its factory returned {type(system).__name__}, which lacks methods of GrpoSystem; "
            "derive that class from pytest_grpo.GrpoSystem"
        )
    if not 0 <= system.logprob_tolerance <= MAX_LOGPROB_TOLERANCE:
        raise pytest.UsageError(
            f"system {name!r}: logprob_tolerance {system.logprob_tolerance} nats: allowed are 0 to "
            f"{MAX_LOGPROB_TOLERANCE}; state what its precision costs"
        )
    return system


@contextmanager
def open_system(name: str, settings: SystemSettings) -> Iterator[GrpoSystem]:
    """As ``load_system``; closed at the end."""
    system = load_system(name, settings)
    try:
        yield system
    finally:
        if isinstance(system, ClosableSystem):
            system.close()


def settings_of(run: RunSettings, home: Path, **changes: object) -> SystemSettings:
    """The settings of a system for the model, the engine and the training of ``run``, with ``changes`` of its fields.

    Raises:
        pytest.UsageError: the run cannot be read.
    """
    if run.is_embedded:
        return replace(SystemSettings(home=home), **changes)
    config = run.config()
    settings = SystemSettings(
        home=home,
        model=config.model.name,
        dtype=config.model.dtype,
        precision=config.training.precision,
        method=config.training.method,
        engine=config.rollout.engine,
        lora_rank=config.model.lora_rank,
        lora_alpha=config.model.lora_alpha,
        lora_targets=config.model.lora_targets,
        device=config.model.device,
        packing=config.training.packing,
        micro_batch_tokens=config.training.micro_batch_tokens,
        max_kv_bytes=config.rollout.max_kv_bytes,
        seed=config.rollout.seed,
    )
    return replace(settings, **changes)

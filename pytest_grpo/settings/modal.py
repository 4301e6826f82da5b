"""The settings for Modal, from options, ini values and the thresholds file.

GPU names are checked here, because Modal accepts any text until it starts a container.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_grpo.settings.phases import PHASE_NUMBERS, PHASE_TABLES

DEFAULT_RETRIES = 2
DEFAULT_MAX_CONTAINERS = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[a-z0-9-]+")


@dataclass(frozen=True, slots=True)
class ModalSettings:
    """Where and on what hardware phases run on Modal. None means as the app defines it."""

    gpu: str | None
    """``--modal-gpu``: for every phase."""
    gpu_of_phase: Mapping[int, str]
    """From the thresholds file's tables ``[modal.phaseN]``."""
    default_gpu: str | None
    """The ini ``grpo_modal_gpu``; the file wins over it."""
    app: str | None
    """The name of a deployed app, or a Python file; None is ``app.py`` in the project's root."""
    timeout_s: int | None
    regions: tuple[str, ...]
    environment: str | None
    max_containers: int
    """How many phases may run at once."""
    num_retries: int
    """How often a phase restarts after its worker was lost, on Modal or in a local process."""
    is_detached: bool
    attached_run: str | None

    @classmethod
    def from_pytest_config(cls, config: pytest.Config, thresholds_path: Path) -> ModalSettings:
        """Raises pytest.UsageError, one line, for each value that is not allowed."""
        retries = _whole_number(config, "retries", 0, 10, "numbers from 0 to 10", str(DEFAULT_RETRIES))
        option, ini = config.getoption("grpo_modal_gpu"), config.getini("grpo_modal_gpu")
        return cls(
            gpu=None if option is None else check_gpu(option, f"--modal-gpu {option!r}"),
            gpu_of_phase=read_gpus(thresholds_path),
            default_gpu=check_gpu(ini, f"ini grpo_modal_gpu {ini!r}") if ini else None,
            app=_app(config),
            timeout_s=_whole_number(config, "timeout", 1, 86_400, "seconds from 1 to 86400", "3600"),
            regions=_regions(config),
            environment=_matching(config, "env", _NAME, "letters, digits, '.', '_' and '-'", "main"),
            max_containers=_whole_number(config, "max_containers", 1, 100, "numbers from 1 to 100", "2")
            or DEFAULT_MAX_CONTAINERS,
            num_retries=DEFAULT_RETRIES if retries is None else retries,
            is_detached=bool(config.getoption("grpo_modal_detach")),
            attached_run=config.getoption("grpo_modal_attach"),
        )

    def gpu_for(self, phase: int) -> str | None:
        return self.gpu or self.gpu_of_phase.get(phase) or self.default_gpu

    @property
    def takes_gpu_away(self) -> bool:
        """Whether any phase runs with gpu ``none``, which the SDK's options cannot express."""
        from grpo_core.cloud.gpus import NO_GPU

        return any(self.gpu_for(number) == NO_GPU for number in PHASE_NUMBERS.values())


def check_gpu(text: str, where: str) -> str:
    """As ``grpo_core.cloud.gpus.check_gpu``, with pytest.UsageError."""
    from grpo_core.cloud import gpus
    from grpo_core.errors import ConfigError

    try:
        return gpus.check_gpu(text, where)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


def read_gpus(path: Path) -> dict[int, str]:
    """Phase -> GPU of the tables ``[modal.phaseN]``. Empty for an unreadable file, which ``load_thresholds`` reports.

    Raises:
        pytest.UsageError: a table is invalid.
    """
    try:
        tables: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("modal", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
    gpus = {}
    for marker, table in tables.items() if isinstance(tables, dict) else [("", None)]:
        where = f"thresholds {path}: [modal.{marker:.100}]"
        if marker not in PHASE_NUMBERS or not isinstance(table, dict) or set(table) != {"gpu"}:
            raise pytest.UsageError(
                f'{where}: allowed are tables {PHASE_TABLES}, each with a gpu; write e.g. gpu = "H100:2"'
            )
        gpus[PHASE_NUMBERS[marker]] = check_gpu(str(table["gpu"]), f"{where} gpu = {table['gpu']!r:.100}")
    return gpus


def _value(config: pytest.Config, name: str) -> tuple[str, str]:
    """The value, ``""`` when unset, and how to name it in errors."""
    option = config.getoption(f"grpo_modal_{name}")
    if option is not None:
        return option, f"--modal-{name.replace('_', '-')} {option!r}"
    ini = config.getini(f"grpo_modal_{name}")
    return ini, f"ini grpo_modal_{name} {ini!r}"


def _matching(config: pytest.Config, name: str, pattern: re.Pattern[str], allowed: str, example: str) -> str | None:
    text, where = _value(config, name)
    if not text and config.getoption(f"grpo_modal_{name}") is None:
        return None
    if not pattern.fullmatch(text):
        raise pytest.UsageError(f"{where}: allowed are {allowed}; try {example}")
    return text


def _app(config: pytest.Config) -> str | None:
    text, where = _value(config, "app")
    if not text.endswith(".py"):
        return _matching(config, "app", _NAME, "the name of a deployed app, or a Python file", "pytest-grpo")
    if not (config.rootpath / text).is_file():
        raise pytest.UsageError(f"{where}: no such file in {config.rootpath}; name one, or a deployed app")
    return text


def _regions(config: pytest.Config) -> tuple[str, ...]:
    text, where = _value(config, "region")
    regions = tuple(part.strip() for part in text.split(",")) if text else ()
    if not all(_REGION.fullmatch(region) for region in regions):
        raise pytest.UsageError(f"{where}: allowed are names like us-east, comma-separated; try us-east,eu")
    return regions


def _whole_number(config: pytest.Config, name: str, least: int, most: int, what: str, example: str) -> int | None:
    text, where = _value(config, name)
    if not text and config.getoption(f"grpo_modal_{name}") is None:
        return None
    if not text.isdecimal() or not least <= int(text) <= most:
        raise pytest.UsageError(f"{where}: allowed are whole {what}; try {example}")
    return int(text)

"""What the user asked of the plugin, from options and ini values, checked."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytest

from pytest_grpo.phases import parse_phases, phases_in_expression

if TYPE_CHECKING:
    from pytest_grpo.thresholds import Threshold

DeviceProfile = Literal["cpu", "gpu"]
RemoteKind = Literal["modal", "subprocess"]

CHILD_PLUGIN = "pytest_grpo.remote.reports"
"""Loaded in the process that runs tests for another one; it must not send them on."""


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """The plugin's settings. An option wins over its ini twin."""

    only_phases: frozenset[int] | None
    """``--phase``: nothing else runs. None when it was not given."""
    asked_phases: frozenset[int]
    """The phases that ``--phase`` or ``-m`` ask for."""
    remote: RemoteKind | None
    """Where phase tests run; None is here."""
    thresholds_path: Path
    thresholds_required: bool
    """The file was named, or a threshold is overridden: it must be readable even if no phase runs."""
    threshold_overrides: tuple[str, ...]
    num_pairs: int
    device_profile: DeviceProfile | None
    """None is found out when it is needed."""
    inconclusive: Literal["xfail", "fail"]

    @classmethod
    def from_pytest_config(cls, config: pytest.Config) -> PluginConfig:
        """Raises pytest.UsageError, one line, for each value that is not allowed."""
        only, asked = _phases(config)
        path = config.getini("grpo_thresholds")
        overrides = (*config.getini("grpo_threshold"), *(config.getoption("grpo_threshold") or ()))
        return cls(
            only_phases=only,
            asked_phases=asked,
            remote=_remote(config),
            thresholds_path=config.rootpath / (path or "bench/thresholds.toml"),
            thresholds_required=bool(path or overrides),
            threshold_overrides=overrides,
            num_pairs=_num_pairs(_value(config, "grpo_pairs")),
            device_profile=cast(
                "DeviceProfile | None", _choice(config, "grpo_device_profile", ("cpu", "gpu"), default="auto")
            ),
            inconclusive="fail" if _choice(config, "grpo_inconclusive", ("fail",), default="xfail") else "xfail",
        )

    @property
    def profile(self) -> DeviceProfile:
        """The device profile, found out if it was not set."""
        return self.device_profile or detect_device_profile()


PLUGIN_CONFIG = pytest.StashKey[PluginConfig]()
_THRESHOLDS = pytest.StashKey[Mapping[str, "Threshold"]]()


def thresholds_of(config: pytest.Config) -> Mapping[str, Threshold]:
    """The thresholds of this session, read once.

    Raises:
        pytest.UsageError: the file or an override is not usable.
    """
    if _THRESHOLDS not in config.stash:
        from pytest_grpo.thresholds import load_thresholds, override_thresholds

        settings = config.stash[PLUGIN_CONFIG]
        loaded = load_thresholds(settings.thresholds_path, settings.profile)
        config.stash[_THRESHOLDS] = override_thresholds(loaded, settings.threshold_overrides)
    return config.stash[_THRESHOLDS]


def is_xdist_worker(config: pytest.Config) -> bool:
    """Whether this process runs tests for an xdist controller, which alone reports."""
    return hasattr(config, "workerinput")


def detect_device_profile() -> DeviceProfile:
    """``gpu`` when NVML sees a device that this process may use. Imports no torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    return "gpu" if _gpu_name() else "cpu"


@functools.cache
def describe_device(profile: DeviceProfile) -> str:
    """One line for people: the profile and what stands behind it."""
    if profile == "gpu":
        return f"gpu {_gpu_name()}".rstrip()
    import platform

    return f"cpu {platform.machine()}, {os.cpu_count()} cores"


def _gpu_name() -> str:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError:
        return ""
    finally:
        pynvml.nvmlShutdown()


def _value(config: pytest.Config, name: str) -> str:
    option = config.getoption(name, None)
    return config.getini(name) if option is None else option


def _choice(config: pytest.Config, name: str, allowed: tuple[str, ...], default: str) -> str | None:
    """One of ``allowed``, or None for ``default`` and for nothing."""
    value = _value(config, name) or default
    if value not in (*allowed, default):
        given = f"ini {name}" if config.getoption(name, None) is None else f"--{name.replace('_', '-')}"
        raise pytest.UsageError(f"{given} {value!r}: allowed are {', '.join((*allowed, default))}; choose one")
    return None if value == default else value


def _phases(config: pytest.Config) -> tuple[frozenset[int] | None, frozenset[int]]:
    option = config.getoption("grpo_phase")
    expression: str = config.getoption("markexpr") or ""
    asked = phases_in_expression(expression)
    if option is not None:
        only = parse_phases(option)
        if not asked <= only:
            extra = ", ".join(f"phase{number}" for number in sorted(asked - only))
            raise pytest.UsageError(
                f"--phase {option!r} and -m {expression!r}: {extra} is asked for by -m only; drop one of the two"
            )
        return only, asked or only
    ini = config.getini("grpo_phase")
    if ini and not asked:
        return parse_phases(ini), parse_phases(ini)
    return None, asked


def _remote(config: pytest.Config) -> RemoteKind | None:
    if config.pluginmanager.has_plugin(CHILD_PLUGIN):
        return None
    kind = _choice(config, "grpo_remote", ("modal", "subprocess"), default="local")
    modal = config.getoption("grpo_modal")
    if modal and config.getoption("grpo_remote") not in (None, "modal"):
        raise pytest.UsageError(f"--modal and --grpo-remote {kind or 'local'}: two places to run; drop one of the two")
    if modal or (config.getini("grpo_modal") and config.getoption("grpo_remote") is None):
        kind = "modal"
    if kind is not None and config.getoption("dist", "no") != "no":
        raise pytest.UsageError(f"{kind} runs phase tests one after the other: xdist cannot spread them; drop -n")
    return cast("RemoteKind | None", kind)


def _num_pairs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise pytest.UsageError(f"--grpo-pairs {text!r}: allowed are whole numbers from 1 to 1000; try --grpo-pairs 5")
    return int(text)

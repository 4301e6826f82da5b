"""What the process that runs a phase for this session must know of its settings."""

from __future__ import annotations

import pytest

from pytest_grpo.gate.stash import NUM_GATES
from pytest_grpo.reports import pytest_benchmark
from pytest_grpo.settings.config import PLUGIN_CONFIG, PluginConfig


def forwarded_arguments(config: pytest.Config) -> tuple[str, ...]:
    """For pytest there; its own ini file gives the rest.

    Options of other plugins but pytest-benchmark are not known here and are not forwarded.
    """
    settings = config.stash[PLUGIN_CONFIG]
    num_gates = settings.num_gates or max(1, config.stash.get(NUM_GATES, 1))
    return (
        *_of_pytest(config),
        *pytest_benchmark.run_arguments(config),
        f"--grpo-num-gates={num_gates}",
        *_of_grpo(settings),
    )


def _of_pytest(config: pytest.Config) -> list[str]:
    arguments = ["--rootdir=.", "-p", "no:cacheprovider", "--color=no", f"--tb={config.getoption('tbstyle')}"]
    arguments += [f"--verbosity={config.getoption('verbose')}", f"--import-mode={config.getoption('importmode')}"]
    if config.inipath is not None and config.inipath.is_relative_to(config.rootpath):
        arguments += ["-c", config.inipath.relative_to(config.rootpath).as_posix()]
    for name in config.getoption("plugins") or ():
        arguments += ["-p", name]
    for override in config.getoption("override_ini") or ():
        arguments += ["-o", override]
    for warning_filter in config.getoption("pythonwarnings") or ():
        arguments += ["-W", warning_filter]
    if config.getoption("showlocals"):
        arguments.append("--showlocals")
    if config.getoption("runxfail"):
        arguments.append("--runxfail")
    if config.getoption("maxfail"):
        arguments.append(f"--maxfail={config.getoption('maxfail')}")
    return arguments


def _of_grpo(settings: PluginConfig) -> list[str]:
    arguments = [f"--grpo-pairs={','.join(map(str, settings.looks))}", f"--grpo-budget={settings.budget_s:g}"]
    arguments += [f"--grpo-system={settings.system}", f"--grpo-inconclusive={settings.inconclusive}"]
    if not settings.has_control:
        arguments += ["-o", "grpo_control=false"]
    if settings.compare is not None:
        arguments.append(f"--grpo-tolerance={settings.tolerance:g}")  # the place adds the baseline itself
    if settings.any_machine:
        arguments.append("--grpo-any-machine")
    if settings.versus is not None:
        arguments.append(f"--grpo-versus={settings.versus}")
    if settings.device_profile is not None:
        arguments.append(f"--grpo-device-profile={settings.device_profile}")
    return arguments + [f"--grpo-threshold={text}" for _, text in settings.threshold_overrides]

"""The pytest plugin: options, ini values, markers and hooks. Wiring only; loading it imports nothing heavy."""

from __future__ import annotations

import pytest

from pytest_grpo import hookspecs
from pytest_grpo.config import PLUGIN_CONFIG, PluginConfig, is_xdist_worker, thresholds_of
from pytest_grpo.phases import PHASES, check_markers, named_on_command_line, phases_of, select
from pytest_grpo.report import VERDICT_REPORT, VerdictReport, header_line

pytest_plugins = ("pytest_grpo.fixtures",)

_HIDDEN_PHASES = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("grpo", "performance phases of a GRPO training stack")
    group.addoption(
        "--phase", "--grpo-phase", dest="grpo_phase", metavar="PHASES", help="run only these phases: 2,5 or all"
    )
    group.addoption(
        "--modal", "--grpo-modal", dest="grpo_modal", action="store_true", help="run the phase tests on Modal"
    )
    group.addoption(
        "--grpo-remote", metavar="PLACE", help="where phase tests run: local, subprocess (a clean process) or modal"
    )
    group.addoption(
        "--grpo-threshold",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="replace the bound of a threshold, e.g. batched_speedup=1.5 or forward_over_backward=0.5..2 (repeatable)",
    )
    group.addoption("--grpo-pairs", metavar="N", help="interleaved pairs per comparison (default: 5)")
    group.addoption("--grpo-device-profile", metavar="PROFILE", help="thresholds to use: cpu, gpu or auto (default)")
    parser.addini("grpo_phase", "phases to run when none are asked for, as --phase", default="")
    parser.addini("grpo_modal", "as --modal", type="bool", default=False)
    parser.addini("grpo_remote", "as --grpo-remote", default="")
    parser.addini("grpo_thresholds", "thresholds file (default: bench/thresholds.toml)", default="")
    parser.addini("grpo_threshold", "replaced bounds, as --grpo-threshold", type="linelist", default=[])
    parser.addini("grpo_pairs", "as --grpo-pairs", default="5")
    parser.addini("grpo_device_profile", "as --grpo-device-profile", default="")
    parser.addini("grpo_inconclusive", "how an inconclusive verdict is reported: xfail (default) or fail", default="")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    for phase in PHASES:
        config.addinivalue_line("markers", f"{phase.marker}: {phase.title}: {phase.proves}")
    settings = config.stash[PLUGIN_CONFIG] = PluginConfig.from_pytest_config(config)
    if is_xdist_worker(config):
        return
    report = config.stash[VERDICT_REPORT] = VerdictReport(config)
    config.pluginmanager.register(report, "grpo-verdicts")
    if settings.asked_phases or settings.thresholds_required:
        thresholds_of(config)
    if settings.remote is not None and not config.getoption("collectonly"):
        from pytest_grpo.remote.replay import RemoteReplay, connect

        config.pluginmanager.register(RemoteReplay(config, connect(config, settings.remote)), "grpo-remote")


def pytest_report_header(config: pytest.Config) -> str | None:
    return header_line(config)


@pytest.hookimpl(trylast=True)  # after -k and -m, so that the hint below counts what they left
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    settings = config.stash[PLUGIN_CONFIG]
    if not is_xdist_worker(config):
        for item in items:
            check_markers(item)
    kept, deselected = select(items, settings.only_phases, settings.asked_phases, named_on_command_line(config))
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = kept
    if not kept:
        config.stash[_HIDDEN_PHASES] = sum(bool(phases_of(item)) for item in deselected)
    elif not is_xdist_worker(config) and any(phases_of(item) for item in kept):
        thresholds_of(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if is_xdist_worker(item.config):
        check_markers(item)  # a worker cannot end the session with a usage error, so the test says it


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    hidden = config.stash.get(_HIDDEN_PHASES, 0)
    if hidden and config.stash[PLUGIN_CONFIG].only_phases is None:
        terminalreporter.write_line(f"grpo: {hidden} phase tests not asked for; try --phase all or -m phase2")

"""Replays here what happened elsewhere: the terminal, JUnit files, ``-x`` and ``--lf`` see an ordinary session."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest

from pytest_grpo.config import PLUGIN_CONFIG, RemoteKind
from pytest_grpo.phases import phases_of
from pytest_grpo.remote.protocol import Event, Remote, RemoteLostError
from pytest_grpo.stash import NUM_GATES


def connect(config: pytest.Config, kind: RemoteKind) -> Remote:
    """The place of that kind for this project.

    Raises:
        pytest.UsageError: it cannot be used, e.g. without credentials.
    """
    if kind == "modal":
        from pytest_grpo.remote.modal import ModalRemote

        return ModalRemote(config.rootpath)
    from pytest_grpo.remote.subprocess import SubprocessRemote

    return SubprocessRemote(config.rootpath)


class RemoteReplay:
    """Takes over tests of a phase. All tests of one phase run together: both arms of a comparison share a device."""

    def __init__(self, config: pytest.Config, remote: Remote) -> None:
        self._config = config
        self._remote = remote
        self._requested: set[str] = set()
        self._reports: dict[str, list[Event]] = {}
        self._lost: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        phases = phases_of(item)
        if not phases:
            return None
        if item.nodeid not in self._requested:
            self._run_phase(min(phases), item.session.items)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports_of(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run_phase(self, phase: int, items: Iterable[pytest.Item]) -> None:
        node_ids = [item.nodeid for item in items if min(phases_of(item), default=None) == phase]
        self._requested.update(node_ids)
        reason = "it ended without a report of this test"
        try:
            for event in self._remote.run(node_ids, forwarded_arguments(self._config)):
                if event["event"] == "report":
                    self._keep(event["data"])
                elif event["event"] == "warning":
                    self._replay_warning(event)
                else:
                    reason = f"pytest ended there with exit code {event['exit_code']}\n{event['output_tail']}"
        except RemoteLostError as error:
            reason = str(error)
        self._lost.update(dict.fromkeys(node_ids, reason))

    def _keep(self, data: Event) -> None:
        kept = self._reports.setdefault(data["nodeid"], [])
        if kept and kept[-1]["when"] == "teardown":
            kept.clear()  # the place ran this test again: the last run counts
        kept.append(data)

    def _replay_warning(self, event: Event) -> None:
        category = type(event["category"], (Warning,), {})
        message = warnings.WarningMessage(category(event["message"]), category, event["filename"], event["lineno"])
        location = event["location"]
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": message,
                "when": event["when"],
                "nodeid": event["nodeid"],
                "location": None if location is None else tuple(location),
            }
        )

    def _reports_of(self, item: pytest.Item) -> list[pytest.TestReport]:
        kept = self._reports.get(item.nodeid, [])
        if not kept or kept[-1]["when"] != "teardown":
            return _lost_reports(item, self._lost[item.nodeid])
        return [self._restore(data) for data in kept]

    def _restore(self, data: Event) -> pytest.TestReport:
        # JSON has no tuples; pytest takes a list for a skip's place and reason as an internal error.
        data["location"] = tuple(data["location"])
        data["user_properties"] = [tuple(entry) for entry in data["user_properties"]]
        data["sections"] = [tuple(entry) for entry in data["sections"]]
        if isinstance(data["longrepr"], list):
            data["longrepr"] = tuple(data["longrepr"])
        return self._config.hook.pytest_report_from_serializable(config=self._config, data=data)


def _lost_reports(item: pytest.Item, reason: str) -> list[pytest.TestReport]:
    """An error in setup, not a failure: a lost machine is no regression."""
    keywords: dict[str, Literal[1]] = {name: 1 for name in item.keywords}
    text = f"{item.nodeid} has no result from where it ran: {reason}"
    setup = pytest.TestReport(item.nodeid, item.location, keywords, "failed", text, "setup")
    return [setup, pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, "teardown")]


def forwarded_arguments(config: pytest.Config) -> Sequence[str]:
    """The settings of this session that the other process needs; its own ini file gives the rest.

    Options of other plugins are not known here and are not forwarded.
    """
    settings = config.stash[PLUGIN_CONFIG]
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
    if config.getoption("maxfail"):
        arguments.append(f"--maxfail={config.getoption('maxfail')}")
    arguments.append(f"--grpo-pairs={','.join(map(str, settings.looks))}")
    arguments.append(f"--grpo-budget={settings.budget_s:g}")
    arguments.append(f"--grpo-num-gates={settings.num_gates or max(1, config.stash.get(NUM_GATES, 1))}")
    arguments.append(f"--grpo-system={settings.system}")
    if not settings.has_control:
        arguments += ["-o", "grpo_control=false"]
    if settings.compare is not None:
        arguments += [f"--grpo-compare={settings.compare}", f"--grpo-tolerance={settings.tolerance:g}"]
    if settings.any_machine:
        arguments.append("--grpo-any-machine")
    if settings.versus is not None:
        arguments.append(f"--grpo-versus={settings.versus}")
    if settings.device_profile is not None:
        arguments.append(f"--grpo-device-profile={settings.device_profile}")
    return [*arguments, *(f"--grpo-threshold={text}" for _, text in settings.threshold_overrides)]

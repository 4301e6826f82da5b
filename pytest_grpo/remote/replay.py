"""Replays the workers' events in this session as they arrive: the terminal, JUnit files, ``-x`` and ``--lf`` see an
ordinary session."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any, Literal

import pytest

from pytest_grpo.baseline.fingerprint import Fingerprint
from pytest_grpo.remote.phase_runs import PhaseRuns
from pytest_grpo.remote.protocol import Event, problem_of
from pytest_grpo.remote.request_builder import RequestBuilder
from pytest_grpo.reports import pytest_benchmark
from pytest_grpo.session.findings import FINDINGS
from pytest_grpo.session.stored_results import STORED
from pytest_grpo.settings.phases import phases_of


class RemoteReplay:
    """Takes over phase tests. All tests of one phase run on one worker, so both arms of a comparison share a device.

    The reports of a test are replayed together, after it has ended. If its worker is lost before, the test runs again
    and nothing was reported yet.
    """

    def __init__(self, config: pytest.Config, runs: PhaseRuns, requests: RequestBuilder, *, side_by_side: bool) -> None:
        self._config = config
        self._runs = runs
        self._requests = requests
        self._side_by_side = side_by_side
        self._started: set[int] = set()
        self._asked: set[str] = set()
        self._events: dict[str, list[Event]] = {}
        self._done: set[str] = set()
        self._lost: dict[str, str] = {}
        self._machines: list[dict[str, Any]] = []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        collected = list(items)  # before -k and -m deselect
        yield
        self._requests.note_collected(collected)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        phases = phases_of(item)
        if not phases:
            return None
        self._start(min(phases), item.session.items)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        while item.nodeid not in self._done and item.nodeid not in self._lost:
            for phase, event in self._runs.next_events():
                self._take(phase, event)
        if item.nodeid in self._done:
            self._replay(item, self._events.pop(item.nodeid))
        else:
            for report in lost_reports(item, self._lost[item.nodeid]):
                item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _start(self, phase: int, items: list[pytest.Item]) -> None:
        """Start all phases at the first phase test, or one at a time when they would share a machine."""
        if phase in self._started:
            return
        phases = dict.fromkeys(min(found) for item in items if (found := phases_of(item)))
        needed = [number for number in phases if number not in self._started] if self._side_by_side else [phase]
        self._started.update(needed)
        requests = [self._requests.of_phase(number, items) for number in needed]
        self._asked.update(nodeid for request in requests for nodeid in request.node_ids)
        self._runs.start(requests)

    def _take(self, phase: int, event: Event) -> None:
        """Keep ``event`` with its test, or handle it.

        Raises:
            pytest.UsageError: workers cannot be started, or collected other tests or code.
        """
        kind = event["event"]
        if kind == "refused":
            raise pytest.UsageError(event["reason"])
        if kind == "collected":
            problem = problem_of(event, phase)
            if problem:
                raise pytest.UsageError(problem)
            self._config.stash[STORED].measured_on(_fingerprint(event["fingerprint"]))
            if event["machine_info"] is not None:
                self._machines.append(event["machine_info"])
        elif kind == "findings":
            self._config.stash[FINDINGS].add(**{name: found for name, found in event.items() if name != "event"})
        elif kind == "lost":
            self._lost.update(dict.fromkeys(event["node_ids"], event["reason"]))
        elif kind == "begun":
            self._show(f"grpo: phase {phase}: running")
        elif kind == "state":
            self._show(f"grpo: phase {phase}: {event['text']}")
        elif kind == "report":
            self._keep(event["data"]["nodeid"], event)
        elif kind in ("start", "warning", "benchmark", "done"):
            self._keep(event["nodeid"], event)

    def _keep(self, nodeid: str, event: Event) -> None:
        """Keep ``event`` with its test, unless the test has ended: a restarted worker repeats tests."""
        if nodeid in self._done or not nodeid:
            return  # collection warnings were shown by this session already
        if event["event"] == "start":
            self._events[nodeid] = []
        self._events.setdefault(nodeid, []).append(event)
        if event["event"] == "done":
            self._done.add(nodeid)

    def _replay(self, item: pytest.Item, events: list[Event]) -> None:
        for event in events:
            if event["event"] == "report":
                item.ihook.pytest_runtest_logreport(report=restore_report(self._config, event["data"]))
            elif event["event"] == "warning" and event["when"] == "runtest":
                self._replay_warning(event)
        pytest_benchmark.add_entries(
            self._config, [event["entry"] for event in events if event["event"] == "benchmark"]
        )

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

    def _show(self, line: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.ensure_newline()
            reporter.write_line(line)

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """Describe the machines that measured instead of this one."""
        if self._machines:
            machine_info.clear()
            machine_info.update(self._machines[0])
            others = [machine for machine in self._machines[1:] if machine != self._machines[0]]
            if others:
                machine_info["grpo_other_machines"] = others

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        if self._asked <= self._done | self._lost.keys():
            self._runs.let_end()
        self._runs.cancel()  # phases that -x, Ctrl-C or an error left running


def restore_report(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    """The report that ``pytest_report_to_serializable`` has written."""
    # JSON has no tuples, and pytest needs one for the location and reason of a skip.
    data["location"] = tuple(data["location"])
    data["user_properties"] = [tuple(entry) for entry in data["user_properties"]]
    data["sections"] = [tuple(entry) for entry in data["sections"]]
    if isinstance(data["longrepr"], list):
        data["longrepr"] = tuple(data["longrepr"])
    return config.hook.pytest_report_from_serializable(config=config, data=data)


def _fingerprint(fields: dict[str, Any]) -> Fingerprint:
    return Fingerprint(**{**fields, "gpus": tuple(fields["gpus"])})


def lost_reports(item: pytest.Item, reason: str) -> list[pytest.TestReport]:
    """An error in setup, not a failure: a lost machine is not a regression."""
    keywords: dict[str, Literal[1]] = {name: 1 for name in item.keywords}
    text = f"{item.nodeid} has no result from where it ran: {reason}"
    setup = pytest.TestReport(item.nodeid, item.location, keywords, "failed", text, "setup")
    return [setup, pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, "teardown")]

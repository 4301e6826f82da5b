"""Detached runs: ``--modal-detach`` starts them, ``--modal-attach`` reports them, as often as wanted.

``GRPO_HOME/data/remote/RUN`` holds ``run.json``, the record of the run, and the events of each phase once fetched.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Generator
from typing import Literal

import pytest

from pytest_grpo.remote.event_loop import Background, BackgroundCall
from pytest_grpo.remote.modal.app import check_credentials, translated_errors
from pytest_grpo.remote.modal.remote import ModalRemote
from pytest_grpo.remote.protocol import Decoder, Event, RemoteLostError, RemoteRefusedError, Request
from pytest_grpo.remote.request_builder import RequestBuilder
from pytest_grpo.settings.detached_run import DetachedRun, read_run, run_folder, write_run
from pytest_grpo.settings.phases import PHASES, phases_of


class Detach:
    """Starts all phases at the first phase test, and skips the tests in this session."""

    def __init__(self, remote: ModalRemote, requests: RequestBuilder) -> None:
        self._remote = remote
        self._requests = requests
        self._run: DetachedRun | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        collected = list(items)
        yield
        self._requests.note_collected(collected)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        if not phases_of(item):
            return None
        if self._run is None:
            self._run = self._start(item.session.items)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in _skipped_reports(item, f"runs detached as {self._run.name}"):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _start(self, items: list[pytest.Item]) -> DetachedRun:
        phases = sorted({min(found) for item in items if (found := phases_of(item))})
        requests = [self._requests.of_phase(phase, items) for phase in phases]
        try:
            calls = self._remote.spawn(requests)
        except (RemoteLostError, RemoteRefusedError) as error:
            raise pytest.UsageError(str(error)) from error
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"
        run = DetachedRun(name, calls, {request.phase: list(request.node_ids) for request in requests})
        write_run(run)
        return run

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._run is not None:
            terminalreporter.write_line(
                f"grpo: run {self._run.name} continues on Modal; report it with --modal-attach {self._run.name}"
            )

    def pytest_sessionfinish(self) -> None:
        self._remote.close()


class AttachedRemote:
    """Yields the events of a detached run. It starts nothing, and closing it stops nothing on Modal."""

    max_side_by_side = len(PHASES)

    def __init__(self, name: str) -> None:
        self._run = read_run(name)
        self._background = Background()
        self._asked: set[int] = set()

    def start(self, request: Request) -> BackgroundCall:
        return BackgroundCall(self._background, self._stream(request))

    def close(self) -> None:
        self._background.close()

    async def _stream(self, request: Request) -> AsyncIterator[Event]:
        if request.phase in self._asked:
            raise RemoteLostError(f"run {self._run.name} has no result of it", may_retry=False)
        self._asked.add(request.phase)
        known = self._run.node_ids.get(request.phase, ())
        unknown = [name for name in request.node_ids if name not in known]
        if unknown:
            raise RemoteRefusedError(
                f"--modal-attach {self._run.name}: the run has no {unknown[0]}; select tests that it ran, at its commit"
            )
        file = run_folder(self._run.name) / f"phase{request.phase}.jsonl"
        if not file.exists():
            yield {"event": "state", "text": f"waiting for run {self._run.name}"}
            from grpo_core.home import write_atomic

            write_atomic(file, "\n".join(await self._fetch(request.phase)).encode())
        for event in Decoder().decode(file.read_text(encoding="utf-8").split("\n")):
            yield event

    async def _fetch(self, phase: int) -> list[str]:
        try:
            check_credentials()
        except pytest.UsageError as error:
            raise RemoteRefusedError(str(error)) from error
        from modal import FunctionCall

        try:
            with translated_errors():
                return await FunctionCall.from_id(self._run.calls[phase]).get.aio()
        except RemoteLostError as error:
            raise RemoteLostError(str(error), may_retry=False) from error


def _skipped_reports(item: pytest.Item, reason: str) -> list[pytest.TestReport]:
    path, line, _ = item.location
    keywords: dict[str, Literal[1]] = {name: 1 for name in item.keywords}
    where = (path, (line or 0) + 1, f"Skipped: {reason}")
    setup = pytest.TestReport(item.nodeid, item.location, keywords, "skipped", where, "setup")
    return [setup, pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, "teardown")]

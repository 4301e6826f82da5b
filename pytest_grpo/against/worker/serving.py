"""The pytest plugin of a worker: it runs tests when asked, and measures their arms for the session that compares.

A test runs up to its first comparison. Then its arms are measured as often as the session asks, and the test goes on.
Loaded by name before all others, so that the modules of the side are found from the beginning.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_grpo.against.protocol import PROTOCOL_VERSION, Channel, ChannelClosedError, Message
from pytest_grpo.against.worker.arm_table import ArmTable
from pytest_grpo.against.worker.own_modules import use_modules_of
from pytest_grpo.gate.stash import NEW_COMPARISON
from pytest_grpo.reports.pytest_benchmark import SAVING_OPTIONS
from pytest_grpo.settings.phases import without_fixture

__tracebackhide__ = True
"""Of an error in an arm, pytest shows the test and the arm, not what lies between."""

if TYPE_CHECKING:
    from pytest_grpo.agreement import Agreement
    from pytest_grpo.gate.comparison import PairedComparison
    from pytest_grpo.gate.gates import Gate
    from pytest_grpo.measuring.sampling.rounds import RoundSampler

use_modules_of(Path.cwd())

_OF_THE_SESSION = ("xmlpath", *SAVING_OPTIONS)
"""Options, possibly from the ini file, that write files; only the session writes them."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("grpo").addoption("--grpo-side-fd", type=int, metavar="FD", help="the socket of the session")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name in _OF_THE_SESSION:
        setattr(config.option, name, None)
    connection = socket.socket(fileno=config.getoption("grpo_side_fd"))
    connection.set_inheritable(False)
    server = Server(config, Channel(connection))
    config.pluginmanager.register(server, "grpo-side")
    config.stash[NEW_COMPARISON] = server.new_comparison


class Server:
    """Answers the session."""

    def __init__(self, config: pytest.Config, channel: Channel) -> None:
        self._config = config
        self._channel = channel
        self._errors: dict[str, str] = {}
        self._reports: list[Message] = []
        self._selected: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._errors[report.nodeid] = _last_line(report.longreprtext)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        """The session has chosen its tests, so all are kept; those that the same choice leaves here are told apart."""
        every = list(items)
        yield
        self._selected = [item.nodeid for item in without_fixture(items, "grpo_gate")[1]]
        items[:] = every

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        from pytest_grpo.settings.config import PLUGIN_CONFIG
        from pytest_grpo.settings.device import describe_device

        session.testsfailed = 0  # collection errors are told, and end nothing
        items = {item.nodeid: item for item in session.items}
        device = describe_device(self._config.stash[PLUGIN_CONFIG].profile)
        found = {"collected": list(items), "selected": self._selected, "errors": self._errors}
        self._say("hello", protocol=PROTOCOL_VERSION, device=device, **found)
        while (asked := self.receive())["do"] == "run":
            self._reports = []
            item, following = items[asked["nodeid"]], items.get(asked["next"] or "")
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._say("done", reports=self._reports, imported=_imported(self._config.rootpath))
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def receive(self) -> Message:
        """What the session asks next. When the session is gone, this process ends."""
        try:
            return self._channel.receive()
        except ChannelClosedError:
            pytest.exit("the session is gone", returncode=1)

    def new_comparison(
        self, gate: Gate, sampler: RoundSampler, agree: Agreement, max_cores_of_others: float | None
    ) -> PairedComparison:
        from pytest_grpo.against.worker.served import ServedComparison

        return ServedComparison(gate, sampler, agree, max_cores_of_others, serve=self.serve)

    def _say(self, what: str, **fields: Any) -> None:
        try:
            self._channel.send({"say": what, **fields})
        except ChannelClosedError:
            pytest.exit("the session is gone", returncode=1)

    def serve(self, table: ArmTable, wanted: list[str], is_new: bool) -> None:
        """Measure the arms of ``table`` until the session releases them."""
        from pytest_grpo.measuring.sampling.sample import only_new_objects_collected

        limit = table.max_cores_of_others
        self._say("arms", arms=list(table.arms), wanted=wanted, is_new=is_new, max_cores_of_others=limit)
        with only_new_objects_collected():
            while (asked := self.receive())["do"] != "release":
                if asked["do"] == "end":  # the session was interrupted
                    pytest.exit("the session ends", returncode=0)
                answer = self._answer_to(table, asked)
                self._say(answer.pop("say"), **answer)

    def _answer_to(self, table: ArmTable, asked: Message) -> Message:
        what, arm = asked["do"], asked["arm"]
        if what == "measure":
            with self._told():
                sample = table.measure(arm, asked["repeats"])
            quantities = {name: float(value) for name, value in sample.quantities.items()}
            return {"say": "sample", "seconds": sample.seconds, "quantities": quantities, "spans": dict(sample.spans)}
        if what == "time":
            with self._told():
                return {"say": "took", "seconds": table.took_s(arm, asked["repeats"])}
        if what == "answer":
            value, missing = table.answer(arm)
            return {"say": "answer", "value": value, "missing": missing}
        assert what == "compare", asked
        text, rule, missing = table.difference(arm, asked["other"], asked["name"])
        return {"say": "difference", "text": text, "by": rule, "missing": missing}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The session waits for an answer: tell it what an arm raises, which the test then reports."""
        is_done = False
        try:
            yield
            is_done = True
        finally:
            error = sys.exc_info()[1]
            if not is_done and error is not None:
                self._say("raised", error=_last_line(f"{type(error).__name__}: {error}"))


def _imported(root: Path) -> list[str]:
    """The files of the project that this process has loaded."""
    files = (_file_of(module) for module in list(sys.modules.values()))
    paths = {Path(file).resolve() for file in files if file}
    elsewhere = Path(sys.prefix).resolve()
    return sorted(
        path.relative_to(root).as_posix()
        for path in paths
        if path.is_relative_to(root) and not path.is_relative_to(elsewhere)
    )


def _file_of(module: object) -> str | None:
    """The file of a module; None where it has none. Modules that load on access are left alone."""
    return vars(module).get("__file__") if isinstance(module, type(sys)) else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return (said or lines or [""])[-1]
